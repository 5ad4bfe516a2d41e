"""What Prometheus answers, as arrays. Pure.

Symbols: `K` moments, `R` replicas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ...env.contract import BoolArray, FloatArray
from ...env.one_line import one_line
from ..histograms import Histogram
from ..measured import AuditError

MAX_SERIES: Final = 20_000


@dataclass(frozen=True, eq=False)
class Series:
    """One series at equidistant moments."""

    labels: Mapping[str, str]
    values: FloatArray
    """`[K]`, NaN where there is none."""


def matrix_of(data: Any, begin_s: float, step_s: float, moments: int) -> list[Series]:
    """The series of an answer, a matrix or a vector.

    Raises:
        AuditError: it is neither, or holds what cannot be.
    """
    kind = data.get("resultType") if isinstance(data, dict) else None
    if kind not in ("matrix", "vector") or not isinstance(data.get("result"), list):
        raise AuditError(f"Prometheus answers with a {one_line(str(kind))[:60]}; wanted series of numbers")
    if len(data["result"]) > MAX_SERIES:
        raise AuditError(
            f"Prometheus answers with {len(data['result'])} series; wanted at most {MAX_SERIES}: narrow `select`"
        )
    found = []
    for entry in data["result"]:
        try:
            labels = {str(key): str(value) for key, value in entry["metric"].items()}
            pairs = entry["values"] if kind == "matrix" else [entry["value"]]
            times = np.array([float(at) for at, _ in pairs])
            told = np.array([float(value) for _, value in pairs])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AuditError(f"Prometheus answers with a series that cannot be read ({type(error).__name__})") from None
        place = np.rint((times - begin_s) / step_s).astype(np.int64)
        inside = (place >= 0) & (place < moments) & np.isfinite(told)
        values = np.full(moments, math.nan)
        values[place[inside]] = told[inside]
        found.append(Series(labels, values))
    return found


def by_label(
    series: Sequence[Series], label: str, names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], FloatArray]:
    """The values by one label that tells the series apart: names, and `[R, K]`; in the order of `names` where given, NaN for
    those that have no series."""
    own = {one.labels.get(label, ""): one.values for one in series}
    order = tuple(sorted(own)) if names is None else tuple(names)
    if not order:
        return (), np.zeros((0, 0))
    moments = len(next(iter(own.values()))) if own else 0
    blank = np.full(moments, math.nan)
    return order, np.stack([own.get(name, blank) for name in order])


def histograms_of(
    buckets: Sequence[Series], totals: Sequence[Series], counts: Sequence[Series]
) -> list[Histogram | None]:
    """`[K]` what was counted up to each moment since the one before, from series by `le`, of the sum, and of the count.

    None where nothing was.
    """
    ends: dict[float, FloatArray] = {}
    for one in buckets:
        try:
            end = float(one.labels.get("le", ""))
        except ValueError:
            continue
        ends[end] = ends[end] + np.nan_to_num(one.values) if end in ends else np.nan_to_num(one.values)
    bounds = sorted(end for end in ends if math.isfinite(end))
    if not bounds or math.inf not in ends:
        return []
    cumulated = np.stack([ends[end] for end in (*bounds, math.inf)])  # `[B + 1, K]`
    # Counters of several replicas are extrapolated one by one: a bucket may fall a hair below the one before.
    counted = np.diff(np.maximum.accumulate(cumulated, axis=0), axis=0, prepend=0.0)
    moments = cumulated.shape[1]
    summed, number = (
        np.nansum([one.values for one in own], axis=0) if own else np.full(moments, math.nan)
        for own in (totals, counts)
    )
    found: list[Histogram | None] = []
    for k in range(moments):
        whole = float(counted[:, k].sum())
        if whole <= 0.0:
            found.append(None)
            continue
        # The mean is that of sum and count; the total goes with the buckets' own count.
        mean = float(summed[k] / number[k]) if number[k] > 0 else math.nan
        found.append(Histogram(np.array(bounds), counted[:, k], mean * whole))
    return found


def increments(values: FloatArray, born_in_sight: BoolArray | None = None) -> FloatArray:
    """`[R, K - 1]` by how much counters `[R, K]` grew from each moment to the next, resets and gaps allowed.

    What a counter shows after a reset counts whole, and so does what it shows first where `born_in_sight` `[R]` says that
    its process began after the first moment. What grew over a gap counts where it ends.
    """
    replicas, moments = values.shape
    grown = np.zeros((replicas, max(moments - 1, 0)))
    for r in range(replicas):
        before = math.nan
        for k in range(moments):
            now = values[r, k]
            if math.isnan(now):
                continue
            if math.isnan(before):
                if k > 0 and born_in_sight is not None and born_in_sight[r]:
                    grown[r, k - 1] += now
            elif k > 0:
                grown[r, k - 1] += now - before if now >= before else now
            before = now
    return grown
