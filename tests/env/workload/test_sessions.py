"""Sessions have the turns, times and growing prompts that were asked for, and share what they repeat.

Tolerances are three standard errors or more; seeds are fixed.
"""

from typing import Any

import numpy as np
import pytest

from poolpilot.env.workload.generate import generate
from poolpilot.env.workload.requests import Workload
from poolpilot.env.workload.spec import Fixed, GeneratedSpec, Lognormal, SessionLoad, SharedPrefix

PREFIX = SharedPrefix(count=1, tokens=Fixed(tokens=500))


def a_load(**changes: Any) -> SessionLoad:
    return SessionLoad(
        **{
            "kind": "sessions",
            "sessions_per_s": 0.5,
            "turns_mean": 4.0,
            "think_s": 30.0,
            "message_tokens": Fixed(tokens=20),
            "output_tokens": Fixed(tokens=100),
            "max_prompt_tokens": 10_000_000,
            **changes,
        }
    )


def turns_of(load: SessionLoad, duration_s: float, seed: int = 0) -> Workload:
    return generate(GeneratedSpec(classes={"chat": load}), ("chat",), duration_s, seed)


def chains(load: Workload) -> dict[int, list[int]]:
    """Requests of each session, in order, told apart by the tree alone: by their last common root's child."""
    n_roots = int((load.prefixes.parent < 0).sum())
    top = np.arange(len(load.prefixes))
    for node, parent in enumerate(load.prefixes.parent):
        if parent >= n_roots:
            top[node] = top[parent]
    sessions: dict[int, list[int]] = {}
    for i, node in enumerate(load.prefix_index):
        key = int(top[node]) if node >= n_roots else -1 - i  # a session of one turn is alone
        sessions.setdefault(key, []).append(i)
    return sessions


def test_requests_come_at_the_rate_of_sessions_times_turns_from_the_first_second() -> None:
    load = turns_of(a_load(), 20_000.0)
    # 10 000 sessions of geometric(4) turns: the count's standard error is sqrt(10 000 (4^2 + 4 x 3)) = 529, 1.3 %.
    assert len(load) / 20_000.0 == pytest.approx(2.0, rel=0.04)
    # A run that began without sessions under way would have a third of the rate in its first 20 s.
    starts = [len(turns_of(a_load(), 20.0, seed)) / 20.0 for seed in range(300)]
    assert np.mean(starts) == pytest.approx(2.0, abs=4 * np.std(starts) / 300**0.5)


def test_turns_are_geometric_and_think_times_as_asked() -> None:
    load = turns_of(a_load(shared_prefix=PREFIX, think_cv=0.5), 100_000.0)
    inner = [rows for rows in chains(load).values() if 5_000 < load.arrival_s[rows[0]] < 90_000]
    counts = np.array([len(rows) for rows in inner])
    n = len(counts)
    assert counts.mean() == pytest.approx(4.0, abs=4 * 3.47 / n**0.5)  # standard deviation sqrt(4 x 3)
    assert (counts == 1).mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / n) ** 0.5)
    think_s = np.concatenate([np.diff(load.arrival_s[rows]) for rows in inner])
    assert think_s.mean() == pytest.approx(30.0, rel=0.01)
    assert think_s.std() / think_s.mean() == pytest.approx(0.5, rel=0.02)


def test_each_prompt_repeats_all_that_was_said() -> None:
    load = turns_of(a_load(shared_prefix=PREFIX), 3_000.0)
    for rows in chains(load).values():
        turn = (load.prompt_tokens[rows] - 500 - 20) / 120
        assert turn[0] >= 0
        assert (np.diff(turn) == 1.0).all()  # 20 tokens of the user and 100 of the answer more


def test_a_turn_shares_the_whole_prompt_of_the_one_before() -> None:
    load = turns_of(a_load(shared_prefix=PREFIX), 3_000.0)
    seen = load.prefixes.seen_before(load.prefix_index)
    for rows in chains(load).values():
        assert seen[rows[0]] in (0, 500)  # the system prompt, unless nobody was there before
        assert (seen[rows[1:]] == load.prompt_tokens[rows[:-1]]).all()


def test_a_session_ends_before_a_prompt_that_is_too_long() -> None:
    load = turns_of(a_load(turns_mean=20.0, max_prompt_tokens=620), 5_000.0)
    assert set(load.prompt_tokens) == {20, 140, 260, 380, 500, 620}


def test_a_longer_run_leaves_its_beginning_as_it_was() -> None:
    load = a_load(message_tokens=Lognormal(median=30, sigma=1.0), shared_prefix=PREFIX)
    short, long = turns_of(load, 1_000.0), turns_of(load, 5_000.0).slice(0.0, 1_000.0)
    assert short.arrival_s == pytest.approx(long.arrival_s, abs=1e-6)
    assert np.array_equal(short.prompt_tokens, long.prompt_tokens)
    assert np.array_equal(short.output_tokens, long.output_tokens)


def test_sessions_of_one_turn_are_single_requests() -> None:
    load = turns_of(a_load(turns_mean=1.0, sessions_per_s=2.0), 10_000.0)
    assert len(load) / 10_000.0 == pytest.approx(2.0, rel=0.03)
    assert set(load.prompt_tokens) == {20}
    assert (load.prefix_index == -1).all()
