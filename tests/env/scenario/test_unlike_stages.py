"""A pool whose pipeline runs over GPUs that differ: its law, cache, power, coverage and emulation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from poolpilot.commands.emulate import emulate
from poolpilot.env.beliefs import believed_capacity, believed_ranges
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.links import link
from poolpilot.env.catalog.models import model
from poolpilot.env.emulator.pool_options import pool_options
from poolpilot.env.emulator.replica import EngineFlags, ReplicaError, replica_spec
from poolpilot.env.perf.coverage import coverage
from poolpilot.env.perf.power import draw_of, drawn_j
from poolpilot.env.perf.roofline import Stage, pipeline_kv_tokens, pipeline_law
from poolpilot.env.scenario import SHIPPED, ScenarioError, load_scenario
from poolpilot.env.scenario.document import Scenario
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.world import world_from_scenario
from poolpilot.tests.env.sim.worlds import an_action

SHAPE = model("llama-2-13b")
STAGES = (
    {"gpu": "A100-SXM-40GB", "layers": 33, "link_to_next": "Ethernet-100G"},
    {"gpu": "L4-24GB", "layers": 7},
)
AS_STAGES = (Stage(gpu("A100-SXM-40GB"), 33, 1, link("Ethernet-100G")), Stage(gpu("L4-24GB"), 7))
POOL = {"stages": list(STAGES), "precision": "bf16", "price": {"usd_per_hr": 4.0}, "replicas": {"max": 2}}


def written(folder: Path, **pool: object) -> Path:
    document = yaml.safe_load((SHIPPED / "mixed-chat.yaml").read_text(encoding="utf-8"))
    document["pools"]["mixed"] = {name: value for name, value in (POOL | pool).items() if value is not None}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return load_scenario(written(tmp_path))


def test_the_pool_has_the_law_and_the_cache_of_its_stages(scenario: Scenario) -> None:
    pool = scenario.pools["mixed"]
    law = pipeline_law(AS_STAGES, SHAPE, "bf16", batch_tokens=pool.engine.max_num_batched_tokens)
    assert np.array_equal(scenario.pool_law("mixed").as_row(), law.as_row())
    assert scenario.pool_kv_tokens("mixed") == pipeline_kv_tokens(AS_STAGES, SHAPE, "bf16")
    assert pool.gpus == pool.batches_in_flight == 2
    assert pool.hardware == "A100-SXM-40GB + L4-24GB"
    of_pool = scenario.pool_names.index("mixed")
    assert believed_capacity(scenario).token_budget[of_pool] == 2 * pool.engine.max_num_batched_tokens


def test_a_scenario_written_out_whole_reads_back(scenario: Scenario, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(scenario.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    assert load_scenario(path).pools == scenario.pools


def test_measured_is_only_what_was_measured_on_every_stage(scenario: Scenario) -> None:
    whole = scenario.pool_coverage("mixed")
    parts = [coverage(s.gpu, SHAPE, "bf16", pipeline_parallel=2) for s in AS_STAGES]
    assert whole.calibrated == all(part.calibrated for part in parts)
    assert whole.tokens == (max(p.tokens[0] for p in parts), min(p.tokens[1] for p in parts))
    assert set(whole.borrowed) == {b for part in parts for b in part.borrowed}
    assert believed_ranges(scenario).kv_tokens[-1] == scenario.pool_kv_tokens("mixed")


def test_equal_stages_are_a_pipeline_of_equal_gpus(tmp_path: Path) -> None:
    equal = [{"gpu": "L4", "layers": 24}, {"gpu": "L4", "layers": 16}]
    staged = load_scenario(written(tmp_path, stages=equal))
    plain = load_scenario(written(tmp_path, stages=None, gpu="L4", pipeline_parallel=2, stage_layers=[24, 16]))
    assert np.array_equal(staged.pool_law("mixed").as_row(), plain.pool_law("mixed").as_row())
    assert staged.pool_kv_tokens("mixed") == plain.pool_kv_tokens("mixed")
    worlds = [world_from_scenario(s, 3) for s in (staged, plain)]
    assert worlds[0].draws == worlds[1].draws


def simulated(scenario: Scenario) -> tuple[float, float, float]:
    """Joules and degrees of the pool, and its busy seconds, after a loaded minute of one replica that gets all."""
    world = world_from_scenario(scenario, 1)
    clusters = SimulatedClusters(
        [replace(world, workload=world.workload.slice(0.0, 60.0), duration_s=60.0)], tick_s=60.0
    )
    action = an_action(clusters)
    only = np.zeros_like(action.route)
    only[..., scenario.pool_names.index("mixed")] = 1.0
    outcome = clusters.advance(replace(action, route=only))
    of_pool = scenario.pool_names.index("mixed")
    meter = outcome.meter
    busy_s = float(meter.useful_s[0, of_pool] + meter.wasted_s[0, of_pool])
    return float(meter.energy_j[0, of_pool]), float(clusters.snapshot().gpu_temp_c[0, of_pool]), busy_s


def test_its_power_is_the_sum_of_its_stages_and_its_warmth_that_of_the_hottest(scenario: Scenario) -> None:
    energy_j, temp_c, busy_s = simulated(scenario)
    assert busy_s > 30.0
    draws = world_from_scenario(scenario, 1).draws[-1]
    assert [draw.gpus for draw in draws] == [1, 1]
    assert [draw.tdp_w for draw in draws] == [400.0, 72.0]
    idle_j = sum(draw.idle_w for draw in draws) * 60.0
    most_j = sum(draw.limit_w for draw in draws) * 60.0
    assert idle_j < energy_j < most_j
    # Between what the coolest and the hottest stage could have reached in a minute, an e-folding of the way.
    assert 25.0 < temp_c < 25.0 + 55.0 * (1 - np.exp(-1.0)) + 1e-6


def test_stages_draw_together_what_the_whole_model_does() -> None:
    """Bytes and operations of all stages are those of the model, whoever has them."""
    from poolpilot.env.perf.power import draws_of, power_factors

    for precision in ("fp16", "int4"):
        draws = draws_of(AS_STAGES, SHAPE, precision)
        read = multiplied = 0.0
        for draw, stage in zip(draws, AS_STAGES, strict=True):
            _, shares = power_factors(stage.gpu)
            read += draw.iteration_j / (shares.memory_frac * stage.gpu.tdp_w) * stage.gpu.bandwidth_gb_per_s
            rate = stage.gpu.tflops(precision)
            multiplied += draw.token_j / (shares.compute_frac * stage.gpu.tdp_w) * rate
        one = draw_of(gpu("L4"), SHAPE, precision)
        _, shares = power_factors(gpu("L4"))
        tdp_w = gpu("L4").tdp_w
        assert read == pytest.approx(one.iteration_j / (shares.memory_frac * tdp_w) * gpu("L4").bandwidth_gb_per_s)
        assert multiplied == pytest.approx(one.token_j / (shares.compute_frac * tdp_w) * gpu("L4").tflops(precision))


def test_a_small_card_with_most_layers_works_nearer_its_limit(tmp_path: Path) -> None:
    uneven = [{"gpu": "A100-SXM-80GB", "layers": 8}, {"gpu": "L4-24GB", "layers": 32}]
    scenario = load_scenario(written(tmp_path, stages=uneven, precision="fp8"))
    draws = world_from_scenario(scenario, 1).draws[-1]
    shares = [drawn_j(d, 1.0, 1.0, 8.0, 500.0, 0.2) / d.tdp_w for d in draws]
    assert shares[1] > shares[0]


def test_an_emulated_replica_is_the_scenarios(scenario: Scenario) -> None:
    options = pool_options(scenario, "mixed")
    assert options["stages"] == AS_STAGES
    spec = replica_spec("", "llama-2-13b", "bf16", 1, EngineFlags(), stages=options["stages"])
    law = pipeline_law(AS_STAGES, SHAPE, "bf16")
    assert np.array_equal(spec.law.as_row(), law.as_row())
    assert (spec.gpus, spec.batches_in_flight, spec.kv_tokens) == (2, 2, scenario.pool_kv_tokens("mixed"))
    with pytest.raises(ReplicaError, match="on 1 x A100-SXM-40GB \\+ 1 x L4-24GB holds"):
        replica_spec("", "llama-2-13b", "bf16", 1, EngineFlags(max_model_len=10**6), stages=AS_STAGES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "A100:33;L4:7"], "wanted GPU:LAYERS"),
        (["--stages", "A100:33,L5:7"], "unknown GPU 'L5'"),
        (["--stages", "A100:33@Wifi,L4:7"], "unknown link 'Wifi'"),
        (["--stages", "A100:33,L4:8"], "sum to 41, wanted the 40 layers"),
        (["--stages", "A100:33,L4:7", "--gpu", "L4"], "--gpu: not with stages of GPUs that differ"),
    ],
)
def test_stages_on_the_command_line_are_checked(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(emulate, ["--model", "llama-2-13b", "--port", "0", *arguments])
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({"gpu": "L4"}, "stages: wanted in place of gpu, got both"),
        ({"pipeline_parallel": 2}, "stages: wanted in place of pipeline_parallel, got both"),
        ({"law": "law.json"}, "law: not with stages"),
        ({"stages": None}, "gpu: Field required; or give stages"),
        ({"stages": []}, "stages"),
        (
            {"stages": [STAGES[0], {"gpu": "L4", "layers": 8}]},
            r"stage_layers \[33, 8\] sum to 41, wanted the 40 layers",
        ),
        ({"stages": [STAGES[0], {"gpu": "L5", "layers": 7}]}, "unknown GPU 'L5'"),
        ({"stages": [{**STAGES[0], "link_to_next": "Wifi"}, STAGES[1]]}, "unknown link 'Wifi'"),
        ({"stages": [{"gpu": "V100", "layers": 33}, STAGES[1]]}, "V100-SXM-16GB has no bf16"),
        ({"stages": [{"gpu": "A100-40gb", "layers": 5}, {"gpu": "L4", "layers": 35}]}, "stage 2 of .* does not fit"),
    ],
)
def test_stages_that_cannot_be_are_refused(tmp_path: Path, pool: dict[str, object], message: str) -> None:
    with pytest.raises(ScenarioError, match=rf"pools\.mixed[^\n]*{message}"):
        load_scenario(written(tmp_path, **pool))
