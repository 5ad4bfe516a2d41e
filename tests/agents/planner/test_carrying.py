"""What a replica carries that several classes share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from poolpilot.agents.planner.carrying import Carried, carried, carried_by_sets, replica_of
from poolpilot.agents.planner.demand import Demand, demand_of
from poolpilot.benchmarks.replicas import SHAPES, Served, served
from poolpilot.env.contract import Targets
from poolpilot.env.scenario.pools import Engine
from poolpilot.env.workload.requests import Workload

H100 = {"gpu_name": "H100-SXM-80GB", "model_name": "llama-2-13b", "precision": "bf16"}
L4 = {"gpu_name": "L4-24GB", "model_name": "llama-3.1-8b", "precision": "fp8", "max_num_seqs": 48}
A100 = {"gpu_name": "A100-SXM-80GB", "model_name": "llama-2-7b", "precision": "bf16"}


def known(infinite: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.where(np.isfinite(infinite), infinite, np.nan)


def targets_of(case: Served) -> Targets:
    promises = case.promises
    return Targets(
        ttft_s=known(promises.ttft_s),
        tpot_s=known(promises.tpot_s),
        e2e_s=known(promises.e2e_s),
        deadline_s=np.full(len(promises.ttft_s), np.nan),
        attainment=promises.attainment,
        budget_usd_per_hr=np.array(np.inf),
    )


def demand_in(case: Served, names: tuple[str, ...], buckets: int = 1) -> Demand:
    """What comes to it, at the rate of one request a second."""
    n = len(case.prompt)
    requests = Workload(np.linspace(0.0, n, n), case.prompt, case.output, case.klass, names)
    return demand_of(requests, float(n), load="mean", buckets=buckets)


def shared(case: Served, names: tuple[str, ...], buckets: int = 1) -> Carried:
    serves = np.ones(len(names), dtype=np.bool_)
    return carried(case.replica, demand_in(case, names, buckets), serves, targets_of(case))


@pytest.mark.parametrize("first", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("replica", "names", "wanted"),
    [
        (H100, ("chat", "summarisation"), (0.99, 0.95)),
        (L4, ("chat", "classification"), (0.99, 0.99)),
        (A100, ("chat", "embedding"), (0.95, 0.95)),
        (A100, ("code", "summarisation"), (0.95, 0.9)),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) and isinstance(value[0], str) else "",
)
def test_whatever_mix_fills_a_replica_each_class_attains_what_it_wants(
    replica: dict[str, Any], names: tuple[str, str], wanted: tuple[float, float], first: float
) -> None:
    """Simulated, with shares `first` and the rest of the replica's time for the two classes."""
    even = served(**replica, shapes=names, attainment=wanted, shares=(1.0, 1.0))
    rates = shared(even, names).class_per_s * np.array([first, 1.0 - first])
    case = served(**replica, shapes=names, attainment=wanted, shares=tuple(rates.tolist()), n=6000)
    met = np.mean([case.met(float(rates.sum()), seed) for seed in (1, 2)], axis=0)
    assert (met >= np.array(wanted) - 0.02).all(), met


def test_buckets_of_a_class_add_up_to_the_class() -> None:
    names = ("chat", "summarisation")
    case = served(**H100, shapes=names, attainment=(0.95, 0.95), shares=(2.0, 1.0))
    demand = demand_in(case, names, buckets=8)
    own = shared(case, names, buckets=8)
    replica_s = np.bincount(demand.class_index, demand.rate_per_s / own.capacity_per_s)
    np.testing.assert_allclose(replica_s, demand.class_rate_per_s / own.class_per_s, rtol=1e-9)
    chat = demand.class_index == 0
    longest = np.argmax((demand.prompt_tokens + demand.output_tokens)[chat])
    assert own.capacity_per_s[chat][longest] == own.capacity_per_s[chat].min()
    whole = shared(case, names)
    np.testing.assert_allclose(own.class_per_s, whole.class_per_s, rtol=0.05)


def test_nobody_carries_more_beside_others_than_alone() -> None:
    names = ("chat", "summarisation", "classification")
    case = served(**L4, shapes=names, attainment=(0.95, 0.95, 0.99), shares=(1.0, 1.0, 1.0))
    demand, targets = demand_in(case, names), targets_of(case)
    everybody, *smaller = carried_by_sets(case.replica, demand, np.ones(3, dtype=np.bool_), targets)
    assert everybody.whole
    assert everybody.classes == (0, 1, 2)
    assert smaller
    for c in range(3):
        only = np.arange(3) == c
        alone = carried(case.replica, demand, only, targets).class_per_s[c]
        assert everybody.class_per_s[c] <= alone * 1.02
        for own in smaller:
            assert own.class_per_s[c] <= alone * 1.02
    for own in smaller:
        assert not own.whole
        left_out = [c for c in range(3) if c not in own.classes]
        assert not own.capacity_per_s[left_out].any()
        assert all(own.why_not[c] == "kept for other classes" for c in left_out)


def test_reasons_name_the_targets_that_a_lone_request_misses() -> None:
    case = served(**L4, shapes=("summarisation",), attainment=(0.95,))
    hurried = targets_of(case)
    demand, serves = demand_in(case, ("summarisation",)), np.ones(1, dtype=np.bool_)
    strict = Targets(
        np.array([0.05]), np.array([0.001]), hurried.e2e_s, hurried.deadline_s, hurried.attainment, np.array(np.inf)
    )
    (reason,) = carried(case.replica, demand, serves, strict).why_not
    assert "0 % would meet a time to first token of 0.05 s" in reason
    assert "0 % would meet a time per token of 0.001 s" in reason
    short = replica_of(case.law, 100_000, Engine(max_model_len=512))
    (reason,) = carried(short, demand, serves, hurried).why_not
    assert "tokens, and a replica holds 512" in reason


def test_a_pipeline_has_the_token_budget_of_all_batches_in_flight() -> None:
    case = served(**H100, shapes=("chat",), attainment=(0.95,))
    replica = replica_of(case.law, 50_000, Engine(max_num_batched_tokens=1024, max_model_len=4096), 3)
    assert (replica.token_budget, replica.longest) == (3072.0, 4096.0)
    assert SHAPES["chat"].ttft_s == case.promises.ttft_s[0]
