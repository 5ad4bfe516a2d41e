"""A plan checked in the simulator, in worlds whose true speeds differ from what the planner believes.

Symbols: `C` classes, `W` a tally's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...agents.portfolio import HELD_PLAN, held_setting, policy_factory
from ...env.contract import BILL_LAYERS
from ...env.scenario import Scenario
from ...env.window import FINISHED, LOST, MET, N_BUCKETS, OUTPUT_SUM, PROMPT_SUM, SHED, TPOT, TTFT, percentile_s
from ...training.rollout import RunResult, attainment_of, rollout
from ...training.worlds import episode_of

SHARES = (0.5, 0.95, 0.99)
"""Percentiles of the latencies told."""
USUAL_SEEDS = 3


@dataclass(frozen=True)
class SimulatedClass:
    """One class over all seeds."""

    name: str
    wanted: float
    attainment: float | None
    """Share of all requests, over all seeds together; None without requests."""
    worst: float | None
    """Of the worst seed."""
    arrived_per_s: float
    finished_per_s: float
    met_per_s: float
    """Goodput."""
    lost: int
    turned_away: int
    ttft_s: dict[str, float | None]
    """By percentile: p50, p95, p99."""
    tpot_s: dict[str, float | None]


@dataclass(frozen=True)
class Simulated:
    """What became of a plan that was held."""

    seeds: int
    duration_s: float
    performance_error_frac: float
    """True iteration times differ from the believed ones by up to this, drawn for each pool and seed."""
    usd_per_hr: float
    """Mean bill."""
    usd_per_1000_met: float | None
    layers_usd_per_hr: dict[str, float]
    classes: tuple[SimulatedClass, ...]
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    covered_frac: float | None
    """Share of the tokens inside the calibrated range."""

    @property
    def reached(self) -> bool:
        """Whether every class with requests reached what was wanted."""
        return all(c.attainment is None or c.attainment >= c.wanted for c in self.classes)


def simulate_plan(held: Scenario, seeds: int, on_seed: Callable[[], Any] | None = None) -> Simulated:
    """Run a planned scenario under `held-plan`, on its own workload, in `seeds` worlds. `on_seed` is told of each.

    Episodes run one at a time: a plan can have many replicas, and memory is what is short.
    """
    make = policy_factory(HELD_PLAN, held_setting(held))
    results: list[RunResult] = []
    for seed in range(seeds):
        results += rollout([episode_of(held, seed, miss_price=1.0, quickly=True)], make, held.tick_s)
        if on_seed:
            on_seed()
    return summed_up(results, held.world.performance_error_frac)


def summed_up(results: Sequence[RunResult], performance_error_frac: float) -> Simulated:
    """Several runs of one scenario as one."""
    first = results[0]
    tally = np.sum([result.tally for result in results], axis=0)
    span_s = sum(result.duration_s for result in results)
    seeds = np.stack([result.attainment for result in results])
    whole = attainment_of(tally)
    ttft, tpot = (
        {f"p{int(share * 100)}": np.asarray(_latency(results, at, share)) for share in SHARES} for at in (TTFT, TPOT)
    )
    classes = tuple(
        SimulatedClass(
            name=name,
            wanted=float(first.attainment_wanted[c]),
            attainment=_number(whole[c]),
            worst=None if np.isnan(seeds[:, c]).all() else float(np.nanmin(seeds[:, c])),
            # Whoever is turned away comes back: finished, lost and in flight are requests, arrivals are attempts.
            arrived_per_s=float(tally[c, FINISHED] + tally[c, LOST]) / span_s,
            finished_per_s=float(tally[c, FINISHED]) / span_s,
            met_per_s=float(tally[c, MET]) / span_s,
            lost=int(tally[c, LOST]),
            turned_away=int(tally[c, SHED]),
            ttft_s={label: _number(values[c]) for label, values in ttft.items()},
            tpot_s={label: _number(values[c]) for label, values in tpot.items()},
        )
        for c, name in enumerate(first.class_names)
    )
    usd = sum(float(result.bill.total_usd) for result in results)
    met = float(tally[:, MET].sum())
    tokens = sum(float(result.tokens.sum()) for result in results)
    return Simulated(
        seeds=len(results),
        duration_s=first.duration_s,
        performance_error_frac=performance_error_frac,
        usd_per_hr=usd / span_s * 3600.0,
        usd_per_1000_met=usd / met * 1000.0 if met else None,
        layers_usd_per_hr={
            layer: sum(float(result.bill.layer_usd(layer)) for result in results) / span_s * 3600.0
            for layer in BILL_LAYERS
        },
        classes=classes,
        prompt_tokens_per_s=float(tally[:, PROMPT_SUM].sum()) / span_s,
        output_tokens_per_s=float(tally[:, OUTPUT_SUM].sum()) / span_s,
        covered_frac=sum(float(r.covered_tokens.sum()) for r in results) / tokens if tokens else None,
    )


def _latency(results: Sequence[RunResult], first_bucket: int, share: float) -> Any:
    """`[C]` percentile over all runs."""
    counts = np.sum([result.tally[:, first_bucket : first_bucket + N_BUCKETS] for result in results], axis=0)
    return percentile_s(counts, share)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
