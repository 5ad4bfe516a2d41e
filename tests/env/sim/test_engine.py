"""What holds for the engine, whoever drives it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from poolpilot.env.perf.law import TOKENS_GRID, IterationLaw
from poolpilot.env.sim import engine as kernel
from poolpilot.env.sim.engine_state import (
    ACCEPTED,
    LARGER_THAN_KV,
    LONGER_THAN_MODEL,
    NEVER_PS,
    NONE,
    NOT_ABSENT,
    Engine,
    claim,
    grown,
    laws_ps,
    load_requests,
    make_engine,
    release,
    set_request,
)

MS = 10**9  # ps
LAW = IterationLaw(
    tokens_grid=TOKENS_GRID,
    linear_s=1e-3 * (9 + TOKENS_GRID / 4),
    attend_s_per_pair=0.0,
    kv_read_s_per_token=1e-6,
    seq_s=0.5e-3,
)


def an_engine(
    *requests: tuple[int, int],
    replicas: int = 1,
    law: IterationLaw = LAW,
    kv_blocks: int = 64,
    cap: int = 8,
    token_budget: int = 64,
    max_model_len: int = 2048,
) -> Engine:
    """Replicas with requests ready to be enqueued, given as prompt and output tokens."""
    laws = np.stack([law.as_row()] * replicas)
    engine = make_engine(laws, kv_blocks, cap, token_budget, max_model_len, max_seqs=8, capacity=max(len(requests), 1))
    if requests:
        load_requests(engine, *np.array(requests).T, np.zeros(len(requests)))
    return engine


def enqueue_all(engine: Engine, replica: int = 0) -> None:
    """Everything at once, at time 0."""
    for request in range(len(engine.requests)):
        assert kernel.enqueue(engine, replica, request, 0) == ACCEPTED


def test_lone_request_takes_what_the_law_says() -> None:
    engine = an_engine((100, 3))
    kernel.enqueue(engine, 0, 0, 5 * MS)
    kernel.run(engine, 0, NEVER_PS)
    row = engine.requests[0]
    # Chunks of 64 and 36 tokens, then two tokens that read 101 and 102.
    assert row["arrival_ps"] == 5 * MS
    assert row["first_token_ps"] == 5 * MS + (9 + 16) * MS + (9 + 9) * MS
    assert row["finish_ps"] == row["first_token_ps"] + 2 * int(9.75 * MS) + (101 + 102) * MS // 1000


def test_prefill_only_request_ends_with_its_prompt() -> None:
    engine = an_engine((100, 0))
    enqueue_all(engine)
    kernel.run(engine, 0, NEVER_PS)
    assert engine.requests[0]["finish_ps"] == (9 + 16 + 9 + 9) * MS
    assert engine.requests[0]["first_token_ps"] == -1
    assert engine.replicas[0]["generated_tokens"] == 0


@pytest.mark.parametrize(
    ("prompt", "output", "answer"),
    [
        (1024, 1, ACCEPTED),
        (1024, 2, LARGER_THAN_KV),
        (1024, 0, ACCEPTED),
        (1025, 0, LARGER_THAN_KV),
        (2000, 49, LONGER_THAN_MODEL),
    ],
    ids=["last token needs no room", "one too many", "prompt just fits", "prompt too large", "over the model's length"],
)
def test_requests_that_could_never_finish_are_refused(prompt: int, output: int, answer: int) -> None:
    engine = an_engine((prompt, output))
    assert kernel.enqueue(engine, 0, 0, 0) == answer
    kernel.run(engine, 0, NEVER_PS)
    assert engine.replicas[0]["finished"] == (answer == ACCEPTED)


def test_a_request_cannot_be_enqueued_twice() -> None:
    engine = an_engine((10, 10), replicas=2)
    assert kernel.enqueue(engine, 0, 0, 0) == ACCEPTED
    assert kernel.enqueue(engine, 1, 0, 0) == NOT_ABSENT
    kernel.run(engine, 0, NEVER_PS)
    assert kernel.enqueue(engine, 1, 0, 0) == NOT_ABSENT
    assert kernel.pop_finished(engine, 0, NEVER_PS) == 0
    assert kernel.pop_finished(engine, 0, NEVER_PS) == NONE


def test_lower_cap_throws_nobody_out_and_admits_nobody() -> None:
    engine = an_engine(*[(10, 50)] * 8, token_budget=1024)
    for request in range(6):
        kernel.enqueue(engine, 0, request, 0)
    kernel.run(engine, 0, 100 * MS)
    kernel.set_limits(engine, 0, 2, 1024)
    for request in (6, 7):
        kernel.enqueue(engine, 0, request, 100 * MS)
    kernel.run(engine, 0, 200 * MS)
    assert (engine.replicas[0]["running"], engine.replicas[0]["waiting"]) == (6, 2)
    kernel.run(engine, 0, NEVER_PS)
    first = engine.requests["first_token_ps"]
    assert first[6:].min() > engine.requests["finish_ps"][:6].max()
    with pytest.raises(ValueError, match="max_seqs"):
        kernel.set_limits(engine, 0, 9, 64)


def test_an_iteration_under_way_is_seen_as_under_way() -> None:
    engine = an_engine((40, 1), (40, 5))
    enqueue_all(engine)
    kernel.run(engine, 0, 10 * MS)  # its first iteration takes 25 ms and finishes request 0
    assert engine.replicas[0]["clock_ps"] == 25 * MS
    assert kernel.in_flight(engine, 0, 10 * MS) == 2
    assert kernel.in_flight(engine, 0, 25 * MS) == 1
    view = kernel.seen(engine, 0, 10 * MS)
    assert (view.running, view.finished, view.generated_tokens, view.busy_ps) == (2, 0, 0, 10 * MS)
    assert kernel.pop_finished(engine, 0, 10 * MS) == NONE


def test_crashed_replica_gives_back_all_requests_and_they_finish_elsewhere() -> None:
    engine = an_engine((40, 1), (40, 5), (40, 5), replicas=2, cap=2)
    enqueue_all(engine)
    kernel.run(engine, 0, 10 * MS)
    lost = np.zeros(3, dtype=np.int64)
    assert kernel.evict_all(engine, 0, 10 * MS, lost) == 3
    assert sorted(lost) == [0, 1, 2]
    rep = engine.replicas[0]
    assert (rep["busy_ps"], rep["blocks_used"], rep["finished"], rep["clock_ps"]) == (10 * MS, 0, 0, 10 * MS)
    for request in lost:
        assert kernel.enqueue(engine, 1, request, 10 * MS) == ACCEPTED
    kernel.run(engine, 1, NEVER_PS)
    assert engine.replicas[1]["finished"] == 3
    assert (engine.requests["arrival_ps"] == 0).all()


def test_slower_law_holds_from_the_next_iteration() -> None:
    engine = an_engine((10, 3))
    enqueue_all(engine)
    kernel.run(engine, 0, 1)
    prefilled = int(engine.replicas[0]["clock_ps"])
    kernel.set_law(engine, 0, laws_ps(LAW.scaled(2.0).as_row()[None])[0])
    kernel.run(engine, 0, NEVER_PS)
    assert engine.requests[0]["finish_ps"] == prefilled + 4 * int(9.75 * MS) + 2 * (11 + 12) * MS // 1000


def test_rows_are_used_again_and_the_table_grows() -> None:
    engine = an_engine()
    first = claim(engine)
    assert (first, claim(engine)) == (0, NONE)
    set_request(engine, first, 10, 2, 0)
    kernel.enqueue(engine, 0, first, 0)
    with pytest.raises(ValueError, match="an engine has it"):
        release(engine, first)
    engine = grown(engine, 3)
    second = claim(engine)
    set_request(engine, second, 10, 2, 0)
    kernel.enqueue(engine, 0, second, 0)
    kernel.run(engine, 0, NEVER_PS)
    assert kernel.pop_finished(engine, 0, NEVER_PS) == first
    release(engine, first)
    assert [claim(engine), claim(engine), claim(engine)] == [first, 2, NONE]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caps": 9}, "cap"),
        ({"kv_blocks": 0}, "blocks_total"),
        ({"block_tokens": 12}, "block_tokens"),
        ({"laws": np.ones((1, 3))}, "laws"),
        ({"laws": LAW.as_row()[None] * 0.0}, "linear_s"),
    ],
)
def test_impossible_engines_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "laws": LAW.as_row()[None],
        "kv_blocks": 4,
        "caps": 8,
        "token_budgets": 64,
        "max_model_len": 64,
        "max_seqs": 8,
        "capacity": 1,
    }
    with pytest.raises(ValueError, match=message):
        make_engine(**{**arguments, **change})


@pytest.mark.parametrize("requests", [[(0, 5)], [(5, -1)], [(5, 5), (5, 5)]], ids=["no prompt", "negative", "too many"])
def test_impossible_requests_are_refused(requests: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="requests"):
        load_requests(an_engine(), *np.array(requests).T, np.zeros(len(requests)))


loads = st.lists(st.tuples(st.integers(1, 200), st.integers(0, 120)), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(loads, st.integers(20, 60), st.integers(1, 8), st.integers(1, 300), st.integers(0, 2**32))
def test_nothing_is_created_or_lost(
    load: list[tuple[int, int]], kv_blocks: int, cap: int, token_budget: int, seed: int
) -> None:
    engine = an_engine(*load, kv_blocks=kv_blocks, cap=cap, token_budget=token_budget)
    rep, table = engine.replicas[0], engine.requests
    clock, now = 0, 0
    for request, gap in enumerate(np.random.default_rng(seed).integers(0, 200 * MS, len(load))):
        now += int(gap)
        kernel.run(engine, 0, now)
        assert kernel.enqueue(engine, 0, request, now) == ACCEPTED
        assert 0 <= rep["blocks_used"] <= kv_blocks
        assert rep["running"] <= cap
        assert rep["running"] + rep["waiting"] + rep["finished"] == request + 1
        assert rep["clock_ps"] >= clock
        clock = rep["clock_ps"]
    kernel.run(engine, 0, NEVER_PS)
    assert rep["finished"] == len(load)
    assert rep["prompt_tokens"] == table["prompt"].sum()
    assert rep["generated_tokens"] == table["output"].sum() == table["generated"].sum()
    assert (rep["blocks_used"], rep["running"], rep["waiting"], rep["context"]) == (0, 0, 0, 0)
    assert (rep["recomputed_tokens"] > 0) == (rep["sequence_preemptions"] > 0)
    assert 0 < rep["useful_ps"] <= rep["busy_ps"] <= rep["clock_ps"]
    answered = table[table["output"] > 0]
    assert (answered["first_token_ps"] > answered["arrival_ps"]).all()
    assert (answered["finish_ps"] >= answered["first_token_ps"]).all()


def _all_state(engine: Engine) -> list[NDArray[Any]]:
    # The tail of the batch holds leftovers of requests that are gone.
    batches = [engine.running[r, : rep["running"]] for r, rep in enumerate(engine.replicas)]
    return [engine.requests, engine.replicas, engine.phases, *batches]


@settings(max_examples=60, deadline=None)
@given(loads, st.integers(20, 60), st.lists(st.integers(0, 5_000), max_size=40))
def test_where_a_run_is_cut_changes_no_bit(load: list[tuple[int, int]], kv_blocks: int, cuts_ms: list[int]) -> None:
    whole, cut = (an_engine(*load, kv_blocks=kv_blocks) for _ in range(2))
    enqueue_all(whole)
    enqueue_all(cut)
    for cut_ms in sorted(cuts_ms):
        kernel.run(cut, 0, cut_ms * MS)
    kernel.run(whole, 0, NEVER_PS)
    kernel.run(cut, 0, NEVER_PS)
    for one, other in zip(_all_state(whole), _all_state(cut), strict=True):
        assert np.array_equal(one, other)


@settings(max_examples=40, deadline=None)
@given(loads, loads)
def test_replicas_do_not_touch_each_other(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    both = an_engine(*one, *other, replicas=2, kv_blocks=40)
    for request in range(len(one) + len(other)):
        kernel.enqueue(both, int(request >= len(one)), request, 0)
    for second in range(10):
        for replica in (0, 1):
            kernel.run(both, replica, second * 1000 * MS)
    finish = []
    for load in (one, other):
        alone = an_engine(*load, kv_blocks=40)
        enqueue_all(alone)
        kernel.run(alone, 0, NEVER_PS)
        finish += alone.requests["finish_ps"].tolist()
    for replica in (0, 1):
        kernel.run(both, replica, NEVER_PS)
    assert both.requests["finish_ps"].tolist() == finish
