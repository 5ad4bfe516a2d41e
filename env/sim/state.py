"""The one structure of arrays that holds any number of clusters, and what its columns mean.

Compiled code sees one cluster at a time: `of_cluster` drops the leading axis. Times are whole picoseconds since the
start of the cluster's episode, as in `engine_state`, so that ties are ties on every machine.

Symbols: `B` clusters, `C` classes, `P` pools, `R` replica slots, `N` arrivals, `M` rows for requests in the cluster,
`S` most sequences of a replica, `F` faults, `W` tally width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..perf.law import LAW_WIDTH
from ..perf.roofline import KV_BLOCK_TOKENS
from ..window import TALLY_WIDTH
from .engine_state import REPLICA, REQUEST, Engine

FAR_PS = 1 << 62
"""Never, with room to add a delay."""

# clock[B, :]
NOW_PS, SEED, N_ARRIVALS, NEXT_ARRIVAL, BACKOFF_HEAD, BACKOFF_TAIL = range(6)
RETRY_PS, N_FAULTS, NEXT_FAULT, NEXT_LIFE_PS = range(6, 10)
CLOCK_WIDTH = 10

# classes[B, C, :]; at any moment KNOCKED = BACKING_OFF + IN_FLIGHT + DONE + FAILED
GIVE_UP_PS, KNOCKED, BACKING_OFF, IN_FLIGHT, DONE, FAILED = range(6)
CLASS_WIDTH = 6

# targets_s[B, C, :], NaN where there is none
TTFT_S, TPOT_S, E2E_S, DEADLINE_S = range(4)
TARGET_WIDTH = 4

# pools[B, P, :]
SLOT_FROM, SLOT_TO, N_READY, N_STARTED, COLD_START_PS, NOTICE_PS, SOLD_OUT_UNTIL_PS, WANTED, CAP, TOKEN_BUDGET = range(10)
POOL_WIDTH = 10

# chances[B, P, :]
COLD_SPREAD_FRAC, PREEMPTIONS_PER_S = range(2)
CHANCE_WIDTH = 2

# slots[B, R, :]
STATE, POOL, READY_PS, TAKEN_PS, RECLAIM_PS, SETTLED_PS, IDLE_FROM_PS, BUSY_SEEN_PS, USEFUL_SEEN_PS = range(9)
SLOT_WIDTH = 9
GONE, STARTING, READY, DRAINING = range(4)

# spans[B, R, :] of this tick: rent, and what it was for, each counted on its own; RENTED is the sum of the others
RENTED, USEFUL, WASTED, IN_START, IDLE = range(5)
SPAN_WIDTH = 5

# sights[B, P, :] at the end of the tick
SEEN_READY, SEEN_STARTING, SEEN_DRAINING, SEEN_RUNNING, SEEN_WAITING, SEEN_KV = range(6)
SIGHT_WIDTH = 6

# faults[B, F, :], in the order of time
FAULT_AT_PS, FAULT_KIND, FAULT_POOL, FAULT_COUNT, FAULT_DURATION_PS = range(5)
FAULT_WIDTH = 5
FAULT_KINDS = ("preempt", "crash", "stock_out")
PREEMPT, CRASH, STOCK_OUT = range(3)

# shapes[B, N, :]
PROMPT, OUTPUT, CLASS = range(3)
SHAPE_WIDTH = 3

# desk[B, M, :]: what the front door knows of a request in the cluster
SERIAL, FIRST_PS, ATTEMPT, BACK_PS, NEXT_BACKING_OFF, COUNTED, COUNTED_OUTPUT = range(7)
DESK_WIDTH = 8

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Clusters(NamedTuple):
    """`B` clusters; or, as `of_cluster` returns it, one of them with every array one axis less."""

    engine: Engine
    """`requests [B, M]`, `replicas [B, R]`, and so on."""
    clock: Ints
    classes: Ints
    targets_s: Floats
    pools: Ints
    chances: Floats
    slots: Ints
    spans: Ints
    """`[B, R, :]` ps"""
    used_ps: Ints
    """`[B, P, :]` `spans` summed over the slots of each pool."""
    sights: Floats
    faults: Ints
    arrival_ps: Ints
    """`[B, N]`"""
    shapes: NDArray[np.int32]
    desk: Ints
    ready: Ints
    """`[B, R]` the ready slots of each pool, packed at the start of its range."""
    evicted: Ints
    """`[B, M]` where an engine leaves what it drops."""
    laws: Ints
    """`[B, P, LAW_WIDTH]` as `engine_state.laws_ps`."""
    serves: NDArray[np.bool_]
    """`[B, C, P]`"""
    route: Floats
    """`[B, C, P]`"""
    admit: Floats
    """`[B, C]`"""
    tally: Floats
    """`[B, C, W]` of this tick."""
    work: Floats
    """`[B, P, C]` tokens processed in this tick."""
    sent: Floats
    """`[B, P, C]` tokens sent to clients in this tick."""


AXES: dict[str, str] = {
    "clock": "B",
    "classes": "BC",
    "targets_s": "BC",
    "pools": "BP",
    "chances": "BP",
    "slots": "BR",
    "spans": "BR",
    "used_ps": "BP",
    "sights": "BP",
    "faults": "BF",
    "arrival_ps": "BN",
    "shapes": "BN",
    "desk": "BM",
    "ready": "BR",
    "evicted": "BM",
    "laws": "BP",
    "serves": "BCP",
    "route": "BCP",
    "admit": "BC",
    "tally": "BC",
    "work": "BPC",
    "sent": "BPC",
}
"""The leading axes of each array of `Clusters`; a width may follow."""


@njit(cache=True)
def of_cluster(engines: Engine, every: Clusters, b: int) -> Clusters:
    """Views of cluster `b`; `engines` are those of `every`, apart because parallel loops take no tuple in a tuple."""
    return Clusters(
        Engine(
            engines.requests[b],
            engines.replicas[b],
            engines.laws[b],
            engines.running[b],
            engines.finish_tick[b],
            engines.phases[b],
            engines.rows[b],
            engines.block_bits,
        ),
        every.clock[b],
        every.classes[b],
        every.targets_s[b],
        every.pools[b],
        every.chances[b],
        every.slots[b],
        every.spans[b],
        every.used_ps[b],
        every.sights[b],
        every.faults[b],
        every.arrival_ps[b],
        every.shapes[b],
        every.desk[b],
        every.ready[b],
        every.evicted[b],
        every.laws[b],
        every.serves[b],
        every.route[b],
        every.admit[b],
        every.tally[b],
        every.work[b],
        every.sent[b],
    )


WIDTHS: dict[str, int] = {
    "clock": CLOCK_WIDTH,
    "classes": CLASS_WIDTH,
    "targets_s": TARGET_WIDTH,
    "pools": POOL_WIDTH,
    "chances": CHANCE_WIDTH,
    "slots": SLOT_WIDTH,
    "spans": SPAN_WIDTH,
    "used_ps": SPAN_WIDTH,
    "sights": SIGHT_WIDTH,
    "faults": FAULT_WIDTH,
    "shapes": SHAPE_WIDTH,
    "desk": DESK_WIDTH,
    "laws": LAW_WIDTH,
    "tally": TALLY_WIDTH,
}
_FLOATS = ("targets_s", "chances", "sights", "route", "admit", "tally", "work", "sent")
_BLOCK_BITS = KV_BLOCK_TOKENS.bit_length() - 1


def room_for(sizes: Mapping[str, int]) -> Clusters:
    """Zeros for clusters of these sizes; keys are the symbols `B`, `C`, ... of the module."""

    def zeros(name: str) -> NDArray[Any]:
        kind = np.float64 if name in _FLOATS else {"serves": np.bool_, "shapes": np.int32}.get(name, np.int64)
        width = (WIDTHS[name],) if name in WIDTHS else ()
        return np.zeros((*(sizes[axis] for axis in AXES[name]), *width), dtype=kind)

    b, r, s, m = sizes["B"], sizes["R"], sizes["S"], sizes["M"]
    engine = Engine(
        requests=np.zeros((b, m), dtype=REQUEST),
        replicas=np.zeros((b, r), dtype=REPLICA),
        laws=np.zeros((b, r, LAW_WIDTH), dtype=np.int64),
        running=np.zeros((b, r, s), dtype=np.int32),
        finish_tick=np.zeros((b, r, s), dtype=np.int64),
        phases=np.zeros((b, r, 1 << _BLOCK_BITS), dtype=np.int32),
        rows=np.zeros((b, 2), dtype=np.int64),
        block_bits=_BLOCK_BITS,
    )
    return Clusters(engine=engine, **{name: zeros(name) for name in AXES})


def sizes_of(every: Clusters) -> dict[str, int]:
    """The sizes that `room_for` was given."""
    b, c, p = every.route.shape
    return {
        "B": b,
        "C": c,
        "P": p,
        "R": every.slots.shape[1],
        "N": every.arrival_ps.shape[1],
        "M": every.desk.shape[1],
        "S": every.engine.running.shape[2],
        "F": every.faults.shape[1],
    }


def with_room(every: Clusters, sizes: Mapping[str, int]) -> Clusters:
    """The same clusters in arrays that are at least of these sizes; they are copied only if one is too small."""
    old = sizes_of(every)
    wanted = {axis: max(size, sizes.get(axis, 0)) for axis, size in old.items()}
    if wanted == old:
        return every
    larger = room_for(wanted)
    for name in AXES:
        _copy_into(getattr(larger, name), getattr(every, name))
    for before, after in zip(every.engine[:-1], larger.engine[:-1], strict=True):
        _copy_into(after, before)
    return larger


def _copy_into(larger: NDArray[Any], smaller: NDArray[Any]) -> None:
    larger[tuple(slice(0, n) for n in smaller.shape)] = smaller
