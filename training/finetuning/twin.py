"""A recorded stretch again in the simulator: the same requests, weights, caps and counts, tick by tick, each as long as it was.

Nothing is decided: what stood in the world stands in the twin, and as long: where a tick came late until then. What chance
did to the machines (a spot machine that was taken, a start that took longer than most) is done again where the record
shows it, and not drawn: whoever decided saw it and acted upon it.

Symbols: `T` ticks, `C` classes, `P` pools, `L` layers of the bill, `W` columns of a tally, `S` runs with other seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...env.contract import Action, FloatArray
from ...env.scenario import Scenario
from ...env.scenario.delays import FixedDelay
from ...env.scenario.market import Availability, PriceSeries
from ...env.scenario.pools import ColdStart
from ...env.sim.clusters import SimulatedClusters
from ...env.sim.world import world_from_scenario
from ...env.window import TALLY_WIDTH
from ...env.workload.fitting import longest_allowed, tokens_held
from ...env.workload.requests import Workload
from ...telemetry.record import Episode
from ..observed import Observed, around, classes_seen
from .machines import losses
from .stretches import Stretch

_SERVING: Final = ("waiting", "running", "tokens_per_s", "ready")


@dataclass(frozen=True)
class Run:
    """What came of a stretch, recorded or simulated, tick by tick; row `t` tells of the time since row `t - 1`."""

    tally: NDArray[np.float32]
    """`[T, C, W]` in single precision: a day of ticks fits into memory."""
    usd: FloatArray
    """`[T]` the whole bill."""
    waiting: FloatArray
    """`[T, P]` at the tick, NaN where unknown; so `running` and `ready`."""
    running: FloatArray
    tokens_per_s: FloatArray
    """`[T, P]` since the tick before."""
    ready: FloatArray


def recorded(episode: Episode) -> Run:
    """What the record says."""
    return Run(
        tally=episode.since.tally,
        usd=np.nansum(episode.since.usd, axis=(1, 2)),
        **{name: np.asarray(getattr(episode.snapshot, name)) for name in _SERVING},
    )


def longest_tokens(scenario: Scenario) -> FloatArray:
    """`[C]` tokens of the longest request that every pool of the class takes."""
    kv_tokens = np.array([float(scenario.pool_kv_tokens(name)) for name in scenario.pools])
    most = np.array([float(pool.engine.max_model_len) for pool in scenario.pools.values()])
    return longest_allowed(scenario.cluster(), tokens_held(kv_tokens, most))


def as_recorded(scenario: Scenario, stretch: Stretch) -> Scenario:
    """The scenario over the time of a stretch: its prices, the replicas that it began with, and no chance."""
    episode = stretch.episode
    ready = np.nan_to_num(episode.snapshot.ready[0])
    lost = losses(episode)
    pools = {}
    for p, (name, pool) in enumerate(scenario.pools.items()):
        start = round(float(ready[p]))
        replicas = pool.replicas.model_copy(update={"min": 0, "max": max(pool.replicas.max, start), "start": start})
        delays = scenario.cold_start(name)
        cold_start = ColdStart(provision=FixedDelay(s=delays.provision.mean_s), load=FixedDelay(s=delays.load.mean_s))
        update: dict[str, Any] = {
            "replicas": replicas,
            "cold_start": cold_start,
            "price": pool.price.model_copy(update={"series": _prices(episode, p)}),
            "stock_outs": None,
            "crashes_per_hr": 0.0,
        }
        if pool.spot is not None:
            steps = _machines(episode, lost[:, p], p, replicas.max)
            availability = None if steps is None else Availability(steps=steps)
            spot = {"preemptions_per_hr": 0.0, "availability": availability}
            update["spot"] = pool.spot.model_copy(update=spot)
        pools[name] = pool.model_copy(update=update)
    certain = {"performance_error_frac": 0.0, "cold_start_error_frac": 0.0, "preemption_error_frac": 0.0}
    return scenario.model_copy(
        update={
            "pools": pools,
            "world": scenario.world.model_copy(update=certain),
            "telemetry": None,
            "faults": (),
            "tick_s": episode.tick_s,
            "duration_s": episode.duration_s,
        }
    )


def _prices(episode: Episode, p: int) -> PriceSeries | None:
    """The price as it moved; None where it was not known."""
    price, times = episode.snapshot.usd_per_hr[:, p], episode.time_s - episode.time_s[0]
    known = np.flatnonzero(np.isfinite(price) & (price > 0))
    if not len(known):
        return None
    moved = known[np.append(True, np.diff(price[known]) != 0.0)]
    steps = [(0.0 if i == 0 else float(times[t]), float(price[t])) for i, t in enumerate(moved)]
    return PriceSeries(steps=tuple(steps))


def _machines(episode: Episode, lost: FloatArray, p: int, most: int) -> tuple[tuple[float, int], ...] | None:
    """Machines that can be had: all, but for the ticks in which some were taken; None where none was."""
    if not lost.any():
        return None
    times, ready = episode.time_s - episode.time_s[0], np.nan_to_num(episode.snapshot.ready[:, p])
    steps = {0.0: most}
    for t in np.flatnonzero(lost > 0):
        steps[float(times[t - 1])] = max(int(ready[t - 1] - lost[t]), 0)
        steps.setdefault(float(times[t]), most)
    return tuple(sorted(steps.items()))


def simulated(scenario: Scenario, stretch: Stretch, requests: Workload, seeds: Sequence[int]) -> list[Run]:
    """The stretch in the twin that a scenario describes, once for each seed.

    Raises:
        ValueError: the scenario cannot be simulated; one line says why.
    """
    own = as_recorded(scenario, stretch)
    cluster = own.cluster()
    clusters = SimulatedClusters([world_from_scenario(own, seed, requests) for seed in seeds], own.tick_s)
    n_ticks, shape = len(stretch.episode), (len(stretch.episode), len(seeds))
    n_classes, n_pools = len(cluster.class_names), len(cluster.pool_names)
    tally = np.zeros((*shape, n_classes, TALLY_WIDTH), dtype=np.float32)
    usd = np.zeros(shape)
    seen = {name: np.full((*shape, n_pools), np.nan) for name in _SERVING}
    first = clusters.snapshot()
    for name in _SERVING:
        seen[name][0] = getattr(first, name)
    most = cluster.max_replicas
    start_s = stretch.start_frac * np.array([own.cold_start(name).mean_s for name in own.pools])
    lasted_s = stretch.episode.lasted_s
    for t in range(n_ticks - 1):
        clusters.have_starts_take(np.repeat(start_s[t][None], len(seeds), axis=0))
        outcome = clusters.advance(_again(stretch.episode.in_force, t, len(seeds), most), float(lasted_s[t + 1]))
        tally[t + 1], usd[t + 1] = outcome.tally, outcome.bill.total_usd
        snapshot = clusters.snapshot()
        for name in _SERVING:
            seen[name][t + 1] = getattr(snapshot, name)
    return [
        Run(tally=tally[:, s], usd=usd[:, s], **{name: of[:, s] for name, of in seen.items()})
        for s in range(len(seeds))
    ]


def _again(actions: Action, t: int, times: int, most: FloatArray) -> Action:
    """The action of row `t`, for so many clusters."""
    parts = {f.name: np.repeat(getattr(actions, f.name)[t][None], times, axis=0) for f in fields(Action)}
    parts["replicas"] = np.minimum(np.rint(parts["replicas"]), most)
    return Action(**parts)


def observed(runs: Sequence[tuple[Run, Stretch]]) -> Observed:
    """What runs of stretches came to after their warm ticks, one behind the other, as `training.matching` compares it."""
    cluster = runs[0][1].episode.sitting.cluster
    tally = np.zeros((len(cluster.class_names), TALLY_WIDTH))
    times, curves, usd, began = [], [], 0.0, 0.0
    for run, stretch in runs:
        rows = slice(stretch.warm + 1, None)
        own = stretch.episode.time_s[rows] - stretch.episode.time_s[stretch.warm]
        tally += run.tally[rows].sum(axis=0, dtype=np.float64)
        usd += float(run.usd[rows].sum())
        times.append(began + own)
        curves.append([np.nansum(of[rows], axis=1) for of in (run.waiting, run.running)])
        began += float(own[-1])
    waiting, running = (np.concatenate(column) for column in zip(*curves, strict=True))
    return Observed(
        duration_s=began,
        classes=classes_seen(cluster.class_names, tally, cluster.targets),
        bill_usd=usd,
        time_s=np.concatenate(times),
        waiting=waiting,
        running=running,
        around_s=around(cluster.class_names, tally),
    )


def with_factors(scenario: Scenario, factors: Mapping[str, float]) -> Scenario:
    """The scenario whose pools take so many times as long as it said."""
    pools = {
        name: pool.model_copy(update={"time_factor": pool.time_factor * factors.get(name, 1.0)})
        for name, pool in scenario.pools.items()
    }
    return scenario.model_copy(update={"pools": pools})
