"""The evaluation's page in a real browser, as a reader opens and uses it: offline, by mouse, finger and keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from poolpilot.tests.browser.chromium import OpenTab, Tab, Theme, View
from poolpilot.tests.dashboard.figures.rows import EVIL

from .planted_report import EVIL_SCENARIO, planted_report

PATIENCE_MS = 120_000
"""A busy machine takes long to unpack and compile five megabytes of script."""
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(planted_report(), encoding="utf-8")
    return path


def opened(tab: Tab, report: Path, fragment: str = "") -> Tab:
    tab.page.set_default_timeout(PATIENCE_MS)
    tab.page.goto(report.as_uri() + fragment)
    tab.page.locator("html[data-ready]").wait_for(state="attached")
    return tab


def figure(tab: Tab, place: str) -> Any:
    """What is drawn there, once it is."""
    slot = tab.page.locator(f"[data-slot={place}]")
    slot.scroll_into_view_if_needed()
    expect(slot.locator(".main-svg").first).to_be_visible()
    tab.page.wait_for_function(
        f"(p => p.dataset.drawn === p.dataset.figure)(document.querySelector('[data-slot={place}]'))"
    )
    return slot.evaluate("p => p.data.map(t => ({name: t.name, x: [...t.x], y: [...t.y]}))")


@pytest.mark.parametrize("view", ["laptop", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_opens_offline_on_any_screen_in_its_readers_colours(
    open_tab: OpenTab, report: Path, view: View, theme: Theme
) -> None:
    tab = opened(open_tab(view=view, theme=theme), report)
    for place in ("frontier", "differences", "bill", "timeline"):
        assert figure(tab, place), place
    assert not tab.overflows()
    paper = tab.page.locator("[data-slot=bill]").evaluate("p => p.layout.paper_bgcolor")
    assert paper == {"light": "#ffffff", "dark": "#151a20"}[theme]
    background = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 26, 32)"}[theme]


def test_another_suite_scenario_and_reading_change_what_is_shown(tab: Tab, report: Path) -> None:
    opened(tab, report)
    page = tab.page
    over_all = figure(tab, "frontier")
    page.get_by_label("Of").first.select_option("quiet day")
    one = figure(tab, "frontier")
    rule = next(trace for trace in one if trace["name"] == "rule")
    assert rule["y"] != next(trace for trace in over_all if trace["name"] == "rule")["y"]
    assert rule["y"][2] == pytest.approx(10.1), "dollars, not ratios"
    page.get_by_label("Reading").select_option("at 99 % attainment")
    assert len(figure(tab, "differences")) == 1
    page.get_by_label("Reading").select_option("at 95 % attainment")
    expect(page.locator("[data-slot=differences]")).to_contain_text("a note that says why")
    expect(page.get_by_role("heading", name="Suite first")).to_be_visible()
    page.get_by_label("Suite").select_option("second")
    expect(page.get_by_role("heading", name="Suite second")).to_be_visible()
    expect(page.get_by_role("heading", name="Suite first")).to_be_hidden()
    assert page.locator("#frontier-scenario option").all_text_contents() == ["all of it", "slow/start & stop"]
    expect(page.locator(".note:visible").first).to_contain_text("1 scenario, ")
    page.get_by_label("Reading").select_option("as shipped")
    assert len(figure(tab, "differences")) == 2, "bill and shortfall"
    expect(page.locator("#scenarios tbody tr:visible")).to_have_count(3)


def test_a_point_leads_to_its_runs_and_a_run_to_its_timeline(tab: Tab, report: Path) -> None:
    opened(tab, report)
    page = tab.page
    page.get_by_label("Of").first.select_option("quiet day")
    drawn = figure(tab, "frontier")
    assert drawn[0]["name"] == "rule"
    page.locator("[data-slot=frontier] .scatterlayer .trace").first.locator(".point").nth(2).click(force=True)
    expect(page.get_by_role("heading", name="Runs of rule at head-room × 1")).to_be_visible()
    runs = page.locator("#runs-table tbody tr")
    expect(runs).to_have_count(3)
    expect(runs.nth(0)).to_contain_text("10.00")
    expect(page.locator("#runs-command code")).to_have_text("--timeline quiet day:0")
    runs.nth(1).get_by_role("link", name="timeline").click()
    expect(page.locator("#timeline-name")).to_have_text("rule")
    names = {trace["name"] for trace in figure(tab, "timeline")}
    assert {"h100", "l40s", "all pools"} <= names
    page.get_by_label("Beside it").select_option("agent")
    assert figure(tab, "other")
    expect(page.locator("#timeline-other-name")).to_have_text("agent")
    page.wait_for_function(  # both have room
        "[...document.querySelectorAll('.beside .figure')].every(p => "
        "Math.abs(p.querySelector('.main-svg').clientWidth - p.clientWidth) <= 1)"
    )
    assert not tab.overflows()


def test_an_address_leads_straight_to_runs_of_another_suite(tab: Tab, report: Path) -> None:
    opened(tab, report, "#runs/second/slow%2Fstart%20%26%20stop/agent/0.7")
    expect(tab.page.get_by_role("heading", name="Runs of agent at head-room × 0.7")).to_be_visible()
    expect(tab.page.get_by_label("Suite")).to_have_value("second")
    expect(tab.page.locator("#runs-table tbody tr")).to_have_count(3)
    tab.page.evaluate("location.hash = '#suite/first'")
    expect(tab.page.get_by_label("Suite")).to_have_value("first")


def test_the_table_is_sorted_and_filtered(tab: Tab, report: Path) -> None:
    opened(tab, report)
    page = tab.page
    shown = page.locator("#scenarios tbody tr:visible")
    expect(shown).to_have_count(6)
    page.locator("#scenarios").get_by_role("button", name="$/h").click()
    values = [float(text) for text in shown.locator("td:nth-child(3) > span:first-child").all_text_contents()]
    assert values == sorted(values)
    page.locator("#scenarios").get_by_role("button", name="$/h").click()
    values = [float(text) for text in shown.locator("td:nth-child(3) > span:first-child").all_text_contents()]
    assert values == sorted(values, reverse=True)
    expect(page.locator("#scenarios th[aria-sort=descending]")).to_have_text("$/h")
    page.get_by_label("Find").fill("QUIET")
    expect(shown).to_have_count(3)
    page.locator("#find-policy").select_option("agent")
    expect(shown).to_have_count(1)
    page.get_by_label("Find").fill("nobody")
    expect(page.locator("#found")).to_contain_text("try fewer letters")


def test_names_that_would_be_markup_are_shown_as_they_are(tab: Tab, report: Path) -> None:
    tab.page.on("dialog", lambda dialog: tab.complaints.append(f"dialog: {dialog.message}"))
    opened(tab, report)
    expect(tab.page.locator("#scenarios tbody tr").nth(3)).to_contain_text(EVIL_SCENARIO)
    expect(tab.page.locator("#scenarios tbody tr").nth(0)).to_contain_text(EVIL)
    tab.page.get_by_label("Of").first.select_option(EVIL_SCENARIO)
    assert figure(tab, "frontier")
    figure(tab, "timeline")
    legend = tab.page.locator("[data-slot=timeline] .legendtext").first
    expect(legend).to_have_text(EVIL)
    for place in ("frontier", "bill", "differences"):
        figure(tab, place)
    assert tab.page.locator("img, b").count() == 0


def test_colours_change_at_a_button_and_figures_with_them(tab: Tab, report: Path) -> None:
    opened(tab, report)
    figure(tab, "bill")
    tab.page.get_by_role("button", name="Change to dark colours").click()
    tab.page.wait_for_function("document.querySelector('[data-slot=bill]').layout.paper_bgcolor === '#151a20'")
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 26, 32)"
    tab.page.get_by_role("button", name="Change to light colours").click()
    tab.page.wait_for_function("document.querySelector('[data-slot=bill]').layout.paper_bgcolor === '#ffffff'")


def test_everything_is_reached_by_keyboard(tab: Tab, report: Path) -> None:
    opened(tab, report)
    reached = tab.focus_order()
    for name in (
        "button: Change to dark colours",
        "a: Differences",
        "input: Find",
        "summary: What the tables do not say (2)",
    ):
        assert name in reached
    assert any(name.startswith("select: Suite") for name in reached)
    assert any(name.startswith("select: Beside it") for name in reached)
    assert "button: policy" in reached, "headings sort"


def test_without_scripts_words_and_tables_are_there(tab: Tab, report: Path, chromium: str) -> None:
    browser = tab.page.context.browser
    assert browser is not None
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    expect(page.get_by_role("heading", name="Suite second")).to_be_visible()
    expect(page.locator("#scenarios tbody tr")).to_have_count(9)
    context.close()
