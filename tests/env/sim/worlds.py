"""Small worlds made by hand, and actions for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from poolpilot.env.contract import Action, Cluster, FloatArray, Targets
from poolpilot.env.ledger import Tariff
from poolpilot.env.perf.law import TOKENS_GRID, IterationLaw
from poolpilot.env.perf.power import Draw
from poolpilot.env.scenario import Fault
from poolpilot.env.sim.clusters import SimulatedClusters, TickOutcome
from poolpilot.env.sim.delays import no_delays
from poolpilot.env.sim.power import Thermal
from poolpilot.env.sim.state import FALL_ASLEEP, HANG, LOAD, MEAN_S, PROVISION, SPREAD_FRAC, WAKE
from poolpilot.env.sim.supply import Supply
from poolpilot.env.sim.world import WorldSpec
from poolpilot.env.workload.requests import Workload

A_DRAW = Draw(
    basis="tdp",
    tdp_w=400.0,
    idle_w=60.0,
    floor_w=200.0,
    limit_w=392.0,
    iteration_j=1.0,
    experts_j=0.0,
    untouched=0.0,
    token_j=0.05,
    attention_w=100.0,
)
AIR_COOLED = Thermal()
FREE = Tariff(usd_per_kwh=np.array(0.0), pue=np.array(1.0), egress_usd_per_gb=np.array(0.0))


def a_law(iteration_s: float = 0.02, token_s: float = 1e-5) -> IterationLaw:
    """So long for an iteration, so much more for each of its tokens; attention is free."""
    return IterationLaw(TOKENS_GRID, iteration_s + token_s * TOKENS_GRID, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class APool:
    """One pool; every class may use it. Left without a name it is called by its place."""

    law: IterationLaw
    name: str = ""
    start: int = 1
    most: int = 4
    usd_per_hr: float = 3.6
    cold_start_s: float = 30.0
    cold_spread_frac: float = 0.0
    preemptions_per_hr: float = 0.0
    spot: bool = False
    notice_s: float = 20.0
    load_s: float = 0.0
    stuck_start_frac: float = 0.0
    stuck_s: float = np.inf
    give_up_s: float = np.inf
    crashes_per_hr: float = 0.0
    sleep_max: int = 0
    wake_s: float = 0.0
    fall_asleep_s: float = 0.0
    keep_asleep_s: float = np.inf
    asleep_rent_frac: float = 1.0
    kv_tokens: int = 16000
    batch_cap: int = 64
    by_priority: bool = False
    prefix_caching: bool = False
    thermal: Thermal = AIR_COOLED


@dataclass(frozen=True)
class AClass:
    """One class and what its users ask for."""

    ttft_s: float = np.nan
    tpot_s: float = np.nan
    e2e_s: float = np.nan
    deadline_s: float = np.nan
    give_up_after_s: float = 600.0
    priority: int = 0
    pools: tuple[int, ...] | None = None


def requests_at(*rows: tuple[float, int, int, int], n_classes: int = 1) -> Workload:
    """Requests given as (arrival_s, prompt tokens, output tokens, class)."""
    columns = np.array(sorted(rows), dtype=np.float64).reshape(-1, 4).T
    whole = columns[1:].astype(np.int64)
    return Workload(columns[0], whole[0], whole[1], whole[2], tuple(f"c{i}" for i in range(n_classes)))


def steady(rate_per_s: float, until_s: float, prompt: int = 200, output: int = 50, seed: int = 0) -> Workload:
    """One class of Poisson arrivals, all of one shape."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, until_s, rng.poisson(rate_per_s * until_s)))
    return requests_at(*((t, prompt, output, 0) for t in times))


def a_world(
    workload: Workload,
    pools: Sequence[APool] = (APool(a_law()),),
    classes: Sequence[AClass] | None = None,
    seed: int = 7,
    duration_s: float = 600.0,
    faults: tuple[Fault, ...] = (),
    tariff: Tariff = FREE,
    room: Sequence[tuple[float, float]] = ((0.0, 25.0),),
    prices: Sequence[tuple[float, float]] = (),
    retry_after_s: float = 5.0,
) -> WorldSpec:
    """A world of these requests and pools; `prices` are (from_s, factor on every pool's price), `room` (from_s, deg C)."""
    wanted = classes or [AClass(ttft_s=1.0)] * len(workload.class_names)
    steps = prices or [(0.0, 1.0)]

    def per_pool(name: str) -> FloatArray:
        return np.array([float(getattr(pool, name)) for pool in pools])

    def per_class(name: str) -> FloatArray:
        return np.array([float(getattr(one, name)) for one in wanted])

    count = len(pools)
    serves = np.array([[c.pools is None or p in c.pools for p in range(count)] for c in wanted])
    cluster = Cluster(
        class_names=workload.class_names,
        pool_names=tuple(pool.name or f"p{i}" for i, pool in enumerate(pools)),
        class_mask=np.ones(len(wanted), dtype=np.bool_),
        pool_mask=np.ones(count, dtype=np.bool_),
        serves=serves,
        spot=(per_pool("preemptions_per_hr") > 0) | (per_pool("spot") > 0),
        min_replicas=np.zeros(count),
        max_replicas=per_pool("most"),
        max_batch_cap=per_pool("batch_cap"),
        max_token_budget=np.full(count, 2048.0),
        usd_per_hr=per_pool("usd_per_hr"),
        cold_start_s=per_pool("cold_start_s") + per_pool("load_s"),
        targets=Targets(
            ttft_s=per_class("ttft_s"),
            tpot_s=per_class("tpot_s"),
            e2e_s=per_class("e2e_s"),
            deadline_s=per_class("deadline_s"),
            attainment=np.full(len(wanted), 0.99),
            budget_usd_per_hr=np.array(np.inf),
        ),
    )
    return WorldSpec(
        cluster=cluster,
        workload=workload,
        duration_s=duration_s,
        seed=seed,
        law_rows=np.stack([pool.law.as_row() for pool in pools]),
        kv_tokens=per_pool("kv_tokens"),
        max_model_len=np.full(count, 8192.0),
        by_priority=per_pool("by_priority") > 0,
        prefix_caching=per_pool("prefix_caching") > 0,
        class_priority=per_class("priority").astype(np.int64),
        start_replicas=per_pool("start"),
        supply=a_supply(pools, faults),
        price_from_s=np.array([at_s for at_s, _ in steps]),
        price_usd_per_hr=np.outer([factor for _, factor in steps], per_pool("usd_per_hr")),
        batches_in_flight=np.ones(count),
        draws=((A_DRAW,),) * count,
        thermals=tuple(pool.thermal for pool in pools),
        room_from_s=np.array([at_s for at_s, _ in room]),
        room_c=np.outer([celsius for _, celsius in room], np.ones(count)),
        tariff=tariff,
        bytes_per_token=250.0,
        retry_after_s=retry_after_s,
        give_up_after_s=per_class("give_up_after_s"),
    )


def a_supply(pools: Sequence[APool], faults: tuple[Fault, ...] = ()) -> Supply:
    """How these pools' machines come and go: nothing is drawn but what a pool asks for."""

    def per_pool(name: str) -> FloatArray:
        return np.array([float(getattr(pool, name)) for pool in pools])

    delays = no_delays(len(pools))
    for kind, name in (
        (PROVISION, "cold_start_s"),
        (LOAD, "load_s"),
        (HANG, "stuck_s"),
        (WAKE, "wake_s"),
        (FALL_ASLEEP, "fall_asleep_s"),
    ):
        delays[:, kind, MEAN_S] = per_pool(name)
    delays[:, PROVISION, SPREAD_FRAC] = per_pool("cold_spread_frac")
    return Supply(
        delays=delays,
        believed_preemptions_per_hr=per_pool("preemptions_per_hr"),
        faults=faults,
        **{
            name: per_pool(name)
            for name in (
                "stuck_start_frac",
                "give_up_s",
                "crashes_per_hr",
                "preemptions_per_hr",
                "notice_s",
                "sleep_max",
                "keep_asleep_s",
                "asleep_rent_frac",
            )
        },
    )


def an_action(
    clusters: SimulatedClusters,
    replicas: Sequence[float] | float = 1.0,
    route: Sequence[Sequence[float]] | None = None,
    admit: float = 1.0,
    batch_cap: float = 64.0,
) -> Action:
    """The same for every cluster of the batch; the route is even unless given."""
    serves = clusters.cluster.serves
    b, c, p = serves.shape
    weights = np.broadcast_to(serves if route is None else np.asarray(route), serves.shape).astype(np.float64)
    return Action(
        route=weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-9),
        admit=np.full((b, c), admit),
        batch_cap=np.full((b, p), batch_cap),
        token_budget=np.full((b, p), 2048.0),
        replicas=np.broadcast_to(np.asarray(replicas, dtype=np.float64), (b, p)).copy(),
    )


def run_ticks(clusters: SimulatedClusters, action: Action, ticks: int) -> list[TickOutcome]:
    """Advance so many ticks under one action."""
    return [clusters.advance(action) for _ in range(ticks)]


def total(outcomes: Sequence[TickOutcome], column: int) -> FloatArray:
    """`[B, C]` of one tally column, summed over ticks."""
    return np.sum([outcome.tally[..., column] for outcome in outcomes], axis=0)
