"""A workload is checked when made, and its parts and mixtures are workloads again."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.workload.requests import Workload, WorkloadError


def a_workload(**changes: Any) -> Workload:
    fields: dict[str, Any] = {
        "arrival_s": np.array([0.0, 1.0, 1.0, 4.0]),
        "prompt_tokens": np.array([10, 20, 30, 40]),
        "output_tokens": np.array([1, 0, 3, 4]),
        "class_index": np.array([0, 1, 0, 0]),
        "class_names": ("chat", "embedding"),
    }
    return Workload(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrival_s": [0.0, 1.0, 1.0, 4.0]}, "arrival_s: list: wanted a NumPy array of float64"),
        ({"arrival_s": np.array([0, 1, 1, 4])}, "arrival_s: int64: wanted a NumPy array of float64"),
        ({"prompt_tokens": np.ones(4, np.int32)}, "prompt_tokens: int32: wanted a NumPy array of int64"),
        ({"prompt_tokens": np.ones(3, np.int64)}, r"prompt_tokens: shape \(3,\): wanted \(4,\), one row a request"),
        ({"arrival_s": np.zeros((2, 2))}, r"arrival_s: shape \(2, 2\): wanted \(4,\)"),
        ({"arrival_s": np.array([0.0, np.nan, 2.0, 3.0])}, "arrival_s: row 1: nan: wanted a finite number of seconds"),
        ({"arrival_s": np.array([0.0, 1.0, 2.0, np.inf])}, "arrival_s: row 3: inf: wanted a finite"),
        ({"arrival_s": np.array([-0.5, 1.0, 2.0, 3.0])}, "arrival_s: row 0: -0.5: wanted seconds from the start"),
        ({"arrival_s": np.array([0.0, 2.0, 1.0, 0.5])}, r"arrival_s: row 2: 1.0: wanted no less than the row before"),
        ({"prompt_tokens": np.array([1, 1, 0, -1])}, "prompt_tokens: row 2: 0: wanted 1 or more"),
        ({"output_tokens": np.array([0, 0, 0, -1])}, "output_tokens: row 3: -1: wanted 0 or more"),
        ({"class_index": np.array([0, 1, 2, 0])}, "class_index: row 2: 2: wanted 0 to 1, a place in class_names"),
        ({"class_index": np.array([0, -1, 0, 0])}, "class_index: row 1: -1: wanted 0 to 1"),
        ({"class_names": ()}, r"class_names: \(\): wanted one or more distinct names"),
        ({"class_names": ("a", "a")}, r"class_names: \('a', 'a'\): wanted one or more distinct names"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WorkloadError, match=f"^{message}"):
        a_workload(**changes)


def test_a_workload_may_be_empty() -> None:
    none = np.empty(0, np.int64)
    empty = Workload(np.empty(0), none, none, none, ("chat",))
    assert (len(empty), empty.duration_s) == (0, 0.0)
    assert empty.rates_per_s(10.0).shape == (0, 1)
    assert len(Workload.mix(empty, empty).slice(0.0, 1.0).scaled_rate(2.0)) == 0


def test_a_slice_counts_from_its_start_and_leaves_out_its_end() -> None:
    part = a_workload().slice(1.0, 4.0)
    assert part.arrival_s.tolist() == [0.0, 0.0]
    assert part.prompt_tokens.tolist() == [20, 30]
    assert part.class_index.tolist() == [1, 0]


@pytest.mark.parametrize(("start_s", "end_s"), [(2.0, 2.0), (3.0, 2.0), (-1.0, 2.0), (0.0, float("nan"))])
def test_a_slice_that_is_none_is_refused(start_s: float, end_s: float) -> None:
    with pytest.raises(WorkloadError, match="wanted 0 <= start_s < end_s"):
        a_workload().slice(start_s, end_s)


def test_scaling_the_rate_compresses_time() -> None:
    assert a_workload().scaled_rate(2.0).arrival_s.tolist() == [0.0, 0.5, 0.5, 2.0]


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_rate_factor_is_refused(factor: float) -> None:
    with pytest.raises(WorkloadError, match=f"factor {factor!r}: wanted a finite number above 0"):
        a_workload().scaled_rate(factor)


def test_rates_are_counts_by_bucket_and_class() -> None:
    assert a_workload().rates_per_s(2.0).tolist() == [[1.0, 0.5], [0.0, 0.0], [0.5, 0.0]]


@pytest.mark.parametrize(
    ("bucket_s", "message"),
    [
        (0.0, "wanted a finite number above 0"),
        (float("nan"), "wanted a finite"),
        (1e-9, "too fine for 4 s of requests"),
    ],
)
def test_an_impossible_bucket_is_refused(bucket_s: float, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        a_workload().rates_per_s(bucket_s)


def test_mixing_joins_classes_by_name_and_keeps_the_order_of_ties() -> None:
    one = np.array([1])
    other = Workload(np.array([1.0]), np.array([99]), one, np.array([1]), ("code", "chat"))
    mixed = Workload.mix(a_workload(), other)
    assert mixed.class_names == ("chat", "embedding", "code")
    assert mixed.prompt_tokens.tolist() == [10, 20, 30, 99, 40]
    assert mixed.class_index.tolist() == [0, 1, 0, 0, 0]
    with pytest.raises(WorkloadError, match="wanted at least one workload"):
        Workload.mix()


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 2)), max_size=50), st.floats(0.5, 1e4), st.floats(0.1, 10))
def test_no_request_is_lost(requests: list[tuple[float, int]], bucket_s: float, factor: float) -> None:
    arrival_s = np.sort(np.array([t for t, _ in requests], dtype=np.float64))
    index = np.array([c for _, c in requests], dtype=np.int64)
    load = Workload(arrival_s, index + 1, index, index, ("a", "b", "c"))
    cut = load.duration_s / 2.0 + 0.25
    parts = load.slice(0.0, cut), load.slice(cut, np.inf)
    assert len(parts[0]) + len(parts[1]) == len(load) == len(load.scaled_rate(factor))
    counts = load.rates_per_s(bucket_s).sum(axis=0) * bucket_s if len(load) else np.zeros(3)
    assert counts == pytest.approx(np.bincount(index, minlength=3))
    assert np.sort(Workload.mix(*parts).prompt_tokens).tolist() == np.sort(load.prompt_tokens).tolist()
