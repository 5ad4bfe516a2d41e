"""Answers of Prometheus as arrays: counters that restart, histograms that add up, and nonsense that is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.audit.measured import AuditError
from poolpilot.audit.prometheus.answers import Series, by_label, histograms_of, increments, matrix_of

NAN = math.nan


def matrix(*pairs: tuple[dict[str, str], list[tuple[float, str]]]) -> dict[str, Any]:
    return {"resultType": "matrix", "result": [{"metric": labels, "values": values} for labels, values in pairs]}


def test_series_stand_at_their_moments() -> None:
    data = matrix(
        ({"instance": "b"}, [(100.0, "1"), (130.0, "3")]), ({"instance": "a"}, [(115.0, "2"), (145.0, "NaN")])
    )
    series = matrix_of(data, 100.0, 15.0, 4)
    names, values = by_label(series, "instance")
    assert names == ("a", "b")
    np.testing.assert_array_equal(values, [[NAN, 2.0, NAN, NAN], [1.0, NAN, 3.0, NAN]])
    assert by_label(series, "instance", ["b", "c"])[1].tolist()[0] == pytest.approx([1.0, NAN, 3.0, NAN], nan_ok=True)


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"resultType": "scalar", "result": [1, "2"]},
        {"resultType": "matrix", "result": {}},
        {"resultType": "matrix", "result": [{"metric": {}, "values": [[1]]}]},
        {"resultType": "matrix", "result": [{"metric": [], "values": []}]},
        {"resultType": "vector", "result": [{"metric": {}, "value": [0, "x"]}]},
    ],
)
def test_what_is_no_series_is_refused(data: Any) -> None:
    with pytest.raises(AuditError):
        matrix_of(data, 0.0, 1.0, 2)


@pytest.mark.parametrize(
    ("counter", "born", "grown"),
    [
        ([5.0, 7.0, 7.0], False, [2.0, 0.0]),
        ([5.0, 2.0, 3.0], False, [2.0, 1.0]),
        ([NAN, 4.0, 6.0], True, [4.0, 2.0]),
        ([NAN, 4.0, 6.0], False, [0.0, 2.0]),
        ([5.0, NAN, 9.0], False, [0.0, 4.0]),
        ([NAN, NAN, NAN], True, [0.0, 0.0]),
    ],
    ids=["grows", "starts anew", "born in sight", "seen late", "over a gap", "never there"],
)
def test_counters_grow(counter: list[float], born: bool, grown: list[float]) -> None:
    assert increments(np.array([counter]), np.array([born])).tolist() == [grown]


@given(steps=st.lists(st.integers(0, 50), min_size=1, max_size=30), restarts=st.sets(st.integers(1, 29), max_size=4))
def test_restarts_lose_nothing_that_was_scraped(steps: list[int], restarts: set[int]) -> None:
    values, total = [0.0], 0.0
    for k, step in enumerate(steps, start=1):
        # A process that restarts right after a scrape counts from nothing.
        values.append(float(step) if k in restarts else values[-1] + step)
        total += step
    grown = increments(np.array([values]))
    lost = sum(values[k - 1] for k in restarts if k < len(values) and values[k] >= values[k - 1])
    assert grown.sum() == pytest.approx(total - lost)


def test_buckets_become_counts_and_the_mean_is_exact() -> None:
    buckets = [
        Series({"le": "1"}, np.array([2.0, 0.0])),
        Series({"le": "5"}, np.array([1.9999, 0.0])),  # extrapolated apart
        Series({"le": "+Inf"}, np.array([4.0, 0.0])),
        Series({"le": "nonsense"}, np.array([9.0, 9.0])),
    ]
    first, second = histograms_of(buckets, [Series({}, np.array([30.0, NAN]))], [Series({}, np.array([4.0, NAN]))])
    assert second is None
    assert first is not None
    assert first.counts.tolist() == [2.0, 0.0, 2.0]
    assert first.mean == 7.5
    assert histograms_of(buckets[:2], [], []) == []
