"""`python -m poolpilot.benchmarks.heterogeneous`: mixed fleets beside fleets of one GPU type, planned and simulated."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import click
from rich.console import Console

from poolpilot.benchmarks.report import markdown, print_sections, put

from .figures import draw_fleets, draw_prices
from .study import PARTS, SCALES, Study, study

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGE, TABLES, IMAGES = "planning.md", "planning-tables.md", "images/planning"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--scale", type=click.Choice(list(SCALES)), default="full", show_default=True, help="How much is run.")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only this part; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--write", "rewrite", is_flag=True, help=f"Rewrite what was run in docs/{PAGE} and docs/{TABLES}.")
def main(scale: str, parts: tuple[str, ...], as_json: bool, rewrite: bool) -> None:
    """Plan the settings of the literature and of a case study with every fleet of one GPU type, a greedy mix and the
    planner, and simulate what comes out."""
    if rewrite and scale != "full":
        raise click.UsageError("--write: the pages hold runs at full scale; leave --scale out")
    if rewrite and find_spec("matplotlib") is None:
        raise click.UsageError("--write: the figures need matplotlib: pip install 'poolpilot[docs]'")
    console = Console(stderr=True)
    done = study(SCALES[scale], parts or PARTS, lambda step: console.print(f"[dim]{step}[/dim]"))
    if as_json:
        click.echo(json.dumps(done.record(), indent=2))
    else:
        out = Console(width=180)
        for sentence in done.words():
            out.print(f"- {sentence}", markup=False)
        print_sections([*done.summary(), *done.details()], out)
    if rewrite:
        write(done, DOCS)
        console.print(f"wrote docs/{PAGE} and docs/{TABLES}")


def write(done: Study, docs: Path) -> None:
    """Put what was run into the pages and figures of a folder."""
    for part in done.parts:
        bullets = "\n".join(f"- {sentence}" for sentence in done.words(part))
        put(docs / PAGE, part, f"{bullets}\n\n{markdown(done.summary(part))}")
        details = list(done.details(part))
        if details:
            put(docs / TABLES, part, markdown(details))
    if done.cells:
        draw_fleets(done.cells, docs / IMAGES / "fleets.png")
    if done.prices:
        draw_prices(done.prices, docs / IMAGES / "prices.png")


if __name__ == "__main__":
    main()
