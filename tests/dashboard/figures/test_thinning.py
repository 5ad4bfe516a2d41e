"""Fewer points of a long run: means of what was measured, the last of what was decided, and gaps stay gaps."""

from __future__ import annotations

import pytest

from poolpilot.dashboard.figures.thinning import stretch_s, thinned

from .rows import a_timeline, a_value


def test_what_is_measured_is_a_mean_of_what_is_known_and_what_is_decided_the_last() -> None:
    queue = [a_value("queue", value, 10.0 * t) for t, value in enumerate([1.0, 3.0, None, 5.0, None])]
    counts = [a_value("replicas", value, 10.0 * t) for t, value in enumerate([1.0, 2.0, 4.0, 4.0, 3.0])]
    got = thinned([*queue, *counts], 3)
    assert [(row["measure"], row["time_s"], row["value"]) for row in got] == [
        ("queue", 0.0, 2.0),
        ("queue", 20.0, 5.0),
        ("queue", 40.0, None),
        ("replicas", 0.0, 2.0),
        ("replicas", 20.0, 4.0),
        ("replicas", 40.0, 3.0),
    ]
    assert stretch_s(got) == 20.0


def test_few_points_come_back_as_they_are_and_no_series_has_more_than_asked() -> None:
    rows = a_timeline(ticks=100)
    assert sorted(map(repr, thinned(rows, 100))) == sorted(map(repr, rows))
    for most in (1, 7, 60):
        series: dict[tuple[str, str, str], int] = {}
        for row in thinned(rows, most):
            key = (row["measure"], row["name"], row["pool"])
            series[key] = series.get(key, 0) + 1
        assert max(series.values()) <= most
        assert len(series) == len({(r["measure"], r["name"], r["pool"]) for r in rows})


def test_nothing_at_all_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="most: 0"):
        thinned([], 0)
    assert thinned([], 1) == []
    assert stretch_s([]) == 0.0
