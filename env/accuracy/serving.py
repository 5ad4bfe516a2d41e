"""Points of TPOT and throughput from tables of measured serving."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..perf.check import NotComparableError, ServingRow, law_of, output_tokens_per_s, tpot_s
from ..perf.factors import Factors
from ..perf.law import FloatArray, IterationLaw
from .points import THROUGHPUT, TPOT, Correction, IntArray, Points, Predict

Observed = tuple[ServingRow, str, float]
"""A row, the quantity, and its measured value."""
GROUP = "serving"


@dataclass(frozen=True, eq=False)
class ServingPoints(Points):
    """Points of measured serving."""

    serving: tuple[ServingRow, ...]
    """`[N]` the row of each."""


def serving_points(rows: Iterable[ServingRow]) -> tuple[list[ServingPoints], Mapping[str, int]]:
    """Points by GPU and model, in that order.

    Returns:
        the points, and how many rows gave none, for each reason.
    """
    pairs: dict[tuple[str, str], list[Observed]] = {}
    left_out: dict[str, int] = {}
    for row in rows:
        seen, reasons = _observed(row)
        if not seen:
            left_out[reasons[0]] = left_out.get(reasons[0], 0) + 1
        for observed in seen:
            pairs.setdefault((row.gpu.name, row.model.name), []).append(observed)
    return [_points(pairs[pair]) for pair in sorted(pairs)], left_out


def _observed(row: ServingRow) -> tuple[list[Observed], list[str]]:
    """What a row tells, and why it does not tell more."""
    asked: list[tuple[str, float | None, Callable[[ServingRow, IterationLaw], float]]] = [
        (TPOT, row.tpot_s, tpot_s),
        (THROUGHPUT, row.output_tokens_per_s, output_tokens_per_s),
    ]
    try:
        law = law_of(row)
    except NotComparableError as error:
        return [], [str(error)]
    seen: list[Observed] = []
    reasons: list[str] = []
    for quantity, measured, predict in asked:
        if not measured:
            continue
        try:
            predict(row, law)
        except NotComparableError as error:
            reasons.append(str(error))
        else:
            seen.append((row, quantity, measured))
    return seen, reasons or ["neither tpot_ms nor throughput_out_tok_s"]


def _points(seen: list[Observed]) -> ServingPoints:
    row = seen[0][0]
    place = {identity: i for i, identity in enumerate(dict.fromkeys(id(r) for r, _, _ in seen))}
    return ServingPoints(
        gpu=row.gpu,
        model=row.model,
        quantities=tuple(quantity for _, quantity, _ in seen),
        kinds=tuple(r.engine_family for r, _, _ in seen),
        sources=tuple(r.source for r, _, _ in seen),
        measured=np.array([value for _, _, value in seen]),
        predictor=partial(_predictor, seen),
        group=GROUP,
        rows=np.array([place[id(r)] for r, _, _ in seen], dtype=np.int64),
        serving=tuple(r for r, _, _ in seen),
    )


def _predictor(seen: list[Observed], factors: Factors) -> Predict:
    laws: dict[tuple[str, int], IterationLaw] = {}
    for row, _, _ in seen:
        layout = (row.precision, row.tensor_parallel)
        if layout not in laws:
            laws[layout] = law_of(row, factors)

    def predict(correction: Correction, which: IntArray) -> FloatArray:
        corrected = {layout: correction.apply(law) for layout, law in laws.items()}
        out = np.empty(len(which))
        for i, place in enumerate(which):
            row, quantity, _ = seen[place]
            law, scale = corrected[row.precision, row.tensor_parallel], correction.by_kind.get(row.engine_family, 1.0)
            out[i] = scale * tpot_s(row, law) if quantity == TPOT else output_tokens_per_s(row, law) / scale
        return out

    return predict
