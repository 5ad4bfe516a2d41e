"""The life of replicas, and what their time is charged to.

    GONE -> STARTING -> READY <-> DRAINING -> GONE
               ^                      |
               +------ ASLEEP <-------+

Each pool has a range of slots. `sim` is one cluster (`state.of_cluster`), changed in place.
"""

from __future__ import annotations

from . import chance
from .caching import forget_all
from .compiling import inner
from .delays import drawn_ps
from .engine import evict_all, in_flight, run, seen, set_law, set_limits, to_ps
from .engine_state import NONE
from .power import start_cool
from .state import (
    ASLEEP,
    DRAINING,
    FALL_ASLEEP,
    FAR_PS,
    GONE,
    HANG,
    LOAD,
    NO_TICK,
    PROVISION,
    READY,
    STARTING,
    WAKE,
    Clusters,
)

_LONGEST_LIFE_S = 1e6
"""Rates are drawn out to this age of a replica; an episode lasts hours."""


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
def _life_ps(sim: Clusters, purpose: int, pool: int, nth: int, rate_per_s: float) -> int:
    """How long a replica lives until something of this rate happens to it."""
    if rate_per_s <= 0.0:
        return FAR_PS
    life_s = chance.exponential(sim.clock[0].seed, purpose, sim.pools[pool].key, nth) / rate_per_s
    return int(min(FAR_PS, to_ps(min(life_s, _LONGEST_LIFE_S))))


@inner
def _start_ps(sim: Clusters, pool: int, nth: int) -> int:
    """How long the pool's `nth` start takes; FAR_PS if it never serves."""
    own, seed = sim.pools[pool], sim.clock[0].seed
    provision_ps = drawn_ps(sim.delays, pool, PROVISION, seed, chance.PROVISION, own.key, nth)
    load_ps = drawn_ps(sim.delays, pool, LOAD, seed, chance.LOAD, own.key, nth)
    hang_ps = 0
    if own.stuck_start_frac > 0.0 and chance.uniform(seed, chance.STUCK, own.key, nth) < own.stuck_start_frac:
        hang_ps = drawn_ps(sim.delays, pool, HANG, seed, chance.HANG, own.key, nth)
    # Each of them may be for ever, and two of those are more than a whole number holds.
    start_ps = min(provision_ps, FAR_PS - load_ps) + load_ps
    return int(min(start_ps, FAR_PS - hang_ps) + hang_ps)


@inner
def start_replica(sim: Clusters, pool: int, at_ps: int, cold: bool) -> bool:
    """Rent one more replica, which serves after its cold start (or at once).

    Returns:
        False if no machine can be had, or the pool has no free slot.
    """
    own = sim.pools[pool]
    if not _can_be_had(sim, pool, at_ps):
        own.refused = 1
        return False
    slot = own.slot_from
    while slot < own.slot_to and sim.slots[slot].state != GONE:
        slot += 1
    if slot == own.slot_to:
        return False
    nth = own.nth_start
    own.nth_start += 1
    own.left -= at_ps < own.short_until_ps
    own.started += cold
    row, rep = sim.slots[slot], sim.engine.replicas[slot]
    delay_ps = _start_ps(sim, pool, nth) if cold else 0
    row.state = STARTING if cold else READY
    row.ready_ps = at_ps + delay_ps if delay_ps < FAR_PS else FAR_PS
    row.off_ps = at_ps + own.give_up_ps if cold and own.give_up_ps < FAR_PS else FAR_PS
    row.taken_ps = at_ps + _life_ps(sim, chance.PREEMPTION, pool, nth, own.preemptions_per_s)
    crash_after_ps = _life_ps(sim, chance.CRASH, pool, nth, own.crashes_per_s)
    row.crash_ps = row.ready_ps + crash_after_ps if max(row.ready_ps, crash_after_ps) < FAR_PS else FAR_PS
    row.reclaim_ps = FAR_PS
    row.woken = 0
    row.to_sleep = 0
    row.started_by_tick = sim.clock[0].tick if cold else NO_TICK
    row.drained_by_tick = NO_TICK
    row.settled_ps = at_ps
    row.idle_from_ps = at_ps
    start_cool(sim, slot)
    forget_all(sim.engine, slot)
    row.busy_seen_ps = rep.busy_ps
    row.useful_seen_ps = rep.useful_ps
    set_law(sim.engine, slot, sim.laws[pool])
    set_limits(sim.engine, slot, own.cap, own.token_budget * own.batches)
    return True


@inner
def _can_be_had(sim: Clusters, pool: int, at_ps: int) -> bool:
    """Whether the provider has one more machine."""
    own = sim.pools[pool]
    return not (at_ps < own.short_until_ps and own.left <= 0) and held(sim, pool) < own.capacity


@inner
def held(sim: Clusters, pool: int) -> int:
    """Machines of the pool that are not told to go."""
    count = 0
    for slot in range(sim.pools[pool].slot_from, sim.pools[pool].slot_to):
        count += sim.slots[slot].state != GONE and sim.slots[slot].reclaim_ps == FAR_PS
    return count


@inner
def stop(sim: Clusters, slot: int, at_ps: int) -> None:
    """End the rent. The engine has been run to `at_ps` and holds no request."""
    settle(sim, slot, at_ps)
    sim.slots[slot].state = GONE


@inner
def drain(sim: Clusters, slot: int, at_ps: int, by_tick: int) -> None:
    """Send it no more requests; it stops, or falls asleep, when it is empty. `by_tick` as `drained_by_tick`."""
    row = sim.slots[slot]
    if row.state != DRAINING:
        row.to_sleep = int(by_tick != NO_TICK and _sleepers(sim, row.pool) < sim.pools[row.pool].sleep_max)
        row.state = DRAINING
        row.drained_by_tick = by_tick
    pass_on(sim, slot, at_ps)


@inner
def _sleepers(sim: Clusters, pool: int) -> int:
    """Replicas of the pool that sleep, or will when they are empty."""
    count = 0
    for slot in range(sim.pools[pool].slot_from, sim.pools[pool].slot_to):
        row = sim.slots[slot]
        count += row.state == ASLEEP or (row.state == DRAINING and row.to_sleep == 1)
        count += row.state == STARTING and row.woken == 1  # it may be put back
    return count


@inner
def pass_on(sim: Clusters, slot: int, at_ps: int) -> None:
    """Let what became of a draining or sleeping replica by `at_ps` happen, each step at its own time.

    Its engine has been run to `at_ps`.
    """
    row = sim.slots[slot]
    if row.state == DRAINING and row.off_ps == FAR_PS and in_flight(sim.engine, slot, at_ps) == 0:
        empty_ps = max(sim.engine.replicas[slot].clock_ps, row.settled_ps)
        if row.to_sleep == 0 or row.reclaim_ps < FAR_PS:
            stop(sim, slot, empty_ps)
            return
        own = sim.pools[row.pool]
        seed = sim.clock[0].seed
        row.off_ps = empty_ps + drawn_ps(
            sim.delays, row.pool, FALL_ASLEEP, seed, chance.FALL_ASLEEP, own.key, own.nth_wake
        )
        own.nth_wake += 1
    if row.state == DRAINING and row.off_ps <= at_ps:
        settle(sim, slot, row.off_ps)
        row.state = ASLEEP
        forget_all(sim.engine, slot)
        row.off_ps = _stopped_ps(sim, row.pool, row.off_ps)
    if row.state == ASLEEP and row.off_ps <= at_ps:
        stop(sim, slot, row.off_ps)


@inner
def _stopped_ps(sim: Clusters, pool: int, asleep_ps: int) -> int:
    """When one that sleeps from `asleep_ps` on is stopped."""
    keep_ps = sim.pools[pool].keep_ps
    return int(asleep_ps + keep_ps) if keep_ps < FAR_PS else FAR_PS


@inner
def give_notice(sim: Clusters, slot: int, at_ps: int) -> None:
    """The provider will take a machine away: it drains until then. One that serves nobody is let go at once."""
    row = sim.slots[slot]
    own = sim.pools[row.pool]
    run(sim.engine, slot, at_ps)
    pass_on(sim, slot, at_ps)
    if row.state == GONE:
        return
    own.preempted += 1
    row.taken_ps = FAR_PS
    if row.state == STARTING or row.state == ASLEEP:
        stop(sim, slot, at_ps)
        return
    row.reclaim_ps = at_ps + own.notice_ps
    settle(sim, slot, at_ps)
    if row.off_ps < FAR_PS:  # on its way to sleep, so it is empty
        stop(sim, slot, at_ps)
        return
    drain(sim, slot, at_ps, NO_TICK)


@inner
def break_off(sim: Clusters, slot: int, at_ps: int) -> int:
    """The machine is gone, requests and all; returns how many are in `sim.evicted`."""
    if sim.slots[slot].state == STARTING or sim.slots[slot].state == ASLEEP:
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
        _give_up(sim, _least_missed(sim, pool, at_ps), at_ps)
        serving -= 1
    while serving < own.wanted:
        slot = _revivable(sim, pool)
        if slot != NONE:
            sim.slots[slot].state = READY
            sim.slots[slot].to_sleep = 0
            sim.slots[slot].drained_by_tick = NO_TICK
        elif not _wake_one(sim, pool, at_ps) and not start_replica(sim, pool, at_ps, True):
            break
        serving += 1


@inner
def _give_up(sim: Clusters, slot: int, at_ps: int) -> None:
    """Scale down by this one: a start is cancelled, one that was waking up sleeps on."""
    row, tick = sim.slots[slot], sim.clock[0].tick
    if row.state == READY:
        drain(sim, slot, at_ps, tick)
        return
    if row.woken == 0:
        stop(sim, slot, at_ps)
        return
    settle(sim, slot, at_ps)
    row.state = ASLEEP
    row.off_ps = _stopped_ps(sim, row.pool, at_ps)
    row.drained_by_tick = tick


@inner
def _wake_one(sim: Clusters, pool: int, at_ps: int) -> bool:
    """Wake a replica that sleeps; False if none does."""
    own = sim.pools[pool]
    for slot in range(own.slot_from, own.slot_to):
        row = sim.slots[slot]
        if row.state == ASLEEP:
            settle(sim, slot, at_ps)
            wake_ps = drawn_ps(sim.delays, pool, WAKE, sim.clock[0].seed, chance.WAKE, own.key, own.nth_wake)
            own.nth_wake += 1
            own.woken += 1
            row.state = STARTING
            row.woken = 1
            row.to_sleep = 0
            row.ready_ps = at_ps + wake_ps
            row.off_ps = FAR_PS
            row.started_by_tick = sim.clock[0].tick
            row.drained_by_tick = NO_TICK
            set_limits(sim.engine, slot, own.cap, own.token_budget * own.batches)
            return True
    return False


@inner
def become_ready(sim: Clusters, slot: int, at_ps: int) -> None:
    """Its start is over."""
    row = sim.slots[slot]
    settle(sim, slot, at_ps)
    row.idle_from_ps = at_ps
    row.off_ps = FAR_PS
    row.crash_ps = max(row.crash_ps, at_ps)  # one that woke up may have been due while it slept
    row.woken = 0
    row.state = READY


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
    """A draining replica with requests, whose machine stays; or NONE."""
    for slot in range(sim.pools[pool].slot_from, sim.pools[pool].slot_to):
        row = sim.slots[slot]
        if row.state == DRAINING and row.reclaim_ps == FAR_PS and row.off_ps == FAR_PS:
            return slot
    return NONE


@inner
def _next_event_ps(sim: Clusters, slot: int) -> int:
    """When the slot's life changes next by itself. That a drained one falls asleep concerns nobody in between."""
    row = sim.slots[slot]
    if row.state == GONE:
        return FAR_PS
    if row.state == STARTING:
        return int(min(min(row.ready_ps, row.off_ps), row.taken_ps))
    if row.state == ASLEEP:
        return int(min(row.taken_ps, row.crash_ps))
    return int(min(min(row.taken_ps, row.reclaim_ps), row.crash_ps))


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
