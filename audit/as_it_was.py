"""The measured fleet as a world of the simulator, and the same steps again in it: the counts and shares that were.

Symbols: `K` ticks, `T` steps, `C` classes, `P` pools, `B` episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from pydantic import ValidationError

from ..agents.bound.schedule import asked_ahead
from ..agents.opponents.scheduled import Scheduled
from ..agents.portfolio import PolicyFactory
from ..env.batch import Episode, Planner
from ..env.beliefs import believed_capacity
from ..env.contract import FloatArray, Plan, Snapshot
from ..env.market.load import prices
from ..env.one_line import first_problem, one_line
from ..env.scenario import Scenario
from ..env.window import E2E, N_BUCKETS, TPOT, TTFT
from ..env.workload.fitting import longest_allowed, tokens_held
from ..training.observed import PERCENTILES, RANK_SLACK, ClassSeen, Observed, Watch, mean_of, observed_of
from ..training.rollout import RunResult, rollout
from ..training.worlds import episode_of
from .description import Description, DescriptionError
from .histograms import through
from .load import mean_tokens, requests_of
from .measured import Measured, Split

NAME: Final = "audited"
REQUESTS_FILE: Final = "requests.parquet"
AS_IT_WAS: Final = "as it was"
_TICKS: Final = ((3 * 3600.0, 10.0), (12 * 3600.0, 20.0), (48 * 3600.0, 30.0), (math.inf, 60.0))
"""Up to which duration one decides how often, in seconds: a week must not take an hour to simulate."""
ROUTE_S: Final = 120.0
"""Shares of the pools are those of so long: shorter, and a handful of requests would be all that a share rests on."""
_FIRST_BUCKET: Final = {"ttft": TTFT, "tpot": TPOT, "e2e": E2E}


def tick_of(duration_s: float) -> float:
    """Seconds between decisions in the simulation of so long a stretch."""
    tick_s = next(tick for most, tick in _TICKS if duration_s <= most)
    return tick_s if duration_s >= 3 * tick_s else max(duration_s / 3, 1.0)


def scenario_of(description: Description, measured: Measured, error_frac: float = 0.0) -> Scenario:
    """The fleet and its load as a scenario that policies can be run on.

    `error_frac`: true speeds are drawn so far around those of the performance model.

    Raises:
        DescriptionError: a pool or class that cannot be.
    """
    tick_s = tick_of(measured.duration_s)
    ticks = max(math.ceil(measured.duration_s / tick_s - 1e-9), 1)
    pools = {}
    for p, (name, pool) in enumerate(description.pools.items()):
        counts = measured.up[:, p] + measured.starting[:, p]
        start, most = round(float(measured.up[0, p])), math.ceil(float(counts.max()) - 0.05)
        took_s = float(measured.start_s[p])
        pools[name] = pool.scenario_pool(start, most, None if math.isnan(took_s) else took_s)
    classes = {name: own.model_dump(exclude={"select"}, exclude_none=True) for name, own in description.classes.items()}
    try:
        return Scenario.model_validate(
            {
                "schema": 1,
                "name": NAME,
                "summary": "A fleet and its load as an audit found them.",
                "duration_s": ticks * tick_s,
                "tick_s": tick_s,
                "model": description.model,
                "pools": pools,
                "classes": classes,
                "workload": {"kind": "trace", "path": REQUESTS_FILE, "format": "plain"},
                "guard": description.guard,
                "energy": description.energy,
                "network": description.network,
                "world": {"performance_error_frac": error_frac},
                "base_dir": description.base_dir,
            }
        )
    except ValidationError as error:
        raise DescriptionError(one_line(f"the description of the fleet: {first_problem(error)}")) from None


def episodes_of(scenario: Scenario, measured: Measured, seeds: Sequence[int]) -> list[Episode]:
    """A world for each seed: what the measurement does not tell is drawn by it."""
    longest = longest_tokens(scenario)
    return [
        episode_of(scenario, seed, miss_price=1.0, quickly=True, workload=requests_of(measured, longest, seed))
        for seed in seeds
    ]


def longest_tokens(scenario: Scenario) -> FloatArray:
    """`[C]` tokens of the longest request that every pool of the class takes."""
    kv_tokens = np.array([float(scenario.pool_kv_tokens(name)) for name in scenario.pools])
    most = np.array([float(pool.engine.max_model_len) for pool in scenario.pools.values()])
    return longest_allowed(scenario.cluster(), tokens_held(kv_tokens, most))


def usual_shares(scenario: Scenario, measured: Measured) -> FloatArray:
    """`[T, C, P]` each class's requests over the pools in proportion to what those that are up can carry."""
    prompt, output = np.ones(len(measured.class_names)), np.ones(len(measured.class_names))
    for c, name in enumerate(measured.class_names):
        if measured.requests is not None:
            own = measured.requests.class_index == c
            if own.any():
                prompt[c] = float(measured.requests.prompt_tokens[own].mean())
                output[c] = float(measured.requests.output_tokens[own].mean())
        elif measured.lengths.get(name):
            prompt[c], output[c] = mean_tokens(measured.lengths[name])
    capacity = believed_capacity(scenario)(prompt, output)
    # A pool that cannot hold the targets got requests all the same, if there was no better one.
    weights = np.where(capacity > 0, capacity, 1e-6 * scenario.serves()) * measured.up[:, None, :]
    total = weights.sum(axis=-1, keepdims=True)
    serves = scenario.serves() / np.maximum(scenario.serves().sum(axis=1, keepdims=True), 1)
    shares: FloatArray = np.where(total > 0, weights / np.where(total > 0, total, 1.0), serves)
    return shares


def price_of(scenario: Scenario, measured: Measured) -> FloatArray:
    """`[T, P]` dollars per hour of one replica, on the mean over each step."""
    edges = measured.edges_s
    columns = []
    for name, pool in scenario.pools.items():
        series = prices(name, pool.price, measured.duration_s, scenario.base_dir)
        upto = np.concatenate([[0.0], np.cumsum(np.diff(series.from_s) * series.values[:-1])])
        place = np.searchsorted(series.from_s, edges, side="right") - 1
        total = upto[place] + (edges - series.from_s[place]) * series.values[place]
        columns.append(np.diff(total) / np.diff(edges))
    return np.asarray(np.stack(columns, axis=1), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class _NoPlan:
    """Asks for nothing: what was done is done, whatever a planner would have kept up."""

    first_one: Plan

    def first(self, load_per_s: FloatArray) -> Plan:
        return self.first_one

    def due(self, plan: Plan, planned_at_s: float, snapshot: Snapshot) -> bool:
        return False

    def again(self, plan: Plan, snapshot: Snapshot) -> Plan:
        return plan


def unguarded(scenario: Scenario) -> Scenario:
    """The scenario in which pools follow any counts: those that were."""
    free = {"budget_usd_per_hr": None, "scale_up_step": 1000, "scale_down_step": 1000, "scale_down_cooldown_s": 0.0}
    guard = scenario.guard.model_copy(update={**free, "hot_gpu_c": 1e6, "stale_after_s": 1e9})
    pools = {
        name: pool.model_copy(
            update={
                "replicas": pool.replicas.model_copy(update={"min": 0}),
                "sleep": None,
                "stock_outs": None,
                "crashes_per_hr": 0.0,
                "cold_start": pool.cold_start.model_copy(update={"spread_frac": 0.0}),
            }
        )
        for name, pool in scenario.pools.items()
    }
    world = scenario.world.model_copy(update={"cold_start_error_frac": 0.0})
    return scenario.model_copy(update={"guard": guard, "pools": pools, "world": world})


def as_it_was(scenario: Scenario, measured: Measured) -> PolicyFactory:
    """The policy that asks for the counts and shares that were measured, tick by tick."""
    ticks = round(scenario.duration_s / scenario.tick_s)
    begins = np.arange(ticks) * scenario.tick_s
    step = np.minimum(np.searchsorted(measured.edges_s, begins, side="right") - 1, len(measured.up) - 1)
    counts = np.rint(measured.up)[step]
    starts_s = np.array([scenario.cold_start(name).mean_s for name in scenario.pools])
    asked = asked_ahead(counts, np.ceil(starts_s / scenario.tick_s).astype(np.int64))
    route = _smooth(measured)[step]
    return lambda cluster: Scheduled(cluster, asked, route, scenario.tick_s, name=AS_IT_WAS)


def _smooth(measured: Measured) -> FloatArray:
    """`[T, C, P]` shares over `ROUTE_S`; of the whole stretch where nothing came."""
    width = max(1, round(ROUTE_S / float(measured.step_s[0])))
    got = measured.arrived[:, :, None] * measured.share
    window = np.arange(len(got)) // width
    sums = np.zeros((int(window[-1]) + 1, *got.shape[1:]))
    np.add.at(sums, window, got)
    whole = got.sum(axis=0, keepdims=True)
    sums = np.where(sums.sum(axis=-1, keepdims=True) > 0, sums, whole)
    sums = np.where(sums.sum(axis=-1, keepdims=True) > 0, sums, 1.0)
    shares: FloatArray = (sums / sums.sum(axis=-1, keepdims=True))[window]
    return shares


@dataclass(frozen=True, eq=False)
class Replay:
    """The measured steps, simulated."""

    observed: Observed
    """The mean over the seeds, seen as the source would show it."""
    split: Split
    results: tuple[RunResult, ...]
    """One for each seed."""


def replayed(
    scenario: Scenario, measured: Measured, seeds: Sequence[int], on_tick: Callable[[int], None] | None = None
) -> Replay:
    """The fleet's own steps in the simulator, with every seed."""
    free = unguarded(scenario)
    episodes = steered_free(episodes_of(free, measured, seeds))
    watch = Watch()
    results = rollout(episodes, watch.over(as_it_was(free, measured)), free.tick_s, on_tick)
    seen = [_seen_alike(observed_of(r, free.targets(), watch, b), r, measured) for b, r in enumerate(results)]
    return Replay(mean_of(seen), _split(scenario, results), tuple(results))


def steered_free(episodes: Sequence[Episode]) -> list[Episode]:
    """The same worlds without a planner that keeps more up than there was."""
    free = []
    for episode in episodes:
        first = episode.planner.first(episode.first_load_per_s)
        # Without capacities nothing is needed at least.
        planner: Planner = _NoPlan(replace(first, capacity_per_s=np.zeros_like(first.capacity_per_s)))
        free.append(replace(episode, planner=planner))
    return free


def _seen_alike(observed: Observed, result: RunResult, measured: Measured) -> Observed:
    """The simulated figures as the source would show them: through its histograms' buckets, and for its own length."""
    factor = measured.duration_s / observed.duration_s
    classes, around_s = {}, dict(observed.around_s)
    for c, name in enumerate(measured.class_names):
        seen: ClassSeen = observed.classes[name]
        figures: dict[str, float] = {}
        for label, histogram in measured.latencies.get(name, {}).items():
            first = _FIRST_BUCKET[label]
            own = through(result.tally[c, first : first + N_BUCKETS], histogram.bounds)
            for at, share in PERCENTILES.items():
                figures[f"{label}_{at}_s"] = own.quantile(share)
                around_s[name, f"{label}_{at}_s"] = own.quantile(share - RANK_SLACK), own.quantile(share + RANK_SLACK)
            limit = getattr(seen, f"{label}_target_s")
            if label in ("ttft", "tpot") and not math.isnan(limit):
                figures[f"{label}_met"] = own.share_within(limit)
        classes[name] = replace(seen, **figures)
    bill_usd = observed.bill_usd * factor
    return replace(observed, duration_s=measured.duration_s, classes=classes, bill_usd=bill_usd, around_s=around_s)


def _split(scenario: Scenario, results: Sequence[RunResult]) -> Split:
    """How the simulated replicas spent their time."""
    usd = np.mean([result.bill.usd.sum(axis=1) for result in results], axis=0)  # `[P, L]`
    idle = np.mean([result.bill.idle_usd.sum(axis=1) for result in results], axis=0)  # `[P, K]`
    compute, software, waiting = usd[:, 0], usd[:, 1], idle[:, 1]
    busy = compute + software
    gpus = np.array([pool.gpus for pool in scenario.pools.values()])
    replica_s = np.mean([result.gpu_hr for result in results], axis=0) * 3600.0 / gpus
    energy_j = np.mean([result.energy_j for result in results], axis=0)

    def over(part: FloatArray, whole: FloatArray) -> FloatArray:
        return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)

    return Split(over(busy, busy + waiting), over(compute, busy), over(energy_j, replica_s))
