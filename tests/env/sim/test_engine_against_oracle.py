"""The compiled engine does exactly what the plain one does, whatever happens to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.perf.law import GRID_POINTS, TOKENS_GRID
from poolpilot.env.sim.engine import (
    abort,
    enqueue,
    evict_all,
    generated_tokens,
    in_flight,
    next_finish_ps,
    observed_step,
    pop_finished,
    run,
    seen,
    set_limits,
)
from poolpilot.env.sim.engine_state import ACCEPTED, NEVER_PS, NONE, Engine, load_requests, make_engine
from poolpilot.tests.env.sim.oracle import Law, Oracle, Request

MAX_SEQS = 8


@dataclass(frozen=True)
class Setting:
    """An engine, its requests, and what happens when."""

    law: tuple[float, ...]
    kv_blocks: int
    cap: int
    token_budget: int
    max_model_len: int
    block_tokens: int
    reserve_prompt: bool
    by_priority: bool
    prefix_caching: bool
    tree: tuple[tuple[int, int], ...]
    """Parent and end, in tokens, of each node that prompts may begin with."""
    requests: tuple[tuple[int, int, int, int], ...]
    """Prompt tokens, output tokens, priority, node."""
    events: tuple[tuple[int, str, int, int], ...]
    """Time, what, and two numbers that it needs, in the order of time."""


def tree_of(steps: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Nodes with their ends from any numbers that choose their parents, and their own tokens."""
    tree: list[tuple[int, int]] = []
    for choice, own in steps:
        parent = choice % (len(tree) + 1) - 1
        tree.append((parent, own + (tree[parent][1] if parent >= 0 else 0)))
    return tuple(tree)


def on_tree(
    tree: tuple[tuple[int, int], ...], extra: int, output: int, priority: int, node: int
) -> tuple[int, int, int, int]:
    """A request whose prompt goes on for `extra` tokens after its node."""
    return max((tree[node][1] if node >= 0 else 0) + extra, 1), output, priority, node


@st.composite
def settings_of_engines(draw: st.DrawFn) -> Setting:
    """Small engines under pressure: few blocks, caps, budgets; times that tie are likely."""
    steps = draw(st.lists(st.integers(0, 3), min_size=GRID_POINTS, max_size=GRID_POINTS))
    linear = (draw(st.integers(1, 9)) + np.cumsum(steps)) * 1e-3
    law = [draw(st.integers(0, n)) * 1e-4 / n for n in (2, 7, 3)]
    best = float(np.min(linear / TOKENS_GRID))
    longest_answer = draw(st.sampled_from([2, 10, 40]))
    block_tokens = draw(st.sampled_from([1, 4, 16]))
    prefix_caching = draw(st.booleans())
    tree = tree_of(draw(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([1, 4, 7, 16, 20])), max_size=5)))
    kinds = st.tuples(
        st.one_of(st.just(0), st.integers(0, 50)),
        st.integers(0, longest_answer),
        st.integers(0, 2),
        st.integers(-1, len(tree) - 1),
    )
    requests = [on_tree(tree, *kind) for kind in draw(st.lists(kinds, min_size=2, max_size=12))]
    count = len(requests)
    largest = max(-(-(prompt + output) // block_tokens) for prompt, output, _, _ in requests)
    times = st.integers(0, draw(st.sampled_from([20, 100, 500])))
    arrivals = [(draw(times), "enqueue", request, 0) for request in range(count)]
    others = draw(
        st.lists(
            st.one_of(
                st.tuples(times, st.just("look"), st.just(0), st.just(0)),
                st.tuples(
                    times, st.just("limit"), st.integers(1, MAX_SEQS), st.one_of(st.integers(1, 5), st.integers(6, 120))
                ),
                st.tuples(times, st.just("abort"), st.integers(0, count - 1), st.just(0)),
                st.tuples(times, st.just("evict"), st.integers(0, 1), st.just(0)),
            ),
            max_size=10,
        )
    )
    return Setting(
        law=(*law, best, *linear.tolist()),
        kv_blocks=max(largest + draw(st.integers(-2, 12)), 1),
        cap=draw(st.integers(1, MAX_SEQS)),
        token_budget=draw(st.one_of(st.integers(1, 12), st.integers(13, 120))),
        max_model_len=draw(st.sampled_from([60, 1000, 1000])),
        block_tokens=block_tokens,
        reserve_prompt=draw(st.booleans()),
        by_priority=draw(st.booleans()),
        prefix_caching=prefix_caching,
        tree=tree,
        requests=tuple(requests),
        events=tuple(sorted(arrivals + others, key=lambda event: event[0])),
    )


def build(setting: Setting) -> tuple[Engine, Oracle, list[Request]]:
    """The same engine twice."""
    engine = make_engine(
        np.array([setting.law]),
        setting.kv_blocks,
        setting.cap,
        setting.token_budget,
        setting.max_model_len,
        MAX_SEQS,
        len(setting.requests),
        setting.block_tokens,
        setting.reserve_prompt,
        setting.by_priority,
        setting.prefix_caching,
        tuple(zip(*setting.tree, strict=True)) if setting.tree else ((), ()),
    )
    prompts, outputs, priorities, nodes = np.array(setting.requests).T
    load_requests(engine, prompts, outputs, np.zeros(len(prompts)), priorities, nodes)
    oracle = Oracle(
        Law.from_row(setting.law, TOKENS_GRID.tolist()),
        setting.kv_blocks,
        setting.cap,
        setting.token_budget,
        setting.max_model_len,
        setting.block_tokens,
        setting.reserve_prompt,
        setting.by_priority,
        setting.prefix_caching,
    )
    requests = [
        Request(i, prompt, output, priority, path_of(setting.tree, node))
        for i, (prompt, output, priority, node) in enumerate(setting.requests)
    ]
    return engine, oracle, requests


def path_of(tree: tuple[tuple[int, int], ...], node: int) -> tuple[tuple[int, int], ...]:
    """The nodes from the root to this one, each with its end."""
    return (*path_of(tree, tree[node][0]), (node, tree[node][1])) if node >= 0 else ()


def waiting_of(engine: Engine) -> list[int]:
    """Names in the waiting queue, first to last."""
    names, request = [], int(engine.replicas[0]["waiting_head"])
    while request != NONE:
        names.append(request)
        request = int(engine.requests[request]["next"])
    return names


def assert_same(engine: Engine, oracle: Oracle, requests: list[Request], now: int) -> None:
    """Everything that both know is equal."""
    rep = engine.replicas[0]
    assert engine.running[0, : rep["running"]].tolist() == [request.name for request in oracle.running]
    assert waiting_of(engine) == [request.name for request in oracle.waiting]
    assert rep["waiting"] == len(oracle.waiting)
    assert rep["clock_ps"] == oracle.clock
    assert rep["blocks_total"] - rep["blocks_used"] == oracle.free_blocks
    assert rep["cached"] == oracle.cached_blocks
    assert rep["prefix_queries"] == oracle.prefix_queries
    assert rep["prefix_hits"] == oracle.prefix_hits
    assert rep["iterations"] == len(oracle.log)
    assert rep["busy_ps"] == oracle.busy(NEVER_PS)
    assert rep["useful_ps"] == sum(one.useful for one in oracle.log)
    assert rep["generated_tokens"] == oracle.tokens_generated(NEVER_PS)
    assert rep["prompt_tokens"] == oracle.prompt_tokens
    assert rep["recomputed_tokens"] == oracle.recomputed_tokens
    assert rep["finished"] == len(oracle.finished)
    assert rep["sequence_preemptions"] == sum(len(one.preempted) for one in oracle.log)
    view = seen(engine, 0, now)
    unfinished = [r for r in oracle.finished if r.finish is not None and r.finish > now]
    assert view.running == len(oracle.running) + len(unfinished)
    assert in_flight(engine, 0, now) == view.running + view.waiting
    assert view.busy_ps == oracle.busy(now)
    assert view.generated_tokens == oracle.tokens_generated(now)
    for request in requests:
        row = engine.requests[request.name]
        assert row["first_token_ps"] == (-1 if request.first_token is None else request.first_token)
        assert row["finish_ps"] == (-1 if request.finish is None else request.finish)
        assert row["preemptions"] == request.preemptions
        assert generated_tokens(engine, request.name) == request.generated


def assert_tidy(engine: Engine) -> None:
    """With nobody running, the cache's queue holds all of its blocks, and the index what can be hit."""
    runs, rep = engine.runs[0], engine.replicas[0]
    queued, run = [], int(runs[0]["after"])
    while run:
        queued.append(run)
        run = int(runs[run]["after"])
    held = runs[queued]
    assert (held["end"] > held["first"]).all()
    assert (held["end"] - held["first"]).sum() == rep["cached"]
    assert not held["holders"].any()
    assert (held["owner"] == NONE).all()
    indexed = engine.lookup[0][engine.lookup[0] > 0]
    assert set(runs[indexed]["unit"]) == set(held["unit"]) - {NONE}
    assert len(indexed) == len(set(runs[indexed]["unit"]))
    returned, run = 0, int(rep["runs_returned"])
    while run:
        returned, run = returned + 1, int(runs[run]["after"])
    assert rep["runs_used"] == len(queued) + returned


def a_crowded_setting(seed: int) -> Setting:
    """Chosen by chance, not to be small: sequences starve, are preempted many at once, crash and come back."""
    rng = np.random.default_rng(seed)
    count, block_tokens = 30, int(rng.choice([1, 4, 16]))
    sizes = rng.choice([1, 4, 7, 16, 20, 32], 6)
    tree = tree_of([(int(choice), int(own)) for choice, own in zip(rng.integers(0, 9, 6), sizes, strict=True)])
    requests = [
        on_tree(tree, int(rng.integers(0, 40)) * int(rng.integers(2)), *map(int, rng.integers([0, 0, -1], [60, 3, 6])))
        for _ in range(count)
    ]
    events = [(int(t), "enqueue", request, 0) for request, t in enumerate(rng.integers(0, 1500, count))]
    for what, number, first, second in (
        ("look", 20, 1, 1),
        ("limit", 8, MAX_SEQS, int(rng.choice([8, 100]))),
        ("abort", 6, count, 1),
        ("evict", 2, 2, 1),
    ):
        least = 1 if what == "limit" else 0
        for t in rng.integers(0, 3000, number):
            events.append((int(t), what, int(rng.integers(least, first + least)), int(rng.integers(1, second + 1))))
    linear = rng.integers(1, 9) * 1e-3 + np.cumsum(rng.integers(0, 3, GRID_POINTS)) * 1e-3
    return Setting(
        law=(*(rng.integers(0, 99, 3) * 1e-7), float(np.min(linear / TOKENS_GRID)), *linear),
        kv_blocks=int(120 / block_tokens * rng.uniform(1.0, 3.0)),
        cap=int(rng.integers(3, MAX_SEQS + 1)),
        token_budget=int(rng.choice([6, 40, 120])),
        max_model_len=1000,
        block_tokens=block_tokens,
        reserve_prompt=bool(rng.integers(2)),
        by_priority=bool(rng.integers(2)),
        prefix_caching=bool(rng.integers(2)),
        tree=tree,
        requests=tuple(requests),
        events=tuple(sorted(events, key=lambda event: event[0])),
    )


@settings(max_examples=250, deadline=None)
@given(settings_of_engines())
def test_leaping_engine_equals_stepping_oracle(setting: Setting) -> None:
    assert_same_course(setting)


@pytest.mark.parametrize("first_seed", range(0, 80, 20))
def test_leaping_engine_equals_stepping_oracle_when_crowded(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 20):
        assert_same_course(a_crowded_setting(seed))


def assert_same_course(setting: Setting) -> None:
    """Both meet the same events, and are compared after each."""
    engine, oracle, requests = build(setting)
    live: set[int] = set()
    popped: list[int] = []
    for time_ms, what, first, second in setting.events:
        now = time_ms * 10**9
        unchanged_until, before = next_finish_ps(engine, 0), in_flight(engine, 0, now)
        quiet = engine.replicas[0]["clock_ps"] <= now < unchanged_until
        run(engine, 0, now)
        oracle.run(now)
        assert not quiet or in_flight(engine, 0, now) == before
        if what == "enqueue" and first not in live:
            accepted = oracle.enqueue(requests[first], now)
            assert (enqueue(engine, 0, first, now) == ACCEPTED) == accepted
            live |= {first} if accepted else set()
        elif what == "limit":
            set_limits(engine, 0, first, second)
            oracle.cap, oracle.token_budget = first, second
        elif what == "abort":
            assert abort(engine, 0, first) == oracle.abort(requests[first])
        elif what == "evict":
            evicted = np.zeros(len(requests), dtype=np.int64)
            count = evict_all(engine, 0, now, evicted)
            lost = oracle.evict_all(now)
            assert evicted[:count].tolist() == [request.name for request in lost]
            for request in lost if first else []:
                assert enqueue(engine, 0, request.name, now) == ACCEPTED
                assert oracle.enqueue(request, now)
        while (request := pop_finished(engine, 0, now)) != NONE:
            popped.append(int(request))
        assert popped == [r.name for r in oracle.finished if r.finish is not None and r.finish <= now]
        assert_same(engine, oracle, requests, now)
    run(engine, 0, NEVER_PS)
    oracle.run(NEVER_PS)
    assert_same(engine, oracle, requests, NEVER_PS)
    assert engine.replicas[0]["blocks_used"] == 0
    assert not engine.phases.any()
    assert_tidy(engine)


@settings(max_examples=150, deadline=None)
@given(settings_of_engines())
def test_stepping_engine_reports_what_the_oracle_did(setting: Setting) -> None:
    engine, oracle, requests = build(setting)
    for request in requests:
        assert (enqueue(engine, 0, request.name, 0) == ACCEPTED) == oracle.enqueue(request, 0)
    limits = [(first, second) for _, what, first, second in setting.events if what == "limit"]
    while oracle.running or oracle.waiting:
        if limits:
            oracle.cap, oracle.token_budget = limits.pop()
            set_limits(engine, 0, oracle.cap, oracle.token_budget)
        now = oracle.clock = oracle.clock + 7
        oracle.iterate()
        step, truth = observed_step(engine, 0, now), oracle.log[-1]
        assert step is not None
        assert (step.start_ps, step.end_ps) == (truth.start, truth.end)
        assert tuple(step.scheduled) == truth.scheduled
        assert tuple(step.computed) == truth.computed
        got = {name: n for name, new, n in zip(step.scheduled, step.new_tokens, step.generated, strict=True) if new}
        assert got == truth.tokens_out
        assert step.finished == tuple(request.name for request in truth.finished)
        assert step.preempted == truth.preempted
        assert_same(engine, oracle, requests, oracle.clock)
    assert observed_step(engine, 0, oracle.clock) is None


@pytest.mark.parametrize(
    ("reserve_prompt", "everything"),
    [(True, False), (False, False), (True, True)],
    ids=["whole prompt reserved", "first chunk suffices", "priorities and prefix caching"],
)
def test_long_crowded_run_equals_oracle(reserve_prompt: bool, everything: bool) -> None:
    rng = np.random.default_rng(5)
    count = 300
    tree = tree_of([(0, 64), (1, 100), (1, 28), (3, 200), (0, 160)]) if everything else ()
    linear = np.interp(TOKENS_GRID, [1, 64, 16384], [9.58e-3, 9.6e-3, 1.07])
    setting = Setting(
        law=(38e-6, 0.286e-6, 1.7e-9, 65e-6, *linear),
        kv_blocks=48 if everything else 60,
        cap=MAX_SEQS,
        token_budget=256,
        max_model_len=4096,
        block_tokens=16,
        reserve_prompt=reserve_prompt,
        by_priority=everything,
        prefix_caching=everything,
        tree=tree,
        requests=tuple(
            on_tree(tree, *map(int, rng.integers([1, 0, 0, -1], [100 if everything else 500, 300, 3, len(tree)])))
            for _ in range(count)
        ),
        events=tuple((int(ms), "enqueue", i, 0) for i, ms in enumerate(np.cumsum(rng.exponential(700, count)))),
    )
    engine, oracle, requests = build(setting)
    for time_ms, _, request, _ in setting.events:
        now = time_ms * 10**9
        run(engine, 0, now)
        oracle.run(now)
        assert (enqueue(engine, 0, request, now) == ACCEPTED) == oracle.enqueue(requests[request], now)
    run(engine, 0, NEVER_PS)
    oracle.run(NEVER_PS)
    assert engine.replicas[0]["sequence_preemptions"] > 100
    assert (engine.replicas[0]["prefix_hits"] > 10_000) == everything
    assert_same(engine, oracle, requests, NEVER_PS)
