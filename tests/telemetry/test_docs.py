"""docs/telemetry.md and the contract name the same fields."""

import re
from dataclasses import fields
from pathlib import Path

from poolpilot.env.contract import CLASS_COLUMNS, POOL_COLUMNS, Snapshot

PAGE = Path(__file__).resolve().parents[2] / "docs" / "telemetry.md"


def rows(heading: str) -> list[str]:
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = re.findall(r"^\| `(\w+)` \|(.*)\|$", section, re.MULTILINE)
    for name, cells in table:
        assert all(cell.strip() for cell in cells.split("|")), f"{name}: an empty cell"
        assert cells.count("|") == 2, f"{name}: wanted source, delay and what happens without it"
    return [name for name, _ in table]


def test_every_column_has_its_row_in_the_order_of_the_contract() -> None:
    assert rows("Per class") == [column.name for column in CLASS_COLUMNS]
    assert rows("Per pool") == [column.name for column in POOL_COLUMNS]


def test_every_other_field_has_its_row() -> None:
    assert set(rows("Forecast")) == {f.name for f in fields(Snapshot)} - {"classes", "pools"}
