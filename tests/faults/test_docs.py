"""docs/reliability.md and the tests of this folder name the same faults."""

import re
from pathlib import Path

from .table import PAGE, table

HERE = Path(__file__).parent


def drilled() -> set[str]:
    """`file::test` of every test here that breaks something."""
    found = set()
    for path in HERE.glob("test_*.py"):
        for test, body in re.findall(
            r"^async def (test_\w+)(.*?)(?=^async def |^def |\Z)", path.read_text(), re.MULTILINE | re.DOTALL
        ):
            if ".drill(" in body:
                found.add(f"{path.stem}::{test}")
    return found


def test_every_drill_has_a_row_and_every_row_a_drill() -> None:
    rows = set(re.findall(r"\| `(test_\w+::test_\w+)` \|$", PAGE.read_text(), re.MULTILINE))
    assert rows == drilled()


def test_a_row_holds_the_last_run_without_what_changes_from_run_to_run() -> None:
    row = {
        "fault": "store slow",
        "test": "tests/faults/test_store.py::test_a_store_that_hangs[a|b]",
        "sent": 10,
        "shed": 0,
        "lost": 0,
        "lost_for": [],
        "allowed": "",
        "recovered_s": 3.14159,
        "after": "its cause was gone",
        "reported": "2026-01-02 03:04:05,678 poolpilot.loop tick 7: /tmp/x/run/log.jsonl at 127.0.0.1:4711 is slow",
    }
    *_, line = table([{**row, "sent": 9}, row]).splitlines()
    assert line == (
        "| store slow | 10 | 0 | none | 3.1 s after its cause was gone |"
        " `tick 7: log.jsonl at 127.0.0.1:PORT is slow` | `test_store::test_a_store_that_hangs` |"
    )
