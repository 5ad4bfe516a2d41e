"""The best fixed counts for a scenario: what somebody who never scales would run it with.

Symbols: `C` classes, `P` pools.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ...agents.portfolio import STATIC, policy_factory
from ...env.batch import Episode
from ...env.beliefs import peak_load
from ...env.contract import Cluster, FloatArray
from ...env.scenario import Scenario
from ...env.scenario.fingerprint import fingerprint
from ..criterion import Outcome, loss, outcome_of
from ..days import tuning_episodes
from ..rollout import rollout

MOST_TRIALS = 60
MOST_COMBINATIONS = 200_000
"""Of counts, up to which all are looked at."""
LOADS_PLANNED = 30
BEYOND_PEAK = 1.6
"""The largest load that is planned for is as many times as far above the mean as the peak is."""
MOST_BELIEVED_USE = 1.1
"""Counts that the mean load would fill beyond this are not worth a trial: true speeds differ by about 15 %."""


@dataclass(frozen=True)
class FixedCounts:
    """The chosen counts, one a pool, what they came to, and how many were tried."""

    counts: tuple[float, ...]
    outcome: Outcome
    trials: int


def counts_for(scenario: Scenario, on_trial: Callable[[], None] | None = None) -> tuple[float, ...]:
    """The best fixed counts for a scenario on its tuning days, one a pool; searched once in a process.

    Raises:
        ValueError: no counts within the pools' limits could carry the load.
    """
    own = fingerprint(scenario)
    if own not in _known:
        _known[own] = fixed_counts(tuning_episodes(scenario), scenario.tick_s, on_trial).counts
    return _known[own]


_known: dict[str, tuple[float, ...]] = {}
"""Counts by what their scenario hangs on: a sweep over head-rooms asks for the same again and again."""


def fixed_counts(episodes: Sequence[Episode], tick_s: float, on_trial: Callable[[], None] | None = None) -> FixedCounts:
    """The fixed counts of least loss (`training.criterion`) on the episodes; counts are tried from cheap to dear.

    Counts that could not carry the mean load are left out, and the search ends where the rent of the counts alone is
    more than the least loss so far. Of a large cluster only those counts are tried that the planner would choose for
    some load from the mean to beyond the peak.

    Raises:
        ValueError: no counts within the pools' limits could carry the load.
    """
    cluster = episodes[0].world.cluster
    usual_usd_per_hr = float(np.mean([episode.reference_usd for episode in episodes])) * 3600.0 / tick_s
    best: FixedCounts | None = None
    trials = 0
    few = float(np.prod(cluster.max_replicas + 1.0)) <= MOST_COMBINATIONS
    for counts in (_counts_by_rent if few else _planned_by_rent)(cluster, episodes, tick_s):
        dear = float(counts @ cluster.usd_per_hr) / usual_usd_per_hr
        if trials >= MOST_TRIALS or (best is not None and dear >= loss(best.outcome)):
            break
        trials += 1
        own = tuple(map(float, counts))
        outcome = outcome_of(rollout(episodes, policy_factory(STATIC, own), tick_s), episodes)
        if best is None or loss(outcome) < loss(best.outcome):
            best = FixedCounts(own, outcome, trials)
        if on_trial:
            on_trial()
    if best is None:
        raise ValueError("no counts to try: the pools' maxima cannot carry the mean load")
    return FixedCounts(best.counts, best.outcome, trials)


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


def _planned_by_rent(cluster: Cluster, episodes: Sequence[Episode], tick_s: float) -> list[FloatArray]:
    """What the planner would rent for loads from the mean to beyond the peak, cheapest first."""
    world, planner = episodes[0].world, episodes[0].planner
    mean_per_s = np.mean([episode.reference_requests for episode in episodes], axis=0) / tick_s
    peak_per_s = peak_load(world.workload, world.duration_s)
    planned = {
        tuple(planner.first(mean_per_s + beyond * np.maximum(peak_per_s - mean_per_s, 0.0)).replicas.tolist())
        for beyond in np.linspace(0.0, BEYOND_PEAK, LOADS_PLANNED)
    }
    return sorted(map(np.array, sorted(planned)), key=lambda counts: float(counts @ cluster.usd_per_hr))
