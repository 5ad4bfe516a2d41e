"""How a real Envoy tells classes apart: by header, by a request's own targets, by model, by length, by path."""

from collections.abc import Callable
from typing import Any

import pytest

from poolpilot.controller.actuators.envoy_config import ClassRoute, RoutingTable, Span

pytestmark = pytest.mark.e2e

Table = Callable[..., RoutingTable]
EVERYWHERE = (("A", 1.0),)
FAST = ClassRoute("fast", EVERYWHERE, ttft_ms=300.0, tpot_ms=30.0)
CHAT = ClassRoute("chat", EVERYWHERE, ttft_ms=1000.0, tpot_ms=100.0)
SLOW = ClassRoute("slow", EVERYWHERE, ttft_ms=8000.0)
EMBED = ClassRoute("embed", EVERYWHERE, path_prefix="/v1/embeddings")


def own(ttft: object = None, tpot: object = None, slo_class: str | None = None) -> dict[str, str]:
    """Headers of a request."""
    named = {"x-slo-ttft-ms": ttft, "x-slo-tpot-ms": tpot, "x-slo-class": slo_class}
    return {name: str(value) for name, value in named.items() if value is not None}


async def classes_of(proxy: Any, *requests: tuple[dict[str, str], dict[str, Any], str]) -> list[str | None]:
    """The class that Envoy gave each request of headers, body and path."""
    for headers, body, path in requests:
        async with proxy.client.post(proxy.envoy.url + path, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
    return [record.class_name for record in await proxy.ended(len(requests))]


CHAT_PATH = "/v1/chat/completions"
OWN_TARGETS = [
    (own(ttft=250), "fast"),
    (own(ttft=500), "fast"),  # 500 is nearer to 300 than to 1000 by the factor between them
    (own(ttft=600), "chat"),
    (own(ttft=2000), "chat"),
    (own(ttft=100_000), "slow"),
    (own(tpot=40), "fast"),
    (own(tpot=1e3), "chat"),  # slow promises no time per token, so it cannot be the nearest
    (own(ttft=9000, tpot=90), "chat"),
    (own(ttft=900, tpot=12), "fast"),  # the sum decides: a factor of 3 and 2.5, against 1.1 and 8.3
    (own(ttft=547.7225575), "fast"),  # as near to both: the stricter one
    (own(ttft="0.3"), "fast"),
    (own(ttft=300, slo_class="slow"), "slow"),  # the class header comes first
    (own(ttft=300, slo_class="nobody-knows"), "chat"),
    (own(ttft="soon"), "chat"),  # no number: as if it were not there
    (own(ttft=-5), "chat"),
    (own(ttft=0), "chat"),
    (own(ttft="inf"), "chat"),
]


async def test_a_request_with_targets_of_its_own_is_of_the_nearest_class(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(CHAT, FAST, SLOW, EMBED, A="a1"))
    found = await classes_of(proxy, *((headers, {}, CHAT_PATH) for headers, _ in OWN_TARGETS))
    assert dict(enumerate(found)) == dict(enumerate(expected for _, expected in OWN_TARGETS))


async def test_own_targets_come_before_what_a_class_is_recognised_by(proxy: Any, table: Table) -> None:
    by_body = ClassRoute("by-body", EVERYWHERE, body_match={"user": "ide"})
    await proxy.files.apply(table(CHAT, FAST, EMBED, by_body, A="a1"))
    found = await classes_of(
        proxy,
        (own(ttft=200), {"user": "ide"}, "/v1/embeddings"),
        (own(ttft="soon"), {"user": "ide"}, CHAT_PATH),
        ({}, {"user": "ide"}, CHAT_PATH),
        ({}, {}, "/v1/embeddings"),
    )
    assert found == ["fast", "by-body", "by-body", "embed"]


async def test_max_tokens_and_length(proxy: Any, table: Table) -> None:
    short = ClassRoute("short", EVERYWHERE, max_tokens=Span(0, 100))
    long_answer = ClassRoute("long-answer", EVERYWHERE, max_tokens=Span(1000))
    long_prompt = ClassRoute("long-prompt", EVERYWHERE, body_bytes=Span(5000, 50_000))
    both = ClassRoute("huge", EVERYWHERE, body_bytes=Span(50_000), max_tokens=Span(500))
    await proxy.files.apply(table(CHAT, short, long_answer, long_prompt, both, A="a1"))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"max_tokens": 99}, "short"),
        ({"max_tokens": 100}, "chat"),
        ({"max_tokens": 1000}, "long-answer"),
        ({"max_completion_tokens": 4000}, "long-answer"),
        ({"max_tokens": 4000, "max_completion_tokens": 5}, "short"),
        ({"max_tokens": "many"}, "chat"),
        ({"max_tokens": None}, "chat"),
        ({}, "chat"),
        ({"prompt": "x" * 6000}, "long-prompt"),
        ({"prompt": "x" * 6000, "max_tokens": 10}, "short"),  # the first class in order
        ({"prompt": "x" * 60_000}, "chat"),
        ({"prompt": "x" * 60_000, "max_tokens": 500}, "huge"),
    ]
    found = await classes_of(proxy, *(({}, {"model": "m", **body}, CHAT_PATH) for body, _ in cases))
    assert dict(enumerate(found)) == dict(enumerate(expected for _, expected in cases))


async def test_a_body_sent_in_chunks_has_a_length_too(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(CHAT, ClassRoute("long-prompt", EVERYWHERE, body_bytes=Span(5000)), A="a1"))

    async def chunks(n: int) -> Any:
        yield b'{"model": "m", "pad": "'
        for _ in range(n):
            yield b"x" * 1000
        yield b'"}'

    for n in (1, 10):
        headers = {"content-type": "application/json"}
        async with proxy.client.post(proxy.envoy.url + CHAT_PATH, data=chunks(n), headers=headers) as answer:
            assert answer.status == 200
    assert [record.class_name for record in await proxy.ended(2)] == ["chat", "long-prompt"]


async def test_a_class_belongs_to_a_model(proxy: Any, table: Table) -> None:
    small = {"models": ("llama", "meta/llama")}
    large = {"models": ("qwen",)}
    classes = (
        ClassRoute("chat", EVERYWHERE, ttft_ms=1000.0, **small),
        ClassRoute("code", EVERYWHERE, ttft_ms=1000.0, **large),
        ClassRoute("code-batch", EVERYWHERE, max_tokens=Span(1000), **large),
        ClassRoute("draft", EVERYWHERE, ttft_ms=100.0, **small),
        ClassRoute("tuned", EVERYWHERE, models=("mine",), models_match=True),
    )
    await proxy.files.apply(table(*classes, A="a1"))
    cases: list[tuple[dict[str, str], dict[str, Any], str]] = [
        ({}, {"model": "llama"}, "chat"),
        ({}, {"model": "meta/llama", "max_tokens": 2000}, "chat"),  # code-batch is of the other model
        ({}, {"model": "qwen"}, "code"),
        ({}, {"model": "qwen", "max_tokens": 2000}, "code-batch"),
        ({}, {"model": "mine"}, "tuned"),
        ({}, {"model": "unknown"}, "chat"),
        (own(ttft=90), {"model": "llama"}, "draft"),
        (own(ttft=90), {"model": "qwen"}, "code"),  # the nearest class of that model
        (own(ttft=90), {"model": "mine"}, "tuned"),  # no class of that model has targets
        ({"x-slo-class": "nobody-knows"}, {"model": "qwen"}, "code"),
        ({"x-slo-class": "draft"}, {"model": "qwen"}, "draft"),  # an explicit class is believed
    ]
    found = await classes_of(proxy, *((headers, body, CHAT_PATH) for headers, body, _ in cases))
    assert dict(enumerate(found)) == dict(enumerate(expected for *_, expected in cases))


async def test_a_body_that_is_no_json_is_of_the_default_class(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(CHAT, FAST, ClassRoute("long", EVERYWHERE, max_tokens=Span(1000)), A="a1"))
    for data, kind in ((b'{"max_tokens": 5000', "application/json"), (b"\xff\x00", "application/octet-stream")):
        async with proxy.client.post(proxy.envoy.url + "/v1/files", data=data, headers={"content-type": kind}) as got:
            await got.read()
    async with proxy.client.get(proxy.envoy.url + "/v1/models") as got:
        assert got.status == 200
    assert {record.class_name for record in await proxy.ended(3)} == {"chat"}
