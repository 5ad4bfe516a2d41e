"""Replicas that cannot be are refused as vLLM refuses them."""

from __future__ import annotations

import numpy as np
import pytest

from poolpilot.env.contract import FloatArray
from poolpilot.env.emulator.pool_options import pool_options
from poolpilot.env.emulator.replica import EngineFlags, ReplicaSpec, replica_spec, spec_of
from poolpilot.env.emulator.session import Session
from poolpilot.env.scenario import ScenarioError, load_scenario
from poolpilot.env.sim.engine_state import NEVER_PS


@pytest.mark.parametrize(
    ("gpu", "model", "flags", "words"),
    [
        ("L40X", "llama-2-13b", EngineFlags(), "unknown GPU 'L40X'; closest"),
        ("L40S-48GB", "llama-2-70b", EngineFlags(), "does not fit"),
        ("L40S-48GB", "llama-2-13b", EngineFlags(max_model_len=100_000), "max_model_len 100000: the KV cache"),
        ("L40S-48GB", "llama-2-13b", EngineFlags(max_num_seqs=64, max_num_batched_tokens=32), "at least max_num_seqs"),
    ],
)
def test_impossible_replicas_are_refused(gpu: str, model: str, flags: EngineFlags, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replica_spec(gpu, model, "fp8", 1, flags)


def test_slowness_stretches_every_iteration() -> None:
    given, slow = (replica_spec("L40S-48GB", "llama-2-13b", "fp8", 1, EngineFlags(), s) for s in (1.0, 1.2))
    np.testing.assert_allclose(slow.law.linear_s, given.law.linear_s * 1.2)
    assert slow.kv_tokens == given.kv_tokens


def test_scenario_gives_all_options_of_a_pool() -> None:
    scenario = load_scenario("mixed-chat")
    options = pool_options(scenario, "l40s")
    pool = scenario.pools["l40s"]
    assert (options["gpu"], options["model"]) == (pool.gpu, scenario.model)
    assert (options["max_num_seqs"], options["load_seconds"]) == (pool.engine.max_num_seqs, pool.cold_start.load_s)
    with pytest.raises(ScenarioError, match="pools are h100, l40s, a100-spot"):
        pool_options(scenario, "nope")


def test_a_pool_that_is_slower_than_its_law_takes_so_many_times_as_long_for_everything() -> None:
    scenario = load_scenario("mixed-chat")
    pool = scenario.pools["l40s"]
    slower = scenario.model_copy(
        update={"pools": {**scenario.pools, "l40s": pool.model_copy(update={"time_factor": 1.3})}}
    )
    given, slow, both = (
        spec_of(pool_options(scenario, "l40s")),
        spec_of(pool_options(slower, "l40s")),
        spec_of(pool_options(slower, "l40s"), slowness=2.0),
    )
    assert slow.kv_tokens == given.kv_tokens
    times = [served_ps(spec) for spec in (given, slow, both)]
    np.testing.assert_allclose(times[1] / times[0], 1.3, rtol=1e-6)
    np.testing.assert_allclose(times[2] / times[0], 2.6, rtol=1e-6)


def served_ps(spec: ReplicaSpec) -> FloatArray:
    """When first and last tokens of some requests came that were all there at once."""
    session = Session(spec)
    for prompt, output in ((40, 30), (900, 80), (3, 200)):
        session.submit(0, prompt, output, streams=True)
    told = []
    while session.due_ps < NEVER_PS:
        now_ps = session.due_ps
        told += [float(now_ps) for news in session.advance(now_ps) if news.new_tokens]
    return np.array(told)
