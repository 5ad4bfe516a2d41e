"""What happens to a request: admission, choice of pool and replica, coming back after a 429, and its end.

As Envoy does it: a weighted choice among the pools that have a ready replica, then the less loaded of two replicas
drawn at random (with replacement, `LEAST_REQUEST` with its default `choice_count` of 2), and another try elsewhere if
the replica dies before the first byte. `sim` is one cluster (`state.of_cluster`), changed in place.
"""

from __future__ import annotations

from math import log
from typing import Any

from numba import njit

from ..window import (
    ARRIVED,
    BUCKET_LOW_S,
    BUCKETS_PER_E,
    E2E_SUM_S,
    FINISHED,
    LOST,
    MET,
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
from .engine import enqueue, in_flight, pop_finished, run
from .engine_state import DECODING, NONE, PS_PER_S, claim, release, set_request
from .fleet import close_idle
from .state import (
    ATTEMPT,
    BACK_PS,
    BACKING_OFF,
    BACKOFF_HEAD,
    BACKOFF_TAIL,
    CLASS,
    COUNTED,
    COUNTED_OUTPUT,
    DEADLINE_S,
    DONE,
    E2E_S,
    FAILED,
    FIRST_PS,
    GIVE_UP_PS,
    IN_FLIGHT,
    KNOCKED,
    N_READY,
    NEXT_ARRIVAL,
    NEXT_BACKING_OFF,
    OUTPUT,
    POOL,
    PROMPT,
    RETRY_PS,
    SEED,
    SERIAL,
    SLOT_FROM,
    TPOT_S,
    TTFT_S,
    Clusters,
)


@njit(cache=True)
def arrive(sim: Clusters) -> None:
    """Let the next request of the workload knock for the first time."""
    serial = sim.clock[NEXT_ARRIVAL]
    sim.clock[NEXT_ARRIVAL] += 1
    request = claim(sim.engine)
    shape, own = sim.shapes[serial], sim.desk[request]
    set_request(sim.engine, request, shape[PROMPT], shape[OUTPUT], shape[CLASS])
    sim.engine.requests[request].next = NONE
    own[SERIAL] = serial
    own[FIRST_PS] = sim.arrival_ps[serial]
    own[ATTEMPT] = 0
    sim.classes[shape[CLASS], KNOCKED] += 1
    _knock(sim, request, sim.arrival_ps[serial])


@njit(cache=True)
def come_back(sim: Clusters) -> None:
    """Let the request that has backed off longest knock again."""
    request = sim.clock[BACKOFF_HEAD]
    own = sim.desk[request]
    sim.clock[BACKOFF_HEAD] = own[NEXT_BACKING_OFF]
    if sim.clock[BACKOFF_HEAD] == NONE:
        sim.clock[BACKOFF_TAIL] = NONE
    own[ATTEMPT] += 1
    sim.classes[sim.engine.requests[request].klass, BACKING_OFF] -= 1
    _knock(sim, request, own[BACK_PS])


@njit(cache=True)
def _knock(sim: Clusters, request: int, at_ps: int) -> None:
    klass, own = sim.engine.requests[request].klass, sim.desk[request]
    sim.tally[klass, ARRIVED] += 1.0
    if chance.uniform(sim.clock[SEED], chance.ADMIT, own[SERIAL], own[ATTEMPT]) < sim.admit[klass]:
        dispatch(sim, request, at_ps)
    else:
        _turn_away(sim, request, at_ps)


@njit(cache=True)
def dispatch(sim: Clusters, request: int, at_ps: int) -> None:
    """Send a request to a replica; if none is ready anywhere its client is told to come back."""
    klass = sim.engine.requests[request].klass
    pool = _choose_pool(sim, request, klass)
    if pool == NONE:
        _turn_away(sim, request, at_ps)
        return
    slot = _choose_replica(sim, request, pool, at_ps)
    close_idle(sim, slot, at_ps)
    sim.desk[request, COUNTED] = 0
    sim.desk[request, COUNTED_OUTPUT] = 0
    sim.classes[klass, IN_FLIGHT] += 1
    enqueue(sim.engine, slot, request, at_ps)  # accepted: `WorldSpec` refuses requests that no engine could hold


@njit(cache=True)
def _turn_away(sim: Clusters, request: int, at_ps: int) -> None:
    klass, own = sim.engine.requests[request].klass, sim.desk[request]
    sim.tally[klass, SHED] += 1.0
    own[BACK_PS] = at_ps + sim.clock[RETRY_PS]
    if own[BACK_PS] - own[FIRST_PS] > sim.classes[klass, GIVE_UP_PS]:
        _fail(sim, request)
        return
    # All wait equally long, so a queue is enough.
    own[NEXT_BACKING_OFF] = NONE
    if sim.clock[BACKOFF_TAIL] == NONE:
        sim.clock[BACKOFF_HEAD] = request
    else:
        sim.desk[sim.clock[BACKOFF_TAIL], NEXT_BACKING_OFF] = request
    sim.clock[BACKOFF_TAIL] = request
    sim.classes[klass, BACKING_OFF] += 1


@njit(cache=True)
def _fail(sim: Clusters, request: int) -> None:
    klass = sim.engine.requests[request].klass
    sim.tally[klass, LOST] += 1.0
    sim.classes[klass, FAILED] += 1
    release(sim.engine, request)


@njit(cache=True)
def _choose_pool(sim: Clusters, request: int, klass: int) -> int:
    """By weight among pools with a ready replica; if those have no weight, any of them, by their ready replicas."""
    total, ready = 0.0, 0
    for pool in range(len(sim.pools)):
        if sim.serves[klass, pool] and sim.pools[pool, N_READY] > 0:
            total += sim.route[klass, pool]
            ready += sim.pools[pool, N_READY]
    if ready == 0:
        return NONE
    own = sim.desk[request]
    left = chance.uniform(sim.clock[SEED], chance.POOL, own[SERIAL], own[ATTEMPT]) * (total if total > 0.0 else ready)
    chosen = NONE
    for pool in range(len(sim.pools)):
        if sim.serves[klass, pool] and sim.pools[pool, N_READY] > 0:
            weight = sim.route[klass, pool] if total > 0.0 else float(sim.pools[pool, N_READY])
            if weight > 0.0:
                chosen = pool
                left -= weight
                if left < 0.0:
                    break
    return chosen


@njit(cache=True)
def _choose_replica(sim: Clusters, request: int, pool: int, at_ps: int) -> int:
    """The less loaded of two ready replicas drawn at random; its engine is run to `at_ps`."""
    count, start, own = sim.pools[pool, N_READY], sim.pools[pool, SLOT_FROM], sim.desk[request]
    seed, serial, attempt = sim.clock[SEED], own[SERIAL], own[ATTEMPT]
    first = sim.ready[start + int(count * chance.uniform(seed, chance.FIRST_REPLICA, serial, attempt))]
    run(sim.engine, first, at_ps)
    if count == 1:
        return first
    second = sim.ready[start + int(count * chance.uniform(seed, chance.SECOND_REPLICA, serial, attempt))]
    if second == first:
        return first
    run(sim.engine, second, at_ps)
    return second if in_flight(sim.engine, second, at_ps) < in_flight(sim.engine, first, at_ps) else first


@njit(cache=True)
def try_elsewhere(sim: Clusters, count: int, at_ps: int) -> None:
    """Deal with the first `count` of `sim.evicted`: those with a first token are lost, others go to another replica."""
    for i in range(count):
        request = sim.evicted[i]
        row = sim.engine.requests[request]
        sim.classes[row.klass, IN_FLIGHT] -= 1
        if 0 <= row.first_token_ps <= at_ps:
            _fail(sim, request)
        else:
            sim.desk[request, ATTEMPT] += 1
            dispatch(sim, request, at_ps)


@njit(cache=True)
def collect(sim: Clusters, slot: int, until_ps: int) -> None:
    """Tally the slot's requests that finished by `until_ps`."""
    while True:
        request = pop_finished(sim.engine, slot, until_ps)
        if request == NONE:
            return
        row, own = sim.engine.requests[request], sim.desk[request]
        pool, klass = sim.slots[slot, POOL], row.klass
        sim.work[pool, klass] += row.prompt + row.output - own[COUNTED]
        sim.sent[pool, klass] += row.output - own[COUNTED_OUTPUT]
        sim.classes[klass, IN_FLIGHT] -= 1
        sim.classes[klass, DONE] += 1
        _record(sim.tally[klass], sim.targets_s[klass], row, own[FIRST_PS])
        release(sim.engine, request)


@njit(cache=True)
def _record(tally: Any, targets_s: Any, row: Any, first_ps: int) -> None:
    """Count a finished request. Latencies run from its first knock; without output, the first byte is the last."""
    e2e_s = (row.finish_ps - first_ps) / PS_PER_S
    ttft_s = (row.first_token_ps - first_ps) / PS_PER_S if row.output > 0 else e2e_s
    tpot_s = 0.0
    tally[FINISHED] += 1.0
    tally[PROMPT_SUM] += row.prompt
    tally[PROMPT_SQUARES] += float(row.prompt) ** 2
    tally[OUTPUT_SUM] += row.output
    tally[OUTPUT_SQUARES] += float(row.output) ** 2
    tally[E2E_SUM_S] += e2e_s
    tally[TTFT + bucket_of(ttft_s)] += 1.0
    if row.output > 1:
        tpot_s = (row.finish_ps - row.first_token_ps) / PS_PER_S / (row.output - 1)
        tally[TPOT + bucket_of(tpot_s)] += 1.0
    # A comparison with NaN is false: a target that is not there is not missed.
    missed = ttft_s > targets_s[TTFT_S] or tpot_s > targets_s[TPOT_S]
    missed = missed or e2e_s > targets_s[E2E_S] or e2e_s > targets_s[DEADLINE_S]
    if not missed:
        tally[MET] += 1.0


@njit(cache=True)
def bucket_of(seconds: float) -> int:
    """As `window.bucket_of`, for one number."""
    return min(int(log(max(seconds, BUCKET_LOW_S) / BUCKET_LOW_S) * BUCKETS_PER_E), N_BUCKETS - 1)


@njit(cache=True)
def count_progress(sim: Clusters, slot: int) -> None:
    """Add to `work` and `sent` what the slot's running requests got done since they were last counted.

    Tokens that are computed again after a sequence preemption are not counted again.
    """
    pool = sim.slots[slot, POOL]
    for place in range(sim.engine.replicas[slot].running):
        request = sim.engine.running[slot, place]
        row, own = sim.engine.requests[request], sim.desk[request]
        held = tokens_held(sim.engine, slot, place)
        generated = held - row.prompt + 1 if row.state == DECODING else row.generated
        sim.work[pool, row.klass] += max(held - own[COUNTED], 0)
        sim.sent[pool, row.klass] += generated - own[COUNTED_OUTPUT]
        own[COUNTED] = max(own[COUNTED], held)
        own[COUNTED_OUTPUT] = generated
