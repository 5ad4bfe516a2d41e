"""Correcting a law from a few measurements of the very GPU and model: multipliers on the roofline, no new model.

Each multiplier is drawn towards 1, so that few rows do not tell more than they can. The rows given are chosen by what
the model predicts for them, never by what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import least_squares

from ..perf.law import FloatArray
from .points import UNCHANGED, Correction, IntArray, Points, Predict

MOST_GIVEN = 20
"""Rows of a GPU and model that a correction may see."""
_LEAST_ROWS = 4
_NOISE = 0.05
"""Relative spread of one measurement that the law, corrected, does not explain."""
_PRIOR = 0.5
"""A multiplier this far from 1 (in its logarithm) costs as much as one measurement that is `_NOISE` off."""
_PARTS = ("base", "few_tokens", "tokens", "attend", "kv_read", "sequences")
_MOST = 3.0  # of a multiplier's logarithm: a factor of 20


def chosen_points(points: Points, predicted: FloatArray, most: int = MOST_GIVEN) -> IntArray:
    """`[M]` the points given; see `chosen`."""
    kinds = [f"{quantity} {kind}" for quantity, kind in zip(points.quantities, points.kinds, strict=True)]
    return chosen(points.rows, kinds, predicted, most)


def chosen(of_rows: IntArray, kinds: Sequence[str], predicted: FloatArray, most: int = MOST_GIVEN) -> IntArray:
    """`[M]` the points given: those of at most `most` rows and half of all, of every kind, spread over the predictions.

    Empty if there are too few rows to give some and score the rest.

    Args:
        of_rows: `[N]` the row that each point is of.
        kinds: `[N]`
        predicted: `[N]`
    """
    rows, first = np.unique(of_rows, return_index=True)
    given = min(most, len(rows) // 2)
    if len(rows) < _LEAST_ROWS:
        return np.zeros(0, dtype=np.int64)
    kind = np.array([kinds[i] for i in first])
    names, count = np.unique(kind, return_counts=True)
    picked: list[int] = []
    for name, wanted in zip(names, _allotted(count, given), strict=True):
        of = np.flatnonzero(kind == name)
        order = of[np.lexsort((of, predicted[first[of]]))]
        # From the least to the most, both included; a single one is the middle.
        ranks = np.linspace(0, len(order) - 1, wanted) if wanted > 1 else np.array([(len(order) - 1) / 2.0])[:wanted]
        picked += rows[order[np.unique(np.rint(ranks).astype(np.int64))]].tolist()
    return np.flatnonzero(np.isin(of_rows, picked))


def _allotted(count: IntArray, total: int) -> IntArray:
    """`[K]` whole shares of `total` in proportion to `count`, by largest remainder."""
    exact = total * count / count.sum()
    whole = np.floor(exact).astype(np.int64)
    for place in np.argsort(-(exact - whole), kind="stable")[: total - int(whole.sum())]:
        whole[place] += 1
    return np.asarray(np.minimum(whole, count), dtype=np.int64)


def fit_correction(points: Points, predict: Predict, given: IntArray) -> Correction:
    """The correction that brings predictions closest to the points given, by share of the measured value."""
    if not len(given):
        return UNCHANGED
    kinds = sorted({points.kinds[i] for i in given})
    scaled = kinds if len(kinds) > 1 else []
    measured = points.measured[given]

    def residuals(p: FloatArray) -> FloatArray:
        off = np.log(predict(_correction(p, scaled), given) / measured) / _NOISE
        return np.concatenate([off, p / _PRIOR])

    start = np.zeros(len(_PARTS) + len(scaled))
    solution = least_squares(residuals, start, bounds=(start - _MOST, start + _MOST), loss="soft_l1", f_scale=2.0)
    return _correction(np.asarray(solution.x, dtype=np.float64), scaled)


def _correction(p: FloatArray, kinds: list[str]) -> Correction:
    values = np.exp(p)
    parts = {name: float(value) for name, value in zip(_PARTS, values, strict=False)}
    scales = {kind: float(value) for kind, value in zip(kinds, values[len(_PARTS) :], strict=True)}
    return Correction(**parts, by_kind=scales)
