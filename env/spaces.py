"""The flat, fixed-size observation and action vectors of the environment, and what lies where in them.

Symbols: `C` and `P` here are the maxima that the vectors have room for; rows beyond the cluster's own are padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .codec import (
    CLASS_FEATURES,
    CLASS_OUTPUTS,
    POOL_FEATURES,
    POOL_OUTPUTS,
    WHOLE_FEATURES,
    WHOLE_OUTPUTS,
    Observation,
    Outputs,
)

MAX_CLASSES = 6
MAX_POOLS = 8


class SpaceError(ValueError):
    """A cluster does not fit into the vectors; the message is one line."""


@dataclass(frozen=True)
class SpaceLayout:
    """Order: classes, pools, whole, class mask, pool mask; actions: classes, pools, whole. All row by row."""

    max_classes: int = MAX_CLASSES
    max_pools: int = MAX_POOLS

    def check(self, name: str, n_classes: int, n_pools: int) -> None:
        """SpaceError if a cluster, called `name`, is too large to train on. (Policies decide about larger ones.)"""
        for kind, count, most in (("classes", n_classes, self.max_classes), ("pools", n_pools, self.max_pools)):
            if count > most:
                raise SpaceError(f"{name}: {count} {kind}, wanted at most {most} to train on")

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """How many numbers each part of the observation takes."""
        c, p = self.max_classes, self.max_pools
        return c * len(CLASS_FEATURES), p * len(POOL_FEATURES), len(WHOLE_FEATURES), c, p

    @property
    def action_sizes(self) -> tuple[int, int, int]:
        """How many numbers each part of an action takes."""
        return self.max_classes * CLASS_OUTPUTS, self.max_pools * POOL_OUTPUTS, WHOLE_OUTPUTS

    @property
    def observation_space(self) -> spaces.Box:
        """All in [-1, 1], float32."""
        return spaces.Box(-1.0, 1.0, (sum(self.sizes),), np.float32)

    @property
    def action_space(self) -> spaces.Box:
        """All in [-1, 1], float32; zeros are the first rule's proposal."""
        return spaces.Box(-1.0, 1.0, (sum(self.action_sizes),), np.float32)

    def flatten(self, seen: Observation, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """`[B, ...]` parts, already padded to the maxima, as `[B, N]`; written into `out` if it is given."""
        batch = seen.classes.shape[0]
        flat = np.empty((batch, sum(self.sizes)), dtype=np.float32) if out is None else out
        start = 0
        for part in (seen.classes, seen.pools, seen.whole, seen.class_mask, seen.pool_mask):
            rows = part.reshape(batch, -1)
            flat[:, start : start + rows.shape[1]] = rows
            start += rows.shape[1]
        return flat

    def parts(self, flat: Any) -> tuple[Any, Any, Any, Any, Any]:
        """The five parts of `[B, N]` observations (NumPy arrays or torch tensors), in the order of `flatten`."""
        ends = np.cumsum((0, *self.sizes)).tolist()
        pieces = [flat[:, a:b] for a, b in pairwise(ends)]
        classes = pieces[0].reshape(-1, self.max_classes, len(CLASS_FEATURES))
        pools = pieces[1].reshape(-1, self.max_pools, len(POOL_FEATURES))
        return classes, pools, pieces[2], pieces[3], pieces[4]

    def outputs(self, actions: NDArray[Any]) -> Outputs:
        """`[B, A]` actions as the network's outputs."""
        wide = np.asarray(actions, dtype=np.float64)
        by_class, by_pool, whole = np.split(wide, np.cumsum(self.action_sizes)[:-1], axis=1)
        return Outputs(
            by_class.reshape(-1, self.max_classes, CLASS_OUTPUTS),
            by_pool.reshape(-1, self.max_pools, POOL_OUTPUTS),
            whole,
        )
