"""The browser that tests open pages in: it notices what is wrong with a page."""

import asyncio
import re
import time
from pathlib import Path

import pytest
from PIL import Image

from poolpilot.tests.browser.chromium import OpenTab, Tab, is_own, tabs

PAGE = """<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>Page</title>
<style>body {{ margin: 0; color: red }} @media (prefers-color-scheme: dark) {{ body {{ color: lime }} }}</style>
<body>{body}</body></html>"""


def write(folder: Path, body: str) -> str:
    page = folder / "page.html"
    page.write_text(PAGE.format(body=body))
    return page.as_uri()


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("<script>console.error('no such pool')</script>", "console: no such pool"),
        ("<script>throw new Error('out of ' + 'KV')</script>", "thrown: .*out of KV"),
        ("<img src='missing.png'>", "console: Failed to load resource"),
        ("<img src='https://elsewhere.example/x.png'>", "request to another host: https://elsewhere.example/x.png"),
        ("<script>fetch('http://10.1.2.3/').catch(() => 0)</script>", "request to another host: http://10.1.2.3/"),
        (
            "<script>new WebSocket('ws://elsewhere.example/')</script>",
            "socket to another host: ws://elsewhere.example/",
        ),
        (
            "<meta http-equiv='content-security-policy' content=\"script-src 'none'\"><script>1</script>",
            "console: .*[Cc]ontent [Ss]ecurity [Pp]olicy",
        ),
    ],
    ids=["logged", "thrown", "missing file", "another host's picture", "another address", "socket", "forbidden"],
)
def test_a_fault_is_noticed(tab: Tab, tmp_path: Path, body: str, complaint: str) -> None:
    tab.page.goto(write(tmp_path, body))
    until = time.monotonic() + 30.0
    while not any(re.search(complaint, fault) for fault in tab.faults()) and time.monotonic() < until:
        tab.page.wait_for_timeout(50)
    assert any(re.search(complaint, fault) for fault in tab.faults()), tab.complaints
    tab.expect_complaint(
        r"no such pool|KV|Failed to load|another host|elsewhere|Security Policy|ERR_FAILED|10\.1\.2\.3"
    )
    assert not tab.faults()


def test_a_page_in_order_is_left_alone(tab: Tab, tmp_path: Path) -> None:
    tab.page.goto(write(tmp_path, "<script>console.warn('careful'); console.log('fine')</script>"))
    assert tab.complaints == []


@pytest.mark.parametrize(("view", "width"), [("laptop", 1366), ("phone", 390)])
def test_screen_and_theme_are_those_asked_for(open_tab: OpenTab, tmp_path: Path, view: str, width: int) -> None:
    url = write(tmp_path, "<div style='width: 700px'>wide</div>")
    seen = {}
    for theme in ("light", "dark"):
        tab = open_tab(view=view, theme=theme)
        tab.page.goto(url)
        seen[theme] = tab.page.evaluate("getComputedStyle(document.body).color")
        assert tab.page.evaluate("screen.width") == width
        assert tab.overflows() == (view == "phone")
    assert seen == {"light": "rgb(255, 0, 0)", "dark": "rgb(0, 255, 0)"}


def test_the_tab_key_reaches_controls_in_order(tab: Tab, tmp_path: Path) -> None:
    tab.page.goto(write(tmp_path, "<a href='#x'>Go</a><button disabled>No</button><button aria-label='Yes'>+</button>"))
    assert tab.focus_order() == ["a: Go", "button: Yes"]


def test_a_picture_shows_the_page(tab: Tab, tmp_path: Path) -> None:
    tab.page.goto(write(tmp_path, "<div style='background: #0072b2; height: 100vh'></div>"))
    with Image.open(tab.screenshot("blue")) as picture:
        assert picture.size == (1366, 768)
        assert picture.convert("RGB").getpixel((600, 400)) == (0x00, 0x72, 0xB2)


def test_tabs_share_nothing(open_tab: OpenTab, tmp_path: Path) -> None:
    url = write(tmp_path, "")
    first, second = open_tab(), open_tab()
    first.page.goto(url)
    first.page.evaluate("localStorage.setItem('theme', 'dark')")
    second.page.goto(url)
    assert second.page.evaluate("localStorage.getItem('theme')") is None


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://127.0.0.1:8050/_dash-layout", True),
        ("http://localhost:8050/", True),
        ("ws://[::1]:8050/", True),
        ("file:///srv/report.html", True),
        ("data:image/png;base64,AAAA", True),
        ("https://127.0.0.1.example.com/", False),
        ("https://fonts.example/css", False),
        ("http://192.168.0.1/", False),
    ],
)
def test_which_addresses_are_this_machine(url: str, own: bool) -> None:
    assert is_own(url) == own


def test_what_a_page_complains_of_fails_its_test(chromium: str, tmp_path: Path) -> None:
    url = write(tmp_path, "<script>console.error('no such pool')</script>")
    with pytest.raises(AssertionError, match="no such pool"), tabs(chromium, tmp_path) as open_one:
        open_one().page.goto(url)


def test_asynchronous_tests_may_run_after_those_with_tabs(chromium: str, tmp_path: Path) -> None:
    async def later() -> int:
        return 7

    with tabs(chromium, tmp_path) as open_one:
        open_one()
    assert asyncio.run(later()) == 7
