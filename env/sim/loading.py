"""A world laid out as one cluster of the structure of arrays.

Symbols as in `state`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from zlib import crc32

import numpy as np

from ..contract import Cluster, FloatArray, IntArray, Targets
from ..coverage import CalibratedRanges, unknown_ranges
from ..perf.power import DRAWN_BY
from ..perf.roofline import KV_BLOCK_TOKENS
from .engine_state import NONE, laws_ps, nodes_of, runs_needed
from .power import Thermal
from .state import FAR_PS, FAULT_KINDS, IDLE_REPLICA, NO_LIMIT, Clusters, arrays_of, of_cluster
from .world import WorldSpec

SLOTS_PER_REPLICA = 2
"""Slots of a pool for each replica it may have: as many may drain while others already take their place."""


def size_of(spec: WorldSpec) -> dict[str, int]:
    """Sizes that this world needs; keys are the symbols."""
    seqs = int(spec.cluster.max_batch_cap.max())
    caching = bool(spec.prefix_caching.any())
    cached_blocks = int((spec.kv_tokens * spec.prefix_caching).max()) // KV_BLOCK_TOKENS
    n_nodes = len(spec.workload.prefixes) if caching else 0
    n_runs, n_places = runs_needed(cached_blocks, n_nodes, seqs)
    return {
        "C": len(spec.cluster.class_names),
        "P": len(spec.cluster.pool_names),
        "R": int(_slots(spec).sum()),
        "N": len(spec.workload),
        "S": seqs,
        "F": max(len(spec.supply.faults), 1),
        "D": sum(len(own) for own in spec.draws),
        "G": n_nodes,
        "K": n_runs,
        "H": n_places,
    }


def _slots(spec: WorldSpec) -> IntArray:
    """`[P]` slots of each pool; those asleep take no place of the others."""
    slots: IntArray = (SLOTS_PER_REPLICA * spec.cluster.max_replicas + spec.supply.sleep_max).astype(np.int64)
    return slots


def whole_ps(seconds: FloatArray | float) -> IntArray:
    """Whole picoseconds, `FAR_PS` for what lies beyond 50 days."""
    return np.rint(np.minimum(np.asarray(seconds, dtype=np.float64), FAR_PS / 1e12) * 1e12).astype(np.int64)


def load_world(every: Clusters, b: int, spec: WorldSpec) -> None:
    """Lay `spec` out as cluster `b`, at time 0; nothing that was there remains."""
    sim = of_cluster.py_func(every, b)  # type: ignore[attr-defined]
    for array in arrays_of(every):
        array[b] = np.zeros((), dtype=array.dtype)
    sim.clock["seed"] = spec.seed
    sim.clock["retry_ps"] = whole_ps(spec.retry_after_s)
    sim.clock["backoff_head"] = sim.clock["backoff_tail"] = NONE
    _load_classes(sim, spec)
    _load_pools(sim, spec)
    _load_draws(sim, spec)
    _load_requests(sim, spec)
    _load_faults(sim, spec)


def _load_classes(sim: Clusters, spec: WorldSpec) -> None:
    n_classes, n_pools = spec.cluster.serves.shape
    targets = spec.cluster.targets
    sim.classes["priority"][:n_classes] = spec.class_priority
    sim.classes["give_up_ps"][:n_classes] = whole_ps(spec.give_up_after_s)
    for name in ("ttft_s", "tpot_s", "e2e_s", "deadline_s"):
        sim.classes[name] = np.nan
        sim.classes[name][:n_classes] = getattr(targets, name)
    sim.pairs["serves"][:n_classes, :n_pools] = spec.cluster.serves


def _load_pools(sim: Clusters, spec: WorldSpec) -> None:
    cluster, n_pools = spec.cluster, len(spec.cluster.pool_names)
    supply, last = spec.supply, _slots(spec).cumsum()
    for name, values in {
        "key": [crc32(name.encode()) for name in cluster.pool_names],
        "slot_from": np.concatenate([[0], last[:-1]]),
        "slot_to": last,
        "notice_ps": whole_ps(supply.notice_s),
        "give_up_ps": whole_ps(supply.give_up_s),
        "keep_ps": whole_ps(supply.keep_asleep_s),
        "sleep_max": supply.sleep_max,
        "capacity": NO_LIMIT,
        "preemptions_per_s": supply.preemptions_per_hr / 3600.0,
        "crashes_per_s": supply.crashes_per_hr / 3600.0,
        "stuck_start_frac": supply.stuck_start_frac,
        "spot": cluster.spot,
        "wanted": spec.start_replicas,
        "cap": cluster.max_batch_cap,
        "token_budget": cluster.max_token_budget,
        "batches": spec.batches_in_flight,
        "room_c": spec.room_c[0],
        **{f.name: [getattr(thermal, f.name) for thermal in spec.thermals] for f in fields(Thermal)},
    }.items():
        sim.pools[name][:n_pools] = values
    sim.pools["energy_j"] = np.nan
    sim.pools["time_constant_s"][n_pools:] = 1.0  # padding, too, is divided by it
    sim.laws[:n_pools] = laws_ps(spec.law_rows)
    sim.delays[:n_pools] = supply.delays
    replicas = sim.engine.replicas
    replicas[:] = IDLE_REPLICA
    for pool in range(n_pools):
        slots = slice(sim.pools["slot_from"][pool], sim.pools["slot_to"][pool])
        sim.slots["pool"][slots] = pool
        replicas["blocks_total"][slots] = int(spec.kv_tokens[pool]) // KV_BLOCK_TOKENS
        replicas["max_model_len"][slots] = int(spec.max_model_len[pool])
        replicas["by_priority"][slots] = spec.by_priority[pool]
        replicas["prefix_caching"][slots] = spec.prefix_caching[pool]


def _load_draws(sim: Clusters, spec: WorldSpec) -> None:
    ends = np.cumsum([len(own) for own in spec.draws])
    sim.pools["draw_from"][: len(ends)] = np.concatenate([[0], ends[:-1]])
    sim.pools["draw_to"][: len(ends)] = ends
    row = 0
    for own, thermal in zip(spec.draws, spec.thermals, strict=True):
        for draw in own:
            for name in (*DRAWN_BY, "gpus"):
                sim.draws[name][row] = getattr(draw, name)
            sim.draws["rise_c_per_w"][row] = thermal.rise_at_tdp_c / draw.tdp_w
            row += 1


def _load_requests(sim: Clusters, spec: WorldSpec) -> None:
    count = len(spec.workload)
    sim.clock["n_arrivals"] = count
    own = sim.arrivals[:count]
    own["at_ps"] = whole_ps(spec.workload.arrival_s)
    own["prompt"] = spec.workload.prompt_tokens
    own["output"] = spec.workload.output_tokens
    own["klass"] = spec.workload.class_index
    own["prefix"] = NONE
    if spec.prefix_caching.any():
        own["prefix"] = spec.workload.prefix_index
        tree = spec.workload.prefixes
        nodes = nodes_of(tree.parent, tree.tokens, sim.engine.block_bits)
        sim.engine.nodes[: len(nodes)] = nodes
    sim.engine.rows[:] = (NONE, 0)


def _load_faults(sim: Clusters, spec: WorldSpec) -> None:
    sim.clock["n_faults"] = len(spec.supply.faults)
    for row, fault in zip(sim.faults, sorted(spec.supply.faults, key=lambda f: f.at_s), strict=False):
        row["at_ps"] = whole_ps(fault.at_s)
        row["kind"] = FAULT_KINDS.index(fault.kind)
        row["pool"] = spec.cluster.pool_names.index(fault.pool)
        row["count"] = fault.count
        row["duration_ps"] = whole_ps(fault.duration_s)
        row["left"] = fault.left
        if fault.kind == "capacity" and fault.at_s == 0.0:
            sim.pools["capacity"][row["pool"]] = fault.count  # the pool opens with no more


def batched_cluster(clusters: Iterable[Cluster], n_classes: int, n_pools: int) -> Cluster:
    """`B` clusters as one, padded to `n_classes` and `n_pools`; padding has its masks False and is worth nothing."""
    rows = list(clusters)
    c, p = (n_classes,), (n_pools,)

    def stacked(name: str, shape: tuple[int, ...], filler: float = 0.0) -> FloatArray:
        return stacked_rows([getattr(row, name) for row in rows], shape, filler)

    def wanted(name: str) -> FloatArray:
        return stacked_rows([getattr(row.targets, name) for row in rows], c, np.nan)

    return Cluster(
        class_names=tuple(f"class-{i}" for i in range(n_classes)),
        pool_names=tuple(f"pool-{i}" for i in range(n_pools)),
        class_mask=stacked("class_mask", c).astype(np.bool_),
        pool_mask=stacked("pool_mask", p).astype(np.bool_),
        serves=stacked("serves", (n_classes, n_pools)).astype(np.bool_),
        spot=stacked("spot", p).astype(np.bool_),
        min_replicas=stacked("min_replicas", p),
        max_replicas=stacked("max_replicas", p),
        max_batch_cap=stacked("max_batch_cap", p, 1.0),
        max_token_budget=stacked("max_token_budget", p, 1.0),
        usd_per_hr=stacked("usd_per_hr", p),
        cold_start_s=stacked("cold_start_s", p),
        targets=Targets(
            ttft_s=wanted("ttft_s"),
            tpot_s=wanted("tpot_s"),
            e2e_s=wanted("e2e_s"),
            deadline_s=wanted("deadline_s"),
            attainment=wanted("attainment"),
            budget_usd_per_hr=np.array([float(row.targets.budget_usd_per_hr) for row in rows]),
        ),
    )


def batched_ranges(ranges: Iterable[CalibratedRanges | None], n_pools: int) -> CalibratedRanges:
    """`[B, P]` the ranges of `B` clusters, padded to `n_pools`; of padding nothing is known."""
    rows = [unknown_ranges(n_pools) if own is None else own for own in ranges]
    p, bounds = (n_pools,), (n_pools, 2)

    def stacked(name: str, shape: tuple[int, ...]) -> FloatArray:
        return np.stack([padded(getattr(row, name), shape, np.nan) for row in rows])

    return CalibratedRanges(
        calibrated=np.stack([padded(row.calibrated.astype(np.float64), p) for row in rows]).astype(np.bool_),
        tokens=stacked("tokens", bounds),
        sequences=stacked("sequences", bounds),
        context_tokens=stacked("context_tokens", bounds),
        kv_tokens=stacked("kv_tokens", p),
    )


def padded(values: FloatArray, shape: tuple[int, ...], filler: float = 0.0) -> FloatArray:
    """`values` in the corner of an array of `shape`, the rest `filler`."""
    out = np.full(shape, filler)
    out[tuple(slice(0, n) for n in values.shape)] = values
    return out


def stacked_rows(rows: Sequence[FloatArray], shape: tuple[int, ...], filler: float = 0.0) -> FloatArray:
    """`[B, *shape]`: each of the rows in the corner of its own, the rest `filler`."""
    out = np.full((len(rows), *shape), filler)
    for corner, values in zip(out, rows, strict=True):
        corner[tuple(slice(0, n) for n in values.shape)] = values
    return out
