"""The clairvoyant plan, replayed: it meets the targets where that can be, above the bound, and cheaper than who sees less."""

from __future__ import annotations

import numpy as np
import pytest

from poolpilot.agents.portfolio import STATIC, policy_factory
from poolpilot.env.scenario import load_scenario
from poolpilot.env.window import MET
from poolpilot.training.bounding import Clairvoyant
from poolpilot.training.clairvoyant_plan import CLAIRVOYANT, HEADROOMS, known_ahead, replayed
from poolpilot.training.days import scored_episodes
from poolpilot.training.evaluation.entrants import listed_all
from poolpilot.training.evaluation.jobs import Plan, jobs_of
from poolpilot.training.evaluation.running import run_evaluation
from poolpilot.training.evaluation.summary import summary_of
from poolpilot.training.rollout import rollout
from poolpilot.training.worlds import episode_of

SCENARIO = load_scenario("mixed-chat").model_copy(update={"duration_s": 240.0})


def test_it_meets_the_targets_above_the_bound_and_no_dearer_than_the_peak_all_day() -> None:
    episodes = scored_episodes(SCENARIO, 2)
    most = tuple(float(pool.replicas.max) for pool in SCENARIO.pools.values())
    peaks = rollout(episodes, policy_factory(STATIC, most), SCENARIO.tick_s)
    plans = replayed(episodes, SCENARIO.tick_s)
    for episode, plan, peak in zip(episodes, plans, peaks, strict=True):
        bound = Clairvoyant(episode, SCENARIO.tick_s).bound(plan.result.tally[:, MET].astype(np.int64))
        assert plan.result.worst_shortfall <= peak.worst_shortfall + 1e-9
        assert bound.usd_per_hr <= plan.result.usd_per_hr < peak.usd_per_hr
        assert plan.headroom in HEADROOMS


def test_each_episode_has_its_own_plan_whoever_runs_beside_it() -> None:
    together = replayed(scored_episodes(SCENARIO, 2), SCENARIO.tick_s)
    (alone,) = replayed(scored_episodes(SCENARIO, 2)[1:], SCENARIO.tick_s)
    assert alone.headroom == together[1].headroom
    np.testing.assert_array_equal(alone.result.tally, together[1].result.tally)


def test_its_load_is_what_comes_weighed_by_tokens() -> None:
    episode = episode_of(SCENARIO, 0, 1.0)
    ahead, ticks_per_step, ticks = known_ahead(episode.world, episode.limits, SCENARIO.tick_s, 1.0)
    requests = episode.world.workload
    came = np.bincount(requests.class_index[requests.arrival_s < 240.0], minlength=len(requests.class_names))
    np.testing.assert_allclose(ahead.load_per_s.sum(axis=0) * ahead.step_s, came, rtol=0.05)
    assert ticks == 240 / SCENARIO.tick_s
    assert len(ahead.most) == -(-ticks // ticks_per_step)


def test_it_stands_in_comparisons_beside_the_rules_with_the_distance_to_the_bound() -> None:
    entries = {own.name: own for own in listed_all([STATIC, CLAIRVOYANT])}
    plan = Plan({("suite", SCENARIO.name): SCENARIO}, entries, seeds=2)
    rows = run_evaluation(plan, jobs_of(plan, (1.0,)))
    assert [row["policy"] for row in rows] == [STATIC, STATIC, CLAIRVOYANT, CLAIRVOYANT]
    for row in rows:
        assert 0.0 < row["bound_usd_per_hr"] <= row["usd_per_hr"]
        assert row["above_bound_frac"] == pytest.approx(row["usd_per_hr"] / row["bound_usd_per_hr"] - 1.0)
    for record in summary_of(rows, STATIC)["suites"]["suite"]["as_shipped"]["policies"]:
        assert record["above_bound_frac"]["low"] <= record["above_bound_frac"]["mean"]
