"""The dashboard as people use it: real Chromium, real Valkey, no mouse where a keyboard does."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from poolpilot.telemetry.access import Access
from poolpilot.tests.browser.chromium import OpenTab, Tab, Theme, View, tabs
from poolpilot.tests.dashboard.live import Stage
from poolpilot.tests.dashboard.reading.test_runs import write_run
from poolpilot.tests.dashboard.recorded import NASTY, TICK_S, records

if TYPE_CHECKING:
    from playwright.sync_api import Page

expect = pytest.importorskip("playwright.sync_api", reason="pip install 'poolpilot[dev]'").expect

TABS = ("Fleet now", "Decisions", "Policies", "Savings")
TOKEN = "0123456789abcdef"
PATIENCE_MS = 120_000
"""A busy machine takes its time to parse Plotly."""
N_TICKS = 12


@pytest.fixture(scope="module", autouse=True)
def _patient() -> Iterator[None]:
    expect.set_options(timeout=PATIENCE_MS)
    yield
    expect.set_options(timeout=5_000)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


@pytest.fixture(scope="module")
def url(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard of two minutes of ticks and two runs, whose names are an attacker's."""
    runs = tmp_path_factory.mktemp("folders") / "runs"
    write_run(runs / "old", {"plan-tracking": 1.0, NASTY: 1.3})
    write_run(runs / "new", {"plan-tracking": 1.0, NASTY: 0.9})
    stage.append("nasty", records(N_TICKS, nasty=True))
    with stage.dashboard("nasty", (runs,)) as address:
        yield address


@pytest.fixture(scope="module")
def opener(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenTab]:
    """Opens tabs for the whole module: Playwright runs once in a thread."""
    with tabs(chromium, tmp_path_factory.mktemp("pictures")) as open_one:
        yield open_one


@pytest.fixture
def fresh(opener: OpenTab) -> Iterator[OpenTab]:
    """Opens tabs that are gone after the test; whatever their pages complain of fails it."""
    made: list[Tab] = []

    def open_one(view: View = "laptop", theme: Theme = "light") -> Tab:
        made.append(opener(view, theme))
        return made[-1]

    yield open_one
    for tab in made:
        tab.page.close()
    assert [fault for tab in made for fault in tab.faults()] == []


@pytest.fixture(scope="module")
def desk(opener: OpenTab, url: str) -> Tab:
    """One tab on a laptop for many tests: loading Plotly is most of what each would cost."""
    tab = opener()
    tab.page.on("dialog", lambda dialog: tab.complaints.append(f"a dialog opened: {dialog.message}"))
    opened(tab, url)
    return tab


@pytest.fixture
def page(desk: Tab) -> "Iterator[Page]":
    """The page as it is opened, without filters; whatever it complains of fails the test."""
    desk.page.evaluate("location.hash = 'now'")
    if desk.page.get_by_role("button", name="All classes and pools").is_visible():
        desk.page.get_by_role("button", name="All classes and pools").click()
    expect(desk.page.get_by_role("region", name="Pools").locator("tbody tr")).to_have_count(3)
    yield desk.page
    assert desk.faults() == []


def opened(tab: Tab, url: str) -> "Page":
    """The page, once its server spoke to it."""
    tab.page.set_default_timeout(PATIENCE_MS)
    tab.page.goto(url, wait_until="commit")
    expect(tab.page.locator("#fresh-text")).not_to_have_text("connecting")
    return tab.page


def drawn(page: "Page", key: str) -> None:
    """Bring a figure into sight, and wait until it is there."""
    page.locator(f'[data-figure="{key}"]').scroll_into_view_if_needed()
    expect(page.locator(f'[data-figure="{key}"] .main-svg').first).to_be_attached()


def until(page: "Page", expression: str, wanted: object) -> None:
    """Wait until something in the page has a value. Playwright's own waiting uses eval, which the page's policy forbids."""
    give_up_s = time.monotonic() + PATIENCE_MS / 1000.0
    while (seen := page.evaluate(expression)) != wanted:
        assert time.monotonic() < give_up_s, f"{expression}: {seen!r}, wanted {wanted!r}"
        page.wait_for_timeout(100)


def test_every_tab_shows_its_own_by_a_click(page: "Page") -> None:
    expect(page.get_by_role("heading", name="mixed-chat")).to_be_visible()
    expect(page.locator("#mode")).to_have_text("active")
    expect(page.get_by_role("region", name="Classes").locator("tbody th").first).to_have_text(NASTY)
    drawn(page, "load")
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        expect(page.get_by_role("tabpanel", name=name)).to_be_visible()
        expect(page.get_by_role("tabpanel")).to_have_count(1)
        expect(page.get_by_role("tabpanel", name=name).locator("table").first).to_be_visible()
        assert page.locator("main script, main img").count() == 0
    drawn(page, "layers")
    expect(page.get_by_role("region", name="Savings by layer").locator("tbody tr")).to_have_count(6)
    page.get_by_role("tab", name="Decisions").click()
    expect(page.locator("#story")).to_contain_text("Tick ")
    expect(page.get_by_role("region", name="Replicas and caps").locator("tbody tr")).to_have_count(3)
    assert page.locator("main script, main img").count() == 0


def test_two_runs_are_compared(page: "Page") -> None:
    page.get_by_role("tab", name="Policies").click()
    page.get_by_label("Evaluation").select_option("runs/new")
    page.get_by_label("Compare with").select_option("runs/old")
    cells = page.get_by_role("region", name="Differences").locator("tbody tr").nth(1).locator("td")
    expect(cells.first).to_contain_text("−30.77")
    drawn(page, "frontier")


def test_filters_narrow_what_is_shown(page: "Page") -> None:
    rows = page.get_by_role("region", name="Pools").locator("tbody tr")
    page.get_by_role("checkbox", name="l40s").check()
    expect(rows).to_have_count(1)
    expect(rows.locator("th")).to_have_text("l40s")
    drawn(page, "replicas")
    traces = "document.querySelector('[data-figure=replicas]').data.map((trace) => trace.name)"
    until(page, traces, ["l40s", "l40s, wanted"])
    page.get_by_label("Span").select_option("300")
    page.get_by_role("tab", name="Savings").click()
    expect(page.get_by_role("region", name="Savings by pool").locator("tbody tr")).to_have_count(1)
    page.get_by_role("button", name="All classes and pools").click()
    expect(page.get_by_role("region", name="Savings by pool").locator("tbody tr")).to_have_count(3)


def test_everything_is_reached_by_keyboard(fresh: OpenTab, url: str) -> None:
    tab = fresh()
    expect(opened(tab, url).get_by_role("region", name="Classes")).to_be_visible()
    reached = tab.focus_order()
    for wanted in ("Skip to the content", "Pause", "Change to", "tab: Fleet now", "l40s", "Span", "region: Pools"):
        assert any(wanted in name for name in reached), (wanted, reached)
    assert not any("tab: Decisions" in name for name in reached)  # arrows lead there, as in every list of tabs


def test_everything_is_used_by_keyboard(page: "Page") -> None:
    page.get_by_role("tab", name="Fleet now").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Decisions")).to_be_focused()
    row = page.get_by_role("region", name="Ticks").locator("tbody tr").nth(2)
    name = row.get_by_role("link").inner_text()
    row.get_by_role("link").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#story")).to_contain_text(name)
    expect(page.locator('tr[aria-current="true"]')).to_contain_text(name)
    page.get_by_role("tab", name="Decisions").focus()
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Savings")).to_be_focused()
    page.get_by_role("checkbox", name="l40s").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("region", name="Savings by pool").locator("tbody tr")).to_have_count(1)


def test_an_address_leads_to_a_tick_and_back(page: "Page") -> None:
    page.get_by_role("tab", name="Decisions").click()
    link = page.get_by_role("region", name="Ticks").get_by_role("link").nth(3)
    address, name = link.get_attribute("href"), link.inner_text()
    page.evaluate("(address) => { location.hash = address }", address)
    expect(page.locator("#story")).to_contain_text(name)
    page.get_by_role("link", name="Follow the newest").click()
    expect(page.locator("#story")).not_to_contain_text(name)
    page.go_back()
    expect(page.locator("#story")).to_contain_text(name)


def test_a_value_changes_as_the_store_does_but_not_while_paused(page: "Page", stage: Stage) -> None:
    later = records(N_TICKS + 2, nasty=True, until_s=time.time() + 2 * TICK_S)[N_TICKS:]
    later[1].snapshot.arrival_rate_per_s[:] = 111.0
    page.evaluate("window.unchanged = true")
    load = page.locator(".cards li", has_text="Load").locator(".value")
    before = load.inner_text()
    page.get_by_role("button", name="Pause").click()
    stage.append("nasty", later[:1])
    expect(page.locator("#source")).to_contain_text(f"{N_TICKS + 1} ticks")
    assert load.inner_text() == before
    page.get_by_role("button", name="Resume").click()
    stage.append("nasty", later[1:])
    expect(load).to_contain_text("333")
    page.get_by_role("tab", name="Decisions").click()
    expect(page.locator("#story")).to_contain_text(f"Tick {N_TICKS + 1}")
    assert page.evaluate("window.unchanged")  # it was no reload


def test_colours_follow_the_reader(fresh: OpenTab, url: str) -> None:
    page = opened(fresh(theme="dark"), url)
    drawn(page, "load")
    background = "getComputedStyle(document.body).backgroundColor"
    figure = "document.querySelector('[data-figure=load]').layout.paper_bgcolor"
    assert page.evaluate(background) == "rgb(21, 26, 32)"
    until(page, figure, "#151a20")
    page.get_by_role("button", name="Change to light colours").click()
    until(page, figure, "#ffffff")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.goto(f"{url}/login", wait_until="commit")  # leads back, as no token is asked for
    expect(page.get_by_role("button", name="Change to dark colours")).to_be_visible()  # it is remembered


def test_a_phone_shows_all_without_scrolling_sideways(fresh: OpenTab, url: str) -> None:
    tab = fresh(view="phone")
    page = opened(tab, url)
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tabpanel", name=name).locator("table").first).to_be_visible()
        assert not tab.overflows(), name


def test_tables_fit_a_laptop(fresh: OpenTab, stage: Stage) -> None:
    stage.append("plain", records(N_TICKS))
    with stage.dashboard("plain") as url:
        page = opened(fresh(), url)
        for name in ("Fleet now", "Decisions", "Savings"):
            page.get_by_role("tab", name=name).click()
            panel = page.get_by_role("tabpanel", name=name)
            expect(panel.locator("table").first).to_be_visible()
            assert panel.locator(".empty:visible").count() == 0
            too_wide = "all => all.filter(r => r.scrollWidth > r.clientWidth).map(r => r.getAttribute('aria-label'))"
            assert panel.locator(".scroll:visible").evaluate_all(too_wide) == [], name


def test_no_ticks_and_no_runs_say_what_to_do(fresh: OpenTab, stage: Stage) -> None:
    with stage.dashboard("nobody") as url:
        page = opened(fresh(), url)
        expect(page.locator("#panel-now .empty")).to_contain_text("poolpilot control --scenario FILE")
        page.get_by_role("tab", name="Policies").click()
        expect(page.locator("#panel-policies .empty")).to_contain_text("--runs DIR")
        page.get_by_role("tab", name="Savings").click()
        expect(page.locator("#panel-savings .empty")).to_contain_text("No ticks yet")


def test_a_store_that_is_gone_is_said(fresh: OpenTab, stage: Stage) -> None:
    with stage.dashboard("gone", store_url="redis://127.0.0.1:1/0") as url:
        expect(opened(fresh(), url).get_by_role("alert")).to_contain_text("is the server up")


def test_a_sidecar_that_is_silent_is_said(fresh: OpenTab, stage: Stage) -> None:
    stage.append("silent", records(5, until_s=time.time() - 600.0))
    with stage.dashboard("silent") as url:
        expect(opened(fresh(), f"{url}/#decisions").get_by_role("alert")).to_contain_text("No tick for 10 min")


def test_a_token_is_asked_for_once(fresh: OpenTab, stage: Stage) -> None:
    stage.append("private", records(3))
    with stage.dashboard("private", access=Access(TOKEN, loopback=False)) as url:
        page = fresh().page
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        page.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("That is not the token.")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("region", name="Pools")).to_be_visible()
        assert TOKEN not in page.url
        assert page.evaluate("document.cookie") == ""


def test_an_hour_of_ticks_is_shown_and_renewed(fresh: OpenTab, stage: Stage) -> None:
    made = records(721)
    kept = [replace(record, wall_s=made[-1].wall_s - (720 - i) * 4.99) for i, record in enumerate(made)]
    stage.append("hour", kept[:-1])
    with stage.dashboard("hour") as url:
        page = opened(fresh(), url)
        drawn(page, "load")
        points = "document.querySelector('[data-figure=load]').data[0].x.length"
        until(page, points, 720)
        stage.append("hour", kept[-1:])
        until(page, points, 721)
