"""What is believed of a scenario agrees with its file and with the law behind it."""

from __future__ import annotations

import numpy as np
import pytest

from poolpilot.env.beliefs import believed_capacity, believed_laws, mean_load, peak_load
from poolpilot.env.scenario import load_scenario, shipped_scenarios
from poolpilot.env.workload.requests import Workload

WORKLOAD = Workload(
    class_names=("chat", "batch", "idle"),
    arrival_s=np.array([0.0, 10.0, 70.0, 80.0, 90.0, 100.0]),
    class_index=np.array([0, 0, 0, 0, 1, 0]),
    prompt_tokens=np.array([100, 200, 300, 400, 1000, 500]),
    output_tokens=np.array([10, 20, 30, 40, 0, 50]),
)


@pytest.mark.parametrize("name", shipped_scenarios())
def test_a_replica_carries_exactly_the_classes_it_serves(name: str) -> None:
    scenario = load_scenario(name)
    n = len(scenario.classes)
    rates = believed_capacity(scenario)(np.full(n, 500.0), np.full(n, 150.0))
    assert ((rates > 0) == scenario.serves()).all()


def test_longer_requests_lower_the_rate() -> None:
    scenario = load_scenario("mixed-chat")
    capacity, n = believed_capacity(scenario), len(scenario.classes)
    short, long = capacity(np.full(n, 300.0), np.full(n, 100.0)), capacity(np.full(n, 900.0), np.full(n, 300.0))
    assert (short > long).all()


def test_a_request_that_fills_the_cache_has_no_rate() -> None:
    scenario = load_scenario("mixed-chat")
    n = len(scenario.classes)
    assert (believed_capacity(scenario)(np.full(n, 1e7), np.full(n, 100.0)) == 0).all()


def test_a_law_for_each_pool_in_the_order_of_the_file() -> None:
    scenario = load_scenario("mixed-chat")
    laws = believed_laws(scenario)
    assert len(laws) == len(scenario.pools)
    first = [float(law.linear(np.array([64.0]))[0]) for law in laws]
    assert first[0] == min(first), "an H100 is the fastest of the three"


def test_the_mean_load_is_counts_over_time_and_mean_lengths() -> None:
    rate, prompt, output = mean_load(WORKLOAD, 100.0)
    assert rate.tolist() == [0.05, 0.01, 0.0]
    assert prompt.tolist() == [300.0, 1000.0, 1.0]
    assert output.tolist() == [30.0, 0.0, 0.0]


def test_the_peak_is_that_of_the_busiest_minutes() -> None:
    assert peak_load(WORKLOAD, 120.0, share=1.0) == pytest.approx([3 / 60, 1 / 60, 0.0])
    assert (peak_load(WORKLOAD, 120.0, share=0.5) <= peak_load(WORKLOAD, 120.0, share=0.95)).all()
    assert peak_load(WORKLOAD, 30.0).shape == (3,)
