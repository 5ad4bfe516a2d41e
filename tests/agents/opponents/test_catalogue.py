"""The page of opponents says of every rule what the rule says of itself."""

from __future__ import annotations

from pathlib import Path

from poolpilot.agents.opponents.catalogue import BEGIN, END, as_table
from poolpilot.agents.portfolio import RULE_SPECS
from poolpilot.tests.agents.opponents.test_every_rule import SPECS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "opponents.md"


def test_every_rule_with_knobs_is_registered() -> None:
    assert {spec.name for spec in SPECS} <= set(RULE_SPECS)


def test_the_page_holds_the_table_of_the_rules() -> None:
    table = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip()
    hint = (
        "run python -m poolpilot.agents.opponents.catalogue and put its output between the marks of docs/opponents.md"
    )
    assert table == as_table(RULE_SPECS.values()), hint
