"""A session tells what the engine does: the same times, the same tokens, however it is driven."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.emulator.following import GAP_BOUNDS_S
from poolpilot.env.emulator.replica import ReplicaSpec
from poolpilot.env.emulator.session import AWAKE, FIRST_ROWS, News, Session, Ticket, TooLong
from poolpilot.env.sim import engine as kernel
from poolpilot.env.sim.engine_state import NEVER_PS, PS_PER_S, load_requests, make_engine

from .conftest import a_spec

MS = 10**9  # ps


def drive(session: Session, until_ps: int = NEVER_PS) -> list[tuple[int, News]]:
    """Call `advance` at each due time up to `until_ps`; what was told, and when."""
    told = []
    while session.due_ps < until_ps:
        now_ps = session.due_ps
        told += [(now_ps, news) for news in session.advance(now_ps)]
        assert session.due_ps > now_ps
    return told


Arrival = tuple[int, int, int, bool]
"""Time in ps, prompt tokens, output tokens, whether it streams."""
Limits = tuple[int, int, int]
"""Time in ps, batch cap, token budget."""


def kernel_times(spec: ReplicaSpec, arrivals: list[Arrival], limits: list[Limits]) -> list[tuple[int, int]]:
    """First token and finish of each request by the simulator's own way of driving the engine."""
    flags = spec.flags
    engine = make_engine(
        spec.law.as_row()[None],
        spec.kv_blocks,
        flags.max_num_seqs,
        flags.max_num_batched_tokens,
        flags.max_model_len,
        max_seqs=flags.max_num_seqs,
        capacity=len(arrivals),
    )
    load_requests(engine, [a[1] for a in arrivals], [a[2] for a in arrivals], np.zeros(len(arrivals)))
    events = sorted([(a[0], 0, row) for row, a in enumerate(arrivals)] + [(at[0], 1, i) for i, at in enumerate(limits)])
    for at_ps, is_limit, i in events:
        kernel.run(engine, 0, at_ps)
        if is_limit:
            kernel.set_limits(engine, 0, *limits[i][1:])
        else:
            kernel.enqueue(engine, 0, i, at_ps)
    kernel.run(engine, 0, NEVER_PS)
    return [(int(row["first_token_ps"]), int(row["finish_ps"])) for row in engine.requests]


Arrivals = st.lists(
    st.tuples(st.integers(0, 900 * MS), st.integers(1, 200), st.integers(0, 60), st.booleans()), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=60)
@given(
    arrivals=Arrivals,
    limits=st.lists(
        st.tuples(st.integers(0, 2000 * MS), st.integers(1, 8), st.sampled_from([1, 3, 5, 64])), max_size=4
    ),
    looks=st.lists(st.integers(0, 2000 * MS), max_size=8),
    kv_blocks=st.sampled_from([17, 40, 256]),
    token_budget=st.sampled_from([4, 64, 512]),
    every=st.sampled_from([1, 7]),
)
def test_told_at_the_times_at_which_the_simulator_has_it(
    arrivals: list[Arrival], limits: list[Limits], looks: list[int], kv_blocks: int, token_budget: int, every: int
) -> None:
    spec = a_spec(kv_blocks=kv_blocks, token_budget=token_budget)
    arrivals, limits = sorted(arrivals), sorted(limits)
    session = Session(spec, every)
    told: list[tuple[int, News]] = []
    tickets: list[Ticket] = []
    events = [(a[0], 0, i) for i, a in enumerate(arrivals)] + [(limit[0], 1, i) for i, limit in enumerate(limits)]
    for at_ps, kind, i in sorted(events + [(at, 2, 0) for at in looks]):
        told += drive(session, at_ps)
        if kind == 0:
            tickets.append(session.submit(*arrivals[i]))
        elif kind == 1:
            session.set_limits(*limits[i])
        else:
            session.figures(at_ps)  # somebody scrapes: changes nothing
    told += drive(session)

    expected = kernel_times(spec, arrivals, limits)
    for ticket, (first_ps, finish_ps), (arrival_ps, _, output, streams) in zip(
        tickets, expected, arrivals, strict=True
    ):
        own = [(at_ps, news) for at_ps, news in told if news.ticket is ticket]
        assert [news.reason for _, news in own[:-1]] == [None] * (len(own) - 1)
        assert (own[-1][0], own[-1][1].reason) == (finish_ps, "length" if output else "stop")
        assert sum(news.new_tokens for _, news in own) == output
        assert ticket.arrival_ps == arrival_ps
        if streams and output:
            assert own[0][0] == first_ps
        if not streams:
            assert len(own) == 1
    tally, figures = session.tally, session.figures(NEVER_PS // 2)
    generating = [(f, e, a[0]) for (f, e), a in zip(expected, arrivals, strict=True) if a[2]]
    decoding_ps = sum(finish_ps - first_ps for first_ps, finish_ps, _ in generating)
    assert sum(figures.gap_counts) == sum(max(a[2] - 1, 0) for a in arrivals)
    assert figures.gap_total_s == pytest.approx(decoding_ps / PS_PER_S)
    assert tally.ttft.total == pytest.approx(sum(f - arrival for f, _, arrival in generating) / PS_PER_S)
    assert tally.e2e.total == pytest.approx(
        sum(e - a[0] for (_, e), a in zip(expected, arrivals, strict=True)) / PS_PER_S
    )
    assert tally.prompt_tokens == sum(a[1] for a in arrivals)
    assert session.in_flight == figures.running == figures.waiting == 0
    assert figures.kv_used_frac == 0.0


@settings(deadline=None, max_examples=30)
@given(arrivals=Arrivals, stride_ms=st.integers(1, 500), every=st.sampled_from([1, 7]))
def test_a_server_that_is_always_late_loses_nothing(arrivals: list[Arrival], stride_ms: int, every: int) -> None:
    session = Session(a_spec(kv_blocks=40), every)
    waiting = sorted(arrivals)
    told: list[News] = []
    now_ps = 0
    while waiting or session.due_ps < NEVER_PS:
        now_ps += stride_ms * MS
        told += session.advance(now_ps)
        while waiting and waiting[0][0] <= now_ps:
            session.submit(now_ps, *waiting.pop(0)[1:])
    assert sum(news.new_tokens for news in told) == sum(a[2] for a in arrivals)
    assert sum(news.reason is not None for news in told) == len(arrivals)
    assert sum(session.figures(now_ps).gap_counts) == sum(max(a[2] - 1, 0) for a in arrivals)


def test_streams_are_told_together_and_seldom() -> None:
    session = Session(a_spec(token_budget=512), 16)
    for at_ms in (0, 35, 71):
        drive(session, at_ms * MS)
        session.submit(at_ms * MS, 20, 200, streams=True)
    told = drive(session)
    middle = [at_ps for at_ps, news in told if news.reason is None][3:]
    assert len(set(middle)) < 200 / 16 + 8
    assert len(middle) >= 3 * 200 / 16 - 6


def test_the_gap_histogram_has_each_gap_in_its_bucket() -> None:
    session = Session(a_spec())
    session.submit(0, 60, 101, streams=False)
    drive(session)
    # Decoding alone takes 9.75 ms and 1 us for each of 61 to 160 tokens read: 9.811 to 9.91 ms.
    assert session.figures(PS_PER_S * 100).gap_counts[0] == 100
    assert GAP_BOUNDS_S[0] == 0.01


def test_a_request_starved_by_a_low_token_budget_has_one_long_gap() -> None:
    session = Session(a_spec(token_budget=512))
    for output in (30, 40, 50, 60, 60):
        session.submit(0, 20, output)
    drive(session, 100 * MS)
    session.set_limits(100 * MS, 8, 4)  # the fifth starves until the first is done
    drive(session)
    figures, tally = session.figures(PS_PER_S * 100), session.tally
    assert figures.gap_total_s == pytest.approx(tally.e2e.total - tally.ttft.total)
    assert sum(figures.gap_counts) == 29 + 39 + 49 + 59 + 59
    assert sum(figures.gap_counts[4:]) == 1  # the others are far below 75 ms


def test_aborted_request_frees_its_kv_blocks_and_is_told_nothing_more() -> None:
    session = Session(a_spec())
    stays, goes = session.submit(0, 60, 50, streams=True), session.submit(0, 60, 50, streams=True)
    drive(session, 300 * MS)
    held = session.figures(300 * MS).kv_used_frac
    session.abort(300 * MS, goes)
    assert session.figures(300 * MS).kv_used_frac == pytest.approx(held / 2)
    told = drive(session)
    assert {news.ticket for _, news in told} == {stays}
    assert session.tally.finished == {"stop": 0, "length": 1, "abort": 1, "error": 0, "repetition": 0}
    session.abort(PS_PER_S * 9, stays)  # ended long ago
    assert session.tally.finished["abort"] == 1


def test_request_aborted_in_its_last_iteration_is_told_nothing() -> None:
    session = Session(a_spec())
    ticket = session.submit(0, 60, 2, streams=False)
    drive(session, 30 * MS)  # the prompt takes 24 ms, the second token until 34 ms
    session.abort(30 * MS, ticket)
    assert drive(session) == []
    assert session.in_flight == 0
    again = session.submit(PS_PER_S, 60, 2)
    assert [news.ticket for _, news in drive(session)] == [again]


def test_asleep_it_aborts_what_it_has_and_holds_what_comes() -> None:
    session = Session(a_spec())
    stream, plain = session.submit(0, 60, 50, streams=True), session.submit(0, 60, 50)
    drive(session, 300 * MS)
    session.sleep(300 * MS, 1)
    assert session.due_ps <= 300 * MS
    ends = session.advance(300 * MS)
    assert [(news.ticket, news.reason) for news in ends] == [(stream, "abort"), (plain, "abort")]
    assert 0 < ends[1].new_tokens < 50
    later, hung_up = session.submit(400 * MS, 60, 5), session.submit(400 * MS, 60, 5)
    session.abort(450 * MS, hung_up)
    figures = session.figures(500 * MS)
    assert (figures.held, figures.running, figures.kv_used_frac, figures.sleep_level) == (1, 0, 0.0, 1)
    assert session.due_ps == NEVER_PS
    session.wake_up(900 * MS)
    ((end_ps, news),) = drive(session)
    assert (news.ticket, news.reason, session.sleep_level) == (later, "length", AWAKE)
    assert end_ps > 900 * MS
    assert session.tally.ttft.total > 0.5  # it waited since 400 ms


def test_lower_cap_holds_once_those_above_it_have_left() -> None:
    session = Session(a_spec(token_budget=512))
    for _ in range(8):
        session.submit(0, 20, 30)
    drive(session, 100 * MS)
    session.set_limits(100 * MS, 2, 512)
    for _ in range(8):
        session.submit(100 * MS, 20, 30)
    assert session.figures(100 * MS).running == 8
    seen = []
    while session.due_ps < NEVER_PS:
        session.advance(session.due_ps)
        figures = session.figures(session.due_ps if session.due_ps < NEVER_PS else 100 * PS_PER_S)
        seen.append((figures.running, figures.batch_cap))
    after = seen[next(i for i, (running, _) in enumerate(seen) if running <= 2) :]
    assert max(running for running, _ in after) == 2
    assert {cap for _, cap in seen} == {2}


def test_more_requests_than_rows_all_end() -> None:
    session = Session(a_spec(token_budget=512))
    for _ in range(FIRST_ROWS + 10):
        session.submit(0, 1, 1)
    assert session.in_flight == FIRST_ROWS + 10
    assert len(drive(session)) == FIRST_ROWS + 10


@pytest.mark.parametrize(("prompt", "output", "what"), [(2000, 49, "context"), (700, 100, "KV cache")])
def test_what_can_never_finish_is_refused(prompt: int, output: int, what: str) -> None:
    session = Session(a_spec(kv_blocks=40))
    with pytest.raises(TooLong, match=what):
        session.submit(0, prompt, output)
    assert session.in_flight == 0
    assert session.due_ps == NEVER_PS
