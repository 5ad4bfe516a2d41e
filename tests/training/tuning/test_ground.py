"""Days are drawn once, and run side by side where they last as long."""

from pathlib import Path

import pytest

from poolpilot.agents.portfolio import PLAN_TRACKING, policy_factory, spec_of
from poolpilot.env.scenario import load_scenario
from poolpilot.training.criterion import outcome_of
from poolpilot.training.days import tuning_episodes
from poolpilot.training.rollout import rollout
from poolpilot.training.tuning.ground import SIDE_BY_SIDE, ground_of, scenarios_of

from ..clusters import tiny


def test_side_by_side_or_alone_makes_no_difference(tmp_path: Path) -> None:
    """Scenarios of unlike numbers of pools and classes among them."""
    one = load_scenario(tiny(tmp_path)).model_copy(update={"duration_s": 60.0})
    other = load_scenario("mixed-chat").model_copy(update={"duration_s": 60.0})
    (days,) = ground_of([one, other], 2)
    beside = days.outcomes(PLAN_TRACKING, {"headroom": 1.2})
    for scenario, outcome in zip((one, other), beside, strict=True):
        episodes = tuning_episodes(scenario, 2)
        make = policy_factory(PLAN_TRACKING, {**spec_of(PLAN_TRACKING).defaults, "headroom": 1.2})
        alone = outcome_of(rollout(episodes, make, scenario.tick_s), episodes)
        assert (outcome.bill_ratio, outcome.shortfall) == pytest.approx((alone.bill_ratio, alone.shortfall), rel=1e-12)


def test_only_scenarios_that_last_as_long_are_run_together_and_few_of_them(tmp_path: Path) -> None:
    one = load_scenario(tiny(tmp_path))
    shorter = one.model_copy(update={"duration_s": 60.0})
    ground = ground_of([one, shorter] + [one] * SIDE_BY_SIDE, 1)
    assert [len(days.scenarios) for days in ground] == [SIDE_BY_SIDE, 1, 1]
    assert [days.scenarios[0].duration_s for days in ground] == [120.0, 120.0, 60.0]
    assert len(scenarios_of(ground)) == SIDE_BY_SIDE + 2
