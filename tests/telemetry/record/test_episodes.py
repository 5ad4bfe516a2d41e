import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.window import FINISHED, MET
from poolpilot.telemetry.record import (
    Defect,
    DefectKind,
    Record,
    TickRecord,
    entry_of,
    episodes_of,
    line_of,
    read,
    read_stream,
    sitting_text,
)
from poolpilot.telemetry.record.episodes import LATEST_TICKS
from poolpilot.telemetry.record.segments import pack

from .days import ticks_of_a_day

TICKS = 40


@cache
def day() -> tuple[TickRecord, ...]:
    return tuple(ticks_of_a_day(TICKS, policy="plan-tracking"))


def lines(records: Sequence[TickRecord]) -> list[bytes]:
    """A log of these ticks, with its sitting first."""
    texts = [sitting_text(records[0].sitting), *(line_of(entry_of(record)) for record in records)]
    return [text.encode() + b"\n" for text in texts]


@cache
def log() -> tuple[bytes, ...]:
    return tuple(lines(day()))


def taken_apart(log: Sequence[bytes]) -> Record:
    return episodes_of((f"log:{n}", line) for n, line in enumerate(log, start=1))


def kinds(record: Record) -> list[DefectKind]:
    return [defect.kind for defect in record.defects]


def test_a_whole_record_is_one_episode_without_defects() -> None:
    record = taken_apart(log())
    (episode,) = record.episodes
    assert record.defects == ()
    assert (len(episode), episode.duration_s, episode.where) == (TICKS, (TICKS - 1) * 10.0, "log:2")
    for t, tick in enumerate(day()):
        np.testing.assert_array_equal(episode.snapshot.pools[t], tick.snapshot.pools)
        np.testing.assert_array_equal(episode.plan.capacity_per_s[t], tick.plan.capacity_per_s)
        np.testing.assert_array_equal(episode.in_force.route[t], tick.decision.applied.route)
        assert episode.memory[t].keys() == tick.memory.keys()
        if tick.since is not None:
            np.testing.assert_allclose(episode.since.usd[t], tick.since.usd, atol=1e-9)
            np.testing.assert_array_equal(episode.since.tally[t][:, FINISHED], tick.since.tally[:, FINISHED])
    assert episode.counted.tolist() == [False] + [True] * (TICKS - 1)


def test_an_episode_can_be_cut() -> None:
    (episode,) = taken_apart(log()).episodes
    part = episode.between(10, 15)
    assert len(part) == 5
    assert part.tick.tolist() == [10, 11, 12, 13, 14]
    np.testing.assert_array_equal(part.snapshot.running, episode.snapshot.running[10:15])
    assert part.sitting is episode.sitting


def test_the_stream_gives_the_same_episodes_as_the_log() -> None:
    streamed = read_stream((f"ticks {n}", entry_of(record)) for n, record in enumerate(day()))
    (a,), (b,) = streamed.episodes, taken_apart(log()).episodes
    assert streamed.defects == ()
    np.testing.assert_array_equal(a.snapshot.pools, b.snapshot.pools)
    np.testing.assert_array_equal(a.since.tally, b.since.tally)


def test_closed_segments_and_the_open_file_are_one_record(tmp_path: Path) -> None:
    first, second = log()[:21], (log()[0], *log()[21:])
    closed = tmp_path / "decisions.00000001.jsonl"
    closed.write_bytes(b"".join(first))
    pack(closed)
    (tmp_path / "decisions.jsonl").write_bytes(b"".join(second))
    record = read([tmp_path])
    assert [len(episode) for episode in record.episodes] == [TICKS]
    assert record.defects == ()


def changed(n: int, to: Callable[[dict[str, Any]], object]) -> list[bytes]:
    document = json.loads(log()[n])
    to(document)
    return [*log()[:n], json.dumps(document).encode() + b"\n", *log()[n + 1 :]]


def later(record: TickRecord, seconds: float, wall_s: float = 0.0) -> TickRecord:
    time_s = float(record.snapshot.time_s) + seconds
    return replace(
        record,
        snapshot=replace(record.snapshot, time_s=np.array(time_s)),
        decision=replace(record.decision, time_s=time_s),
        wall_s=record.wall_s + wall_s,
    )


def held_up(records: Sequence[TickRecord], slots: Sequence[int]) -> list[TickRecord]:
    """The same ticks, each so many slots after the one before, as a sidecar records them that had no time between."""
    told, behind_s = [], 0.0
    for record, own in zip(records, slots, strict=True):
        late_s = 10.0 * (own - 1) if told else 0.0
        behind_s += late_s
        since = record.since and replace(record.since, span_s=record.since.span_s + late_s)
        told.append(replace(later(record, behind_s, behind_s), since=since))
    return told


CASES: dict[str, tuple[Callable[[], list[bytes]], DefectKind, list[int], str]] = {
    "a tick is missing": (
        lambda: [*log()[:11], *log()[12:]],
        DefectKind.GAP,
        [10, 29],
        "1 ticks and 20 s are missing after tick 9",
    ),
    "the sidecar slept": (
        lambda: lines([*day()[:10], *(later(r, 300.0, 300.0) for r in day()[10:])]),
        DefectKind.GAP,
        [10, 30],
        "0 ticks and 310 s are missing",
    ),
    "of a late tick only the last slot was counted": (
        lambda: lines([*day()[:10], *(later(r, 20.0, 20.0) for r in day()[10:])]),
        DefectKind.GAP,
        [10, 30],
        "0 ticks and 30 s are missing after tick 9",
    ),
    "of a late tick nothing was counted": (
        lambda: lines(
            [
                *(ticks := held_up(day(), [1] * 10 + [3] + [1] * 29))[:10],
                replace(ticks[10], since=None),
                *ticks[11:],
            ]
        ),
        DefectKind.GAP,
        [10, 30],
        "0 ticks and 30 s are missing after tick 9",
    ),
    "a tick is missing, and the next one counted for it": (
        lambda: lines([*day()[:10], *held_up(day()[10:], [1, 2] + [1] * 28)[1:]]),
        DefectKind.GAP,
        [10, 29],
        "1 ticks and 30 s are missing after tick 9",
    ),
    "ticks came late": (
        lambda: lines(held_up(day(), [1] * 10 + [2, 4] + [1] * 28)),
        DefectKind.LATE_TICKS,
        [TICKS],
        "2 of 40 ticks came late, up to 4.0 ticks after the one before; in 4 slots nobody decided",
    ),
    "a tick came later than anything is told of": (
        lambda: lines(held_up(day(), [1] * 10 + [7] + [1] * 29)),
        DefectKind.GAP,
        [10, 30],
        "0 ticks and 70 s are missing after tick 9",
    ),
    "the clock went back": (
        lambda: lines([*day()[:10], *(later(r, -80.0) for r in day()[10:])]),
        DefectKind.CLOCK_JUMP,
        [10, 30],
        "tick 10 at 20 s follows tick 9 at 90 s",
    ),
    "the wall's clock was set": (
        lambda: lines([*day()[:10], *(later(r, 0.0, 7200.0) for r in day()[10:])]),
        DefectKind.CLOCK_JUMP,
        [10, 30],
        "10 s passed on the decider's clock, 7210 s on the wall's",
    ),
    "a tick is there twice": (
        lambda: [*log()[:11], log()[10], *log()[11:]],
        DefectKind.REPEATED_TICK,
        [TICKS],
        "tick 9 is there twice",
    ),
    "the last line was cut": (
        lambda: [*log()[:-1], log()[-1][:100]],
        DefectKind.TRUNCATED_LINE,
        [TICKS - 1],
        "cut in half after 100 bytes",
    ),
    "a line is no JSON": (lambda: [*log()[:11], b"{\n", *log()[11:]], DefectKind.UNREADABLE_LINE, [TICKS], "not JSON"),
    "a line is of another version": (
        lambda: [*log(), *changed(5, lambda d: d.update(record=2))[5:6]],
        DefectKind.CHANGED_SCHEMA,
        [TICKS],
        "record 2, this build reads 1",
    ),
    "nothing tells the cluster": (
        lambda: list(log()[1:]),
        DefectKind.NO_SITTING,
        [],
        "no line tells of which cluster",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_missing_or_broken_is_named(name: str) -> None:
    make, kind, lengths, detail = CASES[name]
    record = taken_apart(make())
    assert [len(episode) for episode in record.episodes] == lengths
    assert kind in kinds(record)
    assert detail in next(str(defect) for defect in record.defects if defect.kind is kind)


def test_a_late_tick_tells_of_all_the_time_since_the_one_before() -> None:
    slots = [1] * 10 + [2, 1, 6] + [1] * 27
    record = taken_apart(lines(held_up(day(), slots)))
    (episode,) = record.episodes
    assert episode.tick_s == 10.0
    assert episode.lasted_ticks.tolist() == [0.0, *slots[1:]]
    np.testing.assert_array_equal(episode.lasted_s[1:], episode.since.span_s[1:])
    assert episode.duration_s == 10.0 * sum(slots[1:])
    assert episode.between(10, 20).lasted_ticks.tolist() == [0.0, *slots[11:20]], "what was before a part is not in it"
    (late,) = record.defects
    assert (late.kind, late.ticks) == (DefectKind.LATE_TICKS, 2)


def test_a_tick_whose_work_took_long_was_recorded_late_and_the_next_one_decided_late() -> None:
    ticks = held_up(day(), [1] * 11 + [4] + [1] * 28)
    ticks[10] = replace(ticks[10], wall_s=ticks[10].wall_s + 38.0)
    record = taken_apart(lines(ticks))
    assert [len(episode) for episode in record.episodes] == [TICKS]
    assert kinds(record) == [DefectKind.LATE_TICKS]


@settings(max_examples=20, deadline=None)
@given(
    slots=st.lists(st.integers(1, 9), min_size=10, max_size=10),
    lost=st.sets(st.integers(1, 9), max_size=3),
)
def test_ticks_are_joined_where_all_of_the_time_between_was_counted_and_only_there(
    slots: list[int], lost: set[int]
) -> None:
    ticks = held_up(day()[:10], slots)
    kept = [n for n in range(10) if n not in lost]
    record = taken_apart(lines([ticks[n] for n in kept]))
    begins = [n for n, before in zip(kept[1:], kept[:-1], strict=True) if n - before > 1 or slots[n] > LATEST_TICKS]
    assert [int(episode.tick[0]) for episode in record.episodes] == [0, *begins]
    assert sum(kind is DefectKind.GAP for kind in kinds(record)) == len(begins)
    for episode in record.episodes:
        np.testing.assert_allclose(episode.lasted_s[1:], episode.since.span_s[1:])
    late = sum(defect.ticks for defect in record.defects if defect.kind is DefectKind.LATE_TICKS)
    assert late == sum(1 < slots[n] <= LATEST_TICKS for n in kept[1:] if n not in begins)


def test_a_sitting_of_another_version_takes_its_ticks_with_it_in_one_defect() -> None:
    sitting = json.loads(log()[0])
    sitting["schema"] = 99
    record = taken_apart([*log(), json.dumps(sitting).encode() + b"\n", *log()[1:6]])
    assert [len(episode) for episode in record.episodes] == [TICKS]
    (defect,) = record.defects
    assert (defect.kind, defect.ticks) == (DefectKind.CHANGED_SCHEMA, 6)


def test_a_restart_begins_an_episode_and_is_no_defect() -> None:
    record = taken_apart([*log(), *log()])
    assert [len(episode) for episode in record.episodes] == [TICKS, TICKS]
    assert record.defects == ()


def blinded(record: TickRecord, p: int) -> TickRecord:
    pools = record.snapshot.pools.copy()
    pools[p] = np.nan
    snapshot = replace(record.snapshot, pools=pools)
    snapshot.ready[p] = 1.0
    return replace(record, snapshot=snapshot)


def test_a_pool_that_serves_and_tells_nothing_is_masked_telemetry() -> None:
    p = next(p for p in range(8) if (day()[20].snapshot.ready[p]) > 0)
    record = taken_apart(lines([*day()[:20], *(blinded(r, p) for r in day()[20:25]), *day()[25:]]))
    (defect,) = [d for d in record.defects if d.kind is DefectKind.MASKED_TELEMETRY]
    assert (defect.subject, defect.ticks) == (day()[0].sitting.cluster.pool_names[p], 5)
    assert len(record.episodes) == 1, "what is known of the others is still worth reading"


def test_a_pool_whose_figures_do_not_move_is_frozen_telemetry() -> None:
    p = int(np.argmax(day()[10].snapshot.running))
    still = day()[10].snapshot.pools[p]

    def frozen(record: TickRecord) -> TickRecord:
        pools = record.snapshot.pools.copy()
        pools[p] = still
        return replace(record, snapshot=replace(record.snapshot, pools=pools))

    record = taken_apart(lines([*day()[:10], *map(frozen, day()[10:])]))
    (defect,) = [d for d in record.defects if d.kind is DefectKind.FROZEN_TELEMETRY]
    assert (defect.subject, defect.ticks) == (day()[0].sitting.cluster.pool_names[p], TICKS - 10)


def test_outcomes_that_contradict_the_snapshots_are_implausible() -> None:
    def flipped(record: TickRecord) -> TickRecord:
        if record.since is None:
            return record
        tally = record.since.tally.copy()
        tally[:, MET] = tally[:, FINISHED] - tally[:, MET]
        return replace(record, since=replace(record.since, tally=tally, usd=-record.since.usd))

    found = taken_apart(lines(list(map(flipped, day())))).defects
    assert {d.kind for d in found} == {DefectKind.IMPLAUSIBLE_OUTCOME}
    cluster = day()[0].sitting.cluster
    assert {d.subject for d in found} & set(cluster.class_names)
    assert {d.subject for d in found} & set(cluster.pool_names)


def test_a_bill_that_falls_as_replicas_rise_is_implausible_though_its_sum_is_right() -> None:
    ticks = [record for record in day() if record.since is not None]
    mean = np.mean([record.since.usd for record in ticks if record.since is not None], axis=0)

    def mirrored(record: TickRecord) -> TickRecord:
        if record.since is None:
            return record
        return replace(record, since=replace(record.since, usd=np.maximum(2.0 * mean - record.since.usd, 0.0)))

    assert not [d for d in taken_apart(lines(day())).defects if d.kind is DefectKind.IMPLAUSIBLE_OUTCOME]
    found = [
        d for d in taken_apart(lines(list(map(mirrored, day())))).defects if d.kind is DefectKind.IMPLAUSIBLE_OUTCOME
    ]
    assert any("its bill falls as its replicas rise" in d.detail for d in found)


def test_a_file_that_cannot_be_unpacked_is_named_and_read_as_far_as_it_goes(tmp_path: Path) -> None:
    closed = tmp_path / "decisions.00000001.jsonl"
    closed.write_bytes(b"".join(log()))
    packed = pack(closed)
    packed.write_bytes(packed.read_bytes()[:-2000])
    (tmp_path / "decisions.jsonl").write_bytes(b"".join(log()))
    record = read([tmp_path])
    assert len(record.episodes) == 2
    assert len(record.episodes[0]) < TICKS == len(record.episodes[1])
    assert DefectKind.UNREADABLE_FILE in kinds(record)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_a_file_holds_every_tick_is_in_an_episode_or_in_a_defect(data: st.DataObject) -> None:
    spoilt = list(log()[:16])
    for _ in range(data.draw(st.integers(0, 4))):
        n = data.draw(st.integers(0, len(spoilt) - 1))
        how = data.draw(st.sampled_from(["drop", "twice", "cut", "noise", "swap", "byte"]))
        line = spoilt[n]
        if how == "drop" and len(spoilt) > 1:
            del spoilt[n]
        elif how == "twice":
            spoilt.insert(n, line)
        elif how == "cut":
            spoilt[n] = line[: data.draw(st.integers(0, len(line) - 1))] + b"\n"
        elif how == "noise":
            spoilt.insert(n, data.draw(st.binary(max_size=40)).replace(b"\n", b" ") + b"\n")
        elif how == "swap":
            m = data.draw(st.integers(0, len(spoilt) - 1))
            spoilt[n], spoilt[m] = spoilt[m], spoilt[n]
        elif len(line) > 1:
            at = data.draw(st.integers(0, len(line) - 2))
            spoilt[n] = line[:at] + bytes([data.draw(st.integers(1, 255).filter(lambda b: b != 10))]) + line[at + 1 :]
    record = taken_apart(spoilt)
    for episode in record.episodes:
        assert (np.diff(episode.time_s) > 0).all()
        assert (np.diff(episode.tick) == 1).all()
    whole = [line for line in spoilt if line in log()[1:16]]
    lost = sum(defect.ticks for defect in record.defects if defect.kind is not DefectKind.GAP)
    assert record.ticks + lost >= len(whole)
    assert all(isinstance(defect, Defect) and len(str(defect)) < 600 for defect in record.defects)
