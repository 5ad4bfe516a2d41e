"""What simulated runs came to, as figures and curves that a measurement has too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.agents.portfolio import PLAN_TRACKING, policy_factory
from poolpilot.env.scenario import load_scenario
from poolpilot.env.window import N_BUCKETS, bucket_of, percentile_s
from poolpilot.training.matching import TOLERANCES, Verdict, match
from poolpilot.training.observed import Watch, mean_of, observed_of, share_within
from poolpilot.training.rollout import rollout
from poolpilot.training.worlds import episode_of


@given(limit_s=st.floats(1e-3, 1000.0), values=st.lists(st.floats(1e-3, 500.0), min_size=1, max_size=50))
def test_the_share_within_a_limit_is_the_inverse_of_the_percentile(limit_s: float, values: list[float]) -> None:
    counts = np.bincount(bucket_of(np.array(values)), minlength=N_BUCKETS).astype(float)
    share = share_within(counts, limit_s)
    below = np.mean(np.array(values) <= limit_s / 1.13)
    above = np.mean(np.array(values) <= limit_s * 1.13)
    assert below - 1e-9 <= share <= above + 1e-9
    if 0.0 < share < 1.0:
        assert float(percentile_s(counts, share)) <= limit_s * (1 + 1e-6)


def test_runs_of_the_simulator_become_observations_with_their_curves() -> None:
    scenario = load_scenario("mixed-chat").model_copy(update={"duration_s": 120.0})
    episodes = [episode_of(scenario, seed, 1.0) for seed in (0, 1)]
    watch = Watch()
    results = rollout(episodes, watch.over(policy_factory(PLAN_TRACKING)), scenario.tick_s)
    plain = rollout(episodes, policy_factory(PLAN_TRACKING), scenario.tick_s)
    assert [own.usd_per_hr for own in results] == [own.usd_per_hr for own in plain]
    first, second = (observed_of(result, scenario.targets(), watch, b) for b, result in enumerate(results))
    assert list(first.classes) == list(scenario.class_names)
    assert first.bill_usd == pytest.approx(float(results[0].bill.total_usd))
    assert len(first.time_s) == len(first.waiting) == 12
    assert first.running.max() > 0
    for c, seen in enumerate(first.classes.values()):
        assert seen.attainment == pytest.approx(float(results[0].attainment[c]))
        assert max(seen.attainment, 0.0) <= min(seen.ttft_met, 1.0) + 0.02 or math.isnan(seen.ttft_met)
    mean = mean_of([first, second])
    assert mean.bill_usd == pytest.approx((first.bill_usd + second.bill_usd) / 2)
    assert match(first, first).verdict is Verdict.GOOD
    assert set(TOLERANCES) >= {own.figure for own in match(first, second).figures}
