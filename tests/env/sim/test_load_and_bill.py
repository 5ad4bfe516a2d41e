"""More load is never cheaper at equal attainment: what the least fleet costs that carries a load, and part of it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.window import FINISHED, LOST, MET
from poolpilot.env.workload.requests import Workload
from poolpilot.tests.env.sim.worlds import AClass, APool, a_law, a_world, an_action, run_ticks, steady, total

MOST = 6
DURATION_S = 240.0
USD_PER_HR = 3.6


def least_bill_usd(workloads: list[Workload], law_s: float, wanted: list[float]) -> list[float]:
    """For each workload, the rent of the smallest fixed fleet whose attainment is at least what is wanted."""
    sizes = range(1, MOST + 1)
    pools = [APool(a_law(law_s, 2e-5), start=n, most=MOST, usd_per_hr=USD_PER_HR, batch_cap=8) for n in sizes]
    target = [AClass(ttft_s=1.0, tpot_s=1.6 * law_s)]
    worlds = [a_world(load, [pool], target, duration_s=DURATION_S) for load in workloads for pool in pools]
    clusters = SimulatedClusters(worlds, tick_s=30.0)
    replicas = np.tile(np.arange(1.0, MOST + 1), len(workloads))[:, None]
    outcomes = run_ticks(clusters, an_action(clusters, replicas=replicas), int(DURATION_S / 30) + 4)
    done = total(outcomes, FINISHED) + total(outcomes, LOST)
    attained = (total(outcomes, MET) / done)[:, 0].reshape(len(workloads), MOST)
    bills = np.sum([outcome.bill.total_usd for outcome in outcomes], axis=0).reshape(len(workloads), MOST)
    assert (np.diff(bills, axis=1) > 0).all()
    return [
        float(min((bill for bill, met in zip(bills[i], attained[i], strict=True) if met >= share), default=np.inf))
        for i, share in enumerate(wanted)
    ]


@given(st.integers(0, 10_000), st.floats(1.0, 9.0), st.floats(0.02, 0.06), st.floats(0.3, 0.9))
@settings(max_examples=30)
def test_part_of_the_requests_is_never_dearer_to_serve_as_well(
    seed: int, rate_per_s: float, law_s: float, kept: float
) -> None:
    whole = steady(rate_per_s, DURATION_S, prompt=200, output=40, seed=seed)
    stays = np.random.default_rng(seed).random(len(whole)) < kept
    part = Workload(*(getattr(whole, f)[stays] for f in _COLUMNS), whole.class_names)
    # Coin tosses differ between the two, so the part is held to one point less: the claim is about loads, not luck.
    for_part, for_whole = least_bill_usd([part, whole], law_s, [0.95, 0.96])
    assert for_part <= for_whole


_COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens", "class_index")


def test_the_comparison_can_tell() -> None:
    little, much = steady(1.0, DURATION_S, output=40), steady(9.0, DURATION_S, output=40)
    small, large = least_bill_usd([little, much], 0.04, [0.95, 0.95])
    assert small < large < np.inf
