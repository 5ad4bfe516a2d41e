"""The requests of one run, as arrays.

Symbols: `N` requests, `C` classes, `T` time buckets, `G` nodes of the prefix tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from ..contract import FloatArray, IntArray
from .checks import WorkloadError, check_array, check_rows
from .prefixes import NO_PREFIXES, PrefixTree, check_prefix_index

__all__ = ["Workload", "WorkloadError", "check_class_names"]

Rows: TypeAlias = slice | IntArray
_NOWHERE: IntArray = np.empty(0, np.int64)
MAX_RATE_CELLS = 50_000_000  # a table of rates above 400 MB is a mistyped bucket_s, not a wish


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
    prefix_index: IntArray = field(default_factory=lambda: _NOWHERE)
    """`[N]` int64, node of `prefixes` whose tokens the prompt begins with; -1 if it shares none. Left out: all -1."""
    prefixes: PrefixTree = NO_PREFIXES
    """Which prompts begin alike. A request's node ends within its prompt."""

    def __post_init__(self) -> None:
        """Check everything a simulator relies on."""
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise WorkloadError(f"class_names: {self.class_names!r}: wanted one or more distinct names")
        shape = (np.size(self.arrival_s),)
        check_array("arrival_s", self.arrival_s, np.dtype(np.float64), shape)
        if self.prefix_index is _NOWHERE:
            object.__setattr__(self, "prefix_index", np.full(shape, -1, np.int64))
        for name in ("prompt_tokens", "output_tokens", "class_index", "prefix_index"):
            check_array(name, getattr(self, name), np.dtype(np.int64), shape, ", one row a request as in arrival_s")
        check_rows("arrival_s", self.arrival_s, ~np.isfinite(self.arrival_s), "a finite number of seconds")
        check_rows("arrival_s", self.arrival_s, self.arrival_s < 0.0, "seconds from the start, 0 or more")
        late = np.zeros(shape, dtype=np.bool_)
        late[1:] = np.diff(self.arrival_s) < 0.0
        check_rows("arrival_s", self.arrival_s, late, "no less than the row before (sorted)")
        check_rows("prompt_tokens", self.prompt_tokens, self.prompt_tokens < 1, "1 or more")
        check_rows("output_tokens", self.output_tokens, self.output_tokens < 0, "0 or more")
        outside = (self.class_index < 0) | (self.class_index >= len(self.class_names))
        check_rows(
            "class_index", self.class_index, outside, f"0 to {len(self.class_names) - 1}, a place in class_names"
        )
        check_prefix_index(self.prefix_index, self.prefixes, self.prompt_tokens)

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
        return self.picked(slice(first, last), self.arrival_s[first:last] - start_s)

    def picked(self, rows: Rows, arrival_s: FloatArray) -> Workload:
        """Some of the requests, at new times; `rows` are places, in the order of `arrival_s`."""
        return replace(
            self,
            arrival_s=arrival_s,
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            class_index=self.class_index[rows],
            prefix_index=self.prefix_index[rows],
        )

    def scaled_rate(self, factor: float) -> Workload:
        """The same requests arriving `factor` times as fast: time is compressed, so the shape of the load stays."""
        if not (np.isfinite(factor) and factor > 0.0):
            raise WorkloadError(f"scaled_rate: factor {factor!r}: wanted a finite number above 0")
        return replace(self, arrival_s=self.arrival_s / factor)

    def shortened(self, prompt_tokens: IntArray, output_tokens: IntArray) -> Workload:
        """The same requests with shorter prompts, cut at their end, and other outputs; `[N]` each.

        What two prompts have in common within their new lengths they still share.
        """
        if (prompt_tokens > self.prompt_tokens).any():
            row = int(np.argmax(prompt_tokens > self.prompt_tokens))
            raise WorkloadError(
                f"shortened: prompt_tokens: row {row}: {prompt_tokens[row]}: wanted at most the {self.prompt_tokens[row]}"
                " that it has"
            )
        prefixes, prefix_index = self.prefixes.shortened(self.prefix_index, prompt_tokens)
        return replace(
            self,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            prefix_index=prefix_index,
            prefixes=prefixes,
        )

    def prefix_hit_share(self) -> float:
        """Share of all prompt tokens that a prefix cache without end, shared by all replicas, would spare."""
        spared = self.prefixes.seen_before(self.prefix_index).sum()
        return float(spared / self.prompt_tokens.sum()) if len(self) else 0.0

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
        prefixes, starts = PrefixTree.joined([w.prefixes for w in workloads])
        at = [np.where(w.prefix_index >= 0, w.prefix_index + s, -1) for w, s in zip(workloads, starts, strict=True)]
        return Workload(
            arrival_s[order],
            np.concatenate([w.prompt_tokens for w in workloads])[order],
            np.concatenate([w.output_tokens for w in workloads])[order],
            np.concatenate(new_index).astype(np.int64)[order],
            names,
            np.concatenate(at)[order],
            prefixes,
        )


def check_class_names(named: Sequence[str], class_names: Sequence[str]) -> None:
    """Raise `WorkloadError` if a workload names a class that the scenario lacks."""
    unknown = [name for name in named if name not in class_names]
    if unknown:
        raise WorkloadError(f"workload: unknown class {unknown[0]!r}; classes are {', '.join(class_names)}")
