"""What can never get better or worse in an engine: statements that are really true, each with its reason."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from poolpilot.env.perf.law import TOKENS_GRID, IterationLaw
from poolpilot.env.sim.engine import abort, enqueue, evict_all, pop_finished, run, set_limits
from poolpilot.env.sim.engine_state import ACCEPTED, NEVER_PS, NONE, Engine, load_requests, make_engine

MS = 10**9  # ps
MAX_SEQS = 16
AFFINE = IterationLaw(
    tokens_grid=TOKENS_GRID,
    linear_s=1e-3 * (9 + TOKENS_GRID / 4),
    attend_s_per_pair=1e-9,
    kv_read_s_per_token=1e-6,
    seq_s=0.5e-3,
)
"""Each iteration costs something, each token, pair, KV token and sequence as much whatever else is in it."""

loads = st.lists(st.tuples(st.integers(1, 200), st.integers(0, 120)), min_size=1, max_size=20)


def course(
    load: list[tuple[int, int]],
    law: IterationLaw = AFFINE,
    kv_blocks: int = 1000,
    cap: int = 8,
    token_budget: int = 10_000,
    capacity: int = 0,
) -> Engine:
    """All requests at once at time 0, first come first served, until all are done."""
    engine = make_engine(
        law.as_row()[None], kv_blocks, cap, token_budget, 2048, MAX_SEQS, capacity=max(capacity, len(load))
    )
    load_requests(engine, *np.array(load).T, np.zeros(len(load)))
    for request in range(len(load)):
        assert enqueue(engine, 0, request, 0) == ACCEPTED
    run(engine, 0, NEVER_PS)
    assert engine.replicas["finished"][0] == len(load)
    return engine


def ends(engine: Engine) -> NDArray[np.int64]:
    """When each request finished."""
    finish_ps: NDArray[np.int64] = engine.requests["finish_ps"]
    return finish_ps


@settings(max_examples=80, deadline=None)
@given(loads, st.integers(1, MAX_SEQS - 1), st.integers(1, MAX_SEQS - 1))
def test_a_larger_cap_never_lowers_throughput_without_kv_pressure(
    load: list[tuple[int, int]], cap: int, more: int
) -> None:
    # With room for all prompts in an iteration, requests are jobs of fixed numbers of iterations that are taken from a
    # list by `cap` machines: with more machines each starts no later, so iterations cannot become more. Under an affine
    # law the rest of the bill (tokens, pairs, KV reads) does not depend on who shares an iteration with whom.
    # It is not true of a law with a floor that compute hides below: spreading prompts out then is worth something.
    larger = min(cap + more, MAX_SEQS)
    few, many = (course(load, cap=c) for c in (cap, larger))
    assert many.replicas["sequence_preemptions"][0] == 0
    assert many.replicas["iterations"][0] <= few.replicas["iterations"][0]
    assert many.replicas["clock_ps"][0] <= few.replicas["clock_ps"][0]
    assert many.replicas["generated_tokens"][0] == few.replicas["generated_tokens"][0]


@settings(max_examples=80, deadline=None)
@given(loads, st.integers(20, 60), st.integers(1, 300), st.lists(st.floats(0.1, 1.0), min_size=4, max_size=4))
def test_a_law_that_is_nowhere_slower_ends_nothing_later(
    load: list[tuple[int, int]], kv_blocks: int, token_budget: int, factors: list[float]
) -> None:
    # What an iteration holds then does not depend on how long iterations take, under KV pressure neither. Once requests
    # come later it does: they meet another batch on a faster engine, and nothing of the kind is true.
    linear, attend, read, seq = factors
    faster = IterationLaw(
        tokens_grid=TOKENS_GRID,
        linear_s=AFFINE.linear_s * linear,
        attend_s_per_pair=AFFINE.attend_s_per_pair * attend,
        kv_read_s_per_token=AFFINE.kv_read_s_per_token * read,
        seq_s=AFFINE.seq_s * seq,
    )
    slow, fast = (course(load, law, kv_blocks, token_budget=token_budget) for law in (AFFINE, faster))
    assert (ends(fast) <= ends(slow)).all()
    assert fast.replicas["iterations"][0] == slow.replicas["iterations"][0]
    assert fast.replicas["sequence_preemptions"][0] == slow.replicas["sequence_preemptions"][0]


@settings(max_examples=80, deadline=None)
@given(loads, st.tuples(st.integers(1, 200), st.integers(0, 120)), st.integers(20, 60), st.integers(1, 300))
def test_one_request_more_at_the_end_of_the_queue_makes_no_other_end_sooner(
    load: list[tuple[int, int]], last: tuple[int, int], kv_blocks: int, token_budget: int
) -> None:
    # It is admitted when nobody else waits, gets the budget that is left, and is the first to be thrown out: the others
    # are scheduled as if it were not there, in iterations that are longer by its share.
    before, after = (
        course(requests, kv_blocks=kv_blocks, token_budget=token_budget) for requests in (load, [*load, last])
    )
    assert (ends(after)[:-1] >= ends(before)).all()
    assert after.replicas["busy_ps"][0] > before.replicas["busy_ps"][0]


happenings = st.lists(
    st.tuples(
        st.sampled_from(["come", "come", "come", "abort", "limit", "evict"]), st.integers(0, 400), st.integers(0, 99)
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(loads, happenings, st.integers(20, 60), st.booleans(), st.booleans(), st.lists(st.integers(0, 3), max_size=20))
def test_requests_tokens_and_blocks_are_conserved_whatever_happens(
    load: list[tuple[int, int]],
    events: list[tuple[str, int, int]],
    kv_blocks: int,
    by_priority: bool,
    prefix_caching: bool,
    nodes: list[int],
) -> None:
    tree = ([-1, 0, 0, -1], [16, 48, 20, 33])
    prefix = np.array([(nodes[i] if i < len(nodes) else -1) for i in range(len(load))])
    longest = np.append(tree[1], 1)[prefix]
    prompts, outputs = np.maximum([p for p, _ in load], longest), np.array([o for _, o in load])
    engine = make_engine(
        AFFINE.as_row()[None],
        kv_blocks,
        8,
        100,
        2048,
        MAX_SEQS,
        len(load),
        by_priority=by_priority,
        prefix_caching=prefix_caching,
        prefixes=tree,
    )
    load_requests(engine, prompts, outputs, np.zeros(len(load)), np.arange(len(load)) % 3, prefix)
    rep, now, come, gone, done = engine.replicas[0], 0, 0, 0, 0
    evicted = np.zeros(len(load), dtype=np.int64)
    for what, gap_ms, which in [*events, *[("come", 5, 0)] * len(load)]:
        now += gap_ms * MS
        run(engine, 0, now)
        if what == "come" and come < len(load):
            assert enqueue(engine, 0, come, now) == ACCEPTED
            come += 1
        elif what == "abort":
            gone += abort(engine, 0, which % len(load))
        elif what == "limit":
            set_limits(engine, 0, 1 + which % MAX_SEQS, 1 + gap_ms)
        elif what == "evict":
            gone += evict_all(engine, 0, now, evicted)
            assert (rep["blocks_used"], rep["cached"], rep["running"], rep["waiting"]) == (0, 0, 0, 0)
        while pop_finished(engine, 0, NEVER_PS) != NONE:
            done += 1
        assert rep["running"] + rep["waiting"] + done + gone == come
        assert 0 <= rep["blocks_used"] <= rep["blocks_used"] + rep["cached"] <= kv_blocks
        assert prefix_caching or rep["cached"] == 0
    run(engine, 0, NEVER_PS)
    while pop_finished(engine, 0, NEVER_PS) != NONE:
        done += 1
    assert done + gone == come == len(load)
    assert (rep["running"], rep["waiting"], rep["blocks_used"], rep["context"]) == (0, 0, 0, 0)
    assert not engine.phases.any()
    if gone == 0:
        assert rep["generated_tokens"] == outputs.sum()
        computed = rep["prompt_tokens"] + rep["prefix_hits"]
        # One that comes back from a preemption may hit what it had never computed itself, which is not counted.
        if rep["sequence_preemptions"] == 0:
            assert computed == prompts.sum()
            assert rep["prefix_queries"] == (prompts.sum() if prefix_caching else 0)
        else:
            assert computed <= prompts.sum()
    assert rep["prefix_hits"] <= rep["prefix_queries"]
