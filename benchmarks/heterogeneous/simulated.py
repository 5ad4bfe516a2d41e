"""Fleets in the simulator, held as planned, in worlds whose speeds differ from what the planner believes.

Symbols: `B` worlds side by side (seeds), `C` classes, `P` pools, `N` requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from poolpilot.agents.portfolio import HELD_PLAN
from poolpilot.env.contract import Action, FloatArray
from poolpilot.env.scenario import Scenario
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.world import WorldSpec, world_from_scenario
from poolpilot.env.window import E2E_SUM_S, FINISHED, LOST, MET, OUTPUT_SUM, PROMPT_SUM, TPOT, TTFT
from poolpilot.training.contenders import contender
from poolpilot.training.rollout import RunResult
from poolpilot.training.worlds import episode_of

from .loads import rate_per_s, scaled

DONE = 0.99
"""A job counts as done when this share of it is: the last few requests run in batches that are nearly empty."""
PATIENCE = 8.0
"""A job that takes this many times as long as planned is given up."""
JOB_TICKS = 60
"""Ticks that a job is planned to take."""


@dataclass(frozen=True)
class Attained:
    """What a fleet did under a steady load, means over the worlds."""

    usd_per_hr: float
    attainment: float
    """Of all requests."""
    worst: float
    """Of the class that misses most, against what it wants: below 0 it falls short."""
    goodput_per_s: float
    """Requests that met their targets."""
    tokens_per_s: float
    """Prompts and answers of the requests that ended."""
    ttft_p95_s: dict[str, float]
    """By class."""
    tpot_p95_s: dict[str, float]
    e2e_mean_s: dict[str, float]


def as_believed(planned: Scenario) -> Scenario:
    """The scenario in a world in which every pool is just as fast as the planner believes."""
    return planned.model_copy(update={"world": planned.world.model_copy(update={"performance_error_frac": 0.0})})


def attained(planned: Scenario, seeds: Sequence[int]) -> Attained:
    """Run a scenario that holds a plan, as long as it says, once a seed."""
    episodes = [episode_of(planned, seed, miss_price=1.0, quickly=True) for seed in seeds]
    return summed(contender(HELD_PLAN, planned).run(episodes, planned.tick_s))


def summed(runs: Sequence[RunResult]) -> Attained:
    """Several runs of one scenario as one."""
    tally = np.sum([run.tally for run in runs], axis=0)
    whole = replace(runs[0], tally=tally)
    seconds = sum(run.duration_s for run in runs)
    done, finished = tally[:, FINISHED] + tally[:, LOST], np.maximum(tally[:, FINISHED], 1.0)
    asked = done > 0
    names = whole.class_names

    def by_class(values: FloatArray) -> dict[str, float]:
        return {name: float(values[c]) for c, name in enumerate(names) if asked[c]}

    return Attained(
        usd_per_hr=float(np.mean([run.usd_per_hr for run in runs])),
        attainment=float(tally[:, MET].sum() / done.sum()),
        worst=float((whole.attainment - whole.attainment_wanted)[asked].min()),
        goodput_per_s=float(tally[:, MET].sum() / seconds),
        tokens_per_s=float((tally[:, PROMPT_SUM] + tally[:, OUTPUT_SUM]).sum() / seconds),
        ttft_p95_s=by_class(whole.latency_s(TTFT, 0.95)),
        tpot_p95_s=by_class(whole.latency_s(TPOT, 0.95)),
        e2e_mean_s=by_class(tally[:, E2E_SUM_S] / finished),
    )


def job_per_s(planned: Scenario, planned_per_s: float, duration_s: float, seeds: Sequence[int]) -> list[float]:
    """Requests per second of a job that is all there at the beginning, in each world: so many requests as the fleet is
    planned to carry in `duration_s`, over the time until `DONE` of them have ended.

    The job has the mix of the scenario's workload, scaled to the planned rate.
    """
    worlds = [_job(planned, planned_per_s, duration_s, seed) for seed in seeds]
    tick_s = duration_s / JOB_TICKS
    clusters = SimulatedClusters(worlds, tick_s)
    action = _as_planned(planned, clusters)
    size = np.array([len(world.workload) for world in worlds], dtype=np.float64)
    ended, at_s = np.zeros(len(worlds)), np.full(len(worlds), np.inf)
    for tick in range(1, int(JOB_TICKS * PATIENCE) + 1):
        more = clusters.advance(action).tally[..., FINISHED].sum(axis=-1)
        wanted = DONE * size
        over = (ended < wanted) & (ended + more >= wanted)
        at_s[over] = (tick - 1 + (wanted - ended)[over] / more[over]) * tick_s
        ended += more
        if np.isfinite(at_s).all():
            break
    return [float(rate) for rate in DONE * size / at_s]


def _job(planned: Scenario, per_s: float, duration_s: float, seed: int) -> WorldSpec:
    """A world whose requests are all there in its first second."""
    scenario = scaled(planned, per_s / rate_per_s(planned)).model_copy(update={"duration_s": duration_s})
    world = world_from_scenario(scenario, seed)
    n = len(world.workload)
    at_once = replace(world.workload, arrival_s=np.linspace(0.0, 1.0, n))
    return replace(world, workload=at_once, duration_s=PATIENCE * duration_s)


def _as_planned(planned: Scenario, clusters: SimulatedClusters) -> Action:
    """The plan's counts and shares, engines at their start values."""
    limits = clusters.cluster
    route = np.zeros(limits.serves.shape)
    for c, requests in enumerate(planned.classes.values()):
        for p, pool in enumerate(planned.pools):
            route[:, c, p] = (requests.shares or {}).get(pool, 0.0)
    total = route.sum(axis=-1, keepdims=True)
    return Action(
        route=np.divide(route, total, out=np.zeros(route.shape), where=total > 0),
        admit=np.ones(limits.class_mask.shape),
        batch_cap=limits.max_batch_cap,
        token_budget=limits.max_token_budget,
        replicas=limits.max_replicas,
    )
