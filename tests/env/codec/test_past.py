"""The minutes before: allowances of misses, means that fade, and how long starts have been under way."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.codec import BUDGET_WINDOW_S, Past, look_back, track_budget
from poolpilot.env.codec.past import LONG_S, MARKET_S, SOON_S
from poolpilot.env.contract import Cluster, Memory, Snapshot, blank_snapshot

from ..clusters import SEEDS, a_cluster, a_snapshot, any_floats, row, same, with_absurdities, with_columns


def one_class(attainment: float = 0.9) -> Cluster:
    cluster = row(a_cluster(np.random.default_rng(0), 1, 1, 1), 0)
    return replace(cluster, targets=replace(cluster.targets, attainment=np.array([attainment])))


def told(time_s: float, rate_per_s: float, attainment: float) -> Snapshot:
    return with_columns(blank_snapshot(time_s, 1, 1), arrival_rate_per_s=rate_per_s, attainment=attainment)


def left_after(reports: list[tuple[float, float, float]], wanted: float = 0.9) -> list[float]:
    cluster, memory, left = one_class(wanted), {}, []
    for report in reports:
        now, memory = track_budget(told(*report), cluster, memory)
        left.append(float(now[0]))
    return left


@pytest.mark.parametrize(
    ("attained", "expected"),
    [(1.0, 1.0), (0.95, 0.5), (0.9, 0.0), (0.8, -1.0), (np.nan, 1.0)],
    ids=["no miss", "half the allowance", "all of it", "twice the allowance", "unknown counts as met"],
)
def test_the_allowance_left_follows_the_share_missed(attained: float, expected: float) -> None:
    assert left_after([(0.0, 5.0, attained), (10.0, 5.0, attained), (20.0, 5.0, attained)])[1:] == pytest.approx(
        [expected, expected]
    )


def test_nothing_seen_leaves_the_allowance_untouched() -> None:
    assert left_after([(0.0, 5.0, 0.0)]) == [1.0]
    assert left_after([(0.0, np.nan, np.nan), (10.0, np.nan, np.nan)]) == [1.0, 1.0]


def test_old_misses_are_forgotten() -> None:
    reports = [(0.0, 5.0, 0.5), (10.0, 5.0, 0.5)] + [(10.0 + 10.0 * i, 5.0, 1.0) for i in range(1, 400)]
    left = left_after(reports)
    assert left[1] < -3
    assert left[1:] == sorted(left[1:])
    assert left[1 + int(BUDGET_WINDOW_S / 10.0)] > 0.9


@pytest.mark.parametrize(
    ("minutes", "attained", "expected"),
    [(60, 1.0, 1.0), (30, 0.9, 0.5), (60, 0.9, 0.0), (30, 0.8, 0.0), (300, 0.9, 0.0), (30, np.nan, 1.0)],
    ids=["no miss", "half an hour at the allowance", "an hour", "half an hour at twice", "five hours", "unknown"],
)
def test_an_hours_allowance_is_used_up_by_an_hour_at_its_rate(minutes: int, attained: float, expected: float) -> None:
    cluster, memory = one_class(), {}
    for tick in range(minutes * 6):
        past, memory = look_back(told(10.0 * tick, 5.0, attained), cluster, memory)
    assert past.hour_left == pytest.approx([expected], abs=0.01)


def test_a_perfect_target_has_a_small_allowance_all_the_same() -> None:
    assert left_after([(0.0, 5.0, 0.999), (10.0, 5.0, 0.999)], wanted=1.0)[1] == pytest.approx(0.0, abs=1e-9)


# Means


def looked_back(snapshots: list[Snapshot], cluster: Cluster) -> list[Past]:
    memory: Memory = {}
    pasts = []
    for snapshot in snapshots:
        past, memory = look_back(snapshot, cluster, memory)
        pasts.append(past)
    return pasts


def ticks(column: str, values: list[float]) -> list[Snapshot]:
    """One class, one pool, every 10 s."""
    return [with_columns(blank_snapshot(10.0 * i, 1, 1), **{column: value}) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("column", "field", "over_s"),
    [
        ("arrival_rate_per_s", "rate_soon_per_s", SOON_S),
        ("arrival_rate_per_s", "rate_long_per_s", LONG_S),
        ("in_flight", "in_flight", SOON_S),
        ("waiting", "waiting", SOON_S),
        ("usd_per_hr", "usd_per_hr", MARKET_S),
    ],
)
def test_a_mean_follows_a_step_within_its_time(column: str, field: str, over_s: float) -> None:
    before, after = 400, int(over_s / 10.0)
    pasts = looked_back(ticks(column, [2.0] * before + [4.0] * after), one_class())
    seen = [float(getattr(past, field)[0]) for past in pasts]
    assert seen[0] == 2.0
    assert seen[before - 1] == pytest.approx(2.0)
    # The share of what was seen before the step that is left after `over_s`, of all that is remembered then.
    left = np.exp(-1.0)
    whole = 1.0 - np.exp(-10.0 * (before + after) / over_s)
    share = (1.0 - left) / whole
    assert seen[-1] == pytest.approx(2.0 + 2.0 * share, rel=1e-6)


@pytest.mark.parametrize("wrong", [np.nan, -1.0, np.inf, 1e300], ids=["unknown", "negative", "infinite", "absurd"])
def test_what_is_unknown_or_cannot_be_changes_no_mean(wrong: float) -> None:
    pasts = looked_back(ticks("arrival_rate_per_s", [3.0, wrong, wrong, wrong]), one_class())
    assert [float(past.rate_long_per_s[0]) for past in pasts] == pytest.approx([3.0] * 4)
    late = looked_back(ticks("arrival_rate_per_s", [wrong, wrong, 3.0]), one_class())
    assert np.isnan(late[1].rate_long_per_s[0])
    assert late[2].rate_long_per_s[0] == pytest.approx(3.0)


def test_replicas_asked_for_in_vain_are_counted() -> None:
    snapshots = [
        with_columns(blank_snapshot(10.0 * i, 1, 1), target=5.0, ready=2.0, starting=starting)
        for i, starting in enumerate((3.0, 1.0))
    ]
    pasts = looked_back(snapshots, one_class())
    assert pasts[0].unanswered[0] == 0.0
    assert 0.0 < pasts[1].unanswered[0] < 2.0


def test_starts_age_until_they_are_over() -> None:
    pasts = looked_back(ticks("starting", [0.0, 2.0, 2.0, 4.0, 4.0, 1.0, np.nan, 0.0, 1.0]), one_class())
    ages = [float(past.pending_s[0]) for past in pasts]
    assert ages == pytest.approx([0.0, 0.0, 10.0, 10.0, 20.0, 30.0, 40.0, 0.0, 0.0])


# For all of it


def test_rows_of_zeros_are_rows_that_saw_nothing() -> None:
    """What a cluster that starts again in a batch is left with."""
    rng = np.random.default_rng(3)
    cluster = a_cluster(rng, 2, 2, 3)
    memory: Memory = {}
    for tick in range(4):
        _, memory = look_back(replace(a_snapshot(rng, cluster), time_s=np.full(2, 10.0 * tick)), cluster, memory)
    wiped = {name: np.array(values) for name, values in memory.items()}
    for values in wiped.values():
        values[1] = 0.0
    snapshot = replace(a_snapshot(rng, cluster), time_s=np.array([40.0, 0.0]))
    past, _ = look_back(snapshot, cluster, wiped)
    fresh, _ = look_back(row(snapshot, 1), row(cluster, 1), {})
    going_on, _ = look_back(row(snapshot, 0), row(cluster, 0), {name: v[0] for name, v in memory.items()})
    assert same(row(past, 1), fresh)
    assert same(row(past, 0), going_on)


def test_looking_twice_at_the_same_moment_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    cluster = a_cluster(rng, 2, 2, 3)
    memory: Memory = {}
    for tick in range(3):
        snapshot = replace(a_snapshot(rng, cluster), time_s=np.full(2, 10.0 * tick))
        once, memory = look_back(snapshot, cluster, memory)
        twice, after = look_back(snapshot, cluster, memory)
        for field in fields(once):
            assert np.allclose(getattr(once, field.name), getattr(twice, field.name), equal_nan=True), field.name
        assert all(np.allclose(after[name], memory[name]) for name in memory)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.lists(st.floats(0, 30), min_size=1, max_size=5))
def test_absurd_figures_are_not_remembered_for_ever(seed: int, steps: list[float]) -> None:
    rng = np.random.default_rng(seed)
    cluster, memory, now_s = a_cluster(rng, 2, 2, 2), {}, 0.0
    for step_s in steps:
        now_s += step_s
        snapshot = with_absurdities(rng, a_snapshot(rng, cluster), 0.5)
        with np.errstate(all="ignore"):
            past, memory = look_back(replace(snapshot, time_s=np.full(2, now_s)), cluster, memory)
        assert all(np.isfinite(values).all() for values in memory.values())
        assert np.isfinite(past.budget_left).all()
        assert np.isfinite(past.hour_left).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 30), any_floats(2)), min_size=1, max_size=5))
def test_absurd_reports_leave_a_finite_allowance(reports: list[tuple[float, np.ndarray]]) -> None:
    cluster, memory, now_s = one_class(), {}, 0.0
    for step_s, (rate, attained) in reports:
        now_s += step_s
        left, memory = track_budget(told(now_s, rate, attained), cluster, memory)
        assert np.isfinite(left).all()
        assert all(np.isfinite(values).all() for values in memory.values())


def test_a_batch_looks_back_as_each_cluster_alone() -> None:
    rng = np.random.default_rng(4)
    cluster = a_cluster(rng, 3, 2, 2)
    memory: Memory = {}
    alone: list[Memory] = [{} for _ in range(3)]
    for tick in range(4):
        snapshot = replace(a_snapshot(rng, cluster), time_s=np.full(3, 10.0 * tick))
        past, memory = look_back(snapshot, cluster, memory)
        for b in range(3):
            mine, alone[b] = look_back(row(snapshot, b), row(cluster, b), alone[b])
            assert same(mine, row(past, b))
