"""Store and decision log hand out the same ticks, and go on where they were."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from poolpilot.controller.decision_log import DecisionLog
from poolpilot.dashboard.reading.history import History
from poolpilot.dashboard.reading.logs import LogSource
from poolpilot.dashboard.reading.sources import Source, SourceError, StoreSource
from poolpilot.env.wire import to_json
from poolpilot.telemetry.record import Keeping
from poolpilot.telemetry.record.segments import segments
from poolpilot.telemetry.store import Store
from poolpilot.telemetry.valkey import embedded_valkey
from poolpilot.tests.dashboard.recorded import entries, records, write_log


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with embedded_valkey() as server, Store(server.url, timeout_s=10.0) as store:
        yield store


async def read_all(source: Source, span_s: float = 3600.0) -> History:
    history = History(span_s)
    history.add(await source.recent(span_s))
    return history


async def test_store_and_log_hold_the_same_ticks(store: Store, tmp_path: Path) -> None:
    kept = records(6)
    for entry in entries(kept):
        await store.append_tick(entry)
    write_log(tmp_path / "decisions.jsonl", kept)
    of_store = await read_all(StoreSource(store, "store"))
    of_log = await read_all(LogSource(tmp_path / "decisions.jsonl"))
    for history in (of_store, of_log):
        assert [tick.decision.tick for tick in history.ticks] == [0, 1, 2, 3, 4, 5]
        assert [to_json(tick.snapshot) for tick in history.ticks] == [to_json(record.snapshot) for record in kept]
        assert [to_json(t.comparison) for t in history.ticks] == [to_json(record.comparison) for record in kept]
        assert [tick.span_s for tick in history.ticks[1:]] == [10.0] * 5


async def test_what_is_appended_later_follows(store: Store, tmp_path: Path) -> None:
    kept = records(5)
    log = tmp_path / "decisions.jsonl"
    for entry in entries(kept[:3]):
        await store.append_tick(entry)
    write_log(log, kept[:3])
    for source in (StoreSource(store, "store"), LogSource(log)):
        first = await source.recent(3600.0)
        assert await source.after(first[-1].id) == []
        if isinstance(source, StoreSource):
            await store.append_tick(entries(kept[3:4])[0])
        else:
            write_log(log, kept[3:4])
        (new,) = await source.after(first[-1].id)
        assert new.fields["decision"]["tick"] == 3


async def test_only_the_newest_span_of_a_log_is_read(tmp_path: Path) -> None:
    write_log(tmp_path / "decisions.jsonl", records(30))
    source = LogSource(tmp_path / "decisions.jsonl")
    recent = await source.recent(95.0)
    assert [tick.fields["decision"]["tick"] for tick in recent] == list(range(20, 30))
    assert await source.after(recent[-1].id) == []


async def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    write_log(log, records(2))
    whole = log.read_bytes()
    log.write_bytes(whole[:-20])
    source = LogSource(log)
    assert len(await source.recent(3600.0)) == 1
    log.write_bytes(whole)
    assert len(await source.after("")) == 1


async def test_a_log_that_was_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    write_log(log, records(3))
    source = LogSource(log)
    assert len(await source.recent(3600.0)) == 3
    write_log(tmp_path / "other", records(2))
    (tmp_path / "other").replace(log)
    assert len(await source.after("")) == 2


@pytest.mark.parametrize(
    ("content", "said"), [(b"hello\n", "no decision log"), (None, "No such file")], ids=["something else", "nothing"]
)
async def test_what_is_no_log_is_told(tmp_path: Path, content: bytes | None, said: str) -> None:
    log = tmp_path / "decisions.jsonl"
    if content is not None:
        log.write_bytes(content)
    with pytest.raises(SourceError, match=said) as caught:
        await LogSource(log).recent(60.0)
    assert str(log) in str(caught.value)
    assert "decisions.jsonl of a sidecar" in str(caught.value)


async def test_a_store_that_is_gone_is_told(store: Store) -> None:
    source = StoreSource(Store("redis://127.0.0.1:1/0"), "redis://127.0.0.1:1")
    with pytest.raises(SourceError, match="is the server up"):
        await source.recent(60.0)
    await source.close()


async def test_an_empty_store_has_no_ticks_and_nobody_leads(store: Store) -> None:
    source = StoreSource(store, "store")
    assert await source.recent(60.0) == []
    assert await source.leader() is None
    await store.acquire("me:1", 30.0)
    assert await source.leader() == "me:1"


async def test_closed_segments_are_read_as_far_back_as_the_span_reaches(tmp_path: Path) -> None:
    kept = records(30)
    log = tmp_path / "decisions.jsonl"
    with DecisionLog(log, kept[0].sitting, keeping=Keeping(segment_bytes=60_000)) as writer:
        for record in kept[:20]:
            writer.append(record)
        assert len(segments(log)) >= 2
        source = LogSource(log)
        recent = await source.recent(155.0)
        assert [tick.fields["decision"]["tick"] for tick in recent] == list(range(4, 20))
        assert [tick.fields["decision"]["tick"] for tick in await source.recent(3600.0)] == list(range(20))
        later = []
        for record in kept[20:]:  # the file is closed and begun anew meanwhile
            writer.append(record)
            later += await source.after("")
    later += await source.after("")
    assert [tick.fields["decision"]["tick"] for tick in later] == list(range(20, 30))
    await source.close()
