"""Pages as a person opens them: fixtures that hand out tabs of a real, headless Chromium.

    def test_the_report_opens(open_tab, report):
        tab = open_tab(view="phone", theme="dark")
        tab.page.goto(report.as_uri())
        expect(tab.page.get_by_role("heading", name="Bill")).to_be_visible()
        assert not tab.overflows()
        tab.screenshot("report/phone")

One Chromium runs for each test process; each tab has a profile of its own (cookies, storage, cache) and is gone after the
test. A test fails if its page logged an error, threw, or asked for anything from another host than this one; what a
test provokes on purpose it names first (`tab.expect_complaint`).

Playwright's synchronous calls hold the thread's event loop while a tab is open: ask for asynchronous fixtures before
`open_tab`, and start servers in a thread or as a process.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page, Route

View = Literal["laptop", "phone"]
Theme = Literal["light", "dark"]

VIEWS: dict[View, dict[str, object]] = {
    "laptop": {"viewport": {"width": 1366, "height": 768}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}
"""What a browser context is told of its screen, in CSS pixels."""

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "images"
RENEW_PICTURES = "POOLPILOT_PICTURES"
"""Environment variable: where it is set, screenshots that tests take replace those in docs/images."""

OTHER_CHROMIUM = "POOLPILOT_CHROMIUM"
"""Environment variable: the path of a Chromium or Chrome that is not on PATH."""

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_START_S = 60.0
_LOOPBACK = re.compile(r"127(\.\d+){3}|localhost|\[?::1\]?")
_FLAGS = (
    "--headless=new",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--remote-debugging-address=127.0.0.1",
    "--disable-dev-shm-usage",  # /dev/shm is small in containers
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",  # sockets too stay here
    "--password-store=basic",
    "--use-mock-keychain",
    "--mute-audio",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what opens pages, so that `-m browser` chooses it and `-m 'not browser'` leaves it out."""
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


def _missing(what: str) -> None:
    """Where nothing may be left out, a browser that is not there is a failure; elsewhere the test is skipped."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def chromium() -> Iterator[str]:
    """The debugging address of a Chromium that runs as long as this test process."""
    try:
        program = program_of_chromium()
        import playwright.sync_api  # noqa: F401
    except FileNotFoundError as error:
        _missing(str(error))
    except ImportError:
        _missing("Playwright is not installed: pip install 'poolpilot[dev]'")
    with running(program) as address:
        yield address


def program_of_chromium() -> str:
    """Path of the browser's program.

    Raises:
        FileNotFoundError: there is none.
    """
    found = os.environ.get(OTHER_CHROMIUM) or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise FileNotFoundError(
            f"no Chromium on PATH: on Debian `apt install chromium`, elsewhere set {OTHER_CHROMIUM} to its path"
        )
    return found


@contextmanager
def running(program: str) -> Iterator[str]:
    """Start a browser of its own, with an empty profile; its debugging address. It is gone at the end."""
    # A sandbox inside a container's root has no namespaces left to build itself from; the pages opened are our own.
    flags = [*_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else []), "about:blank"]
    with tempfile.TemporaryDirectory(prefix="poolpilot-chromium-", ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "chromium.log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [program, f"--user-data-dir={folder}/profile", *flags],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        try:
            yield _address(process, log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where the browser listens, once it says so."""
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if found := re.search(r"DevTools listening on (ws://\S+)", log.read_text(errors="replace")):
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    pytest.fail(f"Chromium did not start (exit status {process.poll()}): {log.read_text(errors='replace')[-2000:]}")


def is_own(url: str) -> bool:
    """Whether a request for `url` stays on this machine."""
    parts = urlsplit(url)
    if parts.scheme in {"file", "data", "blob", "about"}:
        return True
    return bool(_LOOPBACK.fullmatch(parts.hostname or ""))


@dataclass
class Tab:
    """An open tab, and what is wrong with the pages that were opened in it."""

    page: Page
    """Playwright's page: goto, get_by_role, click, keyboard, ..."""
    pictures: Path
    """Where screenshots go."""
    complaints: list[str] = field(default_factory=list)
    """Errors logged or thrown, and requests to other hosts, in their order."""
    expected: list[re.Pattern[str]] = field(default_factory=list)

    def expect_complaint(self, pattern: str) -> None:
        """From now on a complaint in which `pattern` is found is none: the test provokes it."""
        self.expected.append(re.compile(pattern))

    def faults(self) -> list[str]:
        """Complaints that nobody expected."""
        return [text for text in self.complaints if not any(pattern.search(text) for pattern in self.expected)]

    def overflows(self) -> bool:
        """Whether the page is wider than the screen, so that a reader must scroll sideways."""
        wider: bool = self.page.evaluate(
            "document.scrollingElement.scrollWidth > document.scrollingElement.clientWidth"
        )
        return wider

    def focus_order(self, most: int = 200) -> list[str]:
        """What the Tab key reaches from the page's start, in order, each once: role or tag, and accessible name or text."""
        self.page.evaluate("() => { document.activeElement?.blur(); window.focusSeen = new Set() }")
        reached: list[str] = []
        for _ in range(most):
            self.page.keyboard.press("Tab")
            name = self.page.evaluate(_NAME_OF_FOCUSED)
            if name is None:
                break
            reached.append(name)
        return reached

    def screenshot(self, name: str, *, whole: bool = False) -> Path:
        """A picture of what is seen, or of the whole page, as `name`.png; returns its path.

        It goes to docs/images if the environment asks for that (POOLPILOT_PICTURES=1), otherwise to the test's own
        folder. Its colours are reduced to a palette: a third of the bytes, and charts lose nothing by it.
        """
        from PIL import Image

        path = (self.pictures / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        shot = self.page.screenshot(full_page=whole, animations="disabled", caret="hide")
        with Image.open(BytesIO(shot)) as image:
            palette = image.convert("RGB").quantize(colors=255, dither=Image.Dither.NONE)
            palette.save(path, optimize=True)
        return path


_NAME_OF_FOCUSED = """() => {
  const at = document.activeElement
  if (!at || at === document.body || window.focusSeen.has(at)) return null
  window.focusSeen.add(at)
  const label = at.getAttribute('aria-label') || at.labels?.[0]?.innerText || at.innerText || at.title || at.id || ''
  return `${at.getAttribute('role') || at.tagName.toLowerCase()}: ${label.trim().split('\\n')[0]}`
}"""

OpenTab = Callable[..., Tab]


@contextmanager
def tabs(chromium: str, pictures: Path) -> Iterator[OpenTab]:
    """A function that opens tabs, closed at the end.

    Raises:
        AssertionError: at the end, if pages complained of what nobody expected.
    """
    from playwright.sync_api import sync_playwright

    opened: list[tuple[BrowserContext, Tab]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.connect_over_cdp(chromium)

        def open_one(view: View = "laptop", theme: Theme = "light") -> Tab:
            context = browser.new_context(**VIEWS[view], color_scheme=theme, reduced_motion="reduce", locale="en-GB")
            context.set_default_timeout(60_000)  # a busy machine is slow
            tab = Tab(context.new_page(), pictures)
            _listen(context, tab)
            opened.append((context, tab))
            return tab

        yield open_one
        faults = [fault for _, tab in opened for fault in tab.faults()]
        for context, _ in opened:
            context.close()
    assert not faults, "the page complained:\n" + "\n".join(faults)


@pytest.fixture
def open_tab(chromium: str, tmp_path: Path) -> Iterator[OpenTab]:
    """Opens a tab: `open_tab(view="laptop" | "phone", theme="light" | "dark")`. Faults of its pages fail the test."""
    with tabs(chromium, PICTURES if os.environ.get(RENEW_PICTURES) else tmp_path / "pictures") as open_one:
        yield open_one


@pytest.fixture
def tab(open_tab: OpenTab) -> Tab:
    """One tab on a laptop's screen, light."""
    return open_tab()


def _listen(context: BrowserContext, tab: Tab) -> None:
    """Write down what goes wrong in a context's pages, and let no request leave this machine."""

    def stay(route: Route) -> None:
        if is_own(route.request.url):
            route.fallback()
        else:
            tab.complaints.append(f"request to another host: {route.request.url}")
            route.abort()

    context.route("**/*", stay)
    context.on("console", lambda message: message.type == "error" and tab.complaints.append(f"console: {message.text}"))
    context.on("weberror", lambda error: tab.complaints.append(f"thrown: {error.error}"))
    tab.page.on(
        "websocket",
        lambda socket: is_own(socket.url) or tab.complaints.append(f"socket to another host: {socket.url}"),
    )
