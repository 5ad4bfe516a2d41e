"""The table of docs/agents.md says what the summary does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from poolpilot.benchmarks.evaluation_table import PAGE, PART, TableError, main, table
from poolpilot.benchmarks.report import marks


def between(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def policy(name: str, kind: str, ratio: float, short: float) -> dict[str, Any]:
    return {
        "policy": name,
        "kind": kind,
        "usd_per_hr": between(12.34, 10.0, 14.0),
        "bill_ratio": between(ratio, ratio - 0.05, ratio + 0.05),
        "shortfall": between(short, 0.0, 0.1),
    }


def summary(*policies: dict[str, Any]) -> dict[str, Any]:
    suite = {"as_shipped": {"policies": list(policies)}}
    return {"reference": "threshold", "suites": {"spot": suite, "steady": suite}}


RULE, LEARNED = policy("threshold", "rule", 1.0, 0.002), policy("mine", "checkpoint", 0.9, 0.0113)


def test_each_policy_has_its_bill_against_the_reference_and_its_misses() -> None:
    lines = table(summary(RULE, LEARNED, policy("foretold", "mark", 1.2, 0.0))).splitlines()
    assert lines[0] == "| policy | spot | steady |"
    assert lines[2] == "| threshold | 12.3 $/h; 0.20 | 12.3 $/h; 0.20 |"
    assert lines[3].startswith("| **mine** | -10.0 % [-15, -5]; 1.13 |")
    assert lines[4].startswith("| *foretold* | +20.0 % [+15, +25]; 0.00 |")
    assert len({line.count("|") for line in lines}) == 1


def test_what_is_no_summary_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"wanted summary\.json"):
        table({"suites": {}})
    uneven = summary(RULE, LEARNED)
    uneven["suites"]["steady"] = {"as_shipped": {"policies": [RULE]}}
    with pytest.raises(TableError, match="other policies"):
        table(uneven)
    broken = tmp_path / "summary.json"
    broken.write_text("{")
    result = CliRunner().invoke(main, [str(broken)])
    assert result.exit_code == 2
    assert "no JSON" in result.output
    broken.write_text(json.dumps(summary(RULE, LEARNED)))
    assert "**mine**" in CliRunner().invoke(main, [str(broken)]).output


def test_the_page_has_a_place_for_it() -> None:
    text = PAGE.read_text()
    assert all(mark in text for mark in marks(PART))
