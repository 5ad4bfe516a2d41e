"""Rows of runs that never were, whose costs and attainments are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from poolpilot.training.evaluation.rows import Row

REQUESTS = 100_000


def a_row(
    policy: str,
    seed: int,
    usd: float,
    missed: float = 0.0,
    *,
    headroom: float = 1.0,
    scenario: str = "s",
    suite: str = "suite",
    kind: str = "rule",
    wanted: float = 0.99,
    **more: Any,
) -> Row:
    """An hour in which a share `missed` of one class's requests missed their targets."""
    met = round(REQUESTS * (1.0 - missed))
    latencies = {f"{label}_{at}_s": 0.5 for label in ("ttft", "tpot", "e2e") for at in ("p50", "p95", "p99")}
    chat = {
        "name": "chat",
        "wanted": wanted,
        "attainment": met / REQUESTS,
        "arrived": REQUESTS,
        "finished": REQUESTS,
        "met": met,
        "lost": 0,
        "shed": 0,
        "met_output_tokens": 100.0 * met,
        **latencies,
    }
    events = dict.fromkeys(("started", "woken", "preempted", "crashed", "given_up", "refused"), 0)
    pool = {"name": "pool", "covered_frac": 1.0, **events, "asleep_hr": 0.0, "gpu_hours": 1.0}
    return {
        "suite": suite,
        "scenario": scenario,
        "policy": policy,
        "kind": kind,
        "headroom": headroom,
        "seed": seed,
        "world": f"{scenario}{seed}",
        "duration_s": 3600.0,
        "reference_usd_per_hr": 10.0,
        "usd_per_hr": usd,
        "usd_per_1000_met": 1000.0 * usd / met if met else None,
        "worst_shortfall": max(0.0, wanted - met / REQUESTS),
        "replica_changes": 4,
        "covered_frac": 0.8,
        "finished": REQUESTS,
        "met": met,
        "lost": 0,
        "shed": 0,
        "goodput_requests_per_s": met / 3600.0,
        "goodput_tokens_per_s": 100.0 * met / 3600.0,
        "vetoes": {"cooldown": 2},
        **dict.fromkeys(("usd_compute", "usd_software", "usd_idle", "usd_energy", "usd_network"), usd / 5.0),
        **dict.fromkeys(("usd_idle_cold_start", "usd_idle_waiting", "usd_idle_drain", "usd_idle_asleep"), usd / 20.0),
        "usd_cooling": 0.0,
        "energy_kwh": 1.0,
        "gpu_hours": 1.0,
        "bound_usd_per_hr": usd / 2.0,
        "above_bound_frac": 1.0,
        "knobs": {"headroom": headroom},
        "classes": [chat],
        "pools": [{**pool, "energy_kwh": 1.0, "usd": usd, "mean_replicas": 2.0}],
        **more,
    }


def a_sweep(
    policy: str,
    usd_of: Callable[[float, int], float],
    missed_of: Callable[[float, int], float],
    headrooms: Iterable[float] = (0.7, 0.85, 1.0, 1.2, 1.5),
    seeds: int = 4,
    **more: Any,
) -> list[Row]:
    """Runs whose bill and share of misses hang on head-room and seed."""
    return [
        a_row(policy, seed, usd_of(h, seed), missed_of(h, seed), headroom=h, **more)
        for h in headrooms
        for seed in range(seeds)
    ]
