"""Writes the table of docs/reliability.md from what the tests of this folder measured.

POOLPILOT_FAULTS_OUT=faults.jsonl pytest tests/faults -n 0
python -m poolpilot.tests.faults.table faults.jsonl
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from poolpilot.benchmarks.report import put

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
_HEAD = """\
| fault | requests sent | lost | may be lost | well again | reported | test |
|---|---:|---:|---|---|---|---|
"""


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, the last run of each fault."""
    latest = {row["fault"]: row for row in rows}
    return _HEAD + "".join(_line(row) for row in latest.values())


def _line(row: dict[str, Any]) -> str:
    file, _, test = row["test"].rpartition("::")
    cells = [
        row["fault"],
        str(row["sent"]),
        str(row["lost"]),
        row["allowed"] or "none",
        f"{row['recovered_s']:.1f} s after {row['after']}",
        f"`{_plain(row['reported'])}`",
        f"`{Path(file).stem}::{test.partition('[')[0]}`",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _plain(words: str) -> str:
    """Without what differs from run to run: times, folders, ports."""
    words = re.sub(r"^\d{4}-\d\d-\d\d [\d:,]+ \S+ ", "", words)
    words = re.sub(r"^\S+:\d+:[0-9a-f]{8}: ", "", words)  # the sidecar's name among those that may lead
    words = re.sub(r"(?<![\w:/])/\S+/(?=[\w.-]+)", "", words)
    words = re.sub(r"(127\.0\.0\.1:)\d+", r"\1PORT", words).replace("`", "'")
    return words if len(words) <= 160 else words[:157] + "..."


def main(measured: Path) -> None:
    """Rewrite the page's table."""
    rows = [json.loads(line) for line in measured.read_text().splitlines()]
    put(PAGE, "faults", table(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
