"""The loop of `filling.filled`, compiled: three of four rules that are blended wait for it, in training and live.

Symbols: `B` clusters, `C` classes, `P` pools.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

from ....env.contract import FloatArray

Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function) -> Function:
    kernel: Any = njit(cache=True, nogil=True)(function)
    return cast(Function, kernel)


@_compiled
def fill(
    left: FloatArray, capacity: FloatArray, cost: FloatArray, weights: FloatArray, room: FloatArray, need: FloatArray
) -> None:
    """Cluster by cluster, round by round: each class asks its cheapest pools that have room, and is given what fits.

    Args:
        left: `[B, C]` requests/s to place; what finds no room is left in it.
        capacity: `[B, C, P]` requests/s of one replica.
        cost: `[B, C, P]`
        weights: `[B, C, P]`
        room: `[B, P]` replicas; used up.
        need: `[B, C, P]` what is given is added.
    """
    n_clusters, n_classes, n_pools = capacity.shape
    asked = np.zeros((n_classes, n_pools))
    wanted = np.zeros(n_pools)
    for b in range(n_clusters):
        for _ in range(n_pools):
            wanted[:] = 0.0
            for c in range(n_classes):
                asked[c, :] = 0.0
                _ask(left[b, c], capacity[b, c], cost[b, c], weights[b, c], room[b], asked[c])
                wanted += asked[c]
            if not (wanted > 0.0).any():
                break
            for c in range(n_classes):
                if not (asked[c] > 0.0).any():
                    continue
                beyond = 0.0
                for p in range(n_pools):
                    given = asked[c, p]
                    if wanted[p] > room[b, p]:
                        given *= room[b, p] / wanted[p]
                    need[b, c, p] += given
                    beyond += (asked[c, p] - given) * capacity[b, c, p]
                left[b, c] = beyond
            for p in range(n_pools):
                room[b, p] = 0.0 if wanted[p] > room[b, p] else room[b, p] - wanted[p]


@_compiled
def _ask(
    left: float, capacity: FloatArray, cost: FloatArray, weights: FloatArray, room: FloatArray, asked: FloatArray
) -> None:
    """Replicas `[P]` that a class asks of its cheapest pools with room, by weights."""
    if not left > 0.0:
        return
    best = np.inf
    for p in range(len(room)):
        if capacity[p] > 0.0 and room[p] > 0.0 and cost[p] < best:
            best = cost[p]
    total = 0.0
    for p in range(len(room)):
        if capacity[p] > 0.0 and room[p] > 0.0 and cost[p] == best:
            total += weights[p]
    if not (total > 0.0 and best < np.inf):
        return
    for p in range(len(room)):
        if capacity[p] > 0.0 and room[p] > 0.0 and cost[p] == best:
            asked[p] = left * weights[p] / total / capacity[p]
