"""The memory of many engines: flat arrays that compiled code changes in place.

All times are whole picoseconds: sums of integers do not depend on how they are grouped, so that leaping over many
iterations, or running replicas on several threads, gives the same bits as stepping. An int64 of them holds 106 days.

Symbols: `R` replicas, `N` request rows, `S` most sequences a replica may run, `B` tokens of a KV block; of the prefix
cache `G` nodes of the prefix tree, `K` runs of blocks, `H` places of their index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..compiled_cache import cached
from ..perf.law import LAW_WIDTH, ROW_ATTEND_S, FloatArray

PS_PER_S = 1_000_000_000_000
NEVER_PS = 2**63 - 1
NONE = -1
"""No request: the end of a list."""

FREE, ABSENT, WAITING, PREFILLING, DECODING, FINISHED = range(6)
"""State of a row: nobody's, the caller's, or an engine's (which keeps FINISHED ones until they are popped)."""

ACCEPTED, LONGER_THAN_MODEL, LARGER_THAN_KV, NOT_ABSENT = range(4)
"""What `enqueue` answers."""

REQUEST = np.dtype(
    [
        ("arrival_ps", np.int64),  # first time it was enqueued anywhere; -1 before
        ("first_token_ps", np.int64),  # end of the iteration that gave its first token; -1 before
        ("finish_ps", np.int64),  # -1 before
        ("prompt", np.int32),
        ("output", np.int32),
        ("generated", np.int32),  # not kept up while DECODING: see `generated_tokens`
        ("computed", np.int32),  # tokens in the KV cache; not kept up while DECODING
        ("peak", np.int32),  # most tokens it ever had in the KV cache before it was preempted
        ("previous", np.int32),
        ("next", np.int32),
        ("replica", np.int32),  # the last one that accepted it
        ("preemptions", np.int32),
        ("klass", np.int16),
        ("state", np.int16),
    ],
    align=True,
)
"""One row is one cache line of 64 bytes, which is worth several times its speed."""

TAGS = np.dtype(
    [
        ("ticket", np.int64),  # order of coming to its replica
        ("priority", np.int32),
        ("prefix", np.int32),  # the node of `Engine.nodes` that its prompt begins with; NONE if it shares nothing
        ("tail", np.int32),  # run of its own blocks in the cache, while it waits after a sequence preemption
        ("copy", np.int32),  # run of the last block of `prefix` where it computed that again though it was cached
    ],
    align=True,
)
"""What only replicas with priorities or prefix caching look at, of the request in the row of the same place."""

NODE = np.dtype([("parent", np.int32), ("first", np.int32), ("body_end", np.int32), ("end", np.int32)], align=True)
"""Blocks that are full with a node of the prefix tree, counted from the beginning of the prompt: `first` to `end` - 1.
If the node ends with its last block, that one is apart from the body: it is the only one that may be cached twice."""

RUN = np.dtype(
    [
        ("unit", np.int32),  # twice the node, plus 1 for its last block if that is apart; NONE if of no node
        ("owner", np.int32),  # the row of the request whose own blocks these are; NONE if nobody can hit them
        ("first", np.int32),
        ("end", np.int32),  # the blocks from here on are not there (any more)
        ("holders", np.int32),  # running requests; at 0 the run stands in the queue to be evicted
        ("before", np.int32),
        ("after", np.int32),
        ("older", np.int32),  # ring of runs with the same content
        ("newer", np.int32),
    ],
    align=True,
)
"""Cached blocks that are held, freed and evicted together; see `caching`. Run 0 is the queue's head and none itself."""

REPLICA = np.dtype(
    [
        ("clock_ps", np.int64),  # end of the last iteration
        ("busy_ps", np.int64),
        ("useful_ps", np.int64),  # what the same work, without recomputing, takes in the fullest iterations
        ("tick", np.int64),  # iterations, as decoding sequences count them
        ("next_finish_tick", np.int64),  # nobody decoding is done before
        ("context", np.int64),  # KV tokens of all decoding sequences
        ("iterations", np.int64),
        ("prompt_tokens", np.int64),  # prefilled for the first time
        ("recomputed_tokens", np.int64),
        ("generated_tokens", np.int64),
        ("finished", np.int64),
        ("sequence_preemptions", np.int64),
        ("next_ticket", np.int64),
        ("prefix_queries", np.int64),  # tokens looked up in the prefix cache, as vLLM counts them: of new requests
        ("prefix_hits", np.int64),  # tokens found there
        ("last_start_ps", np.int64),  # of the last iteration, as are all `last_`
        ("last_useful_ps", np.int64),
        ("last_generated", np.int32),
        ("last_finished", np.int32),
        ("last_scheduled", np.int32),
        ("last_preempted", np.int32),
        ("running", np.int32),
        ("decoding", np.int32),  # of those running; at most one other, the last, is still in prefill
        ("waiting", np.int32),
        ("cap", np.int32),
        ("token_budget", np.int32),
        ("max_model_len", np.int32),
        ("blocks_used", np.int32),
        ("blocks_total", np.int32),
        ("waiting_head", np.int32),
        ("waiting_tail", np.int32),
        ("finished_head", np.int32),  # finished and not yet taken by `pop_finished`
        ("finished_tail", np.int32),
        ("reserve_prompt", np.int32),
        ("by_priority", np.int32),
        ("prefix_caching", np.int32),
        ("cached", np.int32),  # blocks that nobody holds and somebody may still hit: free, but last to be taken
        ("runs_returned", np.int32),  # first of the list of runs to be used again
        ("runs_used", np.int32),  # runs that were ever used
    ],
    align=True,
)

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a kernel that allocates nothing: counting references to the arrays it is handed took half its time."""
    return cached(function, _nrt=False)


def inlined(function: Function) -> Function:
    """As `compiled`, for what is called in every iteration: to hand the arrays over costs more than its work."""
    return cached(function, _nrt=False, forceinline=True)


class Engine(NamedTuple):
    """`R` engines over one table of `N` requests. Replicas share nothing else: each may run on its own thread."""

    requests: NDArray[Any]
    """`[N]` of REQUEST."""
    replicas: NDArray[Any]
    """`[R]` of REPLICA."""
    laws: NDArray[np.int64]
    """`[R, LAW_WIDTH]` as `IterationLaw.as_row`, in ps; attention in fs, of which a pair takes but hundreds of ps."""
    running: NDArray[np.int32]
    """`[R, S]` requests in the order of admission."""
    finish_tick: NDArray[np.int64]
    """`[R, S]` tick after which each decoding sequence is done; of one in prefill, the tokens of its last chunk."""
    phases: NDArray[np.int32]
    """`[R, B]` decoding sequences by (KV tokens - tick) modulo B: those at -tick need a block in the next iteration."""
    tags: NDArray[Any]
    """`[N]` of TAGS."""
    nodes: NDArray[Any]
    """`[G]` of NODE, shared by all replicas."""
    runs: NDArray[Any]
    """`[R, K]` of RUN."""
    lookup: NDArray[np.int32]
    """`[R, H]` the oldest run of each unit: a hash table of run numbers, 0 where a place is free."""
    rows: NDArray[np.int64]
    """`[2]` for `claim`: the first row given back, and the first row never used."""
    block_bits: int
    """log2 of B."""


def make_engine(
    laws: FloatArray,
    kv_blocks: ArrayLike,
    caps: ArrayLike,
    token_budgets: ArrayLike,
    max_model_len: ArrayLike,
    max_seqs: int,
    capacity: int,
    block_tokens: int = 16,
    reserve_prompt: bool = True,
    by_priority: ArrayLike = False,
    prefix_caching: ArrayLike = False,
    prefixes: tuple[ArrayLike, ArrayLike] = ((), ()),
) -> Engine:
    """Idle engines at time 0. Arguments of shape `[R]` may be scalars.

    Args:
        laws: `[R, LAW_WIDTH]` rows of `IterationLaw.as_row`.
        kv_blocks: `[R]` usable blocks (vLLM keeps one of its own for itself).
        caps: `[R]` most sequences running; change it by `set_limits`.
        token_budgets: `[R]` most tokens of an iteration.
        max_seqs: the highest cap that will ever be set.
        capacity: rows for requests.
        reserve_prompt: a request is admitted only if its whole prompt has room, not just the first chunk: vLLM's
            `scheduler_reserve_full_isl`, its default since 2026 (pull requests 37307 and 41064).
        by_priority: `[R]` vLLM's `--scheduling-policy priority` instead of first come first served.
        prefix_caching: `[R]` blocks are kept when they are freed, and hit by requests that begin alike.
        prefixes: `[G]` parents and tokens of the nodes, as `workload.prefixes.PrefixTree` has them.

    Raises:
        ValueError: an argument has the wrong shape or range; the message names it.
    """
    count = len(laws)
    bits = block_tokens.bit_length() - 1
    if block_tokens != 1 << bits:
        raise ValueError(f"block_tokens: {block_tokens}, wanted a power of two")
    replicas = np.zeros(count, dtype=REPLICA)
    for name, values, most in (
        ("blocks_total", kv_blocks, 2**31 - 1),
        ("cap", caps, max_seqs),
        ("token_budget", token_budgets, 2**31 - 1),
        ("max_model_len", max_model_len, 2**31 - 1),
    ):
        limits = np.broadcast_to(np.asarray(values, dtype=np.int64), (count,))
        if ((limits < 1) | (limits > most)).any():
            raise ValueError(f"{name}: {limits}, wanted 1 to {most} for each of {count} replicas")
        replicas[name] = limits
    for name in ("waiting_head", "waiting_tail", "finished_head", "finished_tail"):
        replicas[name] = NONE
    replicas["next_finish_tick"] = NEVER_PS
    replicas["reserve_prompt"] = reserve_prompt
    replicas["by_priority"] = np.broadcast_to(np.asarray(by_priority, dtype=np.bool_), (count,))
    replicas["prefix_caching"] = np.broadcast_to(np.asarray(prefix_caching, dtype=np.bool_), (count,))
    nodes = nodes_of(*prefixes, bits)
    cached_blocks = int(replicas["blocks_total"][replicas["prefix_caching"] != 0].max(initial=0))
    n_runs, n_places = runs_needed(cached_blocks, len(nodes), max_seqs)
    return Engine(
        requests=_blank_requests(capacity),
        replicas=replicas,
        laws=laws_ps(laws),
        running=np.zeros((count, max_seqs), dtype=np.int32),
        finish_tick=np.zeros((count, max_seqs), dtype=np.int64),
        phases=np.zeros((count, block_tokens), dtype=np.int32),
        tags=_blank_tags(capacity),
        nodes=nodes,
        runs=np.zeros((count, n_runs), dtype=RUN),
        lookup=np.zeros((count, n_places), dtype=np.int32),
        rows=np.array([NONE, 0], dtype=np.int64),
        block_bits=bits,
    )


def laws_ps(laws: FloatArray) -> NDArray[np.int64]:
    """`[R, LAW_WIDTH]` rows in seconds to rows as `Engine.laws` has them.

    Raises:
        ValueError: not of that shape, negative, or iterations shorter than one ps.
    """
    rows = np.asarray(laws, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != LAW_WIDTH or not (np.isfinite(rows).all() and (rows >= 0).all()):
        raise ValueError(f"laws: shape {rows.shape}, wanted (R, {LAW_WIDTH}) of finite seconds >= 0")
    whole = np.rint(rows * PS_PER_S).astype(np.int64)
    whole[:, ROW_ATTEND_S] = np.rint(rows[:, ROW_ATTEND_S] * PS_PER_S * 1000.0)
    if (whole[:, ROW_ATTEND_S + 2 :] < 1).any():
        raise ValueError("laws: linear_s below one picosecond, wanted the seconds of an iteration")
    return whole


def nodes_of(parent: ArrayLike, tokens: ArrayLike, block_bits: int) -> NDArray[Any]:
    """`[G]` of NODE for a prefix tree, as `make_engine` takes it.

    Raises:
        ValueError: a node that does not come after its parent, or has no token of its own.
    """
    above, ends = np.asarray(parent, dtype=np.int64), np.asarray(tokens, dtype=np.int64)
    if above.shape != ends.shape or ((above < NONE) | (above >= np.arange(len(above)))).any():
        raise ValueError("prefixes: wanted one parent and one token count a node, parents before their children")
    begins = np.where(above >= 0, ends[above], 0) if len(ends) else ends
    if (ends <= begins).any():
        raise ValueError("prefixes: wanted nodes that end after their parents")
    rows = np.zeros(len(ends), dtype=NODE)
    rows["parent"], rows["first"], rows["end"] = above, begins >> block_bits, ends >> block_bits
    apart = (ends & ((1 << block_bits) - 1) == 0) & (rows["end"] > rows["first"])
    rows["body_end"] = rows["end"] - apart
    return rows


def runs_needed(cached_blocks: int, n_nodes: int, max_seqs: int) -> tuple[int, int]:
    """`K` and `H` that suffice over a prefix tree of so many nodes for replicas with at most so many blocks.

    No run is empty, so that never more than the blocks are needed. With few nodes less is enough: two units a node, some
    copies of those, what preempted requests left behind, and between all these what nobody can hit any more. If requests
    of one prompt fill the cache with more copies than that, the oldest contents are forgotten a little early.
    """
    n_runs = min(cached_blocks, 8 * n_nodes + 8 * max_seqs + 64) + 2 if cached_blocks else 1
    return n_runs, 1 << (2 * min(n_runs, 2 * n_nodes + 1) - 1).bit_length()


def load_requests(
    engine: Engine,
    prompt_tokens: ArrayLike,
    output_tokens: ArrayLike,
    class_index: ArrayLike,
    priority: ArrayLike = 0,
    prefix: ArrayLike = NONE,
) -> None:
    """Fill the first rows of the table at once; they are then ready to be enqueued.

    Args:
        priority: the lower, the sooner; matters to replicas that schedule by priority.
        prefix: node of the prefix tree that each prompt begins with; -1 for none.

    Raises:
        ValueError: more than fit, or numbers out of range.
    """
    prompts, outputs, classes = (np.asarray(a) for a in (prompt_tokens, output_tokens, class_index))
    if len(prompts) > len(engine.requests):
        raise ValueError(f"requests: {len(prompts)}, wanted at most the capacity {len(engine.requests)}")
    if (prompts < 1).any() or (outputs < 0).any():
        raise ValueError("requests: wanted prompts of 1 or more tokens and outputs of 0 or more")
    nodes = np.broadcast_to(np.asarray(prefix, dtype=np.int64), prompts.shape)
    if ((nodes < NONE) | (nodes >= len(engine.nodes))).any():
        raise ValueError(f"requests: wanted prefixes from -1 to {len(engine.nodes) - 1}")
    ends = np.append(engine.nodes["end"], 0)  # the last one for those without a prefix
    if (prompts >> engine.block_bits < ends[nodes]).any():
        raise ValueError("requests: wanted prompts no shorter than their prefixes")
    engine.tags[: len(prompts)] = _blank_tags(len(prompts))
    engine.tags["priority"][: len(prompts)] = priority
    engine.tags["prefix"][: len(prompts)] = nodes
    engine.requests[: len(prompts)] = _blank_requests(len(prompts))
    table = engine.requests[: len(prompts)]
    table["prompt"], table["output"], table["klass"] = prompts, outputs, classes
    table["state"] = ABSENT
    engine.rows[1] = max(engine.rows[1], len(prompts))


def grown(engine: Engine, capacity: int) -> Engine:
    """The same engines with room for more requests; the old value must not be used any more."""
    if capacity < len(engine.requests):
        raise ValueError(f"capacity: {capacity}, wanted at least the present {len(engine.requests)}")
    requests = _blank_requests(capacity)
    requests[: len(engine.requests)] = engine.requests
    tags = _blank_tags(capacity)
    tags[: len(engine.tags)] = engine.tags
    return engine._replace(requests=requests, tags=tags)


@compiled
def claim(engine: Engine) -> int:
    """A free row, to be filled by `set_request`; NONE if the table is full (see `grown`). Not for several threads."""
    row = engine.rows[0]
    if row != NONE:
        engine.rows[0] = engine.requests[row].next
    elif engine.rows[1] < len(engine.requests):
        row = engine.rows[1]
        engine.rows[1] += 1
    return int(row)


@compiled
def release(engine: Engine, request: int) -> None:
    """Give a row back for reuse, after it was popped as finished, aborted, evicted or refused."""
    row = engine.requests[request]
    if row.state != ABSENT:
        raise ValueError("release: the row is free or an engine has it; pop, abort or evict the request first")
    row.state = FREE
    row.next = engine.rows[0]
    engine.rows[0] = request


@compiled
def set_request(
    engine: Engine,
    request: int,
    prompt_tokens: int,
    output_tokens: int,
    class_index: int,
    priority: int = 0,
    prefix: int = NONE,
) -> None:
    """Describe the request of a row: `prompt_tokens` >= 1; `output_tokens` 0 is prefill only, such as an embedding.

    `priority` and `prefix` as `load_requests` takes them; the prompt is no shorter than the prefix.
    """
    row, tags = engine.requests[request], engine.tags[request]
    tags.priority = priority
    tags.prefix = prefix
    tags.tail = 0
    tags.copy = 0
    row.prompt = prompt_tokens
    row.output = output_tokens
    row.klass = class_index
    row.arrival_ps = -1
    row.first_token_ps = -1
    row.finish_ps = -1
    row.generated = 0
    row.computed = 0
    row.peak = 0
    row.preemptions = 0
    row.replica = NONE
    row.state = ABSENT


def _blank_requests(count: int) -> NDArray[Any]:
    rows = np.zeros(count, dtype=REQUEST)
    for name in ("arrival_ps", "first_token_ps", "finish_ps", "previous", "next", "replica"):
        rows[name] = -1
    return rows


def _blank_tags(count: int) -> NDArray[Any]:
    rows = np.zeros(count, dtype=TAGS)
    rows["prefix"] = NONE
    return rows
