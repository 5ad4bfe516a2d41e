"""Comparisons: paired by seed, intervals that hold what they should, opponents tuned as hard as they can be."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from poolpilot.agents.portfolio import PLAN_TRACKING, STATIC, policy_factory
from poolpilot.env.scenario import load_scenario
from poolpilot.training.evaluate import (
    BOOTSTRAP_DRAWS,
    Contender,
    bootstrap,
    compare,
    contender,
    scored_episodes,
    summary,
    tuning_episodes,
)
from poolpilot.training.rollout import attainment_of, rollout
from poolpilot.training.tuning import (
    TOLERATED_SHORTFALL,
    TRACKING_SETTINGS,
    Trial,
    _cheapest,
    tune_static,
    tune_tracking,
)

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
        Contender(PLAN_TRACKING, policy_factory(PLAN_TRACKING)),
        Contender(STATIC, policy_factory(STATIC, (1.0, 2.0, 0.0))),
    ]
    rows = compare(SCENARIO, entries, seeds=2)
    assert [(row["policy"], row["seed"]) for row in rows] == list(product([PLAN_TRACKING, STATIC], range(2)))
    alone = compare(SCENARIO, entries[1:], seeds=2)
    assert alone == rows[2:]


def test_days_to_tune_on_are_never_scored() -> None:
    tuned = {episode.world.workload.arrival_s.tobytes() for episode in tuning_episodes(SCENARIO)}
    scored = {episode.world.workload.arrival_s.tobytes() for episode in scored_episodes(SCENARIO, 5)}
    assert len(tuned) == 3
    assert len(scored) == 5
    assert not tuned & scored


@pytest.mark.parametrize(
    ("trials", "best"),
    [
        ([(1.0, 0.1), (2.0, 0.0), (3.0, 0.0)], 1),
        ([(1.0, TOLERATED_SHORTFALL), (2.0, 0.0)], 0),
        ([(1.0, 0.3), (2.0, 0.1), (3.0, 0.2)], 1),
        ([(3.0, 0.0), (2.0, 0.0)], 1),
    ],
    ids=["the cheapest that reaches", "a hair is tolerated", "the nearest if none reaches", "in any order"],
)
def test_the_cheapest_setting_that_reaches_wins(trials: list[tuple[float, float]], best: int) -> None:
    tried = [Trial((float(i),), usd, short) for i, (usd, short) in enumerate(trials)]
    assert _cheapest(tried) is tried[best]


def test_static_counts_are_the_cheapest_of_all_that_reach() -> None:
    """Against trying every combination of counts."""
    episodes = tuning_episodes(SCENARIO)
    tuned = tune_static(episodes, SCENARIO.tick_s)
    assert tuned.best.reached
    cluster, cheaper = SCENARIO.cluster(), 0
    rent = np.array(tuned.best.setting) @ cluster.usd_per_hr
    for counts in product(*(range(int(high) + 1) for high in cluster.max_replicas)):
        if 0 < np.array(counts) @ cluster.usd_per_hr < rent - 1e-9:
            results = rollout(episodes, policy_factory(STATIC, tuple(map(float, counts))), SCENARIO.tick_s)
            together = attainment_of(np.sum([r.tally for r in results], axis=0))
            shortfall = float(np.nan_to_num(results[0].attainment_wanted - together).max())
            assert shortfall > TOLERATED_SHORTFALL, f"{counts} reaches the targets and is cheaper"
            cheaper += 1
    assert cheaper > 0


def test_plan_tracking_is_tried_at_every_setting() -> None:
    seen: list[None] = []
    tuned = tune_tracking(tuning_episodes(SCENARIO), SCENARIO.tick_s, lambda: seen.append(None))
    assert len(seen) == tuned.trials == len(TRACKING_SETTINGS)
    assert tuned.best.setting in TRACKING_SETTINGS


def test_a_contender_is_tuned_only_where_it_has_knobs() -> None:
    tuning = tuning_episodes(SCENARIO)[:1]
    assert contender(STATIC, SCENARIO, tuning=tuning).tuned is not None
    with pytest.raises(ValueError, match="no-such"):
        contender("no-such", SCENARIO, tuning=tuning)
