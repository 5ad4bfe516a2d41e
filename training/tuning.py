"""Tunes the opponents as hard as their few knobs allow, on days that are not the ones scored.

Each tuner searches for the cheapest setting that reaches every class's wanted attainment on tuning episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..agents.portfolio import PLAN_TRACKING, STATIC, THRESHOLD, PolicyFactory, policy_factory
from ..env.batch import Episode
from ..env.contract import Cluster, FloatArray
from .rollout import RunResult, attainment_of, rollout

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
    trials: list[Trial] = []
    for counts in _counts_by_rent(cluster, episodes, tick_s):
        reached = [trial.usd_per_hr for trial in trials if trial.reached]
        if len(trials) >= MOST_TRIALS or (reached and float(counts @ cluster.usd_per_hr) >= min(reached)):
            break
        trials.append(_trial(episodes, tick_s, tuple(counts), policy_factory(STATIC, tuple(counts))))
        if on_trial:
            on_trial()
    if not trials:
        raise ValueError("no counts to try: the pools' maxima cannot carry the mean load")
    return Tuned(best=_cheapest(trials), trials=len(trials))


THRESHOLD_SHARES = (0.15, 0.25, 0.35, 0.5, 0.65, 0.8)
THRESHOLD_WINDOWS_S = (60.0, 180.0, 300.0)


def tune_threshold(episodes: Sequence[Episode], tick_s: float, on_trial: Callable[[], None] | None = None) -> Tuned:
    """The cheapest pools, target concurrency and stabilisation window that reach the targets.

    First which pools are worth using, at three concurrencies; then concurrency and window for the best of them.
    """
    cluster = episodes[0].world.cluster
    trials: list[Trial] = []

    def attempt(setting: tuple[float, ...]) -> None:
        trials.append(_trial(episodes, tick_s, setting, policy_factory(THRESHOLD, setting)))
        if on_trial:
            on_trial()

    for used in product((1.0, 0.0), repeat=len(cluster.pool_names)):
        if (cluster.serves & (np.array(used) > 0)).any(axis=1).all():
            for share in THRESHOLD_SHARES[1::2]:
                attempt((share, THRESHOLD_WINDOWS_S[1], *used))
    pools = _cheapest(trials).setting[2:]
    for share, window_s in product(THRESHOLD_SHARES, THRESHOLD_WINDOWS_S):
        attempt((share, window_s, *pools))
    return Tuned(best=_cheapest(trials), trials=len(trials))


TRACKING_SETTINGS = tuple(product((1.15, 1.3, 1.5), (0.5, 0.8), (120.0, 240.0)))


def tune_tracking(episodes: Sequence[Episode], tick_s: float, on_trial: Callable[[], None] | None = None) -> Tuned:
    """The cheapest head-room, burst allowance and hold time of plan tracking that reach the targets."""
    trials = []
    for setting in TRACKING_SETTINGS:
        trials.append(_trial(episodes, tick_s, setting, policy_factory(PLAN_TRACKING, setting)))
        if on_trial:
            on_trial()
    return Tuned(best=_cheapest(trials), trials=len(trials))


def _cheapest(trials: Sequence[Trial]) -> Trial:
    """The cheapest that reaches the targets; the one that comes nearest if none does."""
    reached = [trial for trial in trials if trial.reached]
    return min(reached, key=lambda t: t.usd_per_hr) if reached else min(trials, key=lambda t: t.shortfall)


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
