"""How well a simulated run matches what was measured of the same stretch of time: figure by figure, and a verdict.

Pure. The audit holds a replay of a user's load to it, the twin of a cluster a refit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from ..env.contract import FloatArray
from .observed import UNKNOWN, ClassSeen, Observed

FLOOR_OF_TARGET: Final = 0.1
"""A latency's error is told in parts of the measured value, or of this share of the target where that is more: 40 ms for
20 ms matter to nobody who was promised 2 s."""
QUEUE_STEPS: Final = 200
"""The queue is compared over at most so many steps of equal length: engines are scraped at other moments than a simulation
ticks."""


class Verdict(StrEnum):
    """How far a match can be relied on."""

    GOOD = "good"
    """As near as the performance model is on hardware that it was fitted to."""
    ROUGH = "rough"
    """Comparisons between policies hold, their absolute figures only about."""
    BAD = "bad"
    """The simulation is of something else: promise nothing from it."""


_ORDER: Final = (Verdict.GOOD, Verdict.ROUGH, Verdict.BAD)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Up to which error a figure is good, and up to which rough."""

    good: float
    rough: float

    def of(self, error: float) -> Verdict:
        """The verdict on an error."""
        size = abs(error)
        return Verdict.GOOD if size <= self.good else Verdict.ROUGH if size <= self.rough else Verdict.BAD


TOLERANCES: Final[Mapping[str, Tolerance]] = {
    # Replicas times price times time: what is off here is a misread fleet, not physics.
    "bill_usd": Tolerance(0.03, 0.10),
    "requests": Tolerance(0.03, 0.10),
    # Points, not parts: 97 % for 99 % is three times the misses.
    "attainment": Tolerance(0.02, 0.05),
    "ttft_met": Tolerance(0.02, 0.05),
    "tpot_met": Tolerance(0.02, 0.05),
    # The performance model's own error on measured hardware is about 15 % (docs/accuracy.md).
    "tpot_mean_s": Tolerance(0.15, 0.30),
    "tpot_p50_s": Tolerance(0.15, 0.30),
    # A twentieth of the requests decides a 95th percentile, and histograms know it to a bucket only.
    "tpot_p95_s": Tolerance(0.20, 0.40),
    "e2e_mean_s": Tolerance(0.15, 0.30),
    "e2e_p50_s": Tolerance(0.15, 0.30),
    "e2e_p95_s": Tolerance(0.20, 0.40),
    # Time to first token is queueing, which multiplies the error of the speed.
    "ttft_mean_s": Tolerance(0.30, 0.60),
    "ttft_p50_s": Tolerance(0.30, 0.60),
    "ttft_p95_s": Tolerance(0.30, 0.60),
    # Mean distance of the two curves, in parts of the mean number of requests in the engines.
    "queue": Tolerance(0.15, 0.35),
}
"""By figure. Those of `IN_POINTS` are differences, the others parts of what was measured."""
IN_POINTS: Final = frozenset({"attainment", "ttft_met", "tpot_met"})
_LATENCY_OF: Final = {"ttft": "ttft_target_s", "tpot": "tpot_target_s", "e2e": "e2e_target_s"}
_LATENCIES: Final = tuple(f"{label}_{at}_s" for label in _LATENCY_OF for at in ("mean", "p50", "p95"))
NO_LATENCY: Final = "no latency"
"""How a reason begins that says so."""
_WEIGHTY: Final = 0.05
"""A class with less than this share of the requests may lack latencies without a word."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of both."""

    figure: str
    """Of `TOLERANCES`."""
    of: str
    """The class; empty: the whole."""
    measured: float
    simulated: float
    error: float
    """Simulated less measured: in points for `IN_POINTS`, else in parts (`FLOOR_OF_TARGET`); of the queue the distance; of a
    percentile that to the nearest one within `RANK_SLACK`."""
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Match:
    """How well a simulation matches."""

    verdict: Verdict
    """The worst of the figures'; no better than rough where latencies could not be compared."""
    figures: tuple[Compared, ...]
    not_compared: tuple[str, ...]
    """Figures that were not measured, as `figure of class`."""
    reasons: tuple[str, ...]
    """Why the verdict is no better; one line each, the worst first."""

    def worst(self, figure: str) -> float:
        """The largest error of a figure over classes, as a size; NaN if it was not compared."""
        sizes = [abs(own.error) for own in self.figures if own.figure == figure]
        return max(sizes) if sizes else UNKNOWN


def match(measured: Observed, simulated: Observed) -> Match:
    """Hold a simulation against a measurement of the same stretch.

    Raises:
        ValueError: the two have other classes, or last differently long (beyond 1 %).
    """
    if set(measured.classes) != set(simulated.classes):
        raise ValueError(
            f"classes: measured {', '.join(measured.classes)}, simulated {', '.join(simulated.classes)}; wanted the same"
        )
    if abs(measured.duration_s - simulated.duration_s) > 0.01 * measured.duration_s:
        raise ValueError(
            f"duration_s: measured {measured.duration_s:g}, simulated {simulated.duration_s:g}; wanted the same"
        )
    figures: list[Compared] = []
    lacking: list[str] = []
    _compare(figures, lacking, "bill_usd", "", measured.bill_usd, simulated.bill_usd)
    for name, real in measured.classes.items():
        made = simulated.classes[name]
        for figure in TOLERANCES:
            if hasattr(real, figure):
                own, around = getattr(made, figure), simulated.around_s.get((name, figure))
                _compare(figures, lacking, figure, name, getattr(real, figure), own, _floor(figure, real), around)
    queue = _queue(measured, simulated)
    figures += [queue] if queue else []
    lacking += [] if queue else ["queue"]
    return _judged(measured, figures, lacking)


def _compare(
    figures: list[Compared],
    lacking: list[str],
    figure: str,
    of: str,
    real: float,
    made: float,
    floor: float = 0.0,
    around: tuple[float, float] | None = None,
) -> None:
    if math.isnan(real) or math.isnan(made):
        lacking.append(f"{figure} of {of}" if of else figure)
        return
    whole = 1.0 if figure in IN_POINTS else max(abs(real), floor)
    low, high = around or (made, made)
    off = low - real if real < low else high - real if real > high else 0.0
    error = off / whole if whole > 0 else (0.0 if off == 0 else math.copysign(math.inf, off))
    figures.append(Compared(figure, of, real, made, error, TOLERANCES[figure].of(error)))


def _floor(figure: str, seen: ClassSeen) -> float:
    """What an error is at least told in parts of."""
    target = _LATENCY_OF.get(figure.partition("_")[0]) if figure.endswith("_s") else None
    wanted: float = getattr(seen, target) if target else UNKNOWN
    return 0.0 if math.isnan(wanted) else FLOOR_OF_TARGET * wanted


def _queue(measured: Observed, simulated: Observed) -> Compared | None:
    """Both curves as means over the same steps."""
    if min(np.isfinite(own.waiting).sum() for own in (measured, simulated)) < 2:
        return None
    # No finer than either was looked at, so that a step has something of both.
    steps = max(1, min(QUEUE_STEPS, len(measured.time_s), len(simulated.time_s)) // 2)
    edges = np.linspace(0.0, measured.duration_s, steps + 1)
    real, made = (_means(own.time_s, own.waiting, edges) for own in (measured, simulated))
    busy = _means(measured.time_s, measured.running, edges)
    both = np.isfinite(real) & np.isfinite(made)
    if not both.any():
        return None
    inside = float(np.mean(real[both] + np.nan_to_num(busy[both])))
    off = float(np.mean(np.abs(made[both] - real[both])))
    error = off / max(inside, 1.0)  # less than one request in all engines is nobody's queue
    mean_real, mean_made = float(real[both].mean()), float(made[both].mean())
    return Compared("queue", "", mean_real, mean_made, error, TOLERANCES["queue"].of(error))


def _means(time_s: FloatArray, values: FloatArray, edges: FloatArray) -> FloatArray:
    """`[len(edges) - 1]` means of what is known in each step; NaN where nothing is."""
    if len(values) != len(time_s):
        return np.full(len(edges) - 1, UNKNOWN)
    place = np.searchsorted(edges, time_s, side="right") - 1
    known = np.isfinite(values) & (place >= 0) & (place < len(edges) - 1)
    count = np.bincount(place[known], minlength=len(edges) - 1)
    total = np.bincount(place[known], weights=values[known], minlength=len(edges) - 1)
    means: FloatArray = np.divide(total, count, out=np.full(len(count), UNKNOWN), where=count > 0)
    return means


def _judged(measured: Observed, figures: Sequence[Compared], lacking: Sequence[str]) -> Match:
    verdict = max((own.verdict for own in figures), key=_ORDER.index, default=Verdict.ROUGH)
    worst_first = sorted(figures, key=lambda own: _ORDER.index(own.verdict), reverse=True)
    reasons = [in_words(own) for own in worst_first if own.verdict is not Verdict.GOOD]
    total = sum(seen.requests for seen in measured.classes.values() if not math.isnan(seen.requests))
    for name, seen in measured.classes.items():
        weighty = math.isnan(seen.requests) or total <= 0 or seen.requests >= _WEIGHTY * total
        if weighty and not any(own.of == name and own.figure in _LATENCIES for own in figures):
            reasons.append(f"{NO_LATENCY} of {name} was measured: how fast its requests were served is not known")
            verdict = max(verdict, Verdict.ROUGH, key=_ORDER.index)
    return Match(verdict, tuple(figures), tuple(lacking), tuple(reasons))


_WORDS: Final = {
    "bill_usd": ("bill", "$"),
    "requests": ("requests served", ""),
    "attainment": ("attainment", "%"),
    "ttft_met": ("share within the TTFT target", "%"),
    "tpot_met": ("share within the TPOT target", "%"),
    "ttft_mean_s": ("mean TTFT", "s"),
    "ttft_p50_s": ("median TTFT", "s"),
    "ttft_p95_s": ("95th percentile of TTFT", "s"),
    "tpot_mean_s": ("mean TPOT", "s"),
    "tpot_p50_s": ("median TPOT", "s"),
    "tpot_p95_s": ("95th percentile of TPOT", "s"),
    "e2e_mean_s": ("mean end-to-end time", "s"),
    "e2e_p50_s": ("median end-to-end time", "s"),
    "e2e_p95_s": ("95th percentile of the end-to-end time", "s"),
    "queue": ("mean queue", "requests"),
}


def in_words(own: Compared) -> str:
    """One line for people: the figure, both values, the error."""
    name, unit = _WORDS[own.figure]
    scale = 100.0 if unit == "%" else 1.0
    values = f"measured {own.measured * scale:.4g}, simulated {own.simulated * scale:.4g} {unit}".rstrip()
    off = f"{own.error * 100:+.1f} " + ("points" if own.figure in IN_POINTS else "%")
    if own.figure == "queue":
        off = f"{own.error * 100:.0f} % of the requests in the engines apart"
    return f"{name}{f' of {own.of}' if own.of else ''}: {values} ({off})"
