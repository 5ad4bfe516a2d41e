"""The one structure of arrays that holds any number of clusters, and what its rows hold.

Compiled code sees one cluster at a time: `of_cluster` drops the leading axis. Times are whole picoseconds since the
start of the cluster's episode, as in `engine_state`, so that ties are ties on every machine. Rows are records, as there:
a record is a pointer, while a slice of an array costs counted references, which halved the speed.

Symbols: `B` clusters, `C` classes, `P` pools, `R` replica slots, `N` arrivals, `M` rows for requests in the cluster,
`S` most sequences of a replica, `F` faults, `D` draws, `W` tally width; of prefix caches `G`, `K`, `H` as in `engine_state`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..perf.law import LAW_WIDTH
from ..perf.power import DRAWN_BY
from ..perf.roofline import KV_BLOCK_TOKENS
from ..scenario.delays import MAX_KNOTS
from ..window import TALLY_WIDTH
from .caching import enter
from .compiling import inner
from .engine_state import NODE, REPLICA, REQUEST, RUN, TAGS, Engine, make_engine

FAR_PS = 1 << 62
"""Never, with room to add a delay."""

GONE, STARTING, READY, DRAINING, ASLEEP = range(5)
"""What a slot's replica does. One that wakes up is STARTING."""
NO_TICK = -1
"""Instead of the tick whose action did something: the world did it, or it was so from the first second. The same as
`contract.NO_DECISION`."""
PREEMPT, CRASH, STOCK_OUT, CAPACITY = range(4)
FAULT_KINDS = ("preempt", "crash", "stock_out", "capacity")
PROVISION, LOAD, HANG, WAKE, FALL_ASLEEP = range(5)
N_DELAYS = 5
"""Delays of a pool: until the machine is there, until the model is loaded, what a stuck start takes longer, ..."""
MEAN_S, SPREAD_FRAC, N_KNOTS, KNOTS = range(4)
DELAY_WIDTH = KNOTS + 2 * MAX_KNOTS
"""A delay: mean (infinite for what never ends), standard deviation over mean, how many quantiles (none: log-normal), and
those as pairs of share and seconds."""
NO_LIMIT = 1 << 30
"""More machines than any pool has slots."""


def _whole(*names: str) -> list[tuple[str, Any]]:
    return [(name, np.int64) for name in names]


def _real(*names: str) -> list[tuple[str, Any]]:
    return [(name, np.float64) for name in names]


def _record(*fields: tuple[str, Any]) -> np.dtype[np.void]:
    return np.dtype(list(fields), align=True)


CLOCK = _record(
    *_whole("now_ps", "tick", "seed", "retry_ps"),
    *_whole("n_arrivals", "next_arrival", "n_faults", "next_fault"),
    *_whole("backoff_head", "backoff_tail"),  # rows of the requests that come back first and last
    ("next_life_ps", np.int64),  # when a slot's life changes next by itself
)
CLASS = _record(
    ("priority", np.int64),  # the lower, the sooner, where a replica schedules by priority
    ("give_up_ps", np.int64),  # since the first knock
    *_whole("knocked", "backing_off", "in_flight", "done", "failed"),  # the first is the sum of the others
    ("admit", np.float64),
    *_real("ttft_s", "tpot_s", "e2e_s", "deadline_s"),  # NaN where there is no target
)
SPANS = ("rented_ps", "useful_ps", "wasted_ps", "start_ps", "idle_ps", "drain_ps", "asleep_ps")
"""Rent in this tick and what it was for, each counted on its own: the first is the sum of the others.

Busy is `useful` and `wasted`, while draining too. `start` is from asking (or waking) until it serves, `idle` ready with
nothing to do, `drain` told to go with nothing to do any more: shutting down, or falling asleep. `asleep` is time that
the machine is kept, whatever share of the rent is paid for it.
"""
EVENTS = ("started", "woken", "preempted", "crashed", "given_up", "refused")
"""What happened to a pool in this tick: replicas asked for cold, woken up, told to go by the provider, died, given up
because they did not start in time; and whether a machine that was wanted could not be had (0 or 1)."""
POOL = _record(
    ("key", np.int64),  # what chance is drawn for: the pool's name, whatever its place
    *_whole("slot_from", "slot_to", "n_ready"),
    ("routed", np.int64),  # whether the routing table has it: it was ready when the tick began, or became so since
    *_whole("nth_start", "nth_wake", "nth_victim"),  # so many were drawn
    *_whole("notice_ps", "give_up_ps", "keep_ps", "sleep_max"),
    ("capacity", np.int64),  # machines that can be had at a time
    *_whole("short_until_ps", "left"),  # until then only so many more can be had
    *_real("preemptions_per_s", "crashes_per_s", "stuck_start_frac"),
    ("spot", np.int64),  # whether machines beyond the capacity are taken away
    *_whole("wanted", "cap", "token_budget"),
    *_whole(*SPANS),
    *_whole(*EVENTS),
    *_whole("seen_ready", "seen_starting", "seen_draining", "seen_asleep"),  # at the tick's end, as all that is seen
    *_whole("seen_running", "seen_waiting"),
    ("seen_kv_frac", np.float64),  # summed over ready replicas
    *_whole("seen_slow"),  # replicas on a lowered clock
    *_real("seen_hottest_c", "energy_j"),  # of all GPUs, in this tick; NaN before the first and where there is none
    *_whole("draw_from", "draw_to"),  # rows of DRAW
    ("batches", np.int64),  # in flight at a time, each with the token budget: more than 1 in a pipeline
    *_real("room_c", "rise_at_tdp_c", "time_constant_s", "slow_above_c", "recover_c", "slow_factor"),
)
SLOT = _record(
    *_whole("state", "pool"),
    ("listed", np.int64),  # ready slots of a pool, packed from the start of its range
    *_whole("ready_ps", "taken_ps", "reclaim_ps", "crash_ps"),  # serves from; is told that it goes; goes; dies
    ("off_ps", np.int64),  # STARTING: given up; DRAINING and empty: asleep; ASLEEP: stopped
    *_whole("woken", "to_sleep"),  # whether a start is from sleep, and whether a drain ends in it
    *_whole("settled_ps", "idle_from_ps", "busy_seen_ps", "useful_seen_ps"),  # up to where spans are counted
    # Index of the tick whose action started (or woke) it, and made it drain (or sleep); NO_TICK if none did.
    *_whole("started_by_tick", "drained_by_tick"),
    ("temp_c", np.float64),
    ("slow", np.int64),  # 1 on a lowered clock
    *_whole("iterations_drawn", "fresh_drawn", "again_drawn"),  # work whose joules are counted
    *_whole(*SPANS),
)
DRAW = _record(
    *_real(*DRAWN_BY),  # of one GPU
    *_real("gpus", "rise_c_per_w"),  # how many of a replica's draw so, and how much warmer each watt makes one
)
FAULT = _record(*_whole("at_ps", "kind", "pool", "count", "duration_ps", "left"))
ARRIVAL = _record(
    *(("at_ps", np.int64), ("prompt", np.int32), ("output", np.int32)),
    *(("klass", np.int32), ("prefix", np.int32)),  # the node of the prefix tree that its prompt begins with, or NONE
)
DESK = _record(
    ("serial", np.int64),  # place in the workload: what chance is drawn for
    *_whole("first_ps", "attempt", "back_ps", "next_back"),
    *_whole("counted", "counted_output"),  # tokens of this attempt already in `work` and `sent`
)
PAIR = _record(
    ("serves", np.int64),
    ("route", np.float64),
    *_real("work", "sent"),  # tokens processed, and sent to clients, in this tick
)


IDLE_REPLICA = make_engine(np.ones((1, LAW_WIDTH)), 1, 1, 1, 1, 1, 1).replicas[0]
"""An engine that never ran; its limits are set when a slot is given to a pool."""


class Clusters(NamedTuple):
    """`B` clusters; or, as `of_cluster` returns it, one of them with every array one axis less."""

    engine: Engine
    """`requests [B, M]`, `replicas [B, R]`, and so on."""
    clock: NDArray[Any]
    """`[B, 1]` of CLOCK; one, since compiled code cannot return a record by itself."""
    classes: NDArray[Any]
    """`[B, C]` of CLASS."""
    pools: NDArray[Any]
    """`[B, P]` of POOL."""
    pairs: NDArray[Any]
    """`[B, C, P]` of PAIR."""
    slots: NDArray[Any]
    """`[B, R]` of SLOT."""
    faults: NDArray[Any]
    """`[B, F]` of FAULT, in the order of time."""
    arrivals: NDArray[Any]
    """`[B, N]` of ARRIVAL, in the order of time."""
    desk: NDArray[Any]
    """`[B, M]` of DESK: what the front door knows of the request in the engine's row of the same place."""
    evicted: NDArray[np.int64]
    """`[B, M]` where an engine leaves what it drops."""
    draws: NDArray[Any]
    """`[B, D]` of DRAW: of each pool one, or one for each stage of a pipeline over unlike GPUs."""
    laws: NDArray[np.int64]
    """`[B, P, LAW_WIDTH]` as `engine_state.laws_ps`."""
    delays: NDArray[np.float64]
    """`[B, P, N_DELAYS, DELAY_WIDTH]` (`delays`)."""
    tally: NDArray[np.float64]
    """`[B, C, W]` of this tick."""


@inner
def of_cluster(every: Clusters, b: int) -> Clusters:
    """Views of cluster `b`."""
    engines = every.engine
    return Clusters(
        Engine(
            engines.requests[b],
            engines.replicas[b],
            engines.laws[b],
            engines.running[b],
            engines.finish_tick[b],
            engines.phases[b],
            engines.tags[b],
            engines.nodes[b],
            engines.runs[b],
            engines.lookup[b],
            engines.rows[b],
            engines.block_bits,
        ),
        every.clock[b],
        every.classes[b],
        every.pools[b],
        every.pairs[b],
        every.slots[b],
        every.faults[b],
        every.arrivals[b],
        every.desk[b],
        every.evicted[b],
        every.draws[b],
        every.laws[b],
        every.delays[b],
        every.tally[b],
    )


def room_for(sizes: Mapping[str, int]) -> Clusters:
    """Blank clusters of these sizes; keys are the symbols `B`, `C`, ... of the module."""
    b, c, p, r, n, m, s, f, d, g, k, h = (sizes[axis] for axis in "BCPRNMSFDGKH")
    engine = Engine(
        requests=np.zeros((b, m), dtype=REQUEST),
        replicas=np.full((b, r), IDLE_REPLICA, dtype=REPLICA),
        laws=np.zeros((b, r, LAW_WIDTH), dtype=np.int64),
        running=np.zeros((b, r, s), dtype=np.int32),
        finish_tick=np.zeros((b, r, s), dtype=np.int64),
        phases=np.zeros((b, r, KV_BLOCK_TOKENS), dtype=np.int32),
        tags=np.zeros((b, m), dtype=TAGS),
        nodes=np.zeros((b, g), dtype=NODE),
        runs=np.zeros((b, r, k), dtype=RUN),
        lookup=np.zeros((b, r, h), dtype=np.int32),
        rows=np.zeros((b, 2), dtype=np.int64),
        block_bits=KV_BLOCK_TOKENS.bit_length() - 1,
    )
    return Clusters(
        engine=engine,
        clock=np.zeros((b, 1), dtype=CLOCK),
        classes=np.zeros((b, c), dtype=CLASS),
        pools=np.zeros((b, p), dtype=POOL),
        pairs=np.zeros((b, c, p), dtype=PAIR),
        slots=np.zeros((b, r), dtype=SLOT),
        faults=np.zeros((b, f), dtype=FAULT),
        arrivals=np.zeros((b, n), dtype=ARRIVAL),
        desk=np.zeros((b, m), dtype=DESK),
        evicted=np.zeros((b, m), dtype=np.int64),
        draws=np.zeros((b, d), dtype=DRAW),
        laws=np.zeros((b, p, LAW_WIDTH), dtype=np.int64),
        delays=np.zeros((b, p, N_DELAYS, DELAY_WIDTH)),
        tally=np.zeros((b, c, TALLY_WIDTH)),
    )


def sizes_of(every: Clusters) -> dict[str, int]:
    """The sizes that `room_for` was given."""
    b, c, p = every.pairs.shape
    return {
        "B": b,
        "C": c,
        "P": p,
        "R": every.slots.shape[1],
        "N": every.arrivals.shape[1],
        "M": every.desk.shape[1],
        "S": every.engine.running.shape[2],
        "F": every.faults.shape[1],
        "D": every.draws.shape[1],
        "G": every.engine.nodes.shape[1],
        "K": every.engine.runs.shape[2],
        "H": every.engine.lookup.shape[2],
    }


def with_room(every: Clusters, sizes: Mapping[str, int]) -> Clusters:
    """The same clusters in arrays that are at least of these sizes; they are copied only if one is too small."""
    old = sizes_of(every)
    wanted = {axis: max(size, sizes.get(axis, 0)) for axis, size in old.items()}
    if wanted == old:
        return every
    larger = room_for(wanted)
    for before, after in zip(arrays_of(every), arrays_of(larger), strict=True):
        after[tuple(slice(0, n) for n in before.shape)] = before
    if wanted["H"] > old["H"]:
        larger.engine.lookup[:] = 0
        for b, r, place in np.argwhere(every.engine.lookup):
            enter(of_cluster.py_func(larger, b).engine, r, every.engine.lookup[b, r, place])  # type: ignore[attr-defined]
    return larger


def arrays_of(every: Clusters) -> tuple[NDArray[Any], ...]:
    """All arrays, those of the engines first."""
    return (*every.engine[:-1], *every[1:])
