"""Routing through a real Envoy, steered by files, before real replicas in miniature."""

import asyncio
import math
import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from poolpilot.controller.actuators.envoy import Applied
from poolpilot.controller.actuators.envoy_config import ClassRoute, RoutingTable
from poolpilot.telemetry.envoy_log import added_s, tpot_s, ttft_s

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
    # Medians, for a machine that has other work: 30 ms is a sixth of the delay, headers would be 150 ms off.
    logged_s = statistics.median(map(ttft_s, streams))
    assert 0.15 <= logged_s < 0.18
    assert abs(logged_s - statistics.median(a.first_body_s for a in answers)) < 0.03
    assert 0.02 <= statistics.median(map(tpot_s, streams)) < 0.04
    assert statistics.median(map(added_s, streams)) < 0.03
    assert math.isnan(ttft_s(plain))
    assert math.isnan(tpot_s(plain))
