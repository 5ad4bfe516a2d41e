"""Fixed counts for a peak are planned on another day, do not lean on spot machines, and turn nobody away."""

import numpy as np
import pytest

from poolpilot.agents.opponents.held_plan import HeldPlan
from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.training.contenders import contender
from poolpilot.training.days import scored_episodes
from poolpilot.training.static_peak import HEADROOM, STATIC_PEAK, static_peak

SCENARIO = load_scenario("mixed-chat").model_copy(update={"duration_s": 300.0})


def held(scenario: Scenario, headroom: float = HEADROOM) -> HeldPlan:
    policy = static_peak(scenario, headroom)(scenario.cluster())
    assert isinstance(policy, HeldPlan)
    return policy


def test_no_count_leans_on_machines_that_are_taken_away() -> None:
    spot = SCENARIO.cluster().spot
    assert spot.any()
    counts = held(SCENARIO).replicas
    assert counts[spot].sum() == 0
    assert counts.sum() > 0


def test_where_only_spot_serves_it_is_used() -> None:
    spot = {name: pool for name, pool in SCENARIO.pools.items() if pool.price.kind == "spot"}
    only = SCENARIO.model_copy(update={"pools": spot})
    assert held(only).replicas.sum() > 0


def test_every_class_is_let_in_whole() -> None:
    shares = held(SCENARIO).shares
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)


def test_more_headroom_is_a_dearer_fleet() -> None:
    price = SCENARIO.cluster().usd_per_hr
    rents = [float(held(SCENARIO, headroom).replicas @ price) for headroom in (0.5, 1.0, 2.0, 4.0)]
    assert rents == sorted(rents)
    assert rents[-1] > rents[0]


def test_counts_stay_as_they_are_and_hold_the_targets_of_a_day_that_they_were_not_planned_for() -> None:
    entry = contender(STATIC_PEAK, SCENARIO)
    assert (entry.name, entry.knobs) == (STATIC_PEAK, {"headroom": HEADROOM})
    (result,) = entry.run(scored_episodes(SCENARIO, 1, quickly=True), SCENARIO.tick_s)
    assert result.replicas[-1].tolist() == held(SCENARIO).replicas.tolist()
    assert result.worst_shortfall < 0.05


def test_its_one_knob_is_headroom() -> None:
    assert contender(STATIC_PEAK, SCENARIO, headroom=2.0, knobs={"headroom": 1.1}).knobs == {"headroom": 2.2}
    for wrong in ({"nerve": 1.0}, {"headroom": 0.0}, {"headroom": float("nan")}):
        with pytest.raises(ValueError, match=r"static-peak: .*wanted a headroom above 0"):
            contender(STATIC_PEAK, SCENARIO, knobs=wrong)
