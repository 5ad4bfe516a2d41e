"""The clairvoyant plan of worlds: what they make known, and the least head-room under which its replay meets the targets.

Symbols: `C` classes, `P` pools, `S` steps, `K` ticks, `B` episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..agents.bound.schedule import Ahead, Schedule, asked_ahead, cheapest_schedule
from ..agents.opponents.scheduled import Scheduled
from ..agents.portfolio import PolicyFactory
from ..env.batch import Episode
from ..env.beliefs import mean_load
from ..env.contract import Cluster, FloatArray
from ..env.guard import Limits
from ..env.perf.capacity import capacity_per_s
from ..env.sim.state import LOAD, MEAN_S, PROVISION, SPREAD_FRAC
from ..env.sim.world import WorldSpec
from .bounding import engines_of, least_ticks_between_drops, rent_usd_per_hr
from .rollout import RunResult, rollout

CLAIRVOYANT = "clairvoyant-plan"
HEADROOMS = (0.6, 0.8, 0.9, 1.0, 1.07, 1.15, 1.25, 1.4, 1.6, 2.0)
"""Factors on the load that may be tried."""
USUAL_HEADROOM = 1.15
STEP_S = 30.0
MOST_STEPS = 120
_SURE_SPREADS = 1.3
"""A start is asked for so many standard deviations before its mean: nine of ten then serve in time."""


@dataclass(frozen=True, eq=False)
class Replayed:
    """An episode's plan and what came of it."""

    headroom: float
    result: RunResult


def replayed(episodes: Sequence[Episode], tick_s: float, on_run: Callable[[], None] | None = None) -> list[Replayed]:
    """Of each episode, the replay with the least head-room of `HEADROOMS` that meets every class's wanted attainment.

    With hindsight, as everything here: each episode's own, from the usual one down while it is met, or up until it is.
    Where none is met, the replay that comes nearest.
    """
    best: list[Replayed | None] = [None] * len(episodes)
    rung = dict.fromkeys(range(len(episodes)), HEADROOMS.index(USUAL_HEADROOM))
    while rung:
        for place in sorted(set(rung.values())):
            seats = [b for b, own in rung.items() if own == place]
            own = [episodes[b] for b in seats]
            results = rollout(own, scheduled(own, tick_s, HEADROOMS[place]), tick_s)
            for b, result in zip(seats, results, strict=True):
                rung[b] = _next_rung(place, result, best[b])
                best[b] = _better(Replayed(HEADROOMS[place], result), best[b])
        rung = {b: place for b, place in rung.items() if 0 <= place < len(HEADROOMS)}
        if on_run:
            on_run()
    return [own for own in best if own is not None]


def _next_rung(place: int, result: RunResult, before: Replayed | None) -> int:
    """The head-room to try next; -1 for none."""
    met = result.worst_shortfall <= 0.0
    if before is not None and met != (before.result.worst_shortfall <= 0.0):
        return -1  # the border lies between the two
    return place - 1 if met else place + 1


def _better(one: Replayed, other: Replayed | None) -> Replayed:
    """The cheaper of those that meet the targets, else the nearer."""
    if other is None:
        return one
    return min(one, other, key=lambda own: (own.result.worst_shortfall, own.result.usd_per_hr))


def scheduled(episodes: Sequence[Episode], tick_s: float, headroom: float) -> PolicyFactory:
    """The policy that follows each episode's own clairvoyant plan; only for these episodes, in this order."""
    plans = [_by_tick(episode, tick_s, headroom) for episode in episodes]

    def make(cluster: Cluster) -> Scheduled:
        ticks = max(len(replicas) for replicas, _ in plans)
        n_classes, n_pools = cluster.serves.shape[-2:]
        counts = np.zeros((len(plans), ticks, n_pools))
        route = np.zeros((len(plans), ticks, n_classes, n_pools))
        for b, (replicas, shares) in enumerate(plans):
            counts[b, : len(replicas), : replicas.shape[1]] = replicas
            route[b, : len(shares), : shares.shape[1], : shares.shape[2]] = shares
        return Scheduled(cluster, counts, route, tick_s)

    return make


def _by_tick(episode: Episode, tick_s: float, headroom: float) -> tuple[FloatArray, FloatArray]:
    """`[K, P]` counts to ask for and `[K, C, P]` shares."""
    world = episode.world
    ahead, ticks_per_step, ticks = known_ahead(world, episode.limits, tick_s, headroom)
    schedule: Schedule = cheapest_schedule(ahead)
    step = np.arange(ticks) // ticks_per_step
    lead = np.ceil(_sure_start_s(world) / tick_s).astype(np.int64)
    return asked_ahead(schedule.replicas[step], lead), schedule.route[step]


def known_ahead(world: WorldSpec, limits: Limits, tick_s: float, headroom: float) -> tuple[Ahead, int, int]:
    """What a plan with so much head-room is made for, the ticks in its steps, and all ticks."""
    cluster = world.cluster
    ticks = math.ceil(world.duration_s / tick_s - 1e-9)
    per_step = max(1, round(STEP_S / tick_s), math.ceil(ticks / MOST_STEPS))
    begins = np.arange(0, ticks, per_step)
    step_s = per_step * tick_s
    between = least_ticks_between_drops(limits, tick_s)
    drops = np.array([int(limits.scale_down_step) * max(per_step // between, 1), max(1, -(-between // per_step))])
    machines = np.broadcast_to(cluster.max_replicas, (ticks, len(cluster.pool_names))).copy()
    for p, own in enumerate(_machines(world, ticks, tick_s)):
        machines[:, p] = np.minimum(machines[:, p], own)
    return (
        Ahead(
            step_s=step_s,
            load_per_s=headroom * _load_per_s(world, step_s, len(begins)),
            capacity_per_s=_true_capacity(world),
            usd_per_hr=np.add.reduceat(rent_usd_per_hr(world, ticks, tick_s), begins, axis=0)
            / np.diff(np.append(begins, ticks))[:, None],
            least=cluster.min_replicas,
            most=np.minimum.reduceat(machines, begins, axis=0),
            start=world.start_replicas,
            cold_start_s=_start_s(world, 0.0),
            drops=drops,
        ),
        per_step,
        ticks,
    )


def _load_per_s(world: WorldSpec, step_s: float, steps: int) -> FloatArray:
    """`[S, C]` requests per second, each counting by its tokens: what comes in a step is known, not only how many."""
    requests = world.workload
    n_classes = len(requests.class_names)
    c = requests.class_index
    # A decoded token takes about as long as a handful of prompt tokens on any GPU.
    weight = requests.prompt_tokens + 5.0 * requests.output_tokens
    mean = np.bincount(c, weights=weight, minlength=n_classes) / np.maximum(np.bincount(c, minlength=n_classes), 1)
    inside = requests.arrival_s < steps * step_s
    place = np.floor(requests.arrival_s / step_s).astype(np.int64)[inside] * n_classes + c[inside]
    load = np.bincount(place, weights=(weight / mean[c])[inside], minlength=steps * n_classes)
    per_s: FloatArray = load.reshape(steps, n_classes) / step_s
    return per_s


def _true_capacity(world: WorldSpec) -> FloatArray:
    """`[C, P]` requests/s within the targets of one replica by its true law."""
    _, prompt, output = mean_load(world.workload, world.duration_s)
    targets = world.cluster.targets
    rates = np.zeros(world.cluster.serves.shape)
    engines = engines_of(world)
    for c, p in zip(*np.nonzero(world.cluster.serves), strict=True):
        engine = engines[p]
        rates[c, p] = capacity_per_s(
            engine.law,
            engine.kv_tokens,
            int(engine.max_num_seqs),
            int(engine.token_budget),
            float(prompt[c]),
            float(output[c]),
            float(targets.ttft_s[c]),
            float(targets.tpot_s[c]),
        )
    return rates


def _start_s(world: WorldSpec, spreads: float) -> FloatArray:
    """`[P]` what a start truly takes: its mean, and so many standard deviations on top."""
    delays = world.supply.delays
    mean = delays[:, PROVISION, MEAN_S] + delays[:, LOAD, MEAN_S]
    spread = np.hypot(
        delays[:, PROVISION, MEAN_S] * delays[:, PROVISION, SPREAD_FRAC],
        delays[:, LOAD, MEAN_S] * delays[:, LOAD, SPREAD_FRAC],
    )
    start_s: FloatArray = mean + spreads * spread
    return np.minimum(start_s, world.duration_s)


def _sure_start_s(world: WorldSpec) -> FloatArray:
    return _start_s(world, _SURE_SPREADS)


def _machines(world: WorldSpec, ticks: int, tick_s: float) -> list[FloatArray]:
    """`[P][K]` machines that can be had of spot pools with an availability series; infinite elsewhere."""
    begin = np.arange(ticks) * tick_s
    found = []
    for p, name in enumerate(world.cluster.pool_names):
        moves = sorted(
            (f for f in world.supply.faults if f.pool == name and f.kind == "capacity"), key=lambda f: f.at_s
        )
        machines = np.full(ticks, np.inf)
        if world.cluster.spot[p]:
            for move in moves:
                machines[begin + tick_s > move.at_s] = float(move.count)
        found.append(machines)
    return found
