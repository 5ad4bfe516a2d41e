"""Demand: how much of what is asked for, by class and by length of prompt and output.

A *bucket* is what a plan routes; within it lengths differ still, and the longest prompts decide whether a time to first
token holds. So a demand also knows its *cells*, finer than buckets, from which capacities are computed.

Symbols: `C` classes, `B` buckets, `M` cells, `N` requests of one class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ...env.beliefs import peak_load
from ...env.contract import FloatArray, IntArray
from ...env.workload.requests import Workload

__all__ = ["Cells", "Demand", "Edges", "demand_of"]

CELLS_PER_CLASS = 48
"""About as many cells, whatever the number of buckets."""
_OUTPUT_ENDS = (0.15, 0.5, 0.75, 0.9, 0.97)
"""Quantiles of the output lengths between cells: short answers feel each prompt beside them, long ones miss an end-to-end
target."""
_Split = Callable[[IntArray, int], IntArray]
"""(lengths `[N]`, parts) -> part of each `[N]`."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Requests so alike that their mean stands for each of them."""

    bucket: IntArray
    """`[M]` the bucket that each belongs to, rising."""
    prompt_tokens: FloatArray
    """`[M]` mean of the cell's requests."""
    output_tokens: FloatArray
    """`[M]`"""
    share: FloatArray
    """`[M]` of the bucket's requests; sums to 1 in each bucket."""


@dataclass(frozen=True, eq=False)
class Demand:
    """Requests per second by class x length bucket."""

    class_names: tuple[str, ...]
    """`C`"""
    class_index: IntArray
    """`[B]`"""
    prompt_tokens: FloatArray
    """`[B]` mean of the bucket's requests."""
    output_tokens: FloatArray
    """`[B]`"""
    rate_per_s: FloatArray
    """`[B]` without head-room."""
    cells: Cells | None = None
    """How lengths differ within buckets; None: not at all."""

    @property
    def class_rate_per_s(self) -> FloatArray:
        """`[C]` without head-room."""
        return _summed(self.class_index, self.rate_per_s, len(self.class_names))

    @property
    def fine(self) -> Cells:
        """The cells; each bucket is one where nothing is known of the lengths within."""
        if self.cells is not None:
            return self.cells
        n = len(self.class_index)
        return Cells(np.arange(n), self.prompt_tokens, self.output_tokens, np.ones(n))

    def scaled(self, factor: float) -> Demand:
        """The same requests, `factor` times as many per second."""
        return replace(self, rate_per_s=self.rate_per_s * factor)

    def label(self, bucket: int) -> str:
        """A bucket in words: its class, and its mean lengths where the class has several buckets."""
        name = self.class_names[int(self.class_index[bucket])]
        if (self.class_index == self.class_index[bucket]).sum() == 1:
            return name
        return f"{name} {self.prompt_tokens[bucket]:.0f}+{self.output_tokens[bucket]:.0f}"


@dataclass(frozen=True, slots=True)
class Edges:
    """Where buckets begin, for all classes alike."""

    prompt_tokens: Sequence[float] = ()
    """Rising; a prompt of exactly so many tokens belongs to the bucket above."""
    output_tokens: Sequence[float] = ()


def demand_of(
    workload: Workload,
    duration_s: float,
    *,
    load: Literal["peak", "mean"] = "peak",
    buckets: int | Edges = 1,
    least_requests: int = 20,
) -> Demand:
    """What a workload asks for.

    Args:
        duration_s: length of the run.
        load: `mean` over the run, or `peak`: of each class the minute that 5 % of the minutes exceed
            (`env.beliefs.peak_load`), spread over its buckets by their shares of the run's requests.
        buckets: at most so many per class, each with about the same number of tokens; or where they begin.
        least_requests: buckets with fewer are merged with the one of the nearest lengths.

    Returns:
        Rates and means such that each class has its whole rate, and its tokens per second at `mean` load, exactly. A
        class without requests is one bucket at rate 0 with a single prompt token.
    """
    n_classes = len(workload.class_names)
    count = np.bincount(workload.class_index, minlength=n_classes)
    rate = peak_load(workload, duration_s) if load == "peak" else count / duration_s
    parts: list[tuple[FloatArray, ...]] = []
    n_buckets = 0
    for c in range(n_classes):
        rows = workload.class_index == c
        if not count[c]:
            parts.append(tuple(np.array([v]) for v in (c, n_buckets, 1.0, 0.0, 0.0, 1.0)))
            n_buckets += 1
            continue
        prompt, output = workload.prompt_tokens[rows], workload.output_tokens[rows]
        label = _merged(_buckets(prompt, output, buckets), prompt, output, least_requests)
        own = int(label.max()) + 1
        per_bucket = max(1, CELLS_PER_CLASS // own)
        for b in range(own):
            inside = label == b
            cell = _cells(prompt[inside], output[inside], per_bucket)
            size = np.bincount(cell).astype(np.float64)
            parts.append(
                (
                    np.full(len(size), float(c)),
                    np.full(len(size), float(n_buckets + b)),
                    np.bincount(cell, prompt[inside]) / size,
                    np.bincount(cell, output[inside]) / size,
                    np.full(len(size), rate[c] * inside.sum() / count[c]),
                    size / inside.sum(),
                )
            )
        n_buckets += own
    klass, bucket, prompts, outputs, bucket_rate, share = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    of = bucket.astype(np.int64)
    first = np.searchsorted(of, np.arange(n_buckets))
    return Demand(
        class_names=workload.class_names,
        class_index=klass[first].astype(np.int64),
        prompt_tokens=_summed(of, prompts * share, n_buckets),
        output_tokens=_summed(of, outputs * share, n_buckets),
        rate_per_s=bucket_rate[first],
        cells=Cells(of, prompts, outputs, share),
    )


def _summed(of: IntArray, amounts: FloatArray, n: int) -> FloatArray:
    """`[n]` the sum of the amounts of each."""
    return np.bincount(of, amounts, n).astype(np.float64)


def _buckets(prompt: IntArray, output: IntArray, wanted: int | Edges) -> IntArray:
    """`[N]` the bucket of each request, numbers may be left out."""
    if isinstance(wanted, Edges):
        across = len(wanted.output_tokens) + 1
        row = np.searchsorted(np.asarray(wanted.prompt_tokens), prompt, side="right")
        return row * across + np.searchsorted(np.asarray(wanted.output_tokens), output, side="right")
    if wanted < 1:
        raise ValueError(f"buckets: {wanted}, wanted at least 1 per class")
    if prompt.min() == prompt.max():
        down = 1
    elif output.min() == output.max():
        down = wanted
    else:
        down = int(np.ceil(np.sqrt(wanted)))
    across = wanted // down
    return _nested(prompt, output, down, across, _equal_tokens, np.arange(1, across) / across)


def _cells(prompt: IntArray, output: IntArray, wanted: int) -> IntArray:
    """`[N]` the cell of each request, none left out."""
    varied = output.min() < output.max()
    across = min(len(_OUTPUT_ENDS) + 1, wanted) if varied else 1
    ends = _OUTPUT_ENDS if across > len(_OUTPUT_ENDS) else tuple(np.arange(1, across) / across)
    cell = _nested(prompt, output, max(1, wanted // across), across, _halves, ends)
    return np.unique(cell, return_inverse=True)[1].astype(np.int64)


def _nested(prompt: IntArray, output: IntArray, down: int, across: int, parts: _Split, ends: ArrayLike) -> IntArray:
    """`[N]` part of each request: by prompt, and within each by output, cut at these quantiles."""
    row = parts(prompt, down)
    cell = row * across
    for r in np.unique(row):
        cell[row == r] += _at_quantiles(output[row == r], ends)
    return cell


def _equal_tokens(tokens: IntArray, parts: int) -> IntArray:
    """Each part with about the same number of tokens: the longest requests, which are the work, apart."""
    ordered = np.sort(tokens)
    sums = np.cumsum(ordered, dtype=np.float64)
    edges = ordered[np.searchsorted(sums, sums[-1] * np.arange(1, parts) / parts)]
    return np.searchsorted(np.unique(edges), tokens, side="right")


def _halves(tokens: IntArray, parts: int) -> IntArray:
    """Each part with half as many requests as the one before: the longest decide whether a target is met."""
    return _at_quantiles(tokens, 1.0 - 0.5 ** np.arange(1, parts))


def _at_quantiles(tokens: IntArray, ends: ArrayLike) -> IntArray:
    edges = np.unique(np.quantile(tokens, np.asarray(ends, dtype=np.float64)))
    return np.searchsorted(edges, tokens, side="right")


def _merged(label: IntArray, prompt: IntArray, output: IntArray, least: int) -> IntArray:
    """`[N]` labels without gaps, each of at least `least` requests, if there are so many."""
    label = np.unique(label, return_inverse=True)[1].astype(np.int64)
    while True:
        size = np.bincount(label)
        small = int(np.argmin(size))
        if size[small] >= least or len(size) == 1:
            return label
        centre = np.log1p(np.stack([np.bincount(label, tokens) / size for tokens in (prompt, output)]))
        away = np.abs(centre - centre[:, small : small + 1]).sum(axis=0)
        away[small] = np.inf
        label[label == small] = int(np.argmin(away))
        label[label > small] -= 1
