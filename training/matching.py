"""How well a simulated run matches what was measured of the same stretch of time: figure by figure, and a verdict.

Pure. The audit holds a replay of a user's load to it, the twin of a cluster a refit.

Symbols: `T` moments, `B` episodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np

from ..agents.portfolio import PolicyFactory
from ..env.contract import Action, Cluster, FloatArray, Memory, Plan, Policy, Snapshot, Targets
from ..env.window import (
    BUCKET_LOW_S,
    BUCKETS_PER_E,
    E2E,
    FINISHED,
    LOST,
    N_BUCKETS,
    TPOT,
    TTFT,
    percentile_s,
)
from .rollout import RunResult, attainment_of

UNKNOWN: Final = float("nan")
FLOOR_OF_TARGET: Final = 0.1
"""A latency's error is told in parts of the measured value, or of this share of the target where that is more: 40 ms for
20 ms matter to nobody who was promised 2 s."""
RANK_SLACK: Final = 0.02
"""A simulated percentile may be any within so much of its share: as many points as attainment may be off and be good. Where two
unlike pools serve a class its latencies have a gap, and the share at which they jump over it decides the value of a percentile."""
PERCENTILES: Final = {"p50": 0.5, "p95": 0.95}
"""That are compared of every latency, as their fields call them."""
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
class ClassSeen:
    """What came of one class. NaN: not known."""

    requests: float = UNKNOWN
    """That ended, lost ones included."""
    attainment: float = UNKNOWN
    """Share that met all targets."""
    ttft_met: float = UNKNOWN
    """Share within the target of the time to first token: known where only histograms are."""
    tpot_met: float = UNKNOWN
    ttft_mean_s: float = UNKNOWN
    ttft_p50_s: float = UNKNOWN
    ttft_p95_s: float = UNKNOWN
    tpot_mean_s: float = UNKNOWN
    """Over requests of their mean time per output token after the first."""
    tpot_p50_s: float = UNKNOWN
    tpot_p95_s: float = UNKNOWN
    e2e_mean_s: float = UNKNOWN
    e2e_p50_s: float = UNKNOWN
    e2e_p95_s: float = UNKNOWN
    ttft_target_s: float = UNKNOWN
    tpot_target_s: float = UNKNOWN
    e2e_target_s: float = UNKNOWN


def _none() -> FloatArray:
    return np.empty(0)


@dataclass(frozen=True, eq=False)
class Observed:
    """What came of a stretch of time, measured or simulated, as far as it is known."""

    duration_s: float
    classes: Mapping[str, ClassSeen]
    """By name."""
    bill_usd: float = UNKNOWN
    """Of the whole stretch."""
    time_s: FloatArray = field(default_factory=_none)
    """`[T]` rising, from the beginning of the stretch."""
    waiting: FloatArray = field(default_factory=_none)
    """`[T]` requests queued in all engines; NaN where unknown."""
    running: FloatArray = field(default_factory=_none)
    """`[T]` sequences in all running batches."""
    around_s: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    """Of a simulated run, by class and percentile (`ttft_p50_s`): those of `RANK_SLACK` less and more."""


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


# What a simulated run came to

_FIRST: Final = {"ttft": TTFT, "tpot": TPOT, "e2e": E2E}
"""Where each latency's buckets begin in a tally."""
_MIDDLES_S: Final = BUCKET_LOW_S * np.exp((np.arange(N_BUCKETS) + 0.5) / BUCKETS_PER_E)


@dataclass(eq=False)
class Watch:
    """Notes what a policy is shown, tick by tick: a run's result has no curves."""

    time_s: list[FloatArray] = field(default_factory=list)
    waiting: list[FloatArray] = field(default_factory=list)
    running: list[FloatArray] = field(default_factory=list)

    def over(self, make: PolicyFactory) -> PolicyFactory:
        """The same policy, watched."""
        return lambda cluster: self._watched(make(cluster), cluster)

    def _watched(self, policy: Policy, cluster: Cluster) -> _Watched:
        return _Watched(policy, self, cluster)

    def note(self, snapshot: Snapshot) -> None:
        """One tick of all episodes."""
        self.time_s.append(np.atleast_1d(snapshot.time_s))
        self.waiting.append(np.nansum(snapshot.waiting, axis=-1))
        self.running.append(np.nansum(snapshot.running, axis=-1))


class _Watched:
    def __init__(self, policy: Policy, watch: Watch, cluster: Cluster) -> None:
        self._policy, self._watch = policy, watch
        self.cluster = cluster
        self.follows_plan = getattr(policy, "follows_plan", True)

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        self._watch.note(snapshot)
        return self._policy.decide(snapshot, plan, memory)


def observed_of(result: RunResult, targets: Targets, watch: Watch | None = None, episode: int = 0) -> Observed:
    """What a simulated run came to; with the curves of `watch`, in which it was the `episode`-th."""
    classes = classes_seen(result.class_names, result.tally, targets)
    curves = {}
    if watch is not None:
        curves = {
            "time_s": np.array([float(own[episode]) for own in watch.time_s]),
            "waiting": np.array([float(own[episode]) for own in watch.waiting]),
            "running": np.array([float(own[episode]) for own in watch.running]),
        }
    around_s = around(result.class_names, result.tally)
    return Observed(result.duration_s, classes, float(result.bill.total_usd), **curves, around_s=around_s)


def classes_seen(class_names: Sequence[str], tally: FloatArray, targets: Targets) -> dict[str, ClassSeen]:
    """What a tally `[C, W]` (`env.window`) says of each class."""
    quantile = _percentiles(tally)
    attainment = attainment_of(tally)
    classes = {}
    for c, name in enumerate(class_names):
        own = tally[c]
        wanted = {f"{label}_target_s": float(getattr(targets, f"{label}_s")[c]) for label in _FIRST}
        means = {f"{label}_mean_s": _mean_s(own[first : first + N_BUCKETS]) for label, first in _FIRST.items()}
        classes[name] = ClassSeen(
            requests=float(own[FINISHED] + own[LOST]),
            attainment=float(attainment[c]),
            ttft_met=share_within(own[TTFT : TTFT + N_BUCKETS], wanted["ttft_target_s"]),
            tpot_met=share_within(own[TPOT : TPOT + N_BUCKETS], wanted["tpot_target_s"]),
            **{key: float(values[c]) for key, values in quantile.items()},
            **means,
            **wanted,
        )
    return classes


def around(class_names: Sequence[str], tally: FloatArray) -> dict[tuple[str, str], tuple[float, float]]:
    """Of a tally `[C, W]`, what `Observed.around_s` holds."""
    low, high = (_percentiles(tally, slack) for slack in (-RANK_SLACK, RANK_SLACK))
    return {(name, key): (float(low[key][c]), float(high[key][c])) for c, name in enumerate(class_names) for key in low}


def _percentiles(tally: FloatArray, slack: float = 0.0) -> dict[str, FloatArray]:
    """`[C]` each, by their field's name."""
    return {
        f"{label}_{at}_s": percentile_s(tally[:, first : first + N_BUCKETS], share + slack)
        for label, first in _FIRST.items()
        for at, share in PERCENTILES.items()
    }


def mean_of(runs: Sequence[Observed]) -> Observed:
    """The mean of runs of one stretch with the same ticks, such as a replay under several seeds."""
    first = runs[0]
    classes = {
        name: ClassSeen(
            **{
                key: float(np.mean([getattr(run.classes[name], key) for run in runs]))
                for key in ClassSeen.__dataclass_fields__
            }
        )
        for name in first.classes
    }
    around_s = {
        key: (
            float(np.mean([run.around_s[key][0] for run in runs])),
            float(np.mean([run.around_s[key][1] for run in runs])),
        )
        for key in first.around_s
    }
    return Observed(
        first.duration_s,
        classes,
        float(np.mean([run.bill_usd for run in runs])),
        first.time_s,
        np.mean([run.waiting for run in runs], axis=0),
        np.mean([run.running for run in runs], axis=0),
        around_s,
    )


def _mean_s(counts: FloatArray) -> float:
    """By the buckets' middles: within a percent, the buckets being narrow; NaN of nothing."""
    total = float(counts.sum())
    return float((counts * _MIDDLES_S).sum()) / total if total > 0 else UNKNOWN


def share_within(counts: FloatArray, limit_s: float) -> float:
    """The share of `[N_BUCKETS]` counts of a latency (`env.window`) that is no longer than `limit_s`; NaN without a limit
    or a count. Inside a bucket as `window.percentile_s`."""
    total = float(counts.sum())
    if math.isnan(limit_s) or total <= 0:
        return UNKNOWN
    place = min(max(math.log(max(limit_s, BUCKET_LOW_S) / BUCKET_LOW_S) * BUCKETS_PER_E, 0.0), N_BUCKETS - 1e-9)
    whole = int(place)
    return float(counts[:whole].sum() + (place - whole) * counts[whole]) / total
