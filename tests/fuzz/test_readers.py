"""Damaged files are used or refused in one line: no crash, no hang, no other error. `make fuzz` runs it for longer."""

import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolpilot.env.scenario import ScenarioError, load_scenario
from poolpilot.env.workload.formats.servegen import read_service
from poolpilot.env.workload.traces import TraceError, read_trace
from poolpilot.tests.fuzz.mutating import MAX_BYTES, mutated
from poolpilot.tests.fuzz.targets import TARGETS, Target

BY_NAME = {target.name: target for target in TARGETS}


def outcome(target: Target, content: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return target.outcome(content, Path(folder))


@pytest.mark.parametrize("name", BY_NAME)
def test_seeds_are_used(name: str) -> None:
    outcomes = [outcome(BY_NAME[name], seed) for seed in BY_NAME[name].seeds]
    bombs = 1 if name == "scenarios" else 0
    assert outcomes.count("refused") == bombs


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_a_damaged_file_is_used_or_refused_in_one_line(name: str, seed: int) -> None:
    target = BY_NAME[name]
    assert outcome(target, target.mutate(random.Random(seed))) in ("used", "refused")


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(content=st.binary(max_size=300))
def test_any_bytes_are_refused(name: str, content: bytes) -> None:
    assert outcome(BY_NAME[name], content) == "refused"


@given(st.integers(0, 2**32))
def test_mutations_differ_and_stay_small(seed: int) -> None:
    seeds = BY_NAME["traces"].seeds
    again = [mutated(seeds[0], seeds, random.Random(seed)) for _ in range(2)]
    assert again[0] == again[1]
    assert len(again[0]) <= MAX_BYTES


@pytest.fixture(
    params=["a folder", "a pipe", "a link to itself", "a device", "nothing", "a broken link", "a long name"]
)
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "x.yaml"
    if request.param == "a folder":
        path.mkdir()
    elif request.param == "a pipe":
        os.mkfifo(path)
    elif request.param == "a link to itself":
        path.symlink_to(path)
    elif request.param == "a device":
        path.symlink_to("/dev/zero")
    elif request.param == "a broken link":
        path.symlink_to(tmp_path / "nowhere")
    elif request.param == "a long name":
        return tmp_path / ("x" * 5000)
    return path


def test_what_is_no_file_is_refused_at_once(no_file: Path) -> None:
    with pytest.raises(TraceError, match=r"no (such|regular) file|cannot be opened"):
        read_trace(no_file)
    with pytest.raises(ScenarioError, match=r"no such file|cannot be read"):
        load_scenario(no_file)
    with pytest.raises(TraceError, match=r"no such file|has no chunk|not readable"):
        read_service(no_file, no_file)


def test_a_pipe_in_a_service_s_folder_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "chunk-1-trace.csv").write_text("0,1,1,Gamma,1,1\n")
    os.mkfifo(tmp_path / "chunk-1-dataset.json")
    with pytest.raises(TraceError, match="no such file"):
        read_service(tmp_path, None)
