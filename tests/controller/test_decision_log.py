import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poolpilot.controller.decision_log import DecisionLog
from poolpilot.env.wire import memory_to_json, to_json
from poolpilot.telemetry.record import DecisionLogError, Keeping, TickRecord, read, read_log
from poolpilot.telemetry.record.segments import pack, segments

from .ticks import a_sitting, sat_through


def written(path: Path, n_ticks: int = 3, seed: int = 1) -> list[TickRecord]:
    sitting = a_sitting()
    records = list(sat_through(sitting, n_ticks, seed))
    with DecisionLog(path, sitting) as log:
        for record in records:
            log.append(record)
    return records


def same(a: TickRecord, b: TickRecord) -> bool:
    """To the last bit, except that a record read knows its sitting by value."""
    parts = ("snapshot", "plan", "guard_state", "decision", "fell_back", "scaling", "answer", "in_force")
    return (
        all(to_json(getattr(a, part)) == to_json(getattr(b, part)) for part in parts)
        and memory_to_json(a.memory) == memory_to_json(b.memory)
        and to_json(a.sitting) == to_json(b.sitting)
    )


def none_reported(message: str) -> None:
    raise AssertionError(message)


def test_what_is_appended_is_read_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "log.jsonl"
    records = written(path, n_ticks=6)
    read = list(read_log(path, none_reported))
    assert len(read) == 6
    assert all(same(a, b) for a, b in zip(records, read, strict=True))
    np.testing.assert_array_equal(read[-1].snapshot.pools, records[-1].snapshot.pools)


def test_a_memory_keeps_its_shapes_and_what_is_no_number(tmp_path: Path) -> None:
    sitting = a_sitting()
    (record,) = sat_through(sitting, 1, seed=1)
    memory = {
        "at_s": np.array([-np.inf, np.inf, np.nan, -0.0, 5e-324, 0.1 + 0.2]),
        "scalar": np.array(1.5),
        "empty": np.zeros((3, 0)),
        "cube": np.arange(8.0).reshape(2, 2, 2),
    }
    with DecisionLog(tmp_path / "log.jsonl", sitting) as log:
        log.append(replace(record, memory=memory))
    (read,) = read_log(tmp_path / "log.jsonl", none_reported)
    assert read.memory.keys() == memory.keys()
    for name, values in memory.items():
        assert read.memory[name].tobytes() == values.tobytes()
        assert read.memory[name].shape == values.shape


def test_each_tick_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    path, sitting = tmp_path / "log.jsonl", a_sitting()
    log = DecisionLog(path, sitting)
    for n, record in enumerate(sat_through(sitting, 3, seed=2), start=1):
        log.append(record)
        assert len(list(read_log(path, none_reported))) == n
    log.close()


def test_a_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    both = written(path, seed=1) + written(path, seed=2)
    assert [same(a, b) for a, b in zip(both, read_log(path, none_reported), strict=True)] == [True] * 6


@pytest.mark.parametrize("lost_bytes", [1, 100, 2000])
def test_a_last_line_cut_in_half_is_reported_and_left_out(tmp_path: Path, lost_bytes: int) -> None:
    path = tmp_path / "log.jsonl"
    records = written(path)
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    told: list[str] = []
    read = list(read_log(path, told.append))
    assert len(read) == len(records) - 1
    assert len(told) == 1
    assert told[0].startswith(f"{path}:4: cut in half")


def test_a_half_line_is_cut_off_when_the_log_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    written(path)
    path.write_bytes(path.read_bytes()[:-100])
    written(path)
    assert len(list(read_log(path, none_reported))) == 2 + 3


def test_a_log_whose_first_line_was_cut_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    written(path)
    path.write_bytes(path.read_bytes()[:20])
    written(path)
    assert len(list(read_log(path, none_reported))) == 3


@pytest.mark.parametrize("content", [b"hello", b"hello\nworld", b'{"kind":"something"}\n'])
def test_a_file_that_is_no_log_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(DecisionLogError, match="no decision log"):
        DecisionLog(path, a_sitting())
    assert path.read_bytes() == content


def test_two_sidecars_cannot_write_one_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with DecisionLog(path, a_sitting()), pytest.raises(DecisionLogError, match="another sidecar writes"):
        DecisionLog(path, a_sitting())
    written(path)


def test_a_file_that_has_grown_is_closed_packed_and_read_with_the_rest(tmp_path: Path) -> None:
    path, sitting = tmp_path / "log.jsonl", a_sitting()
    records = list(sat_through(sitting, 12, seed=3))
    with DecisionLog(path, sitting, keeping=Keeping(segment_bytes=15_000)) as log:
        for record in records:
            log.append(record)
            assert len(list(read_log(path, none_reported))) == record.decision.tick + 1, "at every moment"
    assert len(list(tmp_path.glob("log.0*.jsonl.gz"))) >= 2
    assert not list(tmp_path.glob("*.part"))
    assert all(same(a, b) for a, b in zip(records, read_log(path, none_reported), strict=True))
    (episode,) = read([tmp_path]).episodes
    assert len(episode) == 12


def test_an_old_file_is_closed_whatever_its_size_and_old_segments_go(tmp_path: Path) -> None:
    path, sitting, now_s = tmp_path / "log.jsonl", a_sitting(), [time.time()]
    keeping = Keeping(segment_s=3600.0, max_age_s=1800.0)
    with DecisionLog(path, sitting, keeping=keeping, wall=lambda: now_s[0]) as log:
        for n, record in enumerate(sat_through(sitting, 3, seed=3)):
            now_s[0] += 4000.0 * (n == 1)
            log.append(record)
    assert [record.decision.tick for record in read_log(path, none_reported)] == [2], "its segment is older than that"


def test_a_log_takes_no_more_than_it_may(tmp_path: Path) -> None:
    path, sitting = tmp_path / "log.jsonl", a_sitting()
    keeping = Keeping(segment_bytes=20_000, max_bytes=30_000)
    for seed in range(3):  # each end waits for what is being packed
        with DecisionLog(path, sitting, keeping=keeping) as log:
            for record in sat_through(sitting, 12, seed):
                log.append(record)
    with DecisionLog(path, sitting, keeping=keeping):
        pass
    assert sum(file.stat().st_size for file in tmp_path.glob("log.0*")) <= 10_000
    assert list(read_log(path, none_reported)), "the newest stay"


def test_what_is_closed_while_others_are_packed_is_not_judged_by_its_unpacked_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sitting = tmp_path / "log.jsonl", a_sitting()
    closed = tmp_path / "log.00000002.jsonl"

    def packed_meanwhile(segment: Path) -> Path:
        packed = pack(segment)
        if segment != closed:
            closed.write_bytes(b"x" * 20_000)  # as the loop does, beside the thread that packs
        return packed

    monkeypatch.setattr("poolpilot.controller.decision_log.pack", packed_meanwhile)
    (tmp_path / "log.00000001.jsonl").write_bytes(b"x" * 20_000)
    keeping = Keeping(segment_bytes=20_000, max_bytes=30_000)
    with DecisionLog(path, sitting, keeping=keeping):
        pass
    assert [p.name for p in segments(path)] == ["log.00000001.jsonl.gz", "log.00000002.jsonl.gz"]


def test_a_folder_that_takes_no_new_file_keeps_the_old_one_growing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sitting = tmp_path / "log.jsonl", a_sitting()
    records = list(sat_through(sitting, 6, seed=3))

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with DecisionLog(path, sitting, keeping=Keeping(segment_bytes=10_000)) as log:
        monkeypatch.setattr(Path, "rename", refuse)
        for record in records:
            log.append(record)
    assert all(same(a, b) for a, b in zip(records, read_log(path, none_reported), strict=True))
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


COST = {"tick": 1, "pool": "h100", "part": "drain", "usd": 0.5}


SINCE = {
    "span_s": 10.0,
    "usd": [[0.0] * 5] * 3,
    "class_usd": [0.0] * 3,
    "idle_usd": [0.0] * 4,
    "tally": [[[0], [1.0]]] * 3,
    "told": [0.0] * 3,
}


def change(line: int, to: Callable[[dict[str, Any]], object]) -> Callable[[list[bytes]], None]:
    def apply(lines: list[bytes]) -> None:
        document = json.loads(lines[line])
        to(document)
        lines[line] = json.dumps(document).encode() + b"\n"

    return apply


def batch(document: dict[str, Any]) -> None:
    """Make the snapshot one of a batch of one."""
    snapshot = document["snapshot"]
    for part in ("time_s", "forecast_per_s"):
        snapshot[part] = [snapshot[part]]
    for block in ("classes", "pools"):
        snapshot[block] = {name: [values] for name, values in snapshot[block].items()}


def put(line: int, content: bytes) -> Callable[[list[bytes]], None]:
    return lambda lines: lines.__setitem__(line, content + b"\n")


@pytest.mark.parametrize(
    ("spoil", "line", "message"),
    [
        (put(2, b"{"), 3, "not JSON"),
        (put(2, b"\xff\xfe"), 3, "not JSON"),
        (put(2, b"[" * 50_000), 3, "not JSON"),
        (put(2, b"[]"), 3, "wanted a JSON object"),
        (put(2, b'{"tick": NaN}'), 3, "NaN is no JSON number"),
        (put(2, b"{}"), 3, "answer: missing"),
        (lambda lines: lines.pop(0), 1, "wanted a line with kind"),
        (change(0, lambda d: d.update(schema=99)), 1, "schema 99, wanted"),
        (change(0, lambda d: d.update(extra=1)), 1, "extra: unknown field"),
        (change(0, lambda d: d.update(scenario=3)), 1, "scenario: 3"),
        (change(0, lambda d: d["cluster"]["spot"].pop()), 1, r"cluster.spot: shape \(2,\), wanted \(3,\)"),
        (change(0, lambda d: d["cluster"]["targets"]["ttft_s"].pop()), 1, "cluster.targets.ttft_s: shape"),
        (change(0, lambda d: d["limits"].update(scale_up_step=[1.0])), 1, r"limits.scale_up_step: shape \(1,\)"),
        (change(2, lambda d: d["snapshot"]["pools"]["ready"].pop()), 3, "snapshot.pools"),
        (change(2, lambda d: d["snapshot"]["pools"].update(ready=[-1, 0, 0])), 3, "snapshot.ready: -1"),
        (change(2, batch), 3, "snapshot: a batch of .*, wanted one moment"),
        (change(2, lambda d: d["plan"].update(route="x")), 3, "plan.route: 'x', wanted numbers"),
        (change(2, lambda d: d["decision"]["applied"].update(admit=[1])), 3, r"decision.applied.admit: shape \(1,\)"),
        (change(2, lambda d: d["decision"].update(tick=1.5)), 3, "decision.tick: 1.5, wanted int"),
        (change(2, lambda d: d["decision"].update(time_s=10**400)), 3, "decision.time_s: 1000"),
        (change(2, lambda d: d["decision"].update(mode="bold")), 3, "decision.mode: 'bold', wanted one of"),
        (change(2, lambda d: d["decision"].pop("policy_hash")), 3, "decision.policy_hash: missing"),
        (change(2, lambda d: d["guard_state"].update(changed_at_s=1.0)), 3, "guard_state.changed_at_s: shape"),
        (change(2, lambda d: d.update(memory={"a": "b"})), 3, "memory.a: 'b', wanted numbers"),
        (change(2, lambda d: d.update(fell_back=0)), 3, "fell_back: 0, wanted true or false"),
        (change(2, lambda d: d.update(scaling={})), 3, "scaling: '{}', wanted a list of costs"),
        (change(2, lambda d: d["scaling"].append(COST | {"pool": "x"})), 3, r"scaling\[0\].pool: 'x', wanted one of"),
        (change(2, lambda d: d["scaling"].append(COST | {"part": "waiting"})), 3, r"scaling\[0\].part: 'waiting'"),
        (change(2, lambda d: d.update(record=2)), 3, "record 2, this build reads 1"),
        (
            change(2, lambda d: d.update(answer={"classes": [[0.0]], "pools": [], "whole": []})),
            3,
            "answer.classes: shape",
        ),
        (change(2, lambda d: d.update(in_force=3)), 3, "in_force: 3, wanted an object"),
        (change(2, lambda d: d.update(since=3)), 3, "'3', wanted an object"),
        (
            change(2, lambda d: d.update(since=SINCE | {"tally": [[[0], [1.0, 2.0]]] * 3})),
            3,
            r"since.tally\[0\]: 1 columns",
        ),
        (
            change(2, lambda d: d.update(since=SINCE | {"tally": [[[9999], [1.0]]] * 3})),
            3,
            "column '9999', wanted 0 to",
        ),
        (change(2, lambda d: d.update(since=SINCE | {"tally": [[[0], [-1.0]]] * 3})), 3, "wanted a count of 0 or more"),
        (
            change(2, lambda d: d.update(since=SINCE | {"usd": [[0.0]]})),
            3,
            r"since.usd: shape \(1, 1\), wanted \(3, 5\)",
        ),
        (change(2, lambda d: d.update(since=SINCE | {"span_s": -1.0})), 3, "since.span_s: -1.0"),
        (change(2, lambda d: d.update(wall_s=10**400)), 3, "wall_s: '1000"),
        (change(0, lambda d: d.update(tick_s=0)), 1, "tick_s: '0', wanted seconds above 0"),
        (change(2, lambda d: d["scaling"].append(COST | {"usd": "1"})), 3, r"scaling\[0\].usd: '1', wanted numbers"),
    ],
)
def test_a_broken_line_is_named_by_file_line_and_field(
    tmp_path: Path, spoil: Callable[[list[bytes]], None], line: int, message: str
) -> None:
    path = tmp_path / "log.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    spoil(lines)
    path.write_bytes(b"".join(lines))
    with pytest.raises(DecisionLogError, match=message) as raised:
        list(read_log(path, none_reported))
    assert str(raised.value).startswith(f"{path}:{line}: ")
    assert len(str(raised.value)) < 500
