"""One tick of every cluster: events in the order of time, each cluster on whichever thread is free."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from . import chance
from .engine import run, seen, set_limits
from .engine_state import NONE, Engine
from .fleet import break_off, give_notice, reconcile, refresh, settle, start_replica, stop_if_drained
from .routing import arrive, collect, come_back, count_progress, try_elsewhere
from .state import (
    BACK_PS,
    BACKOFF_HEAD,
    CAP,
    CRASH,
    DRAINING,
    FAR_PS,
    FAULT_AT_PS,
    FAULT_COUNT,
    FAULT_DURATION_PS,
    FAULT_KIND,
    FAULT_POOL,
    GONE,
    IDLE_FROM_PS,
    N_ARRIVALS,
    N_FAULTS,
    NEXT_ARRIVAL,
    NEXT_FAULT,
    NEXT_LIFE_PS,
    NOW_PS,
    POOL,
    PREEMPT,
    READY,
    READY_PS,
    RECLAIM_PS,
    SEED,
    SEEN_DRAINING,
    SEEN_KV,
    SEEN_READY,
    SEEN_RUNNING,
    SEEN_STARTING,
    SEEN_WAITING,
    SLOT_FROM,
    SLOT_TO,
    SOLD_OUT_UNTIL_PS,
    STARTING,
    STATE,
    TAKEN_PS,
    TOKEN_BUDGET,
    WANTED,
    Clusters,
    of_cluster,
)


def advance(every: Clusters, tick_ps: int) -> None:
    """Apply what `pools`, `route` and `admit` ask for, and let `tick_ps` pass."""
    _advance(every.engine, every._replace(engine=0), tick_ps)


@njit(cache=True, parallel=True)
def _advance(engines: Engine, rest: Clusters, tick_ps: int) -> None:
    for b in prange(len(rest.clock)):
        advance_one(of_cluster(engines, rest, b), tick_ps)


@njit(cache=True)
def arrivals_before(every: Clusters, until_ps: NDArray[np.int64]) -> NDArray[np.int64]:
    """`[B]` first arrivals of each workload before the times `until_ps` `[B]`."""
    counts = np.empty_like(until_ps)
    for b in range(len(counts)):
        known = every.clock[b, N_ARRIVALS]
        counts[b] = np.searchsorted(every.arrival_ps[b, :known], until_ps[b])
    return counts


@njit(cache=True)
def open_one(sim: Clusters) -> None:
    """Give each pool the replicas that it starts with, serving."""
    for pool in range(len(sim.pools)):
        for _ in range(sim.pools[pool, WANTED]):
            start_replica(sim, pool, 0, False)
    refresh(sim)
    _look(sim, 0)


@njit(cache=True)
def advance_one(sim: Clusters, tick_ps: int) -> None:
    """A tick of one cluster."""
    now_ps = sim.clock[NOW_PS]
    until_ps = now_ps + tick_ps
    sim.spans[:] = 0
    sim.used_ps[:] = 0
    sim.tally[:] = 0.0
    sim.work[:] = 0.0
    sim.sent[:] = 0.0
    for pool in range(len(sim.pools)):
        reconcile(sim, pool, now_ps)
        for slot in range(sim.pools[pool, SLOT_FROM], sim.pools[pool, SLOT_TO]):
            set_limits(sim.engine, slot, sim.pools[pool, CAP], sim.pools[pool, TOKEN_BUDGET])
    refresh(sim)
    while _next_event(sim, until_ps):
        pass
    for slot in range(len(sim.slots)):
        if sim.slots[slot, STATE] != GONE:
            run(sim.engine, slot, until_ps)
            stop_if_drained(sim, slot, until_ps)
        if sim.slots[slot, STATE] != GONE:
            settle(sim, slot, until_ps)
            count_progress(sim, slot)
        collect(sim, slot, until_ps)
    for slot in range(len(sim.slots)):
        sim.used_ps[sim.slots[slot, POOL]] += sim.spans[slot]
    refresh(sim)
    sim.clock[NOW_PS] = until_ps
    _look(sim, until_ps)


@njit(cache=True)
def _next_event(sim: Clusters, until_ps: int) -> bool:
    """Let the next event before `until_ps` happen, if there is one. Of those at one time, the world's come first."""
    clock = sim.clock
    life_ps = clock[NEXT_LIFE_PS]
    fault_ps = sim.faults[clock[NEXT_FAULT], FAULT_AT_PS] if clock[NEXT_FAULT] < clock[N_FAULTS] else FAR_PS
    back_ps = sim.desk[clock[BACKOFF_HEAD], BACK_PS] if clock[BACKOFF_HEAD] != NONE else FAR_PS
    arrival_ps = sim.arrival_ps[clock[NEXT_ARRIVAL]] if clock[NEXT_ARRIVAL] < clock[N_ARRIVALS] else FAR_PS
    first_ps = min(min(life_ps, fault_ps), min(back_ps, arrival_ps))
    if first_ps >= until_ps:
        return False
    if first_ps == life_ps:
        _change_lives(sim, life_ps)
    elif first_ps == fault_ps:
        _strike(sim, fault_ps)
    elif first_ps == back_ps:
        come_back(sim)
    else:
        arrive(sim)
    return True


@njit(cache=True)
def _change_lives(sim: Clusters, at_ps: int) -> None:
    """What is due to the slots at this time: ready, told to go, or taken away."""
    for slot in range(len(sim.slots)):
        row = sim.slots[slot]
        if row[STATE] != GONE and row[TAKEN_PS] <= at_ps:
            give_notice(sim, slot, at_ps)
        if row[STATE] == STARTING and row[READY_PS] <= at_ps:
            settle(sim, slot, at_ps)
            row[IDLE_FROM_PS] = at_ps
            row[STATE] = READY
    refresh(sim)
    for slot in range(len(sim.slots)):
        if sim.slots[slot, STATE] == DRAINING and sim.slots[slot, RECLAIM_PS] <= at_ps:
            _lose(sim, slot, at_ps)


@njit(cache=True)
def _lose(sim: Clusters, slot: int, at_ps: int) -> None:
    """The machine vanishes now."""
    run(sim.engine, slot, at_ps)
    stop_if_drained(sim, slot, at_ps)
    if sim.slots[slot, STATE] == GONE:
        return
    count_progress(sim, slot)
    count = break_off(sim, slot, at_ps)
    refresh(sim)
    try_elsewhere(sim, count, at_ps)


@njit(cache=True)
def _strike(sim: Clusters, at_ps: int) -> None:
    """The next fault of the scenario."""
    nth = sim.clock[NEXT_FAULT]
    fault = sim.faults[nth]
    sim.clock[NEXT_FAULT] += 1
    pool = fault[FAULT_POOL]
    if fault[FAULT_KIND] != PREEMPT and fault[FAULT_KIND] != CRASH:
        own = sim.pools[pool]
        own[SOLD_OUT_UNTIL_PS] = max(own[SOLD_OUT_UNTIL_PS], at_ps + fault[FAULT_DURATION_PS])
        return
    for i in range(fault[FAULT_COUNT]):
        slot = _victim(sim, pool, chance.uniform(sim.clock[SEED], chance.VICTIM, nth, i))
        if slot == NONE:
            return
        if fault[FAULT_KIND] == CRASH:
            _lose(sim, slot, at_ps)
        else:
            give_notice(sim, slot, at_ps)
            refresh(sim)


@njit(cache=True)
def _victim(sim: Clusters, pool: int, draw: float) -> int:
    """A rented replica that was not hit yet: a serving one if there is any, else one that starts."""
    for state in (READY, STARTING):
        count = 0
        for slot in range(sim.pools[pool, SLOT_FROM], sim.pools[pool, SLOT_TO]):
            count += sim.slots[slot, STATE] == state
        left = int(draw * count)
        for slot in range(sim.pools[pool, SLOT_FROM], sim.pools[pool, SLOT_TO]):
            if sim.slots[slot, STATE] == state:
                if left == 0:
                    return slot
                left -= 1
    return NONE


@njit(cache=True)
def _look(sim: Clusters, at_ps: int) -> None:
    """Fill `sights` with what is to be seen of each pool."""
    sim.sights[:] = 0.0
    for slot in range(len(sim.slots)):
        state = sim.slots[slot, STATE]
        if state == GONE:
            continue
        sight, rep = sim.sights[sim.slots[slot, POOL]], sim.engine.replicas[slot]
        if state == STARTING:
            sight[SEEN_STARTING] += 1.0
            continue
        figures = seen(sim.engine, slot, at_ps)
        sight[SEEN_RUNNING] += figures.running
        sight[SEEN_WAITING] += figures.waiting
        if state == READY:
            sight[SEEN_READY] += 1.0
            sight[SEEN_KV] += rep.blocks_used / rep.blocks_total
        else:
            sight[SEEN_DRAINING] += 1.0
