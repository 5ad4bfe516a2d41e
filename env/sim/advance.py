"""One tick of a cluster: events in the order of time."""

from __future__ import annotations

import numpy as np

from ..window import TALLY_WIDTH
from . import chance
from .compiling import inner, outer
from .engine import run, seen, set_limits
from .engine_state import NONE
from .fleet import (
    become_ready,
    break_off,
    give_notice,
    held,
    pass_on,
    reconcile,
    refresh,
    settle,
    start_replica,
    stop,
)
from .power import pass_heat
from .routing import arrive, collect, come_back, count_progress, try_elsewhere
from .state import (
    ASLEEP,
    CAPACITY,
    CRASH,
    DRAINING,
    FAR_PS,
    GONE,
    READY,
    STARTING,
    STOCK_OUT,
    Clusters,
    of_cluster,
)


@outer
def advance_some(every: Clusters, first: int, last: int, tick_ps: int) -> None:
    """Apply what `pools`, `route` and `admit` ask of clusters `first` to `last` - 1, and let `tick_ps` pass.

    Clusters share nothing: different ones may be advanced on different threads.
    """
    for b in range(first, last):
        _advance_one(of_cluster(every, b), tick_ps)


@outer
def rows_needed(every: Clusters, tick_ps: int) -> int:
    """Most requests that a cluster may hold before the next tick is over."""
    most = 0
    for b in range(len(every.clock)):
        clock = every.clock[b, 0]
        until_ps = clock.now_ps + tick_ps
        low, high = clock.next_arrival, clock.n_arrivals
        while low < high:
            middle = (low + high) // 2
            if every.arrivals[b, middle].at_ps < until_ps:
                low = middle + 1
            else:
                high = middle
        held_now = low - clock.next_arrival
        for klass in range(every.classes.shape[1]):
            held_now += every.classes[b, klass].in_flight + every.classes[b, klass].backing_off
        most = max(most, held_now)
    return int(most)


@outer
def open_one(every: Clusters, b: int) -> None:
    """Give each pool of cluster `b` the replicas that it starts with, serving."""
    sim = of_cluster(every, b)
    for pool in range(len(sim.pools)):
        for _ in range(sim.pools[pool].wanted):
            start_replica(sim, pool, 0, False)
    refresh(sim)
    _look(sim, 0)


@inner
def _advance_one(sim: Clusters, tick_ps: int) -> None:
    """A tick of one cluster."""
    now_ps = sim.clock[0].now_ps
    until_ps = now_ps + tick_ps
    _forget_tick(sim)
    for pool in range(len(sim.pools)):
        sim.pools[pool].routed = 0
        reconcile(sim, pool, now_ps)
        for slot in range(sim.pools[pool].slot_from, sim.pools[pool].slot_to):
            set_limits(sim.engine, slot, sim.pools[pool].cap, sim.pools[pool].token_budget * sim.pools[pool].batches)
    refresh(sim)
    while _next_event(sim, until_ps):
        pass
    for slot in range(len(sim.slots)):
        if sim.slots[slot].state != GONE:
            run(sim.engine, slot, until_ps)
            pass_on(sim, slot, until_ps)
        if sim.slots[slot].state != GONE:
            settle(sim, slot, until_ps)
            count_progress(sim, slot)
        collect(sim, slot, until_ps)
    refresh(sim)
    sim.clock[0].now_ps = until_ps
    sim.clock[0].tick += 1
    pass_heat(sim, tick_ps)
    _look(sim, until_ps)


@inner
def _forget_tick(sim: Clusters) -> None:
    """Zero what a tick adds up."""
    for klass in range(len(sim.classes)):
        for i in range(TALLY_WIDTH):
            sim.tally[klass, i] = 0.0
        for pool in range(len(sim.pools)):
            sim.pairs[klass, pool].work = 0.0
            sim.pairs[klass, pool].sent = 0.0
    for pool in range(len(sim.pools)):
        own = sim.pools[pool]
        own.started, own.woken, own.preempted, own.crashed, own.given_up, own.refused = 0, 0, 0, 0, 0, 0
    for slot in range(len(sim.slots)):
        row = sim.slots[slot]
        row.rented_ps = 0
        row.useful_ps = 0
        row.wasted_ps = 0
        row.start_ps = 0
        row.idle_ps = 0
        row.drain_ps = 0
        row.asleep_ps = 0


@inner
def _next_event(sim: Clusters, until_ps: int) -> bool:
    """Let the next event before `until_ps` happen, if there is one. Of those at one time, the world's come first."""
    clock = sim.clock[0]
    life_ps = clock.next_life_ps
    fault_ps = sim.faults[clock.next_fault].at_ps if clock.next_fault < clock.n_faults else FAR_PS
    back_ps = sim.desk[clock.backoff_head].back_ps if clock.backoff_head != NONE else FAR_PS
    arrival_ps = sim.arrivals[clock.next_arrival].at_ps if clock.next_arrival < clock.n_arrivals else FAR_PS
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


@inner
def _change_lives(sim: Clusters, at_ps: int) -> None:
    """What is due to the slots at this time: ready, given up, told to go, taken away, or dead."""
    for slot in range(len(sim.slots)):
        row = sim.slots[slot]
        if row.state != GONE and row.taken_ps <= at_ps:
            give_notice(sim, slot, at_ps)
        if row.state == STARTING and row.ready_ps <= at_ps:
            become_ready(sim, slot, at_ps)
        elif row.state == STARTING and row.off_ps <= at_ps:
            sim.pools[row.pool].given_up += 1
            stop(sim, slot, at_ps)
    refresh(sim)
    for slot in range(len(sim.slots)):
        row = sim.slots[slot]
        if row.state == DRAINING and row.reclaim_ps <= at_ps:
            _lose(sim, slot, at_ps, False)
        elif row.state != GONE and row.state != STARTING and row.crash_ps <= at_ps:
            _lose(sim, slot, at_ps, True)


@inner
def _lose(sim: Clusters, slot: int, at_ps: int, crashed: bool) -> None:
    """The machine vanishes now."""
    run(sim.engine, slot, at_ps)
    pass_on(sim, slot, at_ps)
    if sim.slots[slot].state == GONE:
        refresh(sim)
        return
    sim.pools[sim.slots[slot].pool].crashed += crashed
    count_progress(sim, slot)
    count = break_off(sim, slot, at_ps)
    refresh(sim)
    try_elsewhere(sim, count, sim.slots[slot].pool, at_ps)


@inner
def _strike(sim: Clusters, at_ps: int) -> None:
    """The next fault of the world."""
    fault = sim.faults[sim.clock[0].next_fault]
    sim.clock[0].next_fault += 1
    own = sim.pools[fault.pool]
    if fault.kind == STOCK_OUT:
        lasts = at_ps < own.short_until_ps
        own.left = min(own.left, fault.left) if lasts else fault.left
        own.short_until_ps = max(own.short_until_ps, at_ps + fault.duration_ps)
        return
    if fault.kind == CAPACITY:
        own.capacity = fault.count
        while own.spot == 1 and held(sim, fault.pool) > own.capacity:
            give_notice(sim, _held_victim(sim, fault.pool, held(sim, fault.pool)), at_ps)
        refresh(sim)
        return
    for _ in range(fault.count):
        slot = _victim(sim, fault.pool)
        if slot == NONE:
            return
        if fault.kind == CRASH:
            _lose(sim, slot, at_ps, True)
        else:
            give_notice(sim, slot, at_ps)
            refresh(sim)


@inner
def _draw_victim(sim: Clusters, pool: int) -> float:
    own = sim.pools[pool]
    own.nth_victim += 1
    return chance.uniform(sim.clock[0].seed, chance.VICTIM, own.key, own.nth_victim)


@inner
def _held_victim(sim: Clusters, pool: int, count: int) -> int:
    """Any of the pool's `count` machines that are not told to go, whatever they do."""
    left = int(_draw_victim(sim, pool) * count)
    slot = sim.pools[pool].slot_from
    while True:
        if sim.slots[slot].state != GONE and sim.slots[slot].reclaim_ps == FAR_PS:
            if left == 0:
                return int(slot)
            left -= 1
        slot += 1


@inner
def _victim(sim: Clusters, pool: int) -> int:
    """A rented replica that was not hit yet: a serving one if there is any, else one that starts, or sleeps."""
    draw = _draw_victim(sim, pool)
    for state in (READY, STARTING, ASLEEP):
        count = 0
        for slot in range(sim.pools[pool].slot_from, sim.pools[pool].slot_to):
            count += sim.slots[slot].state == state
        left = int(draw * count)
        for slot in range(sim.pools[pool].slot_from, sim.pools[pool].slot_to):
            if sim.slots[slot].state == state:
                if left == 0:
                    return slot
                left -= 1
    return NONE


@inner
def _look(sim: Clusters, at_ps: int) -> None:
    """Sum up for each pool what its slots cost in the tick, and what is to be seen of them."""
    for pool in range(len(sim.pools)):
        own = sim.pools[pool]
        own.rented_ps, own.useful_ps, own.wasted_ps = 0, 0, 0
        own.start_ps, own.idle_ps, own.drain_ps, own.asleep_ps = 0, 0, 0, 0
        own.seen_ready, own.seen_starting, own.seen_draining, own.seen_asleep = 0, 0, 0, 0
        own.seen_running, own.seen_waiting, own.seen_kv_frac = 0, 0, 0.0
        own.seen_slow, own.seen_hottest_c = 0, np.nan
        for slot in range(own.slot_from, own.slot_to):
            row, rep = sim.slots[slot], sim.engine.replicas[slot]
            own.rented_ps += row.rented_ps
            own.useful_ps += row.useful_ps
            own.wasted_ps += row.wasted_ps
            own.start_ps += row.start_ps
            own.idle_ps += row.idle_ps
            own.drain_ps += row.drain_ps
            own.asleep_ps += row.asleep_ps
            own.seen_starting += row.state == STARTING
            own.seen_draining += row.state == DRAINING
            own.seen_asleep += row.state == ASLEEP
            if row.state != GONE:
                own.seen_slow += row.slow
                own.seen_hottest_c = row.temp_c if np.isnan(own.seen_hottest_c) else max(own.seen_hottest_c, row.temp_c)
            if row.state == READY:
                own.seen_ready += 1
                own.seen_kv_frac += rep.blocks_used / rep.blocks_total
            if row.state == READY or row.state == DRAINING:
                figures = seen(sim.engine, slot, at_ps)
                own.seen_running += figures.running
                own.seen_waiting += figures.waiting
