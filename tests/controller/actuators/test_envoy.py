"""Routing through a real Envoy, steered by files, before real replicas in miniature."""

import asyncio
import math
import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from poolpilot.controller.actuators.envoy import Applied, EnvoyRejected, EnvoyUnreachable, reason_in
from poolpilot.controller.actuators.envoy_config import ClassRoute, Endpoint, PoolBackends, RoutingTable
from poolpilot.controller.actuators.envoy_process import stop
from poolpilot.telemetry.envoy_log import StartRecord, added_s, still_open, tpot_s, ttft_s

pytestmark = pytest.mark.e2e

Table = Callable[..., RoutingTable]
A_ONLY, B_ONLY = (("A", 1.0), ("B", 0.0)), (("A", 0.0), ("B", 1.0))
CHAT = ClassRoute("chat", A_ONLY)
BATCH = ClassRoute("batch", B_ONLY, body_match={"metadata.slo_class": "batch"})
EMBED = ClassRoute("embed", B_ONLY, path_prefix="/v1/embeddings")
CODE = ClassRoute("code", B_ONLY, body_match={"model": "coder", "user": "ide"})


async def flood(proxy: Any, n: int, **kind: Any) -> Counter[tuple[int, str | None]]:
    """Statuses and replicas of `n` requests, 25 at a time."""
    seen: Counter[tuple[int, str | None]] = Counter()
    for _ in range(0, n, 25):
        seen.update((a.status, a.replica) for a in await asyncio.gather(*(proxy.ask(**kind) for _ in range(25))))
    return seen


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({"slo_class": "batch"}, "batch"),
        ({"slo_class": "chat", "body": {"metadata": {"slo_class": "batch"}}}, "chat"),
        ({"body": {"metadata": {"slo_class": "batch"}}}, "batch"),
        ({"body": {"model": "coder", "user": "ide"}}, "code"),
        ({"body": {"model": "coder"}}, "chat"),
        ({"path": "/v1/embeddings"}, "embed"),
        ({"slo_class": "nobody-knows", "body": {"metadata": {"slo_class": "batch"}}}, "chat"),
        ({}, "chat"),
    ],
    ids=[
        "header",
        "header over body",
        "body field",
        "two body fields",
        "one of two is not enough",
        "path",
        "unknown header is the default, whatever the body says",
        "default",
    ],
)
async def test_class_of_a_request(proxy: Any, table: Table, kind: dict[str, Any], expected: str) -> None:
    await proxy.files.apply(table(CHAT, BATCH, EMBED, CODE, A="a1", B="b1"))
    answer = await proxy.ask(**kind)
    (record,) = await proxy.ended(1)
    assert answer.status == 200
    assert record.class_name == expected
    assert record.asked_class == kind.get("slo_class")
    assert (record.pool, answer.replica) == (("A", "a1") if expected == "chat" else ("B", "b1"))


async def test_weights_are_kept_and_independent_of_admission(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(ClassRoute("chat", (("A", 0.7), ("B", 0.3)), admit_frac=0.5), A="a1 a2", B="b1"))
    seen = await flood(proxy, 2000)
    shed = seen.pop((429, None))
    served = seen.total()
    assert abs(shed - 1000) < 5 * math.sqrt(2000 * 0.25)  # 5 standard deviations of a binomial
    assert abs(seen[200, "b1"] - 0.3 * served) < 5 * math.sqrt(served * 0.21)
    assert min(seen[200, "a1"], seen[200, "a2"]) > 0.3 * 0.7 * served


async def test_what_is_turned_away_is_told_when_to_come_back(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(ClassRoute("chat", A_ONLY, admit_frac=0.0, retry_after_s=17), A="a1", B="b1"))
    answer = await proxy.ask()
    (record,) = await proxy.ended(1)
    assert (answer.status, answer.retry_after) == (429, "17")
    assert "retry after 17 s" in answer.text
    assert record.shed
    assert (record.class_name, record.pool, record.attempts) == ("chat", None, 0)


async def test_weights_change_under_load_without_a_failure(proxy: Any, table: Table) -> None:
    done = asyncio.Event()
    seen: Counter[int] = Counter()

    async def client() -> None:
        while not done.is_set():
            seen[(await proxy.ask({"first_s": 0.002})).status] += 1

    clients = [asyncio.create_task(client()) for _ in range(16)]
    pools = ({"A": "a1 a2", "B": "b1"}, {"A": "a2", "B": "b1 b2"}, {"A": "a1 a2", "B": "b2"}, {"B": "b1"})
    for step in range(20):
        members = pools[step % 4]
        share = ClassRoute("chat", tuple((name, step % 3 + 1.0) for name in members))
        assert isinstance(await proxy.files.apply(table(share, **members)), Applied)
    done.set()
    await asyncio.gather(*clients)
    assert set(seen) == {200}
    assert seen[200] > 100


async def test_tokens_and_times_in_the_log(proxy: Any, table: Table) -> None:
    ask = {"stream": True, "first_s": 0.15, "gap_s": 0.02, "n": 6, "prompt": 11}
    answers = [await proxy.ask(ask) for _ in range(7)]
    await proxy.ask({"n": 4, "prompt": 9})
    *streams, plain = await proxy.ended(8)
    assert {(r.prompt_tokens, r.completion_tokens, r.streamed) for r in streams} == {(11, 6, True)}
    assert (plain.prompt_tokens, plain.completion_tokens, plain.streamed) == (9, 4, False)
    # Medians and wide ends, for a machine that has other work: the headers come 150 ms before the first token.
    logged_s = statistics.median(map(ttft_s, streams))
    assert 0.149 <= logged_s < 0.3
    assert abs(logged_s - statistics.median(a.first_body_s for a in answers)) < 0.05
    assert 0.019 <= statistics.median(map(tpot_s, streams)) < 0.06
    assert statistics.median(map(added_s, streams)) < 0.1
    assert math.isnan(ttft_s(plain))
    assert math.isnan(tpot_s(plain))


async def test_a_request_is_in_flight_from_its_start_entry_to_its_end(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(CHAT, BATCH, A="a1", B="b1"))
    body = {"stream": True, "first_s": 0.4, "metadata": {"slo_class": "batch"}}
    asked = asyncio.create_task(proxy.ask(body))
    await asyncio.sleep(0.25)
    begun = proxy.log.read()
    (start,) = still_open({}, begun).values()
    assert (start.class_name, start.pool) == ("batch", "B")
    await asked
    await proxy.ended(1)
    assert still_open({start.stream_id: start}, proxy.records) == {}


async def test_a_client_that_leaves_is_logged_as_no_success(proxy: Any) -> None:
    asked = asyncio.create_task(proxy.ask({"stream": True, "first_s": 5.0}))
    await asyncio.sleep(0.2)
    asked.cancel()
    (record,) = await proxy.ended(1)
    assert "DC" in record.flags
    assert not record.succeeded
    assert record.class_name == "chat"


async def test_prompt_and_answer_of_megabytes(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(CHAT, BATCH, A="a1", B="b1"))
    body = {"text": "x" * 5_000_000, "metadata": {"slo_class": "batch"}, "pad_bytes": 3_000_000, "prompt": 77}
    answer = await proxy.ask(body)
    (record,) = await proxy.ended(1)
    assert (answer.status, answer.replica) == (200, "b1")
    assert len(answer.text) > 3_000_000
    assert record.prompt_tokens == 77


async def test_a_class_timeout_ends_what_takes_too_long(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(ClassRoute("chat", A_ONLY, timeout_s=0.2), A="a1", B="b1"))
    assert (await proxy.ask({"first_s": 3.0})).status == 504
    assert (await proxy.ask({"first_s": 0.01})).status == 200


async def test_a_pool_without_ready_replicas_spills(proxy: Any, table: Table) -> None:
    share = ClassRoute("chat", (("A", 1.0), ("B", 0.0)))
    await proxy.files.apply(table(share, A="a1", B="b1"))
    assert set(await flood(proxy, 25)) == {(200, "a1")}
    await proxy.files.apply(table(share, A="", B="b1"))
    assert set(await flood(proxy, 25)) == {(200, "b1")}
    await proxy.files.apply(table(share, A="", B=""))
    nobody = await proxy.ask()
    assert (nobody.status, nobody.retry_after) == (503, "1")
    await proxy.files.apply(table(share, A="a1", B=""))
    assert set(await flood(proxy, 25)) == {(200, "a1")}


async def test_a_pool_that_dies_between_two_ticks_spills_too(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(CHAT, A="a1 a2", B="b1 b2"))
    waiting = [asyncio.create_task(proxy.ask({"first_s": 0.3})) for _ in range(20)]
    await asyncio.sleep(0.1)
    await proxy.replicas["a1"].die()
    await proxy.replicas["a2"].die()
    seen = await flood(proxy, 300)
    for _ in range(30):  # past the health checks' verdict
        seen += await flood(proxy, 25)
        await asyncio.sleep(0.03)
    seen.update((a.status, a.replica) for a in await asyncio.gather(*waiting))
    assert {status for status, _ in seen} == {200}
    assert {replica for _, replica in seen} == {"b1", "b2"}
    records = await proxy.ended(seen.total())
    assert {record.pool for record in records} == {"B"}  # where it was served, not where it was sent first
    assert max(record.attempts for record in records) > 1
    assert records[-1].attempts == 1


async def test_a_replica_that_dies_costs_only_answers_begun(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(ClassRoute("chat", (("A", 1.0), ("B", 1.0))), A="a1 a2", B="b1"))
    streams = [asyncio.create_task(proxy.ask({"stream": True, "gap_s": 0.1, "n": 8})) for _ in range(12)]
    plain = [asyncio.create_task(proxy.ask({"first_s": 0.5})) for _ in range(30)]
    await asyncio.sleep(0.25)
    on_a1 = sum(
        record.host.endswith(f":{proxy.replicas['a1'].port}")
        for record in proxy.log.read()
        if isinstance(record, StartRecord)
    )
    await proxy.replicas["a1"].die()
    assert {answer.status for answer in await asyncio.gather(*plain)} == {200}
    broken = [answer.status for answer in await asyncio.gather(*streams)].count(0)
    assert on_a1 > 0
    assert broken < min(on_a1, 12)


@pytest.mark.parametrize("failing", [503, 500], ids=["503 is tried elsewhere", "500 is the client's to see"])
async def test_a_replica_that_answers_an_error(proxy: Any, table: Table, failing: int) -> None:
    await proxy.files.apply(table(CHAT, A="a1 a2", B="b1"))
    proxy.replicas["a1"].status = failing
    seen = await flood(proxy, 50)
    assert ((500, "a1") in seen) == (failing == 500)
    assert {status for status, _ in seen} <= {200, 500}


@pytest.mark.parametrize(
    "after",
    [{"A": "a2", "B": "b1"}, {"A": "", "B": "b1"}, {"B": "b1"}],
    ids=["one replica", "the last replica", "the whole pool"],
)
async def test_draining_cuts_no_stream(proxy: Any, table: Table, after: dict[str, str]) -> None:
    await proxy.files.apply(table(CHAT, A="a1", B="b1"))
    stream = asyncio.create_task(proxy.ask({"stream": True, "gap_s": 0.1, "n": 12}))
    await asyncio.sleep(0.3)
    share = ClassRoute("chat", tuple((name, 1.0) for name in after))
    await proxy.files.apply(table(share, **after))
    assert (200, "a1") not in await flood(proxy, 50)
    answer = await stream
    assert (answer.status, answer.replica) == (200, "a1")
    assert "[DONE]" in answer.text


async def test_the_same_table_twice_writes_nothing(proxy: Any, table: Table) -> None:
    wanted = table(CHAT, A="a1", B="b1")
    changed = await proxy.files.apply(wanted)
    stamps = {path.name: path.stat().st_mtime_ns for path in proxy.files.folder.iterdir()}
    assert set(changed.versions) == {"cds.json", "rds.json", "eds-A.json", "eds-B.json"} == set(stamps)
    assert await proxy.files.apply(wanted) is None
    assert stamps == {path.name: path.stat().st_mtime_ns for path in proxy.files.folder.iterdir()}


async def test_what_envoy_refuses_is_reported_and_the_old_goes_on(proxy: Any, table: Table) -> None:
    good = table(CHAT, A="a1", B="b1")
    await proxy.files.apply(good)
    bad = RoutingTable((CHAT,), (PoolBackends("A", (Endpoint("not-an-address", 80),)), good.pools[1]), "chat")
    with pytest.raises(EnvoyRejected, match=r"eds-A\.json.*malformed IP address: not-an-address"):
        await proxy.files.apply(bad)
    assert set(await flood(proxy, 25)) == {(200, "a1")}
    assert await proxy.files.apply(good) is None


async def test_replicas_come_and_go_while_routes_are_refused(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(CHAT, A="a1", B="b1"))
    # A field with an empty name between two dots is fine with us, and not with Envoy.
    refused = ClassRoute("batch", B_ONLY, body_match={"metadata..slo_class": "batch"})
    for _ in range(2):
        with pytest.raises(EnvoyRejected, match=r"rds\.json") as caught:
            await proxy.files.apply(table(CHAT, refused, A="a2", B="b1"))
        assert caught.value.endpoints_follow
        assert set(await flood(proxy, 25)) == {(200, "a2")}
    assert await proxy.files.apply(table(CHAT, A="a2", B="b1")) is None


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ('config update rejected: malformed IP address: x: {"a": 1}\n', "malformed IP address: x"),
        ("config update rejected: no such cluster\n[2026-01-01 00:00:00.000][7][info] more\n", "no such cluster"),
        ('config update rejected: goo.gle/debugstr   \nrules {\n  key: ""\n}\n: Key: too short\n', "Key: too short"),
        ("config update failure: first\n[2026-01-01 00:00:00.000][7] config update failure: last\n", "last"),
        ("[2026-01-01 00:00:00.000][7][info] all is well\n", None),
    ],
    ids=["document after it", "one line", "document before it", "the last one counts", "nothing refused"],
)
def test_the_reason_is_found_in_envoys_log(entry: str, reason: str | None) -> None:
    assert reason_in(entry) == reason


async def test_an_envoy_that_is_gone_is_reported(proxy: Any, table: Table) -> None:
    await stop(proxy.envoy)
    with pytest.raises(EnvoyUnreachable, match=proxy.envoy.admin_url):
        await proxy.files.apply(table(CHAT, A="a1", B="b1"))
