"""The rounds of `dealing`, compiled: half of a planner-based rule's time is spent in them.

Symbols: `B` clusters, `C` classes, `P` pools.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

from ....env.contract import FloatArray

Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function) -> Function:
    kernel: Any = njit(cache=True, nogil=True)(function)
    return cast(Function, kernel)


@_compiled
def deal(
    load_per_s: FloatArray,
    capacity_per_s: FloatArray,
    counted: FloatArray,
    rounds: int,
    advantage: float,
    least_use: float,
    shares: FloatArray,
    full: FloatArray,
) -> None:
    """Write `shares` `[B, C, P]` and `full` `[B, P]` as `dealing.dealt` describes them.

    Args:
        load_per_s: `[B, C]`
        capacity_per_s: `[B, C, P]`
        counted: `[B, P]` replicas, each as far as it counts.
        rounds: how often shares are moved.
        advantage: how strongly a class keeps to the pools that are better for it than for others.
        least_use: a pool emptier than this counts as that full.
    """
    n_clusters, n_classes, n_pools = capacity_per_s.shape
    usual, best = np.empty(n_pools), np.empty(n_classes)
    for b in range(n_clusters):
        load, capacity, have, share = load_per_s[b], capacity_per_s[b], counted[b], shares[b]
        for c in range(n_classes):
            best[c] = 0.0
            for p in range(n_pools):
                best[c] = max(best[c], capacity[c, p])
        for p in range(n_pools):
            total, known = 0.0, 0
            for c in range(n_classes):
                if load[c] > 0.0 and capacity[c, p] > 0.0:
                    total += capacity[c, p] / best[c]
                    known += 1
            usual[p] = total / known if known else 0.0
        for c in range(n_classes):
            for p in range(n_pools):
                better = capacity[c, p] / best[c] / usual[p] if best[c] > 0.0 and usual[p] > 0.0 else 0.0
                share[c, p] = capacity[c, p] * better**advantage * have[p]
            _normalise(share[c])
        for _ in range(rounds):
            _fill(load, capacity, have, share, full[b])
            for p in range(n_pools):
                usual[p] = 1.0 / sqrt(max(full[b, p], least_use))
            for c in range(n_classes):
                for p in range(n_pools):
                    share[c, p] *= usual[p]
                _normalise(share[c])
        _fill(load, capacity, have, share, full[b])


@_compiled
def _normalise(row: FloatArray) -> None:
    total = 0.0
    for p in range(len(row)):
        total += row[p]
    for p in range(len(row)):
        row[p] = row[p] / total if total > 0.0 else 0.0


@_compiled
def _fill(load: FloatArray, capacity: FloatArray, have: FloatArray, share: FloatArray, full: FloatArray) -> None:
    """How full each pool is `[P]`."""
    for p in range(len(full)):
        work = 0.0
        for c in range(len(load)):
            if capacity[c, p] > 0.0:
                work += load[c] * share[c, p] / capacity[c, p]
        full[p] = work / have[p] if have[p] > 0.0 else 0.0
