"""What a scenario says of a pool's replicas, as `poolpilot emulate` takes it."""

from __future__ import annotations

from typing import Any

from ..scenario import Scenario, ScenarioError


def pool_options(scenario: Scenario, pool_name: str) -> dict[str, Any]:
    """What a scenario says of one of its pools, by the names of `poolpilot emulate`'s options.

    Raises:
        ScenarioError: there is no such pool.
    """
    pool = scenario.pools.get(pool_name)
    if pool is None:
        raise ScenarioError(f"pool {pool_name!r}: not in {scenario.name}; pools are {', '.join(scenario.pools)}")
    return {
        "gpu": pool.gpu,
        "model": pool.model or scenario.model,
        "precision": pool.precision,
        "tensor_parallel": pool.tensor_parallel,
        "pipeline_parallel": pool.pipeline_parallel,
        "stage_layers": pool.stage_layers,
        "stages": None if pool.stages is None else scenario.pool_stages(pool_name),
        "law": None if pool.law is None else scenario.base_dir / pool.law,
        "time_factor": pool.time_factor,
        **pool.engine.model_dump(),
        "load_seconds": scenario.cold_start(pool_name).load.mean_s,
    }
