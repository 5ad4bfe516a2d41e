"""From a scenario's words to requests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from poolpilot.env.workload.formats import sources
from poolpilot.env.workload.load import load_workload, replay_parts
from poolpilot.env.workload.requests import Workload, WorkloadError
from poolpilot.env.workload.spec import TraceSpec, WorkloadSpec
from poolpilot.env.workload.traces import TraceError

SPEC: TypeAdapter[WorkloadSpec] = TypeAdapter(WorkloadSpec)
CLASSES = ("long", "short")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = "".join(f"{i},{100 * (i % 10 + 1)},{i % 4}\n" for i in range(100))
    (tmp_path / "trace.csv").write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    return tmp_path


def replay(folder: Path, duration_s: float = 1000.0, seed: int = 0, **changes: Any) -> Workload:
    assign = [{"class": "long", "min_prompt_tokens": 600}, {"class": "short"}]
    spec = SPEC.validate_python({"kind": "trace", "path": "trace.csv", "assign": assign, **changes})
    return load_workload(spec, CLASSES, duration_s, seed, folder)


def test_a_trace_is_replayed_from_beside_the_scenario(folder: Path) -> None:
    load = replay(folder)
    assert load.arrival_s.tolist() == list(range(100))
    assert np.bincount(load.class_index).tolist() == [50, 50]
    assert load.class_names == CLASSES


def test_an_absolute_path_stays(folder: Path) -> None:
    assert len(replay(Path("elsewhere"), path=str(folder / "trace.csv"))) == 100


@pytest.mark.parametrize(
    ("changes", "duration_s", "n", "last_s"),
    [
        ({}, 10.0, 10, 9.0),
        ({"start_s": 90}, 1000.0, 10, 9.0),
        ({"start_s": 10, "end_s": 20}, 1000.0, 10, 9.0),
        ({"rate_factor": 2}, 10.0, 20, 9.5),
        ({"start_s": 10, "end_s": 50, "rate_factor": 0.5}, 60.0, 30, 58.0),
    ],
    ids=["cut by the run", "from", "from and to", "twice as fast", "half as fast"],
)
def test_a_part_is_replayed(folder: Path, changes: dict[str, Any], duration_s: float, n: int, last_s: float) -> None:
    load = replay(folder, duration_s, **changes)
    assert (len(load), load.duration_s) == (n, last_s)


def test_a_mix_holds_all_parts_each_with_its_own_draws(folder: Path) -> None:
    trace = {"kind": "trace", "path": "trace.csv", "assign": [{"class": "short"}]}
    fixed = {"kind": "fixed", "tokens": 10}
    drawn = {"rate_per_s": 2.0, "prompt_tokens": fixed, "output_tokens": fixed}
    generated = {"kind": "generated", "classes": {"long": drawn}}
    spec = SPEC.validate_python({"kind": "mix", "parts": [trace, generated, generated]})
    load = load_workload(spec, CLASSES, 100.0, 0, folder)
    assert (load.class_index == 1).sum() == 100
    times = load.arrival_s[load.class_index == 0]
    assert len(times) == pytest.approx(400, rel=0.2)
    assert len(np.unique(times)) == len(times)


@pytest.mark.parametrize(
    ("scale", "n", "last_s"),
    [
        ({"kind": "compress", "factor": 2}, 40, 19.5),
        ({"kind": "superpose", "factor": 3}, 60, 20.0),
        ({"kind": "resample", "factor": 3, "window_s": 10}, 60, 20.0),
    ],
    ids=["compress", "superpose", "resample"],
)
def test_a_trace_is_scaled_up_for_the_length_of_the_run(
    folder: Path, scale: dict[str, Any], n: int, last_s: float
) -> None:
    load = replay(folder, 20.0, start_s=30, scale=scale)
    assert len(load) == pytest.approx(n, abs=2)
    assert 17.0 < load.duration_s <= last_s


@pytest.mark.parametrize(
    "changes",
    [{}, {"rate_factor": 2.0}, {"start_s": 13, "end_s": 77}, {"scale": {"kind": "compress", "factor": 0.5}}],
    ids=["whole", "faster", "from and to", "slower"],
)
@pytest.mark.parametrize("part_s", [7.0, 30.0, 1000.0])
def test_parts_one_after_another_are_the_whole(
    folder: Path, changes: dict[str, Any], part_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 64)
    assign = [{"class": "long", "share": 0.5}, {"class": "short"}]
    spec = TraceSpec.model_validate({"path": "trace.csv", "assign": assign, **changes})
    whole = load_workload(spec, CLASSES, 1000.0, 3, folder)
    parts = list(replay_parts(spec, CLASSES, part_s, 3, folder))
    assert all(part.duration_s < part_s for part in parts)
    arrival_s = np.concatenate([part.arrival_s + k * part_s for k, part in enumerate(parts)])
    assert arrival_s == pytest.approx(whole.arrival_s)
    assert np.array_equal(np.concatenate([part.prompt_tokens for part in parts]), whole.prompt_tokens)
    assert np.array_equal(np.concatenate([part.class_index for part in parts]), whole.class_index)


def test_parts_may_be_empty_and_are_scaled_each_by_itself(tmp_path: Path) -> None:
    rows = "".join(f"{t},5,1\n" for t in [*range(10), *range(30, 40)])
    (tmp_path / "trace.csv").write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    scale = {"kind": "superpose", "factor": 3}
    spec = TraceSpec.model_validate({"path": "trace.csv", "assign": [{"class": "long"}], "scale": scale})
    parts = list(replay_parts(spec, CLASSES, 10.0, 0, tmp_path))
    assert [len(part) for part in parts] == [30, 0, 0, 30]
    assert all(part.duration_s < 10.0 for part in parts)
    with pytest.raises(WorkloadError, match="part_s: 0: wanted a finite number of seconds above 0"):
        next(replay_parts(spec, CLASSES, 0, 0, tmp_path))


def test_a_share_is_kept_while_reading(folder: Path) -> None:
    load = replay(folder, keep=0.3)
    assert len(load) == pytest.approx(30, abs=14)
    part = replay(folder, keep=0.3, start_s=50)
    assert np.array_equal(load.arrival_s[load.arrival_s >= 50] - 50, part.arrival_s)


def test_a_request_keeps_its_class_whatever_part_is_used(folder: Path) -> None:
    assign = [{"class": "long", "share": 0.5}, {"class": "short"}]
    whole, part = replay(folder, assign=assign), replay(folder, assign=assign, start_s=40)
    assert np.array_equal(whole.class_index[40:], part.class_index)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"path": "none.csv"}, TraceError, "none.csv: no such file"),
        ({"format": "azure"}, TraceError, "wanted each once: TIMESTAMP"),
        (
            {"start_s": 100},
            WorkloadError,
            "no requests to replay from start_s 100 to .* it was read up to 99 s",
        ),
        ({"assign": [{"class": "middle"}]}, WorkloadError, "unknown class 'middle'; classes are long, short"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, changes: dict[str, Any], error: type[ValueError], message: str) -> None:
    with pytest.raises(error, match=message):
        replay(folder, **changes)


def test_generated_requests_come_in_the_scenarios_class_order(folder: Path) -> None:
    fixed = {"kind": "fixed", "tokens": 3}
    chat = {"rate_per_s": 5, "prompt_tokens": fixed, "output_tokens": fixed}
    spec = SPEC.validate_python({"kind": "generated", "classes": {"short": chat}})
    load = load_workload(spec, CLASSES, 20.0, 1, folder)
    assert load.class_names == CLASSES
    assert set(load.class_index) == {1}
    assert 0.0 <= load.arrival_s[0] <= load.duration_s < 20.0
