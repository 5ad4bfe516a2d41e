"""Power scored under the same protocols: shares of TDP fitted without what is scored.

The prediction gets the work as it was measured (tokens per second, sequences), so that only the model of power is judged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..perf.fit import FitInputError
from ..perf.law import FloatArray
from ..perf.power import PowerTable
from ..perf.power_fit import POWER_TABLE, PowerRow, features, fit_power, predicted_frac, shares_of
from .few_shot import chosen
from .points import POWER, IntArray
from .protocols import DATA_SHEET, FEW_SHOT, ZERO_SHOT, Scored

_NOISE, _PRIOR = 0.1, 0.5
KIND = "busy replica"


def score_power(rows: Sequence[PowerRow]) -> list[Scored]:
    """Every row under every protocol; the few-shot one has a single multiplier, drawn towards 1."""
    scored: list[Scored] = []
    for gpu_name, model_name in sorted({(row.gpu.name, row.model.name) for row in rows}):
        own = [row for row in rows if (row.gpu.name, row.model.name) == (gpu_name, model_name)]
        without_pair = [row for row in rows if (row.gpu.name, row.model.name) != (gpu_name, model_name)]
        without_gpu = [row for row in rows if row.gpu.name != gpu_name]
        zero = _predicted(own, without_pair)
        everything = np.arange(len(own), dtype=np.int64)
        scored += _scored(ZERO_SHOT, own, everything, zero)
        scored += _scored(DATA_SHEET, own, everything, _predicted(own, without_gpu))
        given = chosen(everything, [POWER] * len(own), zero)
        if len(given):
            rest = np.setdiff1d(everything, given)
            scored += _scored(FEW_SHOT, own, rest, (zero * _multiplier(own, zero, given))[rest])
    return scored


def _predicted(rows: Sequence[PowerRow], fitted: Sequence[PowerRow]) -> FloatArray:
    """`[R]` shares of TDP by what the fitted rows tell: of the GPU if they have any of it, else of all GPUs."""
    try:
        table: PowerTable = fit_power(fitted)[0]
    except FitInputError:
        return np.full(len(rows), np.nan)
    factors = table.gpus.get(rows[0].gpu.name, table.any_gpu)
    return predicted_frac(shares_of(factors), features(rows))


def _multiplier(rows: Sequence[PowerRow], predicted: FloatArray, given: IntArray) -> float:
    measured = np.array([row.tdp_frac for row in rows])
    off = np.log(measured[given] / predicted[given])
    return float(np.exp(off.sum() / (len(given) + (_NOISE / _PRIOR) ** 2)))


def _scored(protocol: str, rows: Sequence[PowerRow], which: IntArray, predicted: FloatArray) -> list[Scored]:
    return [
        Scored(
            protocol, POWER, rows[i].gpu.name, rows[i].model.name, KIND, rows[i].source, rows[i].tdp_frac, float(value)
        )
        for i, value in zip(which, predicted, strict=True)
        if np.isfinite(value)
    ]


__all__ = ["POWER_TABLE", "score_power"]
