"""A measured law survives its file, and every mistake in one is a single line that names file and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.beliefs import believed_capacity, believed_laws
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.emulator.pool_options import pool_options
from poolpilot.env.emulator.replica import EngineFlags, ReplicaError, replica_spec
from poolpilot.env.perf.correction import Correction
from poolpilot.env.perf.law_file import LawFile, LawFileError, MeasuredReplica, read_law_file, table_of
from poolpilot.env.perf.roofline import iteration_law
from poolpilot.env.scenario import Scenario, ScenarioError, load_scenario, parse_scenario, shipped_scenarios
from poolpilot.env.sim.world import world_from_scenario

LAW = iteration_law(gpu("L40S-48GB"), model("llama-2-13b"), "fp8").scaled(3.0)
REPLICA = MeasuredReplica(gpu="L40S-48GB", model="llama-2-13b", precision="fp8")
FILE = LawFile(schema=1, law=table_of(LAW), kv_tokens=20_000, replica=REPLICA)


def with_law(folder: Path, file: LawFile = FILE, pool: str = "l40s") -> Scenario:
    """mixed-chat with a measured law for one of its pools, as a file beside the scenario's."""
    import yaml

    (folder / "mine.json").write_text(json.dumps(file.document()))
    document = yaml.safe_load(shipped_scenarios()["mixed-chat"].read_text())
    document["pools"][pool]["law"] = "mine.json"
    return parse_scenario(document, folder / "mine.yaml")


def test_a_law_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    path.write_text(json.dumps(FILE.document()))
    assert read_law_file(path) == FILE
    np.testing.assert_array_equal(read_law_file(path).law.law().as_row(), LAW.as_row())


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    path.write_text(json.dumps(FILE.document()))
    assert read_law_file(path).kv_tokens == 20_000
    path.write_text(json.dumps({**FILE.document(), "kv_tokens": 7}))
    assert read_law_file(path).kv_tokens == 7


def test_few_points_make_a_law() -> None:
    table = {"tokens": [4, 100, 1000], "linear_s": [0.01, 0.01, 0.1]}
    rest = {"attend_s_per_pair": 0.0, "kv_read_s_per_token": 1e-7, "seq_s": 0.0}
    law = LawFile.model_validate({"schema": 1, "law": table | rest}).law.law()
    assert law.linear(1.0) == law.linear(64.0) == 0.01
    assert law.linear(512.0) == pytest.approx(0.01 + 412 / 900 * 0.09)
    assert law.linear(4096.0) == pytest.approx(0.1 + 3096 * 1e-4)


def test_beliefs_world_and_emulator_take_the_measured_law(tmp_path: Path) -> None:
    scenario = with_law(tmp_path)
    shipped = load_scenario("mixed-chat")
    at = scenario.pool_names.index("l40s")
    np.testing.assert_array_equal(believed_laws(scenario)[at].as_row(), LAW.as_row())
    others = [i for i in range(len(scenario.pools)) if i != at]
    for i in others:
        np.testing.assert_array_equal(believed_laws(scenario)[i].as_row(), believed_laws(shipped)[i].as_row())
    world = world_from_scenario(scenario, seed=3)
    assert world.kv_tokens[at] == 20_000
    row = world.law_rows[at] / LAW.as_row()
    np.testing.assert_allclose(row, row[0])  # the drawn error scales the measured law as a whole
    lengths = np.full(len(scenario.classes), 400.0), np.full(len(scenario.classes), 100.0)
    slower, believed = believed_capacity(scenario)(*lengths), believed_capacity(shipped)(*lengths)
    served = scenario.serves()[:, at]
    assert (slower[served, at] < believed[served, at]).all()
    options = pool_options(scenario, "l40s")
    flags = EngineFlags(max_model_len=4096)
    spec = replica_spec(options["gpu"], options["model"], "fp8", 1, flags, 2.0, read_law_file(options["law"]))
    np.testing.assert_array_equal(spec.law.as_row(), LAW.scaled(2.0).as_row())
    assert spec.kv_tokens == 20_000


def test_a_law_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ScenarioError, match=r"mine\.yaml: pools\.h100: law: mine\.json: measured on gpu L40S-48GB, not H100"
    ):
        with_law(tmp_path, pool="h100")
    with pytest.raises(ReplicaError, match="law: measured on precision fp8, not bf16"):
        replica_spec("L40S-48GB", "llama-2-13b", "bf16", 1, EngineFlags(), measured=FILE)


def test_a_missing_file_is_named_with_its_pool(tmp_path: Path) -> None:
    import yaml

    document = yaml.safe_load(shipped_scenarios()["mixed-chat"].read_text())
    document["pools"]["l40s"]["law"] = "none.json"
    with pytest.raises(ScenarioError, match=r"mine\.yaml: pools\.l40s: .*none\.json: cannot be read: No such file"):
        parse_scenario(document, tmp_path / "mine.yaml")


MISTAKES: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "another schema": (("schema",), 2, "schema: 2: "),
    "unknown field": (("speed",), 2, "speed: 2: Extra inputs"),
    "no law": (("law",), None, "law: None: "),
    "falling counts": (("law", "tokens"), [4, 3], "law: tokens: wanted rising counts"),
    "falling seconds": (("law", "linear_s"), [2.0, 1.0], "law: linear_s: wanted seconds that never fall"),
    "lengths that differ": (("law", "linear_s"), [1.0, 2.0, 3.0], "law: 3 linear_s for 2 tokens"),
    "negative": (("law", "seq_s"), -1.0, r"law\.seq_s: -1\.0: "),
    "not a number": (("law", "kv_read_s_per_token"), float("nan"), r"law\.kv_read_s_per_token: nan: "),
    "a time of nothing": (("law", "linear_s"), [0.0, 1.0], r"law\.linear_s\.0: 0\.0: "),
    "no cache": (("kv_tokens",), 0, "kv_tokens: 0: "),
    "unknown GPU": (
        ("replica",),
        {"gpu": "X1", "model": "llama-2-13b", "precision": "fp8"},
        "replica: unknown GPU 'X1'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_line(tmp_path: Path, mistake: str) -> None:
    steps, value, words = MISTAKES[mistake]
    document: dict[str, Any] = FILE.document()
    document["law"] = {**document["law"], "tokens": [1, 2], "linear_s": [1.0, 2.0]}
    place = document
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = value
    path = tmp_path / "law.json"
    path.write_text(json.dumps(document))
    with pytest.raises(LawFileError, match=words) as raised:
        read_law_file(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


@given(st.binary(max_size=200))
def test_garbage_is_one_clear_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("garbage") / "law.json"
    path.write_bytes(content)
    with pytest.raises(LawFileError) as raised:
        read_law_file(path)
    assert "\n" not in str(raised.value)


def test_a_correction_speaks_of_other_models_on_the_same_gpu_only() -> None:
    corrected = FILE.model_copy(update={"correction": Correction(compute=0.5, memory=0.5, iteration_s=0.003)})
    np.testing.assert_array_equal(corrected.law_of("L40S-48GB", "llama-2-13b", "fp8", 1).as_row(), LAW.as_row())
    other = corrected.law_of("L40S-48GB", "llama-2-7b", "fp8", 1)
    believed = iteration_law(gpu("L40S-48GB"), model("llama-2-7b"), "fp8")
    assert (other.linear_s > 1.5 * believed.linear_s).all()
    assert corrected.kv_tokens_of("L40S-48GB", "llama-2-7b", "fp8", 1) is None
    with pytest.raises(LawFileError, match="measured on gpu L40S-48GB, not H100"):
        corrected.law_of("H100", "llama-2-13b", "fp8", 1)
    with pytest.raises(LawFileError, match="measured on pipeline_parallel 1, not 2"):
        corrected.law_of("L40S-48GB", "llama-2-13b", "fp8", 1, 2)
    with pytest.raises(LawFileError, match="measured on model"):
        FILE.law_of("L40S-48GB", "llama-2-7b", "fp8", 1)
