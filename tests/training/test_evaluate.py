"""Comparisons: paired by seed, intervals that hold what they should."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from poolpilot.agents.portfolio import PLAN_TRACKING, STATIC, policy_factory
from poolpilot.env.scenario import load_scenario
from poolpilot.training.contenders import Steered
from poolpilot.training.evaluate import BOOTSTRAP_DRAWS, bootstrap, compare, summary

SCENARIO = load_scenario("mixed-chat").model_copy(update={"duration_s": 120.0})


def a_row(policy: str, seed: int, usd: float, **more: Any) -> dict[str, Any]:
    return {
        "scenario": "s",
        "policy": policy,
        "seed": seed,
        "usd_per_hr": usd,
        "usd_per_1000_met": usd / 10.0,
        "worst_shortfall": 0.0,
        "lost": 1,
        "replica_changes": 4,
        "covered_frac": 0.8,
        "bound_usd_per_hr": 2.0,
        "above_bound_frac": usd / 2.0 - 1.0,
        "attainment_chat": 0.9,
        **more,
    }


def test_a_summary_pairs_by_seed() -> None:
    """Half the bill on every seed is minus 50 %, whatever the seeds' own bills are, and in whatever order."""
    rows = [a_row("rule", seed, 10.0 * (seed + 1)) for seed in range(5)]
    rows += [a_row("agent", seed, 5.0 * (seed + 1)) for seed in reversed(range(5))]
    rule, agent = summary(rows, "rule")
    assert "bill_against_reference" not in rule
    against = agent["bill_against_reference"]
    assert against["reference"] == "rule"
    assert [against[key] for key in ("mean", "low", "high")] == pytest.approx([-0.5, -0.5, -0.5])
    assert (rule["usd_per_hr"]["mean"], agent["usd_per_hr"]["mean"]) == (30.0, 15.0)
    assert rule["usd_per_hr"]["low"] < 30.0 < rule["usd_per_hr"]["high"]
    assert (agent["lost"], agent["replica_changes"], agent["seeds"]) == (5, 4.0, 5)
    assert agent["covered_frac"]["mean"] == pytest.approx(0.8)
    assert agent["attainment"] == {"chat": pytest.approx(0.9)}


def test_what_is_unknown_is_left_out_not_counted_as_nothing() -> None:
    rows = [
        a_row("rule", 0, 10.0, usd_per_1000_met=None, attainment_chat=None),
        a_row("rule", 1, 10.0, attainment_chat=0.5, attainment_batch=None),
    ]
    (record,) = summary(rows, "rule")
    assert record["usd_per_1000_met"]["mean"] == 1.0
    assert record["attainment"]["chat"] == 0.5
    (never,) = summary([a_row("rule", 0, 10.0, usd_per_1000_met=None)], "rule")
    assert never["usd_per_1000_met"] is None


def test_a_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        interval = bootstrap(rng.normal(3.0, 1.0, 40))
        covered += interval.low <= 3.0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_bootstrap_is_the_same_each_time_and_knows_certainty() -> None:
    values = np.random.default_rng(1).exponential(2.0, 30)
    assert bootstrap(values) == bootstrap(values)
    width = bootstrap(values).high - bootstrap(values).low
    assert width == pytest.approx(2 * 1.96 * values.std() / np.sqrt(len(values)), rel=0.2)
    certain = bootstrap(np.full(7, 4.0))
    assert (certain.mean, certain.low, certain.high) == (4.0, 4.0, 4.0)
    assert BOOTSTRAP_DRAWS >= 1000


def test_every_policy_meets_the_same_days() -> None:
    entries = [
        Steered(PLAN_TRACKING, policy_factory(PLAN_TRACKING)),
        Steered(STATIC, policy_factory(STATIC, (1.0, 2.0, 0.0))),
    ]
    rows = compare(SCENARIO, entries, seeds=2)
    assert [(row["policy"], row["seed"]) for row in rows] == list(product([PLAN_TRACKING, STATIC], range(2)))
    alone = compare(SCENARIO, entries[1:], seeds=2)
    assert alone == rows[2:]
