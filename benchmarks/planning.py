"""Planning as it is timed: posing and solving problems of many GPU types and buckets, and planning a fleet again.

The problems are real ones: options from the performance model, at on-demand list prices that come with poolpilot, for an
8B model in five classes of unlike targets and quality floors, with long-tailed lengths.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any, Literal

import numpy as np

from poolpilot.agents.planner.composition import Problem, Wishes
from poolpilot.agents.planner.demand import Demand
from poolpilot.agents.planner.layouts.layout import DEGREES, Layout, LayoutError, LayoutStage
from poolpilot.agents.planner.options import Asked, options_of
from poolpilot.agents.planner.solving.milp import cheapest_plan, compose
from poolpilot.agents.planner.solving.posing import posed
from poolpilot.env.catalog.models import model
from poolpilot.env.catalog.quality import quality_frac
from poolpilot.env.contract import Cluster, Targets
from poolpilot.env.market.offers import Offer
from poolpilot.env.perf.memory import DoesNotFit
from poolpilot.env.scenario.pools import Engine

from .slices import solve_slices

GPUS = (
    ("A100-SXM-80GB", 3.67),
    ("L4-24GB", 0.81),
    ("L40S-48GB", 1.86),
    ("H100-SXM-80GB", 6.88),
    ("A10G-24GB", 1.01),
    ("RTX4090-24GB", 0.53),
    ("H200-SXM-141GB", 7.91),
    ("A6000-48GB", 0.83),
    ("A40-48GB", 0.55),
    ("MI300X-192GB", 6.0),
)
"""$/h of one GPU, near what the clouds and markets ask; the first types are the most rented."""
PRECISIONS = ("bf16", "fp8", "int4")
SPOT = 0.4
"""Price of a spot machine, as a share of the on-demand one."""
MODEL = "meta-llama/Llama-3.1-8B"
CLASSES = 5
TTFT_S = (3.0, 4.0, 6.0, 10.0, 20.0)
TPOT_S = (0.06, 0.08, 0.1, 0.15, 0.3)
FLOORS = (0.995, 0.99, 0.98, 0.97, 0.95)


def problem(gpus: int, buckets: int, rate_per_s: float, seed: int, spot: bool = False) -> tuple[Problem, float]:
    """A problem, and the CPU seconds that its capacities took.

    Args:
        gpus: of `GPUS`, so many.
        buckets: over all classes.
        spot: every GPU type also on the spot market, for at most half of a class.
    """
    rng = np.random.default_rng(seed)
    class_index = np.arange(buckets) % CLASSES
    demand = Demand(
        tuple(f"class-{c}" for c in range(CLASSES)),
        class_index,
        np.exp(rng.uniform(np.log(64.0), np.log(6000.0), buckets)),
        np.exp(rng.uniform(np.log(16.0), np.log(800.0), buckets)),
        rng.dirichlet(np.ones(buckets)) * rate_per_s,
    )
    kinds: tuple[Literal["on_demand", "spot"], ...] = ("on_demand", "spot") if spot else ("on_demand",)
    offers = tuple(
        Offer(name, usd * (1.0 if kind == "on_demand" else SPOT), machine_gpus=8, kind=kind, stock=int(stock))
        for (name, usd), stock in zip(GPUS[:gpus], rng.integers(32, 128, gpus), strict=True)
        for kind in kinds
    )
    none = np.full(CLASSES, np.nan)
    targets = Targets(np.array(TTFT_S), np.array(TPOT_S), none, none, np.full(CLASSES, 0.95), np.array(np.inf))
    asked = Asked((MODEL,) * CLASSES, targets, FLOORS)
    began = time.process_time()
    layouts = _layouts(gpus)
    options = options_of(layouts, offers, demand, asked, Engine(), quality=lambda m, p: quality_frac(m, p).frac)
    spent = time.process_time() - began
    wishes = Wishes(route_by_length=True, max_spot_share=0.5 if spot else 1.0)
    return Problem(offers, options, demand, wishes), spent


def _layouts(gpus: int) -> list[Layout]:
    """Every degree at every precision that runs and fits; none is left out for being worse than another."""
    layers, found = model(MODEL).layers, []
    for name, _ in GPUS[:gpus]:
        for degree in DEGREES:
            for precision in PRECISIONS:
                layout = Layout(model(MODEL).name, precision, (LayoutStage(name, layers, degree),))
                try:
                    layout.law(Engine().max_num_batched_tokens)
                    layout.kv_tokens(Engine().gpu_memory_utilization)
                except (LayoutError, DoesNotFit):
                    continue
                found.append(layout)
    return found


def composed(gpus: int, buckets: int, rate_per_s: float, gap: float, seeds: int, spot: bool = False) -> dict[str, Any]:
    """Compositions to a gap, the median and the slowest of some draws."""
    problem(1, CLASSES, 1.0, 0)  # compiles and loads
    rows = []
    for seed in range(seeds):
        asked, capacities_cpu_s = problem(gpus, buckets, rate_per_s, seed, spot)
        wall, cpu = time.monotonic(), time.process_time()
        plan = compose(asked, gap=gap, time_limit_s=60.0)
        cpu_s, wall_s = time.process_time() - cpu, time.monotonic() - wall
        kept = posed(asked)
        rows.append(
            {
                "options": len(asked.options),
                "kept": len(kept.option),
                "shares": int(kept.program.usable.sum()),
                "capacities_cpu_s": capacities_cpu_s,
                "cpu_s": cpu_s,
                "wall_s": wall_s,
                "gap": plan.gap,
                "proven": plan.proven,
                "usd_per_hr": plan.usd_per_hr,
                "replicas": float(plan.replicas.sum()),
            }
        )
    middle = {name: median(float(row[name]) for row in rows) for name in rows[0]}
    return {
        **middle,
        "gpus": gpus,
        "buckets": buckets,
        "slowest_cpu_s": max(row["cpu_s"] for row in rows),
        "slowest_wall_s": max(row["wall_s"] for row in rows),
        "widest_gap": max(row["gap"] for row in rows),
        "first_usd_per_hr": rows[0]["usd_per_hr"],
    }


def sliced(
    gpus: int, buckets: int, rate_per_s: float, gap: float, slices: int, time_limit_s: float, seed: int = 0
) -> dict[str, Any]:
    """The same problem in Mélange's formulation."""
    asked, _ = problem(gpus, buckets, rate_per_s, seed)
    cpu = time.process_time()
    usd, bound, binaries = solve_slices(asked, slices, gap, time_limit_s)
    return {
        "gpus": gpus,
        "buckets": buckets,
        "binaries": binaries,
        "cpu_s": time.process_time() - cpu,
        "usd_per_hr": usd if np.isfinite(usd) else None,
        "gap": (usd - bound) / usd if np.isfinite(usd) and usd > 0.0 else None,
    }


def replanned(pools: int, classes: int, repeats: int) -> dict[str, Any]:
    """Planning a running fleet again, one of `repeats` draws at a time."""
    rng = np.random.default_rng(0)
    spent, wall = [], []
    for _ in range(repeats):
        cluster = fleet_of(rng, pools, classes)
        capacity = rng.uniform(0.3, 4.0, (classes, pools)) * cluster.serves
        load, price = rng.uniform(0.5, 12.0, classes), rng.uniform(0.5, 8.0, pools)
        running = rng.integers(0, 5, pools).astype(float)
        began, cpu = time.monotonic(), time.process_time()
        cheapest_plan(cluster, load, capacity, price, running)
        spent.append(time.process_time() - cpu)
        wall.append(time.monotonic() - began)
    return {
        "pools": pools,
        "classes": classes,
        "cpu_s": median(spent),
        "slowest_cpu_s": max(spent),
        "slowest_wall_s": max(wall),
    }


def fleet_of(rng: np.random.Generator, p: int, c: int) -> Cluster:
    """A cluster of so many pools and classes, in which one pool serves everything and the others most."""
    serves = rng.random((c, p)) < 0.8
    serves[:, 0] = True
    none = np.full(c, np.nan)
    return Cluster(
        class_names=tuple(f"class-{i}" for i in range(c)),
        pool_names=tuple(f"pool-{i}" for i in range(p)),
        class_mask=np.ones(c, dtype=np.bool_),
        pool_mask=np.ones(p, dtype=np.bool_),
        serves=serves,
        spot=rng.random(p) < 0.5,
        min_replicas=np.zeros(p),
        max_replicas=rng.integers(2, 13, p).astype(float),
        max_batch_cap=np.full(p, 256.0),
        max_token_budget=np.full(p, 8192.0),
        usd_per_hr=np.ones(p),
        cold_start_s=rng.uniform(30.0, 200.0, p),
        targets=Targets(np.ones(c), np.full(c, 0.05), none, none, np.full(c, 0.99), np.array(np.inf)),
    )
