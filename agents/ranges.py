"""Between what the features of an observation lay while a policy was trained, and what of a new one lies outside. Pure.

Features lie in [-1, 1] (`env.codec`), so that a histogram of fixed bins holds any number of observations. A range is from
the 0.5th to the 99.5th percentile over all classes, pools or clusters that were seen.

Symbols: `C` classes, `P` pools, `FC`/`FP`/`FG` features of a class, a pool, the whole, `F` any of them; `...` leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from ..env.codec import CLASS_FEATURES, POOL_FEATURES, WHOLE_FEATURES, Observation
from ..env.contract import BoolArray, FloatArray

CARD_FIELD: Final = "observation_ranges"
"""On a checkpoint's card."""
LOW_SHARE, HIGH_SHARE = 0.005, 0.995
BINS: Final = 400
SLACK: Final = 0.05
"""A value counts as outside when it is so far beyond an end: a twentieth of half of all that a feature may be."""
NAMED: Final = 3
"""Features that are named."""
_FEATURES: Final = {"classes": CLASS_FEATURES, "pools": POOL_FEATURES, "whole": WHOLE_FEATURES}
_MASKS: Final = {"classes": "class_mask", "pools": "pool_mask"}
_TOLD: Final = frozenset({"miss_price"})
"""What the policy is told, and not what is seen."""


class RangesError(ValueError):
    """A card's ranges cannot be used; the message names the field."""


@dataclass(frozen=True)
class Ranges:
    """Of every feature, by part of the observation."""

    low: dict[str, FloatArray]
    """`[F]` by "classes", "pools" and "whole"."""
    high: dict[str, FloatArray]
    observations: int
    """Clusters at a moment that it rests on."""

    def as_json(self) -> dict[str, Any]:
        """As it stands on a card: low and high by feature."""
        parts = {
            part: {
                name: [round(float(self.low[part][f]), 4), round(float(self.high[part][f]), 4)]
                for f, name in enumerate(names)
            }
            for part, names in _FEATURES.items()
        }
        return {"observations": self.observations, **parts}

    def outside(self, seen: Observation) -> tuple[float, tuple[str, ...]]:
        """The share of an observation's values that lie outside, and the names of the features that do so most.

        Args:
            seen: of one cluster, without a batch axis.
        """
        beyond: list[tuple[float, str]] = []
        out, total = 0, 0
        for part, names in _FEATURES.items():
            rows = _rows(seen, part)
            counted = np.array([name not in _TOLD for name in names])
            off = np.maximum(self.low[part] - rows, rows - self.high[part]) * counted
            out += int((off > SLACK).sum())
            total += rows.shape[0] * int(counted.sum())
            far = off.max(axis=0, initial=0.0)
            beyond += [(float(far[f]), names[f]) for f in np.flatnonzero(far > SLACK)]
        worst = tuple(name for _, name in sorted(beyond, reverse=True)[:NAMED])
        return out / max(total, 1), worst


@dataclass
class Gathered:
    """Counts observations as they come."""

    counts: dict[str, FloatArray] = field(
        default_factory=lambda: {part: np.zeros((len(names), BINS)) for part, names in _FEATURES.items()}
    )
    """`[F, BINS]` by part."""
    observations: int = 0

    def add(self, seen: Observation) -> None:
        """One more, of any number of clusters."""
        self.observations += int(np.prod(seen.whole.shape[:-1], dtype=np.int64))
        for part, counts in self.counts.items():
            rows = _rows(seen, part)
            place = np.clip(((rows + 1.0) * 0.5 * BINS).astype(np.int64), 0, BINS - 1)
            offset = np.arange(rows.shape[1]) * BINS
            counts += np.bincount((place + offset).ravel(), minlength=counts.size).reshape(counts.shape)

    def ranges(self) -> Ranges:
        """What was seen, from percentile to percentile; ValueError if nothing was."""
        if not self.observations:
            raise ValueError("no observation was added")
        low, high = {}, {}
        for part, counts in self.counts.items():
            upto = counts.cumsum(axis=1) / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
            low[part] = (upto < LOW_SHARE).sum(axis=1) / BINS * 2.0 - 1.0
            high[part] = ((upto < HIGH_SHARE).sum(axis=1) + 1) / BINS * 2.0 - 1.0
        return Ranges(low, high, self.observations)


def ranges_from_json(document: Any) -> Ranges:
    """Ranges as they stand on a card.

    Raises:
        RangesError: says what is wrong where.
    """
    if not isinstance(document, dict) or set(document) != {"observations", *_FEATURES}:
        raise RangesError(f"{CARD_FIELD}: {str(document)[:60]!r}, wanted observations and {', '.join(_FEATURES)}")
    count = document["observations"]
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise RangesError(f"{CARD_FIELD}.observations: {str(count)[:60]!r}, wanted a count of 1 or more")
    low, high = {}, {}
    for part, names in _FEATURES.items():
        own = document[part]
        if not isinstance(own, dict) or set(own) != set(names):
            raise RangesError(f"{CARD_FIELD}.{part}: wanted the features {', '.join(names)[:200]}")
        for name, pair in own.items():
            numbers = isinstance(pair, list) and len(pair) == 2 and all(type(end) in (int, float) for end in pair)
            if not numbers or not -1.0 <= pair[0] <= pair[1] <= 1.0:
                raise RangesError(f"{CARD_FIELD}.{part}.{name}: {str(pair)[:60]}, wanted two rising numbers in [-1, 1]")
        low[part] = np.array([float(own[name][0]) for name in names])
        high[part] = np.array([float(own[name][1]) for name in names])
    return Ranges(low, high, count)


def _rows(seen: Observation, part: str) -> FloatArray:
    """`[N, F]` the rows of a part that are no padding."""
    values: FloatArray = getattr(seen, part)
    rows = values.reshape(-1, values.shape[-1])
    if part in _MASKS:
        mask: BoolArray = np.asarray(getattr(seen, _MASKS[part])).reshape(-1) > 0
        rows = rows[mask]
    return rows
