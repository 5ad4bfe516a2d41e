"""Scoring points under protocols that never fit on what they score.

- *zero-shot*: the factors are fitted without any number of the scored GPU and model (`withholding.without_pair`).
- *data sheet*: they are fitted without any number of the scored GPU.
- *few-shot*: the zero-shot law, corrected from at most `few_shot.MOST_GIVEN` of the points; the others are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from ..catalog.models import Model
from ..perf.calibration import Measurements, Remembered, refit
from ..perf.factors import Factors, FactorsError
from ..perf.law import FloatArray
from ..perf.roofline import LayoutError
from .few_shot import chosen_points, fit_correction
from .points import UNCHANGED, Points
from .withholding import without_gpu, without_pair

ZERO_SHOT, DATA_SHEET, FEW_SHOT = "zero-shot", "data sheet", "few-shot"
PROTOCOLS = (ZERO_SHOT, DATA_SHEET, FEW_SHOT)


@dataclass(frozen=True, slots=True)
class Scored:
    """One point scored under one protocol."""

    protocol: str
    quantity: str
    gpu: str
    model: str
    kind: str
    source: str
    measured: float
    predicted: float

    @property
    def off_frac(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted / self.measured - 1.0


class Refits:
    """Factors fitted without what is to be scored; each fit is made once."""

    def __init__(self, measured: Measurements, progress: Callable[[str], None] = lambda what: None) -> None:
        """`progress` is told what is withheld."""
        self._measured, self._progress = measured, progress
        self._made: dict[tuple[object, ...], Factors] = {}
        self._remembered: Remembered = {}

    def everything(self) -> Factors:
        """With nothing withheld."""
        return self._fitted(self._measured, "nothing")

    def zero_shot(self, gpu_name: str, model: Model) -> Factors:
        """Without any number of this GPU and model."""
        return self._fitted(without_pair(self._measured, gpu_name, model), f"{gpu_name}, {model.name}")

    def data_sheet(self, gpu_name: str) -> Factors:
        """Without any number of this GPU."""
        return self._fitted(without_gpu(self._measured, gpu_name), gpu_name)

    def _fitted(self, rest: Measurements, what: str) -> Factors:
        """The fit to `rest`; of two that left the same rows, made once."""
        key = tuple(_left(getattr(rest, f.name)) for f in fields(rest))
        if key not in self._made:
            self._progress(f"refitting without {what}")
            self._made[key] = refit(rest, lambda step: None, self._remembered)
        return self._made[key]


def _left(value: object) -> object:
    """A value that is the same for the same rows."""
    if isinstance(value, dict):
        parts = [(str(name), _left(part)) for name, part in value.items()]
        return hash(tuple(parts))
    if isinstance(value, np.ndarray):
        return hash(value.tobytes())
    assert isinstance(value, Sequence)
    return hash(tuple(id(row) for row in value))


def score(points: Iterable[Points], refits: Refits) -> list[Scored]:
    """Every point under every protocol that can score it."""
    scored: list[Scored] = []
    for group in points:
        everything = np.arange(len(group))
        predict = group.predictor(refits.zero_shot(group.gpu.name, group.model))
        zero = predict(UNCHANGED, everything)
        scored += _scored(ZERO_SHOT, group, everything, zero)
        given = chosen_points(group, zero)
        if len(given):
            rest = np.setdiff1d(everything, given)
            scored += _scored(FEW_SHOT, group, rest, predict(fit_correction(group, predict, given), rest))
        try:
            sheet = group.predictor(refits.data_sheet(group.gpu.name))
        except (LayoutError, FactorsError):  # nothing of its kind was measured on another GPU: no prediction to score
            continue
        scored += _scored(DATA_SHEET, group, everything, sheet(UNCHANGED, everything))
    return scored


def _scored(
    protocol: str, points: Points, which: np.ndarray[tuple[int], np.dtype[np.int64]], predicted: FloatArray
) -> list[Scored]:
    return [
        Scored(
            protocol,
            points.quantities[i],
            points.gpu.name,
            points.model.name,
            points.kinds[i],
            points.sources[i],
            float(points.measured[i]),
            float(value),
        )
        for i, value in zip(which, predicted, strict=True)
    ]
