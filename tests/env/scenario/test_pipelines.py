"""A pool of pipelines: its law, its cache, its GPUs and its budget, in the file, in the world and in the emulator."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from poolpilot.env.beliefs import believed_capacity
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.contract import Action
from poolpilot.env.emulator.pool_options import pool_options
from poolpilot.env.emulator.replica import EngineFlags, replica_spec
from poolpilot.env.emulator.session import Session
from poolpilot.env.perf.roofline import iteration_law, kv_capacity_tokens
from poolpilot.env.scenario import SHIPPED, ScenarioError, load_scenario
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.world import world_from_scenario

SPLIT = (24, 16)


def with_pipelines(folder: Path, **pool: object) -> Path:
    document = yaml.safe_load((SHIPPED / "mixed-chat.yaml").read_text(encoding="utf-8"))
    document["pools"]["l40s"] |= {"pipeline_parallel": 2, "stage_layers": list(SPLIT)} | pool
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_a_pool_of_pipelines_has_the_law_and_the_cache_of_its_stages(tmp_path: Path) -> None:
    scenario = load_scenario(with_pipelines(tmp_path))
    pool = scenario.pools["l40s"]
    card, shape = gpu(pool.gpu), model(scenario.model)
    layout = {"pipeline_parallel": 2, "stage_layers": SPLIT}
    budget = pool.engine.max_num_batched_tokens
    law = iteration_law(card, shape, pool.precision, 1, 2, stage_layers=SPLIT, batch_tokens=budget)
    assert np.array_equal(scenario.pool_law("l40s").as_row(), law.as_row())
    share = pool.engine.gpu_memory_utilization
    assert scenario.pool_kv_tokens("l40s") == kv_capacity_tokens(card, shape, pool.precision, 1, share, **layout)
    assert pool.gpus == pool.batches_in_flight == 2
    of_pool = scenario.pool_names.index("l40s")
    assert believed_capacity(scenario).token_budget[of_pool] == 2 * budget


def test_the_world_gives_a_pipeline_its_gpus_and_a_budget_for_each_batch(tmp_path: Path) -> None:
    scenario = load_scenario(with_pipelines(tmp_path))
    world = world_from_scenario(scenario, 1)
    of_pool = scenario.pool_names.index("l40s")
    assert [draw.gpus for draw in world.draws[of_pool]] == [world.batches_in_flight[of_pool]] == [2]
    clusters = SimulatedClusters(
        [replace(world, workload=world.workload.slice(0.0, 5.0), duration_s=20.0)], tick_s=10.0
    )
    cluster = clusters.cluster
    serves = cluster.serves.astype(np.float64)
    clusters.advance(
        Action(
            route=serves / serves.sum(axis=-1, keepdims=True),
            admit=np.ones(serves.shape[:-1]),
            batch_cap=cluster.max_batch_cap,
            token_budget=cluster.max_token_budget,
            replicas=np.maximum(cluster.min_replicas, 1.0),
        )
    )
    # What is decided and seen is one batch's budget; the engine works off one for each batch in a round.
    wanted = scenario.pools["l40s"].engine.max_num_batched_tokens
    assert clusters.snapshot().token_budget[0, of_pool] == cluster.max_token_budget[0, of_pool] == wanted
    of_slot = clusters._every.slots["pool"][0]
    budgets = clusters._every.engine.replicas["token_budget"][0]
    assert set(budgets[of_slot == of_pool].tolist()) == {2 * wanted}


def test_an_emulated_pipeline_is_the_scenarios(tmp_path: Path) -> None:
    scenario = load_scenario(with_pipelines(tmp_path))
    options = pool_options(scenario, "l40s")
    spec = replica_spec(
        options["gpu"],
        options["model"],
        options["precision"],
        options["tensor_parallel"],
        EngineFlags(max_num_seqs=64),
        pipeline_parallel=options["pipeline_parallel"],
        stage_layers=options["stage_layers"],
    )
    assert spec.gpus == 2
    session = Session(spec)
    assert session.figures(0).token_budget == spec.flags.max_num_batched_tokens
    session.set_limits(0, 8, 512)
    assert session.figures(0).token_budget == 512


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({"stage_layers": [20, 10]}, r"pools\.l40s: stage_layers \[20, 10\] sum to 30, wanted the 40 layers"),
        ({"stage_layers": [20, 10, 10]}, r"stage_layers: \[20, 10, 10\], wanted one entry for each of 2 stages"),
        ({"pipeline_parallel": 0, "stage_layers": None}, "pipeline_parallel"),
    ],
)
def test_stages_that_cannot_be_are_refused(tmp_path: Path, pool: dict[str, object], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        load_scenario(with_pipelines(tmp_path, **pool))
