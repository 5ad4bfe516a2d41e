"""The documentation's site: builds strictly, every page is found, and opens in a browser without a network."""

import fcntl
import re
import subprocess
import sys
from pathlib import Path

import pytest

from poolpilot.tests.browser.chromium import OpenTab, Tab

from .pages import DOCS

pytest.importorskip("sphinx", reason="the site needs the extra `docs`")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The built site; test processes that run side by side share one."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    folder = shared / "site"
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "index.html").exists():
            build = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
            done = subprocess.run([*build, str(DOCS), str(folder)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_navigation(site: Path) -> None:
    """Sphinx refuses a page that no list names; what it built is what is there."""
    start = (site / "index.html").read_text()
    listed = set(re.findall(r'class="reference internal" href="([\w-]+)\.html"', start))
    assert listed | {"index"} >= {page.stem for page in DOCS.glob("*.md")}


def test_every_page_opens_without_a_network(site: Path, tab: Tab) -> None:
    pages = sorted(path for path in site.glob("*.html") if path.stem not in {"genindex", "search"})
    assert len(pages) > 30
    for page in pages:
        tab.page.goto(page.as_uri(), wait_until="load")
        assert tab.page.locator("h1").count() == 1, page.name
        broken = tab.page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        assert not broken, page.name


def test_a_newcomer_finds_the_way(site: Path, tab: Tab) -> None:
    tab.page.goto((site / "index.html").as_uri())
    tab.page.get_by_role("link", name="the tutorial", exact=True).click()
    assert tab.page.locator("h1").inner_text().startswith("Tutorial")
    tab.page.get_by_role("link", name="Next").click()
    assert tab.page.url.endswith("/trust.html")


def test_search_finds_a_page_without_a_server(site: Path, tab: Tab) -> None:
    tab.page.goto((site / "index.html").as_uri())
    tab.page.get_by_placeholder("Search").fill("fencing token")
    tab.page.keyboard.press("Enter")
    tab.page.locator("ul.search a", has_text="sidecar").first.wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_pages_without_scrolling_sideways(site: Path, open_tab: OpenTab, theme: str) -> None:
    tab = open_tab(view="phone", theme=theme)
    for name in ("index", "tutorial", "cli-reference", "scenario-reference", "trust"):
        tab.page.goto((site / f"{name}.html").as_uri())
        assert not tab.overflows(), name
    red, green, blue = map(
        int, re.findall(r"\d+", tab.page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    )
    assert (red + green + blue > 384) == (theme == "light")
