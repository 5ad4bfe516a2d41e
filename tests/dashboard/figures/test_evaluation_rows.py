"""What an evaluation's figures are drawn from says what its summary and rows say."""

from __future__ import annotations

from typing import Any

import pytest

from poolpilot.dashboard.figures.attainment_rows import BOUND
from poolpilot.dashboard.figures.evaluation_rows import (
    ALL,
    AS_SHIPPED,
    bill_rows,
    difference_rows,
    frontier_rows,
    readings,
)
from poolpilot.tests.training.evaluation.planted import a_sweep
from poolpilot.training.evaluation.summary import summary_of

ROWS = [
    *a_sweep("rule", lambda h, seed: 10.0 * h, lambda h, seed: 0.01 / h**4, scenario="one"),
    *a_sweep(
        "agent", lambda h, seed: 9.0 * h + 0.01 * seed, lambda h, seed: 0.01 / h**4, scenario="one", kind="checkpoint"
    ),
    *a_sweep("rule", lambda h, seed: 20.0 * h, lambda h, seed: 0.01 / h**4, scenario="two"),
    *a_sweep("agent", lambda h, seed: 18.0 * h, lambda h, seed: 0.01 / h**4, scenario="two", kind="checkpoint"),
]
SUMMARY = summary_of(ROWS, "rule")


def link(*parts: Any) -> str:
    return "/".join(map(str, parts))


def test_over_a_suite_bills_are_ratios_and_every_point_leads_to_its_setting() -> None:
    rows = frontier_rows(SUMMARY, "suite", ALL, link)
    shipped = {row["series"]: row for row in rows if row["headroom"] == 1.0}
    assert shipped["rule"]["bill"] == pytest.approx(1.0)
    assert shipped["agent"]["bill"] == pytest.approx(0.9, abs=0.01)
    assert shipped["rule"]["attainment"] == pytest.approx(0.99)
    assert shipped[BOUND]["bill"] == pytest.approx(0.5), "the planted bound is half of each bill"
    assert shipped["agent"]["link"] == "suite//agent/1.0"
    assert "link" not in shipped[BOUND], "nobody ran the bound"


def test_on_one_scenario_bills_are_dollars_and_beaten_settings_are_marked() -> None:
    rows = frontier_rows(SUMMARY, "suite", "two", link)
    own = [row for row in rows if row["series"] == "rule"]
    assert [row["bill"] for row in own] == pytest.approx([14.0, 17.0, 20.0, 24.0, 30.0])
    assert not any(row["dominated"] for row in own)
    assert {row["link"] for row in own} == {f"suite/two/rule/{h}" for h in (0.7, 0.85, 1.0, 1.2, 1.5)}
    assert [row["bill"] for row in rows if row["series"] == BOUND] == pytest.approx([7.0, 8.5, 10.0, 12.0, 15.0])
    worse = summary_of(
        [*ROWS[:40], *a_sweep("dear", lambda h, s: 10.0 / h, lambda h, s: 0.01 / h, scenario="one")], "rule"
    )
    beaten = [row.get("dominated") for row in frontier_rows(worse, "suite", "one", link) if row["series"] == "dear"]
    assert beaten == [True, True, True, True, False]


def test_differences_are_told_as_shipped_and_at_each_level() -> None:
    assert readings(SUMMARY, "suite") == [AS_SHIPPED, "at 99 % attainment", "at 95 % attainment"]
    bill, short = difference_rows(SUMMARY, "suite", AS_SHIPPED)
    assert (bill["measure"], bill["unit"], bill["series"], bill["against"]) == ("Bill", "%", "agent", "rule")
    assert bill["mean"] == pytest.approx(-10.0, abs=0.2)
    assert bill["low"] is not None
    assert bill["high"] is not None
    assert bill["low"] <= bill["mean"] <= bill["high"] < 0.0
    assert (short["unit"], short["mean"]) == ("points", pytest.approx(0.0))
    (equal,) = difference_rows(SUMMARY, "suite", "at 99 % attainment")
    assert equal["mean"] == pytest.approx(-10.0, abs=0.3)


def test_the_bill_by_layer_is_a_mean_over_runs_as_shipped_with_the_idle_layer_in_parts() -> None:
    rows = bill_rows(ROWS, "suite", "two")
    own = {row["layer"]: row["usd_per_hr"] for row in rows if row["series"] == "rule"}
    assert own["compute"] == pytest.approx(4.0), "a fifth of 20"
    assert own["idle: waiting"] == pytest.approx(1.0), "a twentieth"
    assert "idle" not in own
    assert sum(own.values()) == pytest.approx(20.0)
    both = [row["usd_per_hr"] for row in bill_rows(ROWS, "suite") if row["series"] == "rule"]
    assert sum(both) == pytest.approx(15.0), "mean of 10 and 20"
    assert bill_rows(ROWS, "other") == []
