"""Tunes the opponents as hard as their few knobs allow, on days that are not the ones scored.

Each tuner searches for the cheapest setting that reaches every class's wanted attainment on tuning episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..agents.opponents.static_round_robin import StaticRoundRobin
from ..agents.opponents.threshold import Threshold
from ..env.batch import Episode
from ..env.contract import Cluster, FloatArray, Policy
from .rollout import PolicyFactory, RunResult, attainment_of, rollout

TOLERATED_SHORTFALL = 0.002
"""A setting that misses the wanted attainment by less than this on the tuning days counts as reaching it."""
MOST_TRIALS = 60
MOST_BELIEVED_USE = 1.1
"""Counts that the mean load would fill beyond this are not worth a trial: true speeds differ by about 15 %."""


@dataclass(frozen=True)
class Trial:
    """One setting and what it came to on the tuning episodes."""

    setting: tuple[float, ...]
    usd_per_hr: float
    shortfall: float

    @property
    def reached(self) -> bool:
        """Whether every class reached its target, but for a hair."""
        return self.shortfall <= TOLERATED_SHORTFALL


@dataclass(frozen=True)
class Tuned:
    """The chosen setting, and how many were tried."""

    best: Trial
    trials: int


def tune_static(episodes: Sequence[Episode], tick_s: float, on_trial: Callable[[], None] | None = None) -> Tuned:
    """The cheapest fixed counts that reach the targets; counts are tried from cheap to dear.

    Counts that could not carry the mean load are left out, and the search ends where counts become dearer than
    those already known to reach the targets.
    """
    cluster = episodes[0].world.cluster
    best: Trial | None = None
    fallback: Trial | None = None
    tried = 0
    for counts in _counts_by_rent(cluster, episodes, tick_s):
        if tried >= MOST_TRIALS or (best and float(counts @ cluster.usd_per_hr) >= best.usd_per_hr):
            break
        trial = _trial(episodes, tick_s, tuple(counts), static_factory(counts))
        tried += 1
        if on_trial:
            on_trial()
        if trial.reached and (best is None or trial.usd_per_hr < best.usd_per_hr):
            best = trial
        if fallback is None or trial.shortfall < fallback.shortfall:
            fallback = trial
    chosen = best or fallback
    if chosen is None:
        raise ValueError("no counts to try: every pool's maximum is 0")
    return Tuned(best=chosen, trials=tried)


THRESHOLD_SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85)
THRESHOLD_WINDOWS_S = (60.0, 180.0, 300.0)


def tune_threshold(episodes: Sequence[Episode], tick_s: float, on_trial: Callable[[], None] | None = None) -> Tuned:
    """The cheapest target concurrency (share of the batch cap) and stabilisation window that reach the targets."""
    trials = []
    for share, window_s in product(THRESHOLD_SHARES, THRESHOLD_WINDOWS_S):
        trials.append(_trial(episodes, tick_s, (share, window_s), threshold_factory(share, window_s)))
        if on_trial:
            on_trial()
    reached = [t for t in trials if t.reached]
    best = min(reached, key=lambda t: t.usd_per_hr) if reached else min(trials, key=lambda t: t.shortfall)
    return Tuned(best=best, trials=len(trials))


def static_factory(counts: FloatArray) -> PolicyFactory:
    """Static round robin with the given counts `[P]`."""

    def make(cluster: Cluster) -> Policy:
        replicas = np.zeros(cluster.max_replicas.shape)
        replicas[..., : len(counts)] = counts
        return StaticRoundRobin(cluster, replicas)

    return make


def threshold_factory(share: float, window_s: float) -> PolicyFactory:
    """The threshold autoscaler with its target at a share of each pool's batch cap."""

    def make(cluster: Cluster) -> Policy:
        return Threshold(cluster, np.maximum(share * cluster.max_batch_cap, 1.0), window_s)

    return make


def _trial(episodes: Sequence[Episode], tick_s: float, setting: tuple[float, ...], make_policy: PolicyFactory) -> Trial:
    results: list[RunResult] = rollout(episodes, make_policy, tick_s)
    return Trial(
        setting=setting,
        usd_per_hr=float(np.mean([r.usd_per_hr for r in results])),
        shortfall=_pooled_shortfall(results),
    )


def _pooled_shortfall(results: Sequence[RunResult]) -> float:
    """By how much the worst class misses its wanted attainment, over all tuning episodes together."""
    reached = attainment_of(np.sum([r.tally for r in results], axis=0))
    return float(max(np.nan_to_num(results[0].attainment_wanted - reached).max(), 0.0))


def _counts_by_rent(cluster: Cluster, episodes: Sequence[Episode], tick_s: float) -> list[FloatArray]:
    """Every combination of counts that might carry the mean load, cheapest first."""
    load_per_s = np.mean([episode.reference_requests for episode in episodes], axis=0) / tick_s
    capacity = np.where(cluster.serves, episodes[0].planner.first(load_per_s).capacity_per_s, 0.0)
    ranges = [range(int(high) + 1) for high in cluster.max_replicas]
    kept = []
    for combination in product(*ranges):
        counts = np.array(combination, dtype=np.float64)
        per_class = capacity @ counts
        if (per_class[load_per_s > 0] > 0).all():
            used = np.divide(load_per_s, per_class, out=np.zeros_like(load_per_s), where=per_class > 0).sum()
            if used <= MOST_BELIEVED_USE:
                kept.append(counts)
    return sorted(kept, key=lambda counts: float(counts @ cluster.usd_per_hr))
