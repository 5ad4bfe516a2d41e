"""The life of replicas, and what their time is charged to.

    GONE -> STARTING -> READY <-> DRAINING -> GONE

Each pool has a range of slots. `sim` is one cluster (`state.of_cluster`), changed in place.
"""

from __future__ import annotations

from numba import njit

from . import chance
from .engine import evict_all, in_flight, run, seen, set_law, set_limits, to_ps
from .engine_state import NONE
from .state import (
    BUSY_SEEN_PS,
    CAP,
    COLD_SPREAD_FRAC,
    COLD_START_PS,
    DRAINING,
    FAR_PS,
    GONE,
    IDLE,
    IDLE_FROM_PS,
    IN_START,
    N_READY,
    N_STARTED,
    NEXT_LIFE_PS,
    NOTICE_PS,
    POOL,
    PREEMPTIONS_PER_S,
    READY,
    READY_PS,
    RECLAIM_PS,
    RENTED,
    SEED,
    SETTLED_PS,
    SLOT_FROM,
    SLOT_TO,
    SOLD_OUT_UNTIL_PS,
    STARTING,
    STATE,
    TAKEN_PS,
    TOKEN_BUDGET,
    USEFUL,
    USEFUL_SEEN_PS,
    WANTED,
    WASTED,
    Clusters,
)


@njit(cache=True)
def settle(sim: Clusters, slot: int, at_ps: int) -> None:
    """Charge the time since the slot was last settled; its engine has been run to `at_ps`."""
    row, span = sim.slots[slot], sim.spans[slot]
    rented = at_ps - row[SETTLED_PS]
    span[RENTED] += rented
    row[SETTLED_PS] = at_ps
    if row[STATE] == STARTING:
        span[IN_START] += rented
        return
    sight = seen(sim.engine, slot, at_ps)
    busy = sight.busy_ps - row[BUSY_SEEN_PS]
    # An iteration that is cut off loses the useful part that was counted ahead.
    useful = min(max(sight.useful_ps - row[USEFUL_SEEN_PS], 0), busy)
    span[USEFUL] += useful
    span[WASTED] += busy - useful
    row[BUSY_SEEN_PS] = sight.busy_ps
    row[USEFUL_SEEN_PS] = sight.useful_ps
    close_idle(sim, slot, at_ps)


@njit(cache=True)
def close_idle(sim: Clusters, slot: int, at_ps: int) -> None:
    """Charge the time since the engine had nothing to do, if it has nothing at `at_ps`."""
    row, rep = sim.slots[slot], sim.engine.replicas[slot]
    if rep.running + rep.waiting == 0 and rep.clock_ps <= at_ps:
        sim.spans[slot, IDLE] += at_ps - max(rep.clock_ps, row[IDLE_FROM_PS])
        row[IDLE_FROM_PS] = at_ps


@njit(cache=True)
def start_replica(sim: Clusters, pool: int, at_ps: int, cold: bool) -> bool:
    """Rent one more replica, which serves after its cold start (or at once).

    Returns:
        False if the pool is sold out or has no free slot.
    """
    own = sim.pools[pool]
    slot = own[SLOT_FROM]
    while slot < own[SLOT_TO] and sim.slots[slot, STATE] != GONE:
        slot += 1
    if slot == own[SLOT_TO] or at_ps < own[SOLD_OUT_UNTIL_PS]:
        return False
    seed, nth = sim.clock[SEED], own[N_STARTED]
    own[N_STARTED] += 1
    delay_ps, life_ps = 0, FAR_PS
    if cold:
        spread = sim.chances[pool, COLD_SPREAD_FRAC]
        delay_ps = int(chance.log_normal(float(own[COLD_START_PS]), spread, seed, chance.COLD_START, pool, nth))
    rate = sim.chances[pool, PREEMPTIONS_PER_S]
    if rate > 0.0:
        life_ps = min(FAR_PS, to_ps(min(chance.exponential(seed, chance.PREEMPTION, pool, nth) / rate, 1e6)))
    row, rep = sim.slots[slot], sim.engine.replicas[slot]
    row[STATE] = STARTING if cold else READY
    row[READY_PS] = at_ps + delay_ps
    row[TAKEN_PS] = at_ps + life_ps
    row[RECLAIM_PS] = FAR_PS
    row[SETTLED_PS] = at_ps
    row[IDLE_FROM_PS] = at_ps
    row[BUSY_SEEN_PS] = rep.busy_ps
    row[USEFUL_SEEN_PS] = rep.useful_ps
    set_law(sim.engine, slot, sim.laws[pool])
    set_limits(sim.engine, slot, own[CAP], own[TOKEN_BUDGET])
    return True


@njit(cache=True)
def stop(sim: Clusters, slot: int, at_ps: int) -> None:
    """End the rent. The engine has been run to `at_ps` and holds no request."""
    settle(sim, slot, at_ps)
    sim.slots[slot, STATE] = GONE


@njit(cache=True)
def drain(sim: Clusters, slot: int, at_ps: int) -> None:
    """Send it no more requests; it stops when it is empty."""
    sim.slots[slot, STATE] = DRAINING
    if in_flight(sim.engine, slot, at_ps) == 0:
        stop(sim, slot, at_ps)


@njit(cache=True)
def stop_if_drained(sim: Clusters, slot: int, at_ps: int) -> None:
    """Stop a draining replica when its last request ended, at `at_ps` or before."""
    if sim.slots[slot, STATE] == DRAINING and in_flight(sim.engine, slot, at_ps) == 0:
        stop(sim, slot, max(sim.engine.replicas[slot].clock_ps, sim.slots[slot, SETTLED_PS]))


@njit(cache=True)
def give_notice(sim: Clusters, slot: int, at_ps: int) -> None:
    """A spot machine will be taken away: drain until then. One that has not loaded yet is let go."""
    row = sim.slots[slot]
    row[TAKEN_PS] = FAR_PS
    if row[STATE] == STARTING:
        stop(sim, slot, at_ps)
        return
    row[RECLAIM_PS] = at_ps + sim.pools[row[POOL], NOTICE_PS]
    run(sim.engine, slot, at_ps)
    settle(sim, slot, at_ps)
    drain(sim, slot, at_ps)


@njit(cache=True)
def break_off(sim: Clusters, slot: int, at_ps: int) -> int:
    """The machine is gone, requests and all; returns how many are in `sim.evicted`."""
    if sim.slots[slot, STATE] == STARTING:
        stop(sim, slot, at_ps)
        return 0
    count = evict_all(sim.engine, slot, at_ps, sim.evicted)
    stop(sim, slot, at_ps)
    return int(count)


@njit(cache=True)
def reconcile(sim: Clusters, pool: int, at_ps: int) -> None:
    """Bring the pool to the number of replicas wanted, as far as can be; what cannot be is tried again next tick."""
    own = sim.pools[pool]
    serving = 0
    for slot in range(own[SLOT_FROM], own[SLOT_TO]):
        serving += sim.slots[slot, STATE] == STARTING or sim.slots[slot, STATE] == READY
    while serving > own[WANTED]:
        slot = _least_missed(sim, pool, at_ps)
        if sim.slots[slot, STATE] == STARTING:
            stop(sim, slot, at_ps)
        else:
            drain(sim, slot, at_ps)
        serving -= 1
    while serving < own[WANTED]:
        slot = _revivable(sim, pool)
        if slot != NONE:
            sim.slots[slot, STATE] = READY
        elif not start_replica(sim, pool, at_ps, True):
            break
        serving += 1


@njit(cache=True)
def _least_missed(sim: Clusters, pool: int, at_ps: int) -> int:
    """The replica to give up: the start that is furthest from serving, else the ready one with fewest requests."""
    chosen, least, latest_ps = NONE, FAR_PS, -1
    for slot in range(sim.pools[pool, SLOT_FROM], sim.pools[pool, SLOT_TO]):
        row = sim.slots[slot]
        if row[STATE] == STARTING and row[READY_PS] > latest_ps:
            chosen, latest_ps = slot, row[READY_PS]
        elif row[STATE] == READY and latest_ps < 0:
            load = in_flight(sim.engine, slot, at_ps)
            if load < least:
                chosen, least = slot, load
    return chosen


@njit(cache=True)
def _revivable(sim: Clusters, pool: int) -> int:
    """A draining replica whose machine stays, or NONE."""
    for slot in range(sim.pools[pool, SLOT_FROM], sim.pools[pool, SLOT_TO]):
        if sim.slots[slot, STATE] == DRAINING and sim.slots[slot, RECLAIM_PS] == FAR_PS:
            return slot
    return NONE


@njit(cache=True)
def _next_event_ps(sim: Clusters, slot: int) -> int:
    """When the slot's life changes next by itself."""
    row = sim.slots[slot]
    if row[STATE] == GONE:
        return FAR_PS
    if row[STATE] == STARTING:
        return min(row[READY_PS], row[TAKEN_PS])
    return min(row[TAKEN_PS], row[RECLAIM_PS])


@njit(cache=True)
def refresh(sim: Clusters) -> None:
    """List each pool's ready slots again, and find the next event of any slot."""
    nearest = FAR_PS
    for pool in range(len(sim.pools)):
        start, count = sim.pools[pool, SLOT_FROM], 0
        for slot in range(start, sim.pools[pool, SLOT_TO]):
            if sim.slots[slot, STATE] == READY:
                sim.ready[start + count] = slot
                count += 1
            nearest = min(nearest, _next_event_ps(sim, slot))
        sim.pools[pool, N_READY] = count
    sim.clock[NEXT_LIFE_PS] = nearest
