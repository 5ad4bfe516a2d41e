"""Runs of a held plan summed up: requests and dollars add up, shares and percentiles are of all of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from poolpilot.agents.portfolio import STATIC, policy_factory
from poolpilot.commands.planning.simulated import simulate_plan, summed_up
from poolpilot.env.contract import BILL_LAYERS
from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.env.scenario.pools import Replicas
from poolpilot.env.window import FINISHED, LOST, MET, N_BUCKETS, SHED, TTFT, empty_tally
from poolpilot.training.rollout import RunResult, rollout
from poolpilot.training.worlds import episode_of


@cache
def a_run() -> RunResult:
    """One minute of the demo's scenario, two L40S."""
    scenario = load_scenario("mixed-chat").model_copy(update={"duration_s": 60.0})
    make = policy_factory(STATIC, (0.0, 2.0, 0.0))
    (result,) = rollout([episode_of(scenario, 0, miss_price=1.0, quickly=True)], make, scenario.tick_s)
    return result


def counted(finished: list[float], met: list[float], bucket: int) -> RunResult:
    """A run with these requests of each class, all with times to first token in one bucket."""
    tally = empty_tally(3)
    tally[:, FINISHED], tally[:, MET] = finished, met
    tally[:, TTFT + bucket] = finished
    tally[0, LOST], tally[1, SHED] = 2.0, 5.0
    return replace(a_run(), tally=tally)


def test_shares_are_of_all_requests_and_the_worst_seed_is_told() -> None:
    told = summed_up([counted([100, 10, 0], [90, 10, 0], 40), counted([300, 10, 0], [150, 5, 0], 80)], 0.2)
    chat, summarisation, batch = told.classes
    assert chat.attainment == pytest.approx(240 / 404)  # two lost in each
    assert chat.worst == pytest.approx(150 / 302)
    assert (chat.finished_per_s, chat.met_per_s) == (pytest.approx(400 / 120), pytest.approx(2.0))
    assert (chat.lost, summarisation.turned_away) == (4, 10)
    assert (batch.attainment, batch.worst, batch.ttft_s["p50"]) == (None, None, None)
    # A quarter of the requests are in the lower bucket, so that the median is in the upper one.
    alone = summed_up([counted([300, 10, 0], [150, 5, 0], 80)], 0.2).classes[0]
    assert chat.ttft_s["p50"] is not None
    assert alone.ttft_s["p50"] is not None
    assert chat.ttft_s["p50"] == pytest.approx(alone.ttft_s["p50"], rel=0.13)
    assert not told.reached
    assert (told.seeds, told.performance_error_frac) == (2, 0.2)


def test_dollars_add_up_over_seeds_and_layers() -> None:
    one, two = summed_up([a_run()], 0.1), summed_up([a_run(), a_run()], 0.1)
    assert one.usd_per_hr == pytest.approx(a_run().usd_per_hr) == pytest.approx(two.usd_per_hr)
    assert sum(two.layers_usd_per_hr.values()) == pytest.approx(two.usd_per_hr)
    assert tuple(two.layers_usd_per_hr) == BILL_LAYERS
    assert two.usd_per_1000_met == pytest.approx(a_run().usd_per_1000_met)
    assert one.covered_frac == pytest.approx(a_run().covered_frac)


def test_percentiles_are_those_of_the_tally() -> None:
    told = summed_up([a_run()], 0.1)
    for share in (0.5, 0.95, 0.99):
        own = a_run().latency_s(TTFT, share)
        for c, simulated in enumerate(told.classes):
            value = simulated.ttft_s[f"p{share * 100:.0f}"]
            assert value == pytest.approx(own[c]) if value is not None else np.isnan(own[c])
    assert N_BUCKETS > 100


def held_demo() -> Scenario:
    """The demo's scenario for a minute, held at two L40S that serve everybody."""
    scenario = load_scenario("mixed-chat")
    counts = {"h100": 0, "l40s": 2, "a100-spot": 0}
    pools = {
        name: pool.model_copy(
            update={"replicas": Replicas(min=counts[name], max=max(counts[name], 1), start=counts[name])}
        )
        for name, pool in scenario.pools.items()
    }
    classes = {name: c.model_copy(update={"shares": {"l40s": 1.0}}) for name, c in scenario.classes.items()}
    return scenario.model_copy(update={"pools": pools, "classes": classes, "duration_s": 60.0})


def test_a_held_plan_pays_its_rent_in_every_world_and_worlds_differ() -> None:
    seen: list[int] = []
    told = simulate_plan(held_demo(), 2, on_seed=lambda: seen.append(1))
    assert len(seen) == told.seeds == 2
    assert told.usd_per_hr == pytest.approx(2 * 1.861, rel=1e-3)
    one = simulate_plan(held_demo(), 1)
    assert one.classes[0].tpot_s["p95"] != told.classes[0].tpot_s["p95"]
