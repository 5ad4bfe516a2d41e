"""Shared prefixes and clients have the popularity, share and burstiness that were asked for."""

from typing import Any

import numpy as np
import pytest

from poolpilot.env.workload.arrivals import zipf_shares
from poolpilot.env.workload.generate import generate
from poolpilot.env.workload.requests import Workload
from poolpilot.env.workload.spec import ClassLoad, Clients, Fixed, GeneratedSpec, Lognormal, SharedPrefix


def requests_of(duration_s: float, seed: int = 0, **changes: Any) -> Workload:
    base = {"rate_per_s": 10.0, "prompt_tokens": Fixed(tokens=100), "output_tokens": Fixed(tokens=1)}
    return generate(GeneratedSpec(classes={"chat": ClassLoad(**{**base, **changes})}), ("chat",), duration_s, seed)


def test_system_prompts_are_popular_by_zipf_s_law() -> None:
    load = requests_of(10_000.0, shared_prefix=SharedPrefix(count=10, zipf=1.2, tokens=Fixed(tokens=300)))
    n = len(load)
    counts = np.bincount(load.prefix_index, minlength=10)
    expected = zipf_shares(10, 1.2)
    assert counts / n == pytest.approx(expected, abs=4 * 0.5 / n**0.5)
    assert counts[0] / counts[1] == pytest.approx(2**1.2, rel=0.04)


def test_a_share_of_the_requests_begins_with_one_and_all_others_with_none() -> None:
    load = requests_of(10_000.0, shared_prefix=SharedPrefix(count=5, share=0.3, tokens=Fixed(tokens=400)))
    has = load.prefix_index >= 0
    assert has.mean() == pytest.approx(0.3, abs=4 * (0.21 / len(load)) ** 0.5)
    assert set(load.prompt_tokens[has]) == {500}
    assert set(load.prompt_tokens[~has]) == {100}
    # All but the first use of each is a hit.
    assert load.prefix_hit_share() == pytest.approx(0.3 * 400 / (0.3 * 400 + 100), abs=0.005)


def test_system_prompts_have_the_lengths_asked_for() -> None:
    load = requests_of(1.0, shared_prefix=SharedPrefix(count=50_000, tokens=Lognormal(median=700, sigma=0.5)))
    assert np.median(load.prefixes.tokens) == pytest.approx(700, rel=0.01)
    assert np.log(load.prefixes.tokens).std() == pytest.approx(0.5, rel=0.02)


def test_a_shared_prefix_changes_nothing_else() -> None:
    prefix = SharedPrefix(count=5, tokens=Fixed(tokens=400))
    lengths = Lognormal(median=100, sigma=1.0)
    without = requests_of(100.0, prompt_tokens=lengths)
    with_one = requests_of(100.0, prompt_tokens=lengths, shared_prefix=prefix)
    assert np.array_equal(without.arrival_s, with_one.arrival_s)
    assert np.array_equal(without.prompt_tokens + 400, with_one.prompt_tokens)


@pytest.mark.parametrize("count", [1, 40])
def test_clients_together_have_the_class_s_rate(count: int) -> None:
    load = requests_of(20_000.0, arrivals="gamma", cv=2.0, clients=Clients(count=count, zipf=1.0))
    assert len(load) / 20_000.0 == pytest.approx(10.0, rel=4 * 2.0 / (200_000**0.5))


def test_many_small_clients_are_smoother_than_one_large_one() -> None:
    def spread(**changes: Any) -> float:
        """Variance over mean of the requests in 20 s; in the long run cv^2 of a renewal process."""
        load = requests_of(40_000.0, arrivals="gamma", cv=3.0, **changes)
        counts = np.bincount((load.arrival_s // 20.0).astype(int), minlength=2000)[:2000]
        return float(counts.var() / counts.mean())

    alone = spread()
    # Of a client that sends one request in 400 s on average, only what is left of a cluster falls into 20 s.
    many = spread(clients=Clients(count=4000, zipf=0.0))
    # The largest of four takes 48 %.
    few = spread(clients=Clients(count=4, zipf=1.0))
    assert alone == pytest.approx(9.0, rel=0.15)
    assert many < alone / 2
    assert many < few < alone * 1.05
