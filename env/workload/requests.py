"""The requests of one run, as arrays.

Symbols: `N` requests, `C` classes, `T` time buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..contract import BoolArray, FloatArray, IntArray

MAX_RATE_CELLS = 50_000_000  # a table of rates above 400 MB is a mistyped bucket_s, not a wish


class WorkloadError(ValueError):
    """Requests, or the description they are made from, cannot be used; the message is one line."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Requests in the order of arrival, checked on construction.

    Raises:
        WorkloadError: an array has the wrong type or shape, or a row holds a value that cannot be; the message names
            the field, the first bad row (from 0), the value and what would be right.
    """

    arrival_s: FloatArray
    """`[N]` float64, sorted, counted from the start of the run (>= 0)."""
    prompt_tokens: IntArray
    """`[N]` int64, >= 1."""
    output_tokens: IntArray
    """`[N]` int64, >= 0; 0 is a prefill-only request such as an embedding."""
    class_index: IntArray
    """`[N]` int64, place of the request's class in `class_names`."""
    class_names: tuple[str, ...]
    """`C` distinct names."""

    def __post_init__(self) -> None:
        """Check everything a simulator relies on."""
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise WorkloadError(f"class_names: {self.class_names!r}: wanted one or more distinct names")
        shape = (np.size(self.arrival_s),)
        _check_array("arrival_s", self.arrival_s, np.dtype(np.float64), shape)
        for field in ("prompt_tokens", "output_tokens", "class_index"):
            _check_array(field, getattr(self, field), np.dtype(np.int64), shape)
        _check_rows("arrival_s", self.arrival_s, ~np.isfinite(self.arrival_s), "a finite number of seconds")
        _check_rows("arrival_s", self.arrival_s, self.arrival_s < 0.0, "seconds from the start, 0 or more")
        late = np.zeros(shape, dtype=np.bool_)
        late[1:] = np.diff(self.arrival_s) < 0.0
        _check_rows("arrival_s", self.arrival_s, late, "no less than the row before (sorted)")
        _check_rows("prompt_tokens", self.prompt_tokens, self.prompt_tokens < 1, "1 or more")
        _check_rows("output_tokens", self.output_tokens, self.output_tokens < 0, "0 or more")
        outside = (self.class_index < 0) | (self.class_index >= len(self.class_names))
        _check_rows(
            "class_index", self.class_index, outside, f"0 to {len(self.class_names) - 1}, a place in class_names"
        )

    def __len__(self) -> int:
        """`N`."""
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """Time of the last arrival; 0 if there is none."""
        return float(self.arrival_s[-1]) if len(self) else 0.0

    def slice(self, start_s: float, end_s: float) -> Workload:
        """The requests that arrive in [start_s, end_s), with times counted from `start_s`."""
        if not 0.0 <= start_s < end_s:
            raise WorkloadError(f"slice: start_s {start_s!r}, end_s {end_s!r}: wanted 0 <= start_s < end_s")
        first, last = np.searchsorted(self.arrival_s, [start_s, end_s])
        return Workload(
            self.arrival_s[first:last] - start_s,
            self.prompt_tokens[first:last],
            self.output_tokens[first:last],
            self.class_index[first:last],
            self.class_names,
        )

    def scaled_rate(self, factor: float) -> Workload:
        """The same requests arriving `factor` times as fast: time is compressed, so the shape of the load stays."""
        if not (np.isfinite(factor) and factor > 0.0):
            raise WorkloadError(f"scaled_rate: factor {factor!r}: wanted a finite number above 0")
        return Workload(
            self.arrival_s / factor, self.prompt_tokens, self.output_tokens, self.class_index, self.class_names
        )

    def rates_per_s(self, bucket_s: float) -> FloatArray:
        """`[T, C]` requests per second of each class in consecutive buckets from 0 to the last arrival.

        Every count is divided by the whole `bucket_s`, also that of the last bucket, which the run may only begin.
        """
        if not (np.isfinite(bucket_s) and bucket_s > 0.0):
            raise WorkloadError(f"rates_per_s: bucket_s {bucket_s!r}: wanted a finite number above 0")
        n_classes = len(self.class_names)
        if self.duration_s / bucket_s * n_classes > MAX_RATE_CELLS:
            raise WorkloadError(
                f"rates_per_s: bucket_s {bucket_s!r}: too fine for {self.duration_s:.0f} s of requests;"
                f" wanted at least {self.duration_s * n_classes / MAX_RATE_CELLS:.3g}"
            )
        bucket = np.floor(self.arrival_s / bucket_s).astype(np.int64)
        n_buckets = int(bucket[-1]) + 1 if len(self) else 0
        counts = np.bincount(bucket * n_classes + self.class_index, minlength=n_buckets * n_classes)
        rates: FloatArray = counts.reshape(n_buckets, n_classes) / bucket_s
        return rates

    @staticmethod
    def mix(*workloads: Workload) -> Workload:
        """All requests of all workloads in one, classes joined by name in the order they first appear.

        Of requests that arrive together, those of an earlier argument come first.
        """
        if not workloads:
            raise WorkloadError("mix: wanted at least one workload, got none")
        names = tuple(dict.fromkeys(name for w in workloads for name in w.class_names))
        new_index = [np.array([names.index(name) for name in w.class_names])[w.class_index] for w in workloads]
        arrival_s = np.concatenate([w.arrival_s for w in workloads])
        order = np.argsort(arrival_s, kind="stable")
        return Workload(
            arrival_s[order],
            np.concatenate([w.prompt_tokens for w in workloads])[order],
            np.concatenate([w.output_tokens for w in workloads])[order],
            np.concatenate(new_index).astype(np.int64)[order],
            names,
        )


def check_class_names(named: Sequence[str], class_names: Sequence[str]) -> None:
    """Raise `WorkloadError` if a workload names a class that the scenario lacks."""
    unknown = [name for name in named if name not in class_names]
    if unknown:
        raise WorkloadError(f"workload: unknown class {unknown[0]!r}; classes are {', '.join(class_names)}")


def _check_array(field: str, values: object, dtype: np.dtype[np.generic], shape: tuple[int]) -> None:
    if not isinstance(values, np.ndarray) or values.dtype != dtype:
        seen = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise WorkloadError(f"{field}: {seen}: wanted a NumPy array of {dtype}")
    if values.shape != shape:
        raise WorkloadError(f"{field}: shape {values.shape}: wanted {shape}, one row a request as in arrival_s")


def _check_rows(field: str, values: NDArray[np.generic], bad: BoolArray, wanted: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise WorkloadError(f"{field}: row {row}: {values[row]}: wanted {wanted}")
