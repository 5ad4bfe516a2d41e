"""The life of replicas, and what their time is charged to.

    GONE -> STARTING -> READY <-> DRAINING -> GONE

Each pool has a range of slots. `sim` is one cluster (`state.of_cluster`), changed in place.
"""

from __future__ import annotations

from . import chance
from .compiling import inner
from .engine import evict_all, in_flight, run, seen, set_law, set_limits, to_ps
from .engine_state import NONE
from .power import start_cool
from .state import ASLEEP, DRAINING, FAR_PS, GONE, NO_TICK, READY, STARTING, Clusters


@inner
def settle(sim: Clusters, slot: int, at_ps: int) -> None:
    """Charge the time since the slot was last settled; its engine has been run to `at_ps`."""
    row = sim.slots[slot]
    rented = at_ps - row.settled_ps
    row.rented_ps += rented
    row.settled_ps = at_ps
    if row.state == STARTING:
        row.start_ps += rented
        return
    if row.state == ASLEEP:
        row.asleep_ps += rented
        return
    sight = seen(sim.engine, slot, at_ps)
    busy = sight.busy_ps - row.busy_seen_ps
    # An iteration that is cut off loses the useful part that was counted ahead.
    useful = min(max(sight.useful_ps - row.useful_seen_ps, 0), busy)
    row.useful_ps += useful
    row.wasted_ps += busy - useful
    row.busy_seen_ps = sight.busy_ps
    row.useful_seen_ps = sight.useful_ps
    close_idle(sim, slot, at_ps)


@inner
def close_idle(sim: Clusters, slot: int, at_ps: int) -> None:
    """Charge the time since the engine had nothing to do, if it has nothing at `at_ps`."""
    row, rep = sim.slots[slot], sim.engine.replicas[slot]
    if rep.running + rep.waiting == 0 and rep.clock_ps <= at_ps:
        spare_ps = at_ps - max(rep.clock_ps, row.idle_from_ps)
        if row.state == DRAINING:
            row.drain_ps += spare_ps
        else:
            row.idle_ps += spare_ps
        row.idle_from_ps = at_ps


@inner
def start_replica(sim: Clusters, pool: int, at_ps: int, cold: bool) -> bool:
    """Rent one more replica, which serves after its cold start (or at once).

    Returns:
        False if the pool is sold out or has no free slot.
    """
    own = sim.pools[pool]
    slot = own.slot_from
    while slot < own.slot_to and sim.slots[slot].state != GONE:
        slot += 1
    if slot == own.slot_to or at_ps < own.sold_out_until_ps:
        return False
    seed, nth = sim.clock[0].seed, own.n_started
    own.n_started += 1
    delay_ps, life_ps = 0, FAR_PS
    if cold:
        spread = own.cold_spread_frac
        delay_ps = int(chance.log_normal(float(own.cold_start_ps), spread, seed, chance.COLD_START, pool, nth))
    rate = own.preemptions_per_s
    if rate > 0.0:
        life_ps = min(FAR_PS, to_ps(min(chance.exponential(seed, chance.PREEMPTION, pool, nth) / rate, 1e6)))
    row, rep = sim.slots[slot], sim.engine.replicas[slot]
    row.state = STARTING if cold else READY
    row.ready_ps = at_ps + delay_ps
    row.taken_ps = at_ps + life_ps
    row.reclaim_ps = FAR_PS
    row.started_by_tick = sim.clock[0].tick if cold else NO_TICK
    row.drained_by_tick = NO_TICK
    row.settled_ps = at_ps
    row.idle_from_ps = at_ps
    start_cool(sim, slot)
    row.busy_seen_ps = rep.busy_ps
    row.useful_seen_ps = rep.useful_ps
    set_law(sim.engine, slot, sim.laws[pool])
    set_limits(sim.engine, slot, own.cap, own.token_budget)
    return True


@inner
def stop(sim: Clusters, slot: int, at_ps: int) -> None:
    """End the rent. The engine has been run to `at_ps` and holds no request."""
    settle(sim, slot, at_ps)
    sim.slots[slot].state = GONE


@inner
def drain(sim: Clusters, slot: int, at_ps: int, by_tick: int) -> None:
    """Send it no more requests; it stops when it is empty. `by_tick` as `drained_by_tick`."""
    row = sim.slots[slot]
    if row.state != DRAINING:
        row.state = DRAINING
        row.drained_by_tick = by_tick
    if in_flight(sim.engine, slot, at_ps) == 0:
        stop(sim, slot, at_ps)


@inner
def stop_if_drained(sim: Clusters, slot: int, at_ps: int) -> None:
    """Stop a draining replica when its last request ended, at `at_ps` or before."""
    if sim.slots[slot].state == DRAINING and in_flight(sim.engine, slot, at_ps) == 0:
        stop(sim, slot, max(sim.engine.replicas[slot].clock_ps, sim.slots[slot].settled_ps))


@inner
def give_notice(sim: Clusters, slot: int, at_ps: int) -> None:
    """A spot machine will be taken away: drain until then. One that has not loaded yet is let go."""
    row = sim.slots[slot]
    row.taken_ps = FAR_PS
    if row.state == STARTING:
        stop(sim, slot, at_ps)
        return
    row.reclaim_ps = at_ps + sim.pools[row.pool].notice_ps
    run(sim.engine, slot, at_ps)
    settle(sim, slot, at_ps)
    drain(sim, slot, at_ps, NO_TICK)


@inner
def break_off(sim: Clusters, slot: int, at_ps: int) -> int:
    """The machine is gone, requests and all; returns how many are in `sim.evicted`."""
    if sim.slots[slot].state == STARTING:
        stop(sim, slot, at_ps)
        return 0
    count = evict_all(sim.engine, slot, at_ps, sim.evicted)
    stop(sim, slot, at_ps)
    return int(count)


@inner
def reconcile(sim: Clusters, pool: int, at_ps: int) -> None:
    """Bring the pool to the number of replicas wanted, as far as can be; what cannot be is tried again next tick."""
    own = sim.pools[pool]
    serving = 0
    for slot in range(own.slot_from, own.slot_to):
        serving += sim.slots[slot].state == STARTING or sim.slots[slot].state == READY
    while serving > own.wanted:
        slot = _least_missed(sim, pool, at_ps)
        if sim.slots[slot].state == STARTING:
            stop(sim, slot, at_ps)
        else:
            drain(sim, slot, at_ps, sim.clock[0].tick)
        serving -= 1
    while serving < own.wanted:
        slot = _revivable(sim, pool)
        if slot != NONE:
            sim.slots[slot].state = READY
            sim.slots[slot].drained_by_tick = NO_TICK
        elif not start_replica(sim, pool, at_ps, True):
            break
        serving += 1


@inner
def _least_missed(sim: Clusters, pool: int, at_ps: int) -> int:
    """The replica to give up: the start that is furthest from serving, else the ready one with fewest requests."""
    chosen, least, latest_ps = NONE, FAR_PS, -1
    for slot in range(sim.pools[pool].slot_from, sim.pools[pool].slot_to):
        row = sim.slots[slot]
        if row.state == STARTING and row.ready_ps > latest_ps:
            chosen, latest_ps = slot, row.ready_ps
        elif row.state == READY and latest_ps < 0:
            load = in_flight(sim.engine, slot, at_ps)
            if load < least:
                chosen, least = slot, load
    return chosen


@inner
def _revivable(sim: Clusters, pool: int) -> int:
    """A draining replica whose machine stays, or NONE."""
    for slot in range(sim.pools[pool].slot_from, sim.pools[pool].slot_to):
        if sim.slots[slot].state == DRAINING and sim.slots[slot].reclaim_ps == FAR_PS:
            return slot
    return NONE


@inner
def _next_event_ps(sim: Clusters, slot: int) -> int:
    """When the slot's life changes next by itself."""
    row = sim.slots[slot]
    if row.state == GONE:
        return FAR_PS
    if row.state == STARTING:
        return int(min(row.ready_ps, row.taken_ps))
    return int(min(row.taken_ps, row.reclaim_ps))


@inner
def refresh(sim: Clusters) -> None:
    """List each pool's ready slots again, and find the next event of any slot."""
    nearest = FAR_PS
    for pool in range(len(sim.pools)):
        start, count = sim.pools[pool].slot_from, 0
        for slot in range(start, sim.pools[pool].slot_to):
            if sim.slots[slot].state == READY:
                sim.slots[start + count].listed = slot
                count += 1
            nearest = min(nearest, _next_event_ps(sim, slot))
        sim.pools[pool].n_ready = count
        sim.pools[pool].routed |= count > 0
    sim.clock[0].next_life_ps = nearest
