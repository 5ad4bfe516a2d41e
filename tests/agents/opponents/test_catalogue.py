"""The page of opponents says of every rule what the rule says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from poolpilot.agents.opponents.catalogue import with_table
from poolpilot.agents.portfolio import RULE_SPECS
from poolpilot.tests.agents.opponents.test_every_rule import SPECS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "opponents.md"


def test_every_rule_with_knobs_is_registered() -> None:
    assert {spec.name for spec in SPECS} <= set(RULE_SPECS)


def test_the_page_holds_the_table_of_the_rules() -> None:
    page = PAGE.read_text(encoding="utf-8")
    hint = "run python -m poolpilot.agents.opponents.catalogue docs/opponents.md"
    assert page == with_table(page, RULE_SPECS.values()), hint


def test_a_page_without_marks_is_told() -> None:
    with pytest.raises(ValueError, match="no lines"):
        with_table("# Opponents\n", RULE_SPECS.values())
