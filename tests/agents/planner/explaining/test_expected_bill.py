"""The expected bill: rent in three layers that sum to it, energy and network by the tariff, busier with more load."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.agents.planner.composition import Composition, Option, Problem
from poolpilot.agents.planner.explaining.expected_bill import expected_bill, running
from poolpilot.agents.planner.fleet import pool_usd_per_hr
from poolpilot.env.contract import BILL_LAYERS, Bill
from poolpilot.env.ledger import Tariff
from poolpilot.env.perf.law import IterationLaw

from ..markets import a_market, a_plan, counted

FREE = Tariff(np.array(0.0), np.array(1.3), np.array(0.0))
RENT = BILL_LAYERS[:3]
BUDGET = 2048


def law(option: Option) -> IterationLaw:
    return option.layout.law(BUDGET)


def bill_of(problem: Problem, plan: Composition, tariff: Tariff = FREE) -> Bill:
    return expected_bill(problem, plan, tariff, 250.0, law, lambda _: BUDGET)[0]


def test_rent_is_split_into_useful_wasted_and_idle_and_sums_to_the_plans() -> None:
    problem, plan = a_plan()
    bill = bill_of(problem, plan)
    assert sum(float(bill.layer_usd(layer)) for layer in RENT) == pytest.approx(plan.usd_per_hr)
    assert bill.usd.sum(axis=(1, 2)).tolist() == pytest.approx(
        pool_usd_per_hr(problem, plan)[plan.replicas > 0].tolist()
    )
    assert (bill.usd >= 0).all()
    assert float(bill.layer_usd("compute")) > 0
    assert float(bill.layer_usd("energy")) == float(bill.layer_usd("network")) == 0.0


def test_gpus_that_serve_nobody_are_idle() -> None:
    problem = a_market()
    share = [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    some, all_of_them = (bill_of(problem, counted(problem, [n, 0, 0, 0], share)) for n in (4, 8))
    # Four of eight rented GPUs have no replica: half of 16 $/h. With eight replicas the same load is spread thinner.
    assert float(some.layer_usd("idle")) == pytest.approx(8.0, abs=1.0)
    assert float(some.total_usd) == pytest.approx(float(all_of_them.total_usd)) == pytest.approx(16.0)
    assert float(some.layer_usd("compute")) == pytest.approx(float(all_of_them.layer_usd("compute")))


def test_energy_and_network_are_charged_by_the_tariff() -> None:
    problem, plan = a_plan()
    bill = bill_of(problem, plan, Tariff(np.array(0.2), np.array(1.5), np.array(0.09)))
    tokens_per_s = float(problem.demand.rate_per_s @ problem.demand.output_tokens)
    assert float(bill.layer_usd("network")) == pytest.approx(tokens_per_s * 250.0 * 3600 / 1e9 * 0.09)
    counts = plan.replicas * [sum(option.layout.gpus.values()) for option in problem.options]
    # Each GPU draws between its idle 15 % and all of 300 to 400 W.
    assert counts.sum() * 0.04 * 0.3 < float(bill.layer_usd("energy")) < counts.sum() * 0.4 * 0.3
    twice = bill_of(problem, plan, Tariff(np.array(0.4), np.array(1.5), np.array(0.09)))
    assert float(twice.layer_usd("energy")) == pytest.approx(2 * float(bill.layer_usd("energy")))


@settings(max_examples=50, deadline=None)
@given(st.floats(0.001, 4.0), st.floats(1.0, 4000.0), st.floats(0.0, 1000.0), st.floats(1.05, 3.0))
def test_more_load_is_busier_and_never_more_useful_than_busy(
    rate: float, prompt: float, output: float, more: float
) -> None:
    own = law(a_market().options[0])
    low, high = (
        running(own, BUDGET, np.array([r]), np.array([prompt]), np.array([output])) for r in (rate, rate * more)
    )
    for state in (low, high):
        assert 0.0 <= state.attention_frac <= state.useful_frac <= state.busy_frac <= 1.0
    assert high.busy_frac >= low.busy_frac - 1e-9
    assert high.sequences >= low.sequences
    assert high.useful_frac >= low.useful_frac - 1e-9


def test_the_number_that_runs_obeys_littles_law() -> None:
    """At a light load a request takes its prompt and its tokens, one iteration each: N is rate times that."""
    own = law(a_market().options[0])
    state = running(own, BUDGET, np.array([0.1]), np.array([100.0]), np.array([101.0]))
    alone_s = 100 * float(own.iteration_s(0, 0, 1, 150)) + float(own.iteration_s(100, 5000, 0, 0))
    assert state.sequences == pytest.approx(0.1 * alone_s, rel=0.1)
    assert state.busy_frac == pytest.approx(1 - np.exp(-state.sequences))
    nothing = running(own, BUDGET, np.zeros(2), np.ones(2), np.ones(2))
    assert (nothing.busy_frac, nothing.tokens_per_s) == (0.0, 0.0)
