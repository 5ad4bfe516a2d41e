"""Which cases are run for which table."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .timing import case, in_process, machine

LOAD = 0.7
PAGE_KB = 50
"""A metrics page of vLLM 0.32 under load."""
OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    versus: tuple[int, ...]
    """Replicas."""
    versus_requests: int
    by_requests: tuple[int, ...]
    by_replicas: tuple[int, ...]
    by_load: tuple[float, ...]
    growth_requests: int
    """At least; a large fleet gets `per_replica` each."""
    per_replica: int
    training_steps: int
    clusters: tuple[int, int]
    """Side by side, for the flat network and the set network."""
    repeats: int
    by_gpus: tuple[int, ...]
    """GPU types to plan over."""
    by_buckets: tuple[int, ...]
    plans: int
    """Drawn problems of each size."""
    rival_limit_s: float
    """Time that another formulation may take."""
    decisions: int
    """Of the learned policy, one after the other."""
    replica_pages: tuple[int, ...]
    """Replicas whose metrics pages are read at a tick."""
    looks: int
    """Ticks."""


SCALES = {
    "full": Scale(
        versus=(1, 4, 16, 64),
        versus_requests=50_000,
        by_requests=(10_000, 100_000, 1_000_000, 10_000_000),
        by_replicas=(1, 10, 100, 1_000, 10_000),
        by_load=(0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95),
        growth_requests=200_000,
        per_replica=100,
        training_steps=160_000,
        clusters=(512, 64),
        repeats=3,
        by_gpus=(2, 4, 6, 8, 10),
        by_buckets=(5, 10, 25, 50, 100),
        plans=3,
        rival_limit_s=60.0,
        decisions=2_000,
        replica_pages=(50, 500, 1000),
        looks=8,
    ),
    "tiny": Scale(
        versus=(1, 2),
        versus_requests=300,
        by_requests=(200, 400),
        by_replicas=(1, 3),
        by_load=(0.5,),
        growth_requests=200,
        per_replica=20,
        training_steps=64,
        clusters=(4, 2),
        repeats=1,
        by_gpus=(2,),
        by_buckets=(5,),
        plans=1,
        rival_limit_s=5.0,
        decisions=20,
        replica_pages=(3,),
        looks=2,
    ),
}


def measure(
    scale: Scale, parts: Collection[str], rival: Path | None, folder: Path, load: float, on_step: OnStep
) -> dict[str, Any]:
    """The figures of these parts; `rival` is a Python that has vllm-sr-sim."""
    figures: dict[str, Any] = {"machine": {**machine(), "load": load}}
    if "start" in parts:
        on_step("start-up, cold and cached")
        figures["start"] = _start(folder)
    if "versus" in parts:
        figures["versus"] = [_beside(scale, replicas, rival, folder, on_step) for replicas in scale.versus]
        if rival is not None:
            figures["rival_version"] = figures["versus"][0]["rival"]["version"]
    if "growth" in parts:
        figures["growth"] = _growth(scale, on_step)
    if "planning" in parts:
        figures["planning"] = _planning(scale, on_step)
    if "training" in parts:
        figures["training"] = _training(scale, on_step)
    if "deciding" in parts:
        on_step("deciding")
        sizes = ((4, 2), (8, 6), (32, 8))
        figures["deciding"] = [case("deciding", pools=p, classes=c, decisions=scale.decisions) for p, c in sizes]
    if "collecting" in parts:
        on_step("collecting")
        figures["collecting"] = [
            case("collecting", replicas=count, page_kb=PAGE_KB, ticks=scale.looks) for count in scale.replica_pages
        ]
    return figures


def _start(folder: Path) -> dict[str, Any]:
    """The same process twice with one fresh cache of compiled code."""
    cache = {"NUMBA_CACHE_DIR": str(folder / "compiled")}
    return {"cold": case("first_tick", cache), "cached": case("first_tick", cache)}


def _beside(scale: Scale, replicas: int, rival: Path | None, folder: Path, on_step: OnStep) -> dict[str, Any]:
    on_step(f"beside the rival, {replicas} replicas")
    common: dict[str, Any] = {"replicas": replicas, "count": scale.versus_requests, "share": LOAD}
    row: dict[str, Any] = {
        "replicas": replicas,
        "kernel": case("kernel", **common, repeats=scale.repeats),
        "fleet_60s": case("fleet", **common, tick_s=60.0, repeats=scale.repeats),
        "fleet_10s": case("fleet", **common, tick_s=10.0, repeats=scale.repeats),
    }
    if rival is not None:
        path = folder / f"requests-{replicas}.npz"
        engine = case("trace", **common, path=str(path))
        script = Path(__file__).with_name("rival.py")
        row["rival"] = in_process([rival, script, path, str(replicas), json.dumps(engine)])
    return row


def _growth(scale: Scale, on_step: OnStep) -> dict[str, list[dict[str, Any]]]:
    def fleet(replicas: int, count: int, share: float) -> dict[str, Any]:
        # What takes long is timed once.
        repeats = scale.repeats if count <= scale.growth_requests else 1
        return case("fleet", replicas=replicas, count=count, share=share, tick_s=60.0, repeats=repeats)

    grown: dict[str, list[dict[str, Any]]] = {"requests": [], "replicas": [], "load": []}
    for count in scale.by_requests:
        on_step(f"growth, {count:,} requests")
        grown["requests"].append(fleet(4, count, LOAD))
    for replicas in scale.by_replicas:
        on_step(f"growth, {replicas:,} replicas")
        count = max(scale.growth_requests, replicas * scale.per_replica)
        grown["replicas"].append({"replicas": replicas, **fleet(replicas, count, LOAD)})
    for share in scale.by_load:
        on_step(f"growth, load {share:.0%}")
        grown["load"].append({"load": share, **fleet(4, scale.growth_requests, share)})
    return grown


PLAN_RATE_PER_S = 60.0
PLAN_GAP = 5e-3
SLICES = 8
"""Of each bucket in the other formulation, as its authors' code has it."""


def _planning(scale: Scale, on_step: OnStep) -> dict[str, Any]:
    common: dict[str, Any] = {"rate_per_s": PLAN_RATE_PER_S, "gap": PLAN_GAP}
    # The most buckets that the other formulation is tried on: beyond, the solver's presolve does not look at the clock.
    most, fifty = max(scale.by_gpus), min(50, max(scale.by_buckets))

    def beside(gpus: int, buckets: int) -> dict[str, Any]:
        on_step(f"planning, {gpus} GPU types, {buckets} buckets")
        limit = scale.rival_limit_s
        size: dict[str, Any] = {"gpus": gpus, "buckets": buckets}
        row = case("composed", **size, **common, seeds=scale.plans)
        if buckets <= fifty:
            row["sliced"] = case("sliced", **size, **common, slices=SLICES, time_limit_s=limit)
        return row

    rows: dict[str, Any] = {
        "gpus": [beside(gpus, fifty) for gpus in scale.by_gpus],
        "buckets": [beside(most, buckets) for buckets in scale.by_buckets],
    }
    on_step("planning, with spot")
    rows["spot"] = case("composed", gpus=most, buckets=fifty, **common, seeds=scale.plans, spot=True)
    on_step("planning a fleet again")
    rows["again"] = case("replanned", pools=8, classes=4, repeats=40 * scale.plans)
    return rows


def _training(scale: Scale, on_step: OnStep) -> list[dict[str, Any]]:
    rows = []
    for (network, tick_s), clusters in zip((("flat", 5.0), ("set", 10.0)), scale.clusters, strict=True):
        on_step(f"training, {network} network")
        steps = scale.training_steps if network == "flat" else scale.training_steps // 8
        row = case("training", network=network, clusters=clusters, tick_s=tick_s, steps=max(steps, 1), threads=None)
        rows.append({"short": network, **row})
    return rows
