"""Take a picture of a page as documents show it: `python -m poolpilot.tests.browser.picture PAGE NAME` writes docs/images/NAME.png.

    python -m poolpilot.tests.browser.picture http://127.0.0.1:8799 dashboard --click Decisions --theme dark
    python -m poolpilot.tests.browser.picture runs/unseen/report.html report --choose unseen

PAGE is an address on this machine or a file. The page must be without faults, as in a test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .chromium import PICTURES, VIEWS, program_of_chromium, running, tabs

ALL_DRAWN = """() => [...document.querySelectorAll('[data-figure]')].every((place) => {
  const { top, bottom, height } = place.getBoundingClientRect()
  return !height || bottom < 0 || top > window.innerHeight || place.querySelector('.main-svg, .nothing:not(.waits)')
})"""
"""Whether every figure in sight is drawn, or says why there is none."""


@click.command()
@click.argument("page")
@click.argument("name")
@click.option("--view", type=click.Choice(list(VIEWS)), default="laptop", show_default=True)
@click.option("--theme", type=click.Choice(["light", "dark"]), default="light", show_default=True)
@click.option("--height", type=click.IntRange(200, 5000), help="Of the screen, instead of the view's.")
@click.option("--click", "clicks", multiple=True, help="Name of a tab, button or link to click first; repeatable.")
@click.option(
    "--choose",
    "choices",
    multiple=True,
    help="An entry to choose in the first list that has it, or LABEL=ENTRY in the list of that label; repeatable.",
)
@click.option("--scroll-to", help="Text of a heading that shall stand on top.")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(0, 600), default=3.0, show_default=True, help="Seconds to let it settle."
)
@click.option(
    "--into", type=click.Path(file_okay=False, path_type=Path), default=PICTURES, help="Folder. Default: docs/images."
)
def main(
    page: str,
    name: str,
    view: str,
    theme: str,
    height: int | None,
    clicks: tuple[str, ...],
    choices: tuple[str, ...],
    scroll_to: str | None,
    wait_s: float,
    into: Path,
) -> None:
    """Take a picture of PAGE as NAME.png."""
    address = page if "://" in page else Path(page).resolve().as_uri()
    with running(program_of_chromium()) as chromium, tabs(chromium, into) as open_tab:
        tab = open_tab(view=view, theme=theme)
        if height is not None:
            tab.page.set_viewport_size({"width": int(tab.page.viewport_size["width"]), "height": height})
        tab.page.goto(address, wait_until="domcontentloaded", timeout=150_000)
        for wanted in clicks:
            tab.page.get_by_text(wanted, exact=True).first.click()
        for wanted in choices:
            label, _, entry = wanted.rpartition("=")
            offered = tab.page.locator("select", has=tab.page.locator("option", has_text=entry)).first
            (tab.page.get_by_label(label) if label else offered).select_option(label=entry)
        if scroll_to is not None:
            tab.page.get_by_role("heading", name=scroll_to).first.evaluate("heading => heading.scrollIntoView()")
        tab.page.wait_for_timeout(1000 * wait_s)
        tab.page.wait_for_function(ALL_DRAWN, timeout=150_000)
        written = tab.screenshot(name)
    click.echo(f"{written}: {written.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
