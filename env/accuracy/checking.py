"""The model's error on a table of measured serving, as a user asks for it: by GPU, engine and model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..perf.check import inside_range
from ..perf.factors import Factors
from ..perf.tables import TableError, read_serving
from .few_shot import chosen_points, fit_correction
from .points import UNCHANGED, Stats, stats
from .serving import ServingPoints, serving_points

ALL = "all"


@dataclass(frozen=True, slots=True)
class GroupError:
    """How far the model is off for one GPU, engine, model and quantity; the model "all" is the sum of the others."""

    gpu: str
    engine: str
    model: str
    quantity: str
    error: Stats
    inside: float
    """Share of the rows that lie inside the calibrated range."""
    few_shot: Stats | None = None
    """The error on the other rows after a correction from a few; None if none was asked for."""
    given: int = 0
    """Rows that the correction saw; 0 if there were too few."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A table held against the model."""

    file: str
    groups: tuple[GroupError, ...]
    left_out: Mapping[str, int]
    """Rows that were not compared, by reason."""


@dataclass(frozen=True, slots=True)
class _Seen:
    gpu: str
    engine: str
    model: str
    quantity: str
    off: float
    inside: bool
    corrected: float | None
    """None for a row that the correction saw, or if there was none."""


def check_table(path: Path, factors: Factors, few_shot: int | None = None) -> Checked:
    """The errors on the table at `path`.

    Args:
        few_shot: also the error after a correction from at most so many rows of each GPU and model.

    Raises:
        TableError: as for `read_serving`, or no row can be compared.
    """
    rows, others = read_serving(path)
    points, incomparable = serving_points(rows)
    left_out = {**others, **incomparable}
    if not points:
        raise TableError(f"{path}: no row can be compared; first reason: {next(iter(left_out))}")
    seen = [one for group in points for one in _seen(group, factors, few_shot)]
    return Checked(str(path), tuple(_grouped(seen, few_shot is not None)), left_out)


def _seen(points: ServingPoints, factors: Factors, few_shot: int | None) -> Iterable[_Seen]:
    everything = np.arange(len(points))
    predict = points.predictor(factors)
    plain = predict(UNCHANGED, everything)
    given = chosen_points(points, plain, few_shot) if few_shot is not None else everything[:0]
    corrected = predict(fit_correction(points, predict, given), everything)
    spared = set(given.tolist())
    for i, row in enumerate(points.serving):
        yield _Seen(
            gpu=points.gpu.name,
            engine=points.kinds[i],
            model=points.model.name,
            quantity=points.quantities[i],
            off=float(plain[i] / points.measured[i] - 1.0),
            inside=inside_range(row, factors),
            corrected=float(corrected[i] / points.measured[i] - 1.0) if len(given) and i not in spared else None,
        )


def _grouped(seen: Sequence[_Seen], few_shot: bool) -> Iterable[GroupError]:
    groups: dict[tuple[str, str, bool, str, str], list[_Seen]] = {}
    for one in seen:
        for over_all, name in ((False, one.model), (True, ALL)):
            groups.setdefault((one.gpu, one.engine, over_all, name, one.quantity), []).append(one)
    for (gpu, engine, _, name, quantity), of in sorted(groups.items()):
        scored = [one.corrected for one in of if one.corrected is not None]
        yield GroupError(
            gpu=gpu,
            engine=engine,
            model=name,
            quantity=quantity,
            error=stats([one.off for one in of]),
            inside=float(np.mean([one.inside for one in of])),
            few_shot=stats(scored) if few_shot and scored else None,
            given=len(of) - len(scored) if scored else 0,
        )
