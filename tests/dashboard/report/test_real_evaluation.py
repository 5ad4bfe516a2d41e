"""An evaluation that was really run, opened in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from playwright.sync_api import expect

from poolpilot.cli import main
from poolpilot.tests.browser.chromium import OpenTab

expect.set_options(timeout=120_000)  # a busy machine takes long to unpack and compile five megabytes of script

SHORT = ("--scenario", "mixed-chat", "--policies", "plan-tracking,steady-hand", "--seeds", "2", "--headroom", "0.8,1")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation")
    result = CliRunner().invoke(main, ["evaluate", *SHORT, "--workers", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert len((out / "report.html").read_bytes()) < 5_000_000
    return out / "report.html"


def test_a_run_that_was_really_made_is_shown_from_its_frontier_to_its_ticks(open_tab: OpenTab, report: Path) -> None:
    for view in ("laptop", "phone"):
        tab = open_tab(view=view)
        page = tab.page
        page.set_default_timeout(120_000)
        page.goto(report.as_uri())
        slot = page.locator("[data-slot=frontier]")
        expect(slot.locator(".scatterlayer .trace").first).to_be_visible()
        names = set(slot.evaluate("p => p.data.map(t => t.name)"))
        assert {"plan-tracking", "clairvoyant bound", "steady-hand"} <= names
        assert not tab.overflows()
    tab = open_tab(view="laptop", theme="dark")
    page = tab.page
    page.set_default_timeout(120_000)
    page.goto(report.as_uri())
    page.locator("html[data-ready]").wait_for(state="attached")
    page.locator("#scenarios tbody tr").filter(has_text="steady-hand").first.get_by_role("link").click()
    page.locator("#runs-table").get_by_role("link", name="timeline").first.click()
    expect(page.locator("#timeline-name")).to_have_text("steady-hand")
    page.get_by_label("Beside it").select_option("plan-tracking")
    for place in ("timeline", "other"):
        expect(page.locator(f"[data-slot={place}] .scatterlayer .trace").first).to_be_visible()
    titles = page.locator("[data-slot=timeline]").evaluate("p => p.layout.annotations.map(a => a.text)")
    for words in (
        "Load",
        "Replicas",
        "Weights of chat",
        "Batch caps",
        "Queue",
        "KV cache",
        "Hottest GPU",
        "Cost rate",
        "Within",
    ):
        assert any(title.startswith(words) for title in titles), words
