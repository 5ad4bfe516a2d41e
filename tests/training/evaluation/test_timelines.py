"""Chosen runs tick by tick are the runs that the evaluation's rows sum up, and what is kept is read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from poolpilot.agents.portfolio import PLAN_TRACKING
from poolpilot.env.scenario import load_scenario
from poolpilot.env.timeline import UNITS, WHOLE
from poolpilot.training.clairvoyant_plan import CLAIRVOYANT
from poolpilot.training.contenders import PERFECT_FORECAST
from poolpilot.training.evaluation.entrants import listed_all
from poolpilot.training.evaluation.jobs import Plan, run_job, stage_of
from poolpilot.training.evaluation.summary import summary_of
from poolpilot.training.evaluation.timelines import (
    Timed,
    Timeline,
    TimelinesError,
    read_timelines,
    record,
    usual,
    write_timelines,
)

from .planted import a_row

SCENARIO = load_scenario("mixed-chat").model_copy(update={"duration_s": 300.0})
POLICIES = (PLAN_TRACKING, PERFECT_FORECAST, CLAIRVOYANT)
PLAN = Plan({("suite", SCENARIO.name): SCENARIO}, {own.name: own for own in listed_all(POLICIES)}, 2, bounded=False)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_recorded_run_is_the_run_that_its_row_sums_up(policy: str) -> None:
    timed = Timed("suite", SCENARIO.name, 1, policy)
    row = run_job(timed.job, PLAN, stage_of(SCENARIO, PLAN.seeds))[1]
    timeline = record(timed, PLAN)
    assert timeline.world == row["world"]
    billed = [own["value"] for own in timeline.rows if (own["measure"], own["name"]) == ("usd_per_hr", WHOLE)]
    assert len(billed) == SCENARIO.duration_s / SCENARIO.tick_s
    assert sum(own or 0.0 for own in billed) / len(billed) == pytest.approx(row["usd_per_hr"], rel=1e-12)
    for pool in row["pools"]:
        wanted = [
            own["value"] or 0.0
            for own in timeline.rows
            if (own["measure"], own["name"]) == ("replicas_target", pool["name"])
        ]
        assert sum(wanted) / len(wanted) == pytest.approx(pool["mean_replicas"])


def test_it_holds_every_measure_of_every_class_and_pool() -> None:
    rows = record(Timed("suite", SCENARIO.name, 0, PLAN_TRACKING), PLAN).rows
    assert {own["measure"] for own in rows} == set(UNITS)
    assert {own["name"] for own in rows if own["kind"] == "pool"} == set(SCENARIO.pools)
    assert {own["name"] for own in rows if own["kind"] == "class"} == set(SCENARIO.classes)
    known = {own["measure"] for own in rows if own["value"] is not None}
    assert known == set(UNITS), "each is known at some tick"


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    recorded = record(Timed("suite", SCENARIO.name, 0, PLAN_TRACKING), PLAN)
    other = Timeline(Timed("suite", "<script>", 0, "rule", 0.8), "w", recorded.rows[:2])
    path = tmp_path / "timelines.parquet"
    write_timelines(path, [recorded, other])
    before = path.read_bytes()
    assert read_timelines(path) == [recorded, other]
    write_timelines(path, [recorded, other])
    assert path.read_bytes() == before
    path.write_bytes(b"no parquet")
    with pytest.raises(TimelinesError, match="not readable as Parquet"):
        read_timelines(path)


def test_without_a_choice_it_is_the_median_scenario_of_the_first_suite() -> None:
    rows = [
        a_row(policy, seed, usd * (1.0 if policy == "rule" else factor), scenario=scenario, kind=kind, suite=suite)
        for suite in ("first", "second")
        for policy, kind in (("rule", "rule"), ("other", "rule"), ("agent", "checkpoint"))
        for scenario, usd, factor in (("best", 1.0, 0.5), ("middle", 2.0, 0.9), ("worst", 3.0, 1.5))
        for seed in range(2)
    ]
    assert usual(summary_of(rows, "rule")) == ("first", "middle", 0)
    alone = [row for row in rows if row["policy"] == "rule" and row["scenario"] == "best"]
    assert usual(summary_of(alone, "rule")) == ("first", "best", 0)
