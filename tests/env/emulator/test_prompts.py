"""An emulated replica shares what prompts begin with, and serves by priority."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from poolpilot.env.emulator.openai_requests import ApiError, Served, chat, completion
from poolpilot.env.emulator.prompts import Prompt, PromptTree, Role, room_for_prompts
from poolpilot.env.emulator.replica import EngineFlags, replica_spec
from poolpilot.env.emulator.session import Session
from poolpilot.env.perf.law import LAW_WIDTH
from poolpilot.env.perf.roofline import KV_BLOCK_TOKENS
from poolpilot.env.sim.engine_state import NONE, PS_PER_S, make_engine

SERVED = Served(("tiny",), 4096, prefix_caching=True)


def asked(**document: Any) -> tuple[tuple[int, ...], ...]:
    """Keys of a completion's prompts."""
    return completion(json.dumps({"max_tokens": 5, **document}).encode(), SERVED).block_keys


def test_prompts_that_begin_alike_have_the_same_first_keys() -> None:
    text, other = "x" * 300, "x" * 200 + "y" * 100
    (one,), (two,) = asked(prompt=text), asked(prompt=other)
    assert (len(one), len(two)) == (300 // 64, 300 // 64)
    assert one[:3] == two[:3]
    assert one[3] != two[3]
    assert len({*one, *two}) == 5
    ids, more = list(range(40)), [*range(40), 7]
    assert asked(prompt=[ids, more]) == (asked(prompt=ids)[0],) * 2
    assert asked(prompt=list(range(1, 41)))[0][0] != asked(prompt=ids)[0][0]


def test_a_conversation_goes_on_with_the_keys_of_its_turns_before() -> None:
    turns = [{"role": "system", "content": "s" * 256}, {"role": "user", "content": "u" * 50}]
    later = [*turns, {"role": "assistant", "content": "a" * 99}, {"role": "user", "content": "v"}]
    (one,), (two,) = (
        chat(json.dumps({"messages": messages, "max_tokens": 1}).encode(), SERVED).block_keys
        for messages in (turns, later)
    )
    assert len(two) > len(one) == (4 + 64 + 4 + 13) // KV_BLOCK_TOKENS
    assert two[: len(one)] == one
    assert len(Prompt((Role("user"), "12345", [1, 2, 3]))) == 4 + 2 + 3


def test_keys_are_made_only_where_prefixes_are_cached() -> None:
    body = json.dumps({"prompt": "x" * 300, "priority": -3}).encode()
    ask = completion(body, replace(SERVED, prefix_caching=False))
    assert (ask.block_keys, ask.priority) == ((), -3)
    with pytest.raises(ApiError, match="priority: 2147483648, wanted a whole number"):
        completion(json.dumps({"prompt": "x", "priority": 2**31}).encode(), SERVED)


def a_session(**flags: Any) -> Session:
    """A replica on an L40S."""
    return Session(replica_spec("L40S-48GB", "llama-2-13b", "fp8", 1, EngineFlags(max_model_len=4096, **flags)))


def test_a_second_prompt_is_computed_from_where_it_differs() -> None:
    session = a_session(prefix_caching=True)
    keys = Prompt(("x" * 4000,)).block_keys()
    first_s = []
    for start_s in (0, 100):
        ticket = session.submit(start_s * PS_PER_S, 1000, 1, block_keys=keys)
        session.advance((start_s + 50) * PS_PER_S)
        first_s.append(session.tally.ttft.total - sum(first_s))
        assert ticket.tokens == 1
    assert first_s[1] < 0.4 * first_s[0]
    figures = session.figures(200 * PS_PER_S)
    assert (figures.prefix_queries, figures.prefix_hits) == (2000, 62 * KV_BLOCK_TOKENS)


def test_sleep_forgets_what_was_cached() -> None:
    session = a_session(prefix_caching=True)
    keys = Prompt(("x" * 4000,)).block_keys()
    session.submit(0, 1000, 1, block_keys=keys)
    session.advance(50 * PS_PER_S)
    session.sleep(60 * PS_PER_S, 1)
    session.wake_up(70 * PS_PER_S)
    session.submit(80 * PS_PER_S, 1000, 1, block_keys=keys)
    session.advance(150 * PS_PER_S)
    assert session.figures(200 * PS_PER_S).prefix_hits == 0


@pytest.mark.parametrize(("scheduling", "first"), [("fcfs", 1), ("priority", 2)])
def test_the_lower_priority_number_goes_first_where_the_engine_schedules_by_it(scheduling: str, first: int) -> None:
    session = a_session(scheduling=scheduling, max_num_seqs=1)
    tickets = [session.submit(0, 100, 50, priority=priority) for priority in (0, 5, -5)]
    while not any(ticket.tokens for ticket in tickets[1:]):
        session.advance(session.due_ps)
    assert [ticket.tokens > 0 for ticket in tickets].index(True, 1) == first


def test_nodes_are_forgotten_when_neither_cache_nor_requests_have_them() -> None:
    blocks = 40
    engine = make_engine(
        np.ones((1, LAW_WIDTH)), blocks, 4, 64, 4096, 4, 4, prefix_caching=True, prefixes=room_for_prompts(blocks)
    )
    tree = PromptTree(engine)
    rng = np.random.default_rng(0)
    for _ in range(200):
        keys = Prompt((rng.integers(0, 1000, 400).tolist(),)).block_keys()
        engine, node = tree.node_of(engine, keys, list)
        assert len(tree) <= 2 * blocks
        path = []
        while node != NONE:
            path.append(int(engine.nodes[node]["end"]))
            node = int(engine.nodes[node]["parent"])
        assert path == list(range(25, 0, -1))
    kept: list[int] = []
    for _ in range(20):
        keys = Prompt((rng.integers(0, 1000, 400).tolist(),)).block_keys()
        engine, node = tree.node_of(engine, keys, lambda: kept)
        kept.append(node)
    assert len(engine.nodes) > 20 * 25
    assert len(set(kept)) == 20
    assert {int(engine.nodes[node]["end"]) for node in kept} == {25}
