"""docs/trust.md quotes what other pages measured, and leaves out nothing that they are asked for."""

import re

import pytest

from .pages import DOCS

ROWS = [
    line
    for line in (DOCS / "trust.md").read_text().split("## Figure by figure")[1].split("\n## ")[0].splitlines()
    if line.startswith("|") and "](" in line
]
CELLS = {row: [cell.strip() for cell in row.strip("|").split("|")] for row in ROWS}
FIGURE = re.compile(r"[+-]?\d+(?:\.\d+)? %")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_figures_are_those_of_the_pages_that_a_row_names(row: str) -> None:
    cells = CELLS[row]
    assert len(cells) == 5
    sources = " ".join((DOCS / name).read_text() for name in re.findall(r"\]\(([\w-]+\.md)\)", cells[4]))
    quoted = FIGURE.findall(cells[2])
    assert [own for own in quoted if not re.search(rf"(?<![\d.]){re.escape(own.lstrip('+-'))}", sources)] == []


def test_rows_quote_figures_at_all() -> None:
    assert sum(len(FIGURE.findall(CELLS[row][2])) for row in ROWS) > 25


def test_every_kind_of_figure_is_explained() -> None:
    text = (DOCS / "trust.md").read_text()
    kinds = set(re.findall(r"^\| (\w+) \|", text.split("## Figure by figure")[0], re.MULTILINE)) - {"kind"}
    assert {CELLS[row][1].split()[0] for row in ROWS} <= kinds
