"""The store against a real embedded Valkey: what was written comes back, and a lost server is an error in time."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import redis.asyncio as redis

from poolpilot.env.contract import (
    Action,
    Decision,
    Mode,
    Reason,
    ReasonCode,
    SchemaError,
    Snapshot,
    blank_snapshot,
)
from poolpilot.env.wire import to_json
from poolpilot.telemetry.store import Keeping, Lease, Store, StoreError, Superseded, TickEntry
from poolpilot.telemetry.valkey import EmbeddedValkey, embedded_valkey

pytestmark = pytest.mark.e2e
PATIENCE_S = 1.0


@pytest_asyncio.fixture
async def server() -> AsyncIterator[EmbeddedValkey]:
    async with embedded_valkey() as running:
        yield running


@pytest_asyncio.fixture
async def store(server: EmbeddedValkey) -> AsyncIterator[Store]:
    async with Store(server.url, timeout_s=2.0) as opened:
        yield opened


def a_snapshot(time_s: float) -> Snapshot:
    snapshot = blank_snapshot(time_s, n_classes=2, n_pools=3)
    snapshot.pools[0, 0] = 4.0
    return snapshot


def a_decision(tick: int) -> Decision:
    action = Action(
        route=np.array([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]),
        admit=np.ones(2),
        batch_cap=np.full(3, 64.0),
        token_budget=np.full(3, 2048.0),
        replicas=np.array([1.0, 2.0, 0.0]),
    )
    return Decision(
        tick=tick,
        time_s=10.0 * tick,
        proposed=action,
        applied=replace(action, replicas=np.array([1.0, 1.0, 0.0])),
        reasons=(Reason(ReasonCode.BUDGET, "l4", 2.0, 1.0, "5.20 $/h of 5.00"),),
        expected_usd_per_hr=float("inf"),
        expected_attainment=np.array([0.99, np.nan]),
        policy_name="static",
        policy_hash="abc",
        mode=Mode.ADVISE,
        fencing_token=7,
    )


def a_tick(tick: int, sitting: str = "s1") -> TickEntry:
    fields = {"snapshot": a_snapshot(10.0 * tick), "decision": a_decision(tick)}
    texts = {name: json.dumps(to_json(value)) for name, value in fields.items()}
    return TickEntry(sitting, json.dumps({"scenario": sitting}), {**texts, "memory": "{}"})


async def test_what_was_appended_is_read_back(store: Store) -> None:
    for tick in range(3):
        await store.append_tick(a_tick(tick), token=7)
    snapshots, decisions = await store.snapshots(count=2), await store.decisions(count=10)
    assert [to_json(s) for _, s in snapshots] == [to_json(a_snapshot(10.0)), to_json(a_snapshot(20.0))]
    assert [to_json(d) for _, d in decisions] == [to_json(a_decision(tick)) for tick in range(3)]
    assert to_json(await store.latest_snapshot()) == to_json(a_snapshot(20.0))
    assert to_json(await store.latest_decision()) == to_json(a_decision(2))
    assert [entry for _, entry in await store.ticks(count=2)] == [a_tick(1), a_tick(2)]


async def test_reading_goes_on_after_the_last_id_seen(store: Store) -> None:
    first = await store.append_tick(a_tick(0))
    second = await store.append_tick(a_tick(1))
    assert [entry_id for entry_id, _ in await store.snapshots(count=5, after=first)] == [second]
    assert await store.snapshots(count=5, after=second) == []


async def test_an_empty_store_has_no_latest(store: Store) -> None:
    assert await store.latest_snapshot() is None
    assert await store.latest_decision() is None
    assert await store.snapshots(count=5) == []


@pytest.mark.parametrize(
    "keep",
    [Keeping(ticks=20), Keeping(bytes=20_000), Keeping(age_s=0.05)],
    ids=["too many", "too large", "too old"],
)
async def test_old_entries_go(server: EmbeddedValkey, keep: Keeping) -> None:
    async with Store(server.url, keep=keep, timeout_s=5.0) as store:
        for tick in range(120):
            if tick == 119:
                await asyncio.sleep(0.1)
            await store.append_tick(TickEntry("s", "{}", {"snapshot": json.dumps(to_json(blank_snapshot(tick, 1, 1)))}))
        kept = await store.snapshots(count=1000)
    assert 1 <= len(kept) < 120  # the server trims whole nodes of its stream
    assert float(kept[-1][1].time_s) == 119.0


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}'], ids=["no JSON", "no object", "another schema"])
async def test_a_foreign_entry_is_named(store: Store, server: EmbeddedValkey, text: str) -> None:
    async with redis.Redis.from_url(server.url) as client:
        await client.set("poolpilot:latest:snapshot", text)
    with pytest.raises(SchemaError, match="poolpilot:latest:snapshot"):
        await store.latest_snapshot()


async def test_a_key_of_another_kind_is_a_store_error(store: Store, server: EmbeddedValkey) -> None:
    async with redis.Redis.from_url(server.url) as client:
        await client.set("poolpilot:ticks", "text")
    with pytest.raises(StoreError, match=r"append a tick.*WRONGTYPE"):
        await store.append_tick(a_tick(0))


async def test_a_server_that_died_is_an_error_until_it_is_back(tmp_path: Path) -> None:
    async with embedded_valkey(tmp_path) as server, Store(server.url, timeout_s=10.0) as store:
        port = int(server.url.split(":")[-1].split("/")[0])
        await store.append_tick(a_tick(0))
        os.kill(server.pid, signal.SIGKILL)
        for _ in range(3):
            with pytest.raises(StoreError, match=f"127.0.0.1:{port}"):
                await store.append_tick(a_tick(1))
        async with embedded_valkey(tmp_path / "again", port=port):
            assert await store.latest_snapshot() is None
            await store.append_tick(a_tick(2))
            assert to_json(await store.latest_snapshot()) == to_json(a_snapshot(20.0))


async def test_a_server_that_hangs_is_an_error_and_mixes_up_no_answers(server: EmbeddedValkey) -> None:
    async with Store(server.url, timeout_s=PATIENCE_S) as store:
        await store.append_tick(a_tick(0))
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreError, match="latest:decision"):
                await store.latest_decision()
            with pytest.raises(StoreError, match="append a tick"):
                await store.append_tick(a_tick(1))
        finally:
            os.kill(server.pid, signal.SIGCONT)
        async with Store(server.url, timeout_s=10.0) as patient:
            await patient.ping()
        assert to_json(await store.latest_snapshot()) == to_json(a_snapshot(0.0))


async def test_operations_at_the_same_time_do_not_mix(store: Store) -> None:
    ids = await asyncio.gather(*(store.append_tick(a_tick(n)) for n in range(20)))
    assert len(set(ids)) == 20
    assert len(await store.snapshots(count=100)) == 20


async def test_a_tick_knows_its_sitting_however_many_there_were(store: Store, server: EmbeddedValkey) -> None:
    for name in ("first", "second", "first"):
        await store.append_tick(a_tick(0, name))
    assert [entry.sitting_json for _, entry in await store.ticks(count=9)] == [
        json.dumps({"scenario": name}) for name in ("first", "second", "first")
    ]
    async with redis.Redis.from_url(server.url) as client:
        await client.delete("poolpilot:sittings")
    with pytest.raises(SchemaError, match="its sitting 'first' is not in poolpilot:sittings"):
        await store.ticks(count=1)


async def test_a_leader_of_the_past_appends_nothing(store: Store) -> None:
    old = await store.acquire("a", 0.01)
    await store.append_tick(a_tick(0), old.token)
    new = await _won(store, "b")
    assert new.token > old.token
    await store.append_tick(a_tick(1), new.token)
    with pytest.raises(Superseded, match=f"fencing token {new.token} leads now, this writer has {old.token}"):
        await store.append_tick(a_tick(2), old.token)
    assert to_json(await store.latest_decision()) == to_json(a_decision(1))
    assert len(await store.ticks(count=9)) == 2


async def test_the_lease_is_one_holders_until_it_runs_out_or_is_given_up(store: Store) -> None:
    held = await store.acquire("a", 60.0)
    assert await store.acquire("b", 60.0) == await store.acquire("a", 60.0) == held == await store.leader()
    assert not (await store.renew(held, 60.0)).standby
    assert await store.wait_behind("b", 60.0) == held
    assert (await store.renew(held, 60.0)).standby
    assert not (await store.renew(Lease("b", 9), 60.0)).ours
    await store.release(Lease("b", 9))
    assert await store.leader() == held
    await store.release(held)
    assert await store.leader() is await store.wait_behind("b", 60.0) is None
    after = await store.acquire("b", 60.0)
    assert (after.holder, after.token) == ("b", held.token + 1)
    lost = await store.renew(held, 60.0)
    assert (lost.ours, lost.newest) == (False, after.token)
    assert not (await store.renew(after, 60.0)).standby  # it waits no more


async def test_a_lease_that_lapsed_is_renewed_unless_somebody_else_had_it_since(store: Store) -> None:
    held = await store.acquire("a", 0.01)
    await asyncio.sleep(0.05)
    assert await store.leader() is None
    assert (await store.renew(held, 0.01)).ours
    await asyncio.sleep(0.05)
    other = await _won(store, "b", ttl_s=0.01)
    await asyncio.sleep(0.05)
    assert await store.leader() is None
    assert not (await store.renew(held, 60.0)).ours
    assert (await store.renew(other, 60.0)).ours


async def test_a_server_that_lost_its_memory_hands_out_no_tokens_of_the_past(
    store: Store, server: EmbeddedValkey
) -> None:
    held = [await store.acquire("a", 60.0)]
    held.append(await store.acquire("a", 60.0, floor=41))
    assert held[0] == held[1]
    async with redis.Redis.from_url(server.url) as client:
        await client.flushall()
    again = await store.acquire("b", 60.0, floor=41)
    assert again.token == 42
    async with redis.Redis.from_url(server.url) as client:
        await client.flushall()
    assert (await store.renew(again, 60.0)).ours
    assert (await store.acquire("c", 60.0)) == again


async def _won(store: Store, holder: str, ttl_s: float = 60.0) -> Lease:
    async with asyncio.timeout(30):
        while (lease := await store.acquire(holder, ttl_s)).holder != holder:
            await asyncio.sleep(0.01)
    return lease


async def test_an_absent_server_is_an_error_without_its_password() -> None:
    with socket.socket() as held:  # bound but not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        url = f"redis://user:secret@127.0.0.1:{held.getsockname()[1]}/0"
        async with Store(url, timeout_s=PATIENCE_S) as store:
            with pytest.raises(StoreError, match="PING") as caught:
                await store.ping()
    assert "secret" not in str(caught.value)


async def test_a_server_that_accepts_and_says_nothing_is_an_error() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        async with Store(f"redis://127.0.0.1:{mute.getsockname()[1]}/0", timeout_s=PATIENCE_S) as store:
            with pytest.raises(StoreError, match=r"within 1 s|[Tt]imeout"):
                await store.latest_snapshot()


@pytest.mark.parametrize("url", ["localhost:6379", "http://host/", "redis://host:port/0"])
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="store URL"):
        Store(url)
