"""Long tests begin, files stay whole, and the list of long ones does not rot."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from .ordering import LONGEST, longest_first

TESTS = Path(__file__).parent


@dataclass
class Item:
    """As much of a collected test as its place depends on."""

    name: str
    path: Path
    served: bool = False

    def get_closest_marker(self, name: str) -> str | None:
        return name if self.served and name == "e2e" else None


@pytest.mark.parametrize("name", LONGEST)
def test_a_file_that_is_called_long_exists(name: str) -> None:
    assert (TESTS / name).is_file()


def test_files_with_servers_begin_then_other_long_ones_and_no_file_is_torn() -> None:
    collected = [
        Item("short", TESTS / "agents/test_portfolio.py"),
        Item("long", TESTS / LONGEST[6]),
        Item("plain", TESTS / "telemetry/test_store.py"),
        Item("serves", TESTS / "telemetry/test_store.py", served=True),
        Item("longest", TESTS / LONGEST[0], served=True),
    ]
    found = [item.name for item in longest_first(collected, TESTS)]  # type: ignore[arg-type]
    assert found == ["longest", "plain", "serves", "long", "short"]
