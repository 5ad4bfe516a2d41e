"""Fixtures that every test may ask for."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from .ordering import longest_first, starts_servers

# A busy machine is no failure: how long an example takes is nothing that a test here is about.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Tabs of a real Chromium, for tests of pages in any folder.
pytest_plugins = ["poolpilot.tests.browser.chromium"]

REPO_ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = longest_first(items, Path(__file__).parent)


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.option.collectonly and any(starts_servers(item) for item in session.items):
        from .compiling import compile_once  # loads the simulator, which most single files do without

        compile_once()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets kept beside the repository; users do not have it, continuous integration does."""
    folder = Path(os.environ.get("POOLPILOT_SHARED", REPO_ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        message = f"no data folder at {folder}: set POOLPILOT_SHARED to a folder that has data/"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder
