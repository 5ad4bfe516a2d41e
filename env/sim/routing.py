"""What happens to a request: admission, choice of pool and replica, coming back after a 429, and its end.

As Envoy does it, under the routing table that the sidecar writes at each tick (`controller.actuators.envoy_config`):

- a weighted choice among the pools that were ready when the table was written, or became so since; if none of those
  has a weight, the first of the class's chain;
- the chain: a pool that lost its last replica meanwhile hands on to the class's next one, from the heaviest on;
- the less loaded of two replicas drawn at random (with replacement: `LEAST_REQUEST` with its default `choice_count`
  of 2);
- another try, in the same pool first, if the replica dies before the first byte. A stream's headers leave before its
  first token, so only plain answers are tried again.

`sim` is one cluster (`state.of_cluster`), changed in place.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..window import (
    ARRIVED,
    BUCKET_LOW_S,
    BUCKETS_PER_E,
    E2E,
    E2E_SUM_S,
    FINISHED,
    LOST,
    MET,
    MET_OUTPUT_SUM,
    N_BUCKETS,
    OUTPUT_SQUARES,
    OUTPUT_SUM,
    PROMPT_SQUARES,
    PROMPT_SUM,
    SHED,
    TPOT,
    TTFT,
)
from . import chance
from .batching import tokens_held
from .compiling import inner
from .engine import enqueue, in_flight, pop_finished, run
from .engine_state import DECODING, NONE, PS_PER_S, claim, compiled, release, set_request
from .fleet import close_idle
from .state import Clusters


@inner
def arrive(sim: Clusters) -> None:
    """Let the next request of the workload knock for the first time."""
    serial = sim.clock[0].next_arrival
    sim.clock[0].next_arrival += 1
    request = claim(sim.engine)
    arrival, own = sim.arrivals[serial], sim.desk[request]
    klass, priority = arrival.klass, sim.classes[arrival.klass].priority
    set_request(sim.engine, request, arrival.prompt, arrival.output, klass, priority, arrival.prefix)
    own.serial = serial
    own.first_ps = arrival.at_ps
    own.attempt = 0
    sim.classes[klass].knocked += 1
    _knock(sim, request, arrival.at_ps)


@inner
def come_back(sim: Clusters) -> None:
    """Let the request that has backed off longest knock again."""
    request = sim.clock[0].backoff_head
    own = sim.desk[request]
    sim.clock[0].backoff_head = own.next_back
    if sim.clock[0].backoff_head == NONE:
        sim.clock[0].backoff_tail = NONE
    own.attempt += 1
    sim.classes[sim.engine.requests[request].klass].backing_off -= 1
    _knock(sim, request, own.back_ps)


@inner
def _knock(sim: Clusters, request: int, at_ps: int) -> None:
    klass, own = sim.engine.requests[request].klass, sim.desk[request]
    sim.tally[klass, ARRIVED] += 1.0
    if chance.uniform(sim.clock[0].seed, chance.ADMIT, own.serial, own.attempt) < sim.classes[klass].admit:
        dispatch(sim, request, _choose_pool(sim, request, klass), at_ps)
    else:
        _turn_away(sim, request, at_ps)


@inner
def dispatch(sim: Clusters, request: int, wanted: int, at_ps: int) -> None:
    """Send a request to a replica of pool `wanted`, or of the next one that has any.

    If none is ready anywhere its client is told to come back.
    """
    klass = sim.engine.requests[request].klass
    pool = _next_ready(sim, klass, wanted)
    if pool == NONE:
        _turn_away(sim, request, at_ps)
        return
    slot = _choose_replica(sim, request, pool, at_ps)
    close_idle(sim, slot, at_ps)
    sim.desk[request].counted = 0
    sim.desk[request].counted_output = 0
    sim.classes[klass].in_flight += 1
    enqueue(sim.engine, slot, request, at_ps)  # accepted: `WorldSpec` refuses requests that no engine could hold


@inner
def _turn_away(sim: Clusters, request: int, at_ps: int) -> None:
    klass, own = sim.engine.requests[request].klass, sim.desk[request]
    sim.tally[klass, SHED] += 1.0
    own.back_ps = at_ps + sim.clock[0].retry_ps
    if own.back_ps - own.first_ps > sim.classes[klass].give_up_ps:
        _fail(sim, request)
        return
    # All wait equally long, so a queue is enough.
    own.next_back = NONE
    if sim.clock[0].backoff_tail == NONE:
        sim.clock[0].backoff_head = request
    else:
        sim.desk[sim.clock[0].backoff_tail].next_back = request
    sim.clock[0].backoff_tail = request
    sim.classes[klass].backing_off += 1


@inner
def _fail(sim: Clusters, request: int) -> None:
    klass = sim.engine.requests[request].klass
    sim.tally[klass, LOST] += 1.0
    sim.classes[klass].failed += 1
    release(sim.engine, request)


@inner
def _choose_pool(sim: Clusters, request: int, klass: int) -> int:
    """By weight among the pools of the routing table; if those have no weight, the first of them in the chain.

    Returns:
        A pool, perhaps without a ready replica by now; NONE if the table has no pool.
    """
    total, first = 0.0, NONE
    for pool in range(len(sim.pools)):
        if sim.pairs[klass, pool].serves and sim.pools[pool].routed:
            total += sim.pairs[klass, pool].route
            if first == NONE or sim.pairs[klass, pool].route > sim.pairs[klass, first].route:
                first = pool
    if total <= 0.0:
        return int(first)
    own, chosen = sim.desk[request], first
    left = chance.uniform(sim.clock[0].seed, chance.POOL, own.serial, own.attempt) * total
    for pool in range(len(sim.pools)):
        if sim.pairs[klass, pool].serves and sim.pools[pool].routed and sim.pairs[klass, pool].route > 0.0:
            chosen = pool
            left -= sim.pairs[klass, pool].route
            if left < 0.0:
                break
    return int(chosen)


@inner
def _next_ready(sim: Clusters, klass: int, wanted: int) -> int:
    """`wanted`, or the first after it in the class's chain that has a ready replica; NONE if there is none.

    The chain is the class's pools from the heaviest to the lightest, in the order of the file where they weigh the
    same, and then from the heaviest again.
    """
    if wanted == NONE or sim.pools[wanted].n_ready > 0:
        return wanted
    after, heaviest = NONE, NONE
    for pool in range(len(sim.pools)):
        if sim.pairs[klass, pool].serves and sim.pools[pool].n_ready > 0:
            if heaviest == NONE or sim.pairs[klass, pool].route > sim.pairs[klass, heaviest].route:
                heaviest = pool
            behind = sim.pairs[klass, pool].route < sim.pairs[klass, wanted].route
            behind = behind or (sim.pairs[klass, pool].route == sim.pairs[klass, wanted].route and pool > wanted)
            if behind and (after == NONE or sim.pairs[klass, pool].route > sim.pairs[klass, after].route):
                after = pool
    return int(heaviest if after == NONE else after)


@inner
def _choose_replica(sim: Clusters, request: int, pool: int, at_ps: int) -> int:
    """The less loaded of two ready replicas drawn at random; its engine is run to `at_ps`."""
    count, start, own = sim.pools[pool].n_ready, sim.pools[pool].slot_from, sim.desk[request]
    seed, serial, attempt = sim.clock[0].seed, own.serial, own.attempt
    draw = chance.uniform(seed, chance.FIRST_REPLICA, serial, attempt)
    first = int(sim.slots[start + int(count * draw)].listed)
    run(sim.engine, first, at_ps)
    if count == 1:
        return first
    draw = chance.uniform(seed, chance.SECOND_REPLICA, serial, attempt)
    second = int(sim.slots[start + int(count * draw)].listed)
    if second == first:
        return first
    run(sim.engine, second, at_ps)
    return second if in_flight(sim.engine, second, at_ps) < in_flight(sim.engine, first, at_ps) else first


@inner
def try_elsewhere(sim: Clusters, count: int, pool: int, at_ps: int) -> None:
    """Deal with the first `count` of `sim.evicted`, whose replica in `pool` is gone.

    Clients of streams have had their headers, so they are lost; plain answers go to another replica. A class that may
    wait is asked for plain answers, others for streams; an answer without output is plain.
    """
    for i in range(count):
        request = sim.evicted[i]
        row = sim.engine.requests[request]
        sim.classes[row.klass].in_flight -= 1
        if row.output > 0 and np.isnan(sim.classes[row.klass].deadline_s):
            _fail(sim, request)
        else:
            sim.desk[request].attempt += 1
            dispatch(sim, request, pool, at_ps)


@inner
def collect(sim: Clusters, slot: int, until_ps: int) -> None:
    """Tally the slot's requests that finished by `until_ps`."""
    while True:
        request = pop_finished(sim.engine, slot, until_ps)
        if request == NONE:
            return
        row, own = sim.engine.requests[request], sim.desk[request]
        pool, klass = sim.slots[slot].pool, row.klass
        sim.pairs[klass, pool].work += row.prompt + row.output - own.counted
        sim.pairs[klass, pool].sent += row.output - own.counted_output
        sim.classes[klass].in_flight -= 1
        sim.classes[klass].done += 1
        _record(sim.tally, klass, sim.classes[klass], row, own.first_ps)
        release(sim.engine, request)


@inner
def _record(tally: NDArray[np.float64], klass: int, targets: Any, row: Any, first_ps: int) -> None:
    """Count a finished request. Latencies run from its first knock; without output, the first byte is the last."""
    e2e_s = (row.finish_ps - first_ps) / PS_PER_S
    ttft_s = (row.first_token_ps - first_ps) / PS_PER_S if row.output > 0 else e2e_s
    tpot_s = 0.0
    tally[klass, FINISHED] += 1.0
    tally[klass, PROMPT_SUM] += row.prompt
    tally[klass, PROMPT_SQUARES] += float(row.prompt) ** 2
    tally[klass, OUTPUT_SUM] += row.output
    tally[klass, OUTPUT_SQUARES] += float(row.output) ** 2
    tally[klass, E2E_SUM_S] += e2e_s
    tally[klass, E2E + bucket_of(e2e_s)] += 1.0
    tally[klass, TTFT + bucket_of(ttft_s)] += 1.0
    if row.output > 1:
        tpot_s = (row.finish_ps - row.first_token_ps) / PS_PER_S / (row.output - 1)
        tally[klass, TPOT + bucket_of(tpot_s)] += 1.0
    # A comparison with NaN is false: a target that is not there is not missed.
    missed = ttft_s > targets.ttft_s or tpot_s > targets.tpot_s
    missed = missed or e2e_s > targets.e2e_s or e2e_s > targets.deadline_s
    if not missed:
        tally[klass, MET] += 1.0
        tally[klass, MET_OUTPUT_SUM] += row.output


@compiled
def bucket_of(seconds: float) -> int:
    """As `window.bucket_of`, for one number."""
    return min(int(log(max(seconds, BUCKET_LOW_S) / BUCKET_LOW_S) * BUCKETS_PER_E), N_BUCKETS - 1)


@inner
def count_progress(sim: Clusters, slot: int) -> None:
    """Add to `work` and `sent` what the slot's running requests got done since they were last counted.

    Tokens that are computed again after a sequence preemption are not counted again.
    """
    pool = sim.slots[slot].pool
    for place in range(sim.engine.replicas[slot].running):
        request = sim.engine.running[slot, place]
        row, own = sim.engine.requests[request], sim.desk[request]
        held = tokens_held(sim.engine, slot, place)
        generated = held - row.prompt + 1 if row.state == DECODING else row.generated
        sim.pairs[row.klass, pool].work += max(held - own.counted, 0)
        sim.pairs[row.klass, pool].sent += generated - own.counted_output
        own.counted = max(own.counted, held)
        own.counted_output = generated
