"""What came of a stretch of time, as far as it is known: the figures that a measurement and a simulation of it both have, and
how they are read off simulated runs.

Pure.

Symbols: `T` moments, `B` episodes, `C` classes, `W` the width of a tally (`env.window`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
RANK_SLACK: Final = 0.02
"""A simulated percentile may be any within so much of its share: as many points as attainment may be off and be good. Where two
unlike pools serve a class its latencies have a gap, and the share at which they jump over it decides the value of a percentile."""
PERCENTILES: Final = {"p50": 0.5, "p95": 0.95}
"""That are compared of every latency, as their fields call them."""
_FIRST: Final = {"ttft": TTFT, "tpot": TPOT, "e2e": E2E}
"""Where each latency's buckets begin in a tally."""
_MIDDLES_S: Final = BUCKET_LOW_S * np.exp((np.arange(N_BUCKETS) + 0.5) / BUCKETS_PER_E)


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
