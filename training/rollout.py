"""Runs a policy over simulated episodes and sums up what came of it.

Symbols: `B` episodes run side by side, `C` classes, `P` pools, `T` ticks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..agents.portfolio import PolicyFactory
from ..env.batch import ClusterBatch, Episode
from ..env.contract import BILL_LAYERS, IDLE_PARTS, Action, Bill, FloatArray, IntArray, Memory, ScalingCost, Snapshot
from ..env.ledger import JOULES_PER_KWH, ScalingCosts, dearest, joined
from ..env.perf.power import Draw
from ..env.sim.clusters import TickOutcome
from ..env.sim.state import EVENTS
from ..env.window import (
    ARRIVED,
    E2E,
    FINISHED,
    LOST,
    MET,
    MET_OUTPUT_SUM,
    N_BUCKETS,
    SHED,
    TPOT,
    TTFT,
    empty_tally,
    percentile_s,
)

LATENCIES = {"ttft": TTFT, "tpot": TPOT, "e2e": E2E}
"""Where each latency's buckets begin in a tally."""
PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
"""Shares of the requests, by label."""


@dataclass(frozen=True)
class RunResult:
    """One episode under one policy."""

    class_names: tuple[str, ...]
    pool_names: tuple[str, ...]
    duration_s: float
    bill: Bill
    """`[P, C, L]` dollars of the whole episode."""
    tally: FloatArray
    """`[C, W]` of the whole episode (`env.window`)."""
    attainment_wanted: FloatArray
    """`[C]`"""
    replica_changes: int
    """How many replicas were added or removed."""
    vetoes: dict[str, int]
    """Pools or classes changed by the guard, by reason."""
    replicas: FloatArray
    """`[T, P]` wanted counts."""
    tokens: FloatArray
    """`[P]` tokens processed, of which it is known whether they lie inside the calibrated range."""
    covered_tokens: FloatArray
    """`[P]` those inside."""
    events: IntArray
    """`[P, len(EVENTS)]` what happened to the pools' replicas (`env.sim.state.EVENTS`)."""
    asleep_hr: FloatArray
    """`[P]` replica-hours asleep."""
    gpu_hr: FloatArray
    """`[P]` hours of all GPUs that were held: starting, serving, draining and asleep."""
    energy_j: FloatArray
    """`[P]` joules drawn by the GPUs."""
    pue: float
    power_basis: dict[str, str]
    """By pool, whether its draw is "fitted" to measurements of the GPU or assumed from its "tdp"."""
    scaling: tuple[ScalingCost, ...]
    """What scaling took of the bill, by the decision that caused it; its tick is the row of `replicas`."""

    @property
    def usd_per_hr(self) -> float:
        """Mean bill."""
        return float(self.bill.total_usd) * 3600.0 / self.duration_s

    @property
    def attainment(self) -> FloatArray:
        """`[C]` share of requests that met their target, lost ones included in the whole; NaN without requests."""
        return attainment_of(self.tally)

    @property
    def usd_per_1000_met(self) -> float:
        """Dollars per 1,000 requests that met their target; NaN if none did."""
        met = float(self.tally[:, MET].sum())
        return float(self.bill.total_usd) / met * 1000.0 if met else float("nan")

    @property
    def worst_shortfall(self) -> float:
        """By how much the worst class misses its wanted attainment; 0 when all reach it."""
        short = np.nan_to_num(self.attainment_wanted - self.attainment)
        return float(max(short.max(), 0.0))

    @property
    def covered_frac(self) -> float:
        """Share of the tokens inside the calibrated range of the law that served them; NaN if nothing ran."""
        return _share(float(self.covered_tokens.sum()), float(self.tokens.sum()))

    @property
    def goodput_requests_per_s(self) -> float:
        """Requests that met their target."""
        return float(self.tally[:, MET].sum()) / self.duration_s

    @property
    def goodput_tokens_per_s(self) -> float:
        """Output tokens of the requests that met their target."""
        return float(self.tally[:, MET_OUTPUT_SUM].sum()) / self.duration_s

    @property
    def cooling_usd(self) -> float:
        """Of the energy layer, what is beyond the GPUs' own draw: cooling and losses."""
        return float(self.bill.layer_usd("energy")) * (1.0 - 1.0 / self.pue)

    def dearest_decisions(self, most: int) -> list[dict[str, float | int | str]]:
        """Those whose scaling cost most: tick, seconds since the start, pool, dollars, and dollars by part."""
        tick_s = self.duration_s / len(self.replicas)
        return [{**decision, "time_s": int(decision["tick"]) * tick_s} for decision in dearest(self.scaling, most)]

    @property
    def fleet(self) -> dict[str, dict[str, float]]:
        """What happened to each pool's replicas: counts by event, and hours asleep."""
        return {
            name: {
                **dict(zip(EVENTS, map(int, self.events[p]), strict=True)),
                "asleep_hr": float(self.asleep_hr[p]),
            }
            for p, name in enumerate(self.pool_names)
        }

    def latency_s(self, first_bucket: int, share: float) -> FloatArray:
        """`[C]` percentile of one of `LATENCIES`: TTFT (`window.TTFT`), TPOT (`window.TPOT`) or E2E (`window.E2E`)."""
        return percentile_s(self.tally[:, first_bucket : first_bucket + N_BUCKETS], share)

    def row(self) -> dict[str, object]:
        """The result as one flat, JSON-ready record: `totals`, and what is of single classes and pools by their name."""
        record = self.totals()
        record["fleet"] = self.fleet
        for pool, share in zip(self.pool_names, self._covered_by_pool(), strict=True):
            record[f"covered_frac_{pool}"] = share
        for own in self.by_class():
            name = own["name"]
            record[f"attainment_{name}"] = own["attainment"]
            for label in LATENCIES:
                for at in PERCENTILES:
                    record[f"{label}_{at}_s_{name}"] = own[f"{label}_{at}_s"]
        return record

    def totals(self) -> dict[str, object]:
        """What is of the whole cluster."""
        return {
            "usd_per_hr": self.usd_per_hr,
            "usd_per_1000_met": _number(self.usd_per_1000_met),
            "worst_shortfall": self.worst_shortfall,
            "replica_changes": self.replica_changes,
            "covered_frac": _number(self.covered_frac),
            "finished": int(self.tally[:, FINISHED].sum()),
            "met": int(self.tally[:, MET].sum()),
            "lost": int(self.tally[:, LOST].sum()),
            "shed": int(self.tally[:, SHED].sum()),
            "goodput_requests_per_s": self.goodput_requests_per_s,
            "goodput_tokens_per_s": self.goodput_tokens_per_s,
            "vetoes": dict(self.vetoes),
            **{f"usd_{layer}": float(self.bill.layer_usd(layer)) for layer in BILL_LAYERS},
            **{f"usd_idle_{part}": float(self.bill.idle_part_usd(part)) for part in IDLE_PARTS},
            "usd_cooling": self.cooling_usd,
            "energy_kwh": float(self.energy_j.sum()) / JOULES_PER_KWH,
            "gpu_hours": float(self.gpu_hr.sum()),
        }

    def by_class(self) -> list[dict[str, object]]:
        """What is of each class, JSON-ready."""
        counts = {"arrived": ARRIVED, "finished": FINISHED, "met": MET, "lost": LOST, "shed": SHED}
        latencies = {
            f"{label}_{at}_s": self.latency_s(first, share)
            for label, first in LATENCIES.items()
            for at, share in PERCENTILES.items()
        }
        return [
            {
                "name": name,
                "wanted": float(self.attainment_wanted[c]),
                "attainment": _number(self.attainment[c]),
                **{key: int(self.tally[c, column]) for key, column in counts.items()},
                "met_output_tokens": float(self.tally[c, MET_OUTPUT_SUM]),
                **{key: _number(values[c]) for key, values in latencies.items()},
            }
            for c, name in enumerate(self.class_names)
        ]

    def by_pool(self) -> list[dict[str, object]]:
        """What is of each pool, JSON-ready."""
        return [
            {
                "name": name,
                "covered_frac": self._covered_by_pool()[p],
                **self.fleet[name],
                "gpu_hours": float(self.gpu_hr[p]),
                "energy_kwh": float(self.energy_j[p]) / JOULES_PER_KWH,
                "usd": float(self.bill.usd[p].sum()),
                "mean_replicas": float(self.replicas[:, p].mean()),
            }
            for p, name in enumerate(self.pool_names)
        ]

    def _covered_by_pool(self) -> list[float | None]:
        """`[P]` as `covered_frac`."""
        return [_number(_share(*pair)) for pair in zip(self.covered_tokens.tolist(), self.tokens.tolist(), strict=True)]


@dataclass(frozen=True)
class Step:
    """One tick of a batch, as `rollout` tells of it."""

    true: Snapshot
    """What there was to see at its beginning."""
    seen: Snapshot
    """What of that the policy saw, and its forecasts."""
    applied: Action
    """What the guard let through."""
    outcome: TickOutcome


def attainment_of(tally: FloatArray) -> FloatArray:
    """`[C]` share of done requests in a tally `[C, W]` that met their target; NaN without requests."""
    done = tally[:, FINISHED] + tally[:, LOST]
    shares: FloatArray = np.divide(tally[:, MET], done, out=np.full(done.shape, np.nan), where=done > 0)
    return shares


def rollout(
    episodes: Sequence[Episode],
    make_policy: PolicyFactory,
    tick_s: float,
    on_tick: Callable[[int], None] | None = None,
    foresight: bool = False,
    on_step: Callable[[Step], None] | None = None,
) -> list[RunResult]:
    """Every episode under the policy, side by side; results in the order of `episodes`.

    Episodes must be equally long. `on_tick` is told the number of ticks done, `on_step` what each was. With `foresight`
    the forecasts that policy and planner see are true (`env.foresight`).
    """
    lengths = {episode.world.duration_s for episode in episodes}
    if len(lengths) != 1:
        raise ValueError(f"episodes last {sorted(lengths)} s; run those of one length together")
    batch = ClusterBatch(episodes, tick_s, foresight=foresight)
    policy = make_policy(batch.cluster)
    batch.replans = getattr(policy, "follows_plan", True)
    memory: Memory = {}
    n, c = batch.cluster.class_mask.shape
    p = batch.cluster.pool_mask.shape[1]
    sums = _Sums(
        usd=np.zeros((n, p, c, len(BILL_LAYERS))),
        idle_usd=np.zeros((n, p, c, len(IDLE_PARTS))),
        energy_j=np.zeros((n, p)),
        tally=empty_tally(n, c),
        tokens=np.zeros((n, p)),
        covered_tokens=np.zeros((n, p)),
        events=np.zeros((n, p, len(EVENTS)), dtype=np.int64),
        asleep_hr=np.zeros((n, p)),
        replica_hr=np.zeros((n, p)),
    )
    scaling: list[ScalingCosts] = []
    vetoes: list[dict[str, int]] = [{} for _ in episodes]
    replicas: list[FloatArray] = []
    done, tick = np.zeros(n, dtype=np.bool_), 0
    snapshot = batch.snapshot()
    while not done.all():
        action, memory = policy.decide(snapshot, batch.plan, memory)
        true = batch.truth
        outcome, applied, changes = batch.advance(action, snapshot)
        if on_step:
            on_step(Step(true, snapshot, applied, outcome))
        scaling.append(outcome.scaling)
        replicas.append(applied.replicas)
        for change in changes:
            for b, hits in enumerate(change.mask.sum(axis=-1)):
                if hits:
                    vetoes[b][change.code.value] = vetoes[b].get(change.code.value, 0) + int(hits)
        done, tick = outcome.done, tick + 1
        snapshot = batch.snapshot()
        sums.add(outcome, batch.truth, tick_s)
        if on_tick:
            on_tick(tick)
    counts, costs = np.stack(replicas, axis=1), joined(scaling)
    return [_result(episode, b, sums, costs, counts[b], vetoes[b], tick * tick_s) for b, episode in enumerate(episodes)]


@dataclass(frozen=True)
class _Sums:
    """What ticks add up to, `[B, ...]` as in `RunResult`; changed in place."""

    usd: FloatArray
    idle_usd: FloatArray
    energy_j: FloatArray
    tally: FloatArray
    tokens: FloatArray
    covered_tokens: FloatArray
    events: IntArray
    asleep_hr: FloatArray
    replica_hr: FloatArray
    """`[B, P]` hours of replicas held, asleep or not."""

    def add(self, outcome: TickOutcome, after: Snapshot, tick_s: float) -> None:
        """One tick, and what is seen after it."""
        used = outcome.meter
        awake_s = used.useful_s + used.wasted_s + used.starting_s + used.waiting_s + used.draining_s
        processed = np.where(after.known("coverage_frac"), after.tokens_per_s * tick_s, 0.0)
        for held, more in (
            (self.usd, outcome.bill.usd),
            (self.idle_usd, outcome.bill.idle_usd),
            (self.energy_j, outcome.meter.energy_j),
            (self.tally, outcome.tally),
            (self.tokens, processed),
            (self.covered_tokens, processed * np.nan_to_num(after.coverage_frac)),
            (self.events, outcome.events),
            (self.asleep_hr, outcome.asleep_s / 3600.0),
            (self.replica_hr, (awake_s + outcome.asleep_s) / 3600.0),
        ):
            held += more


def _result(
    episode: Episode,
    b: int,
    sums: _Sums,
    costs: ScalingCosts,
    replicas: FloatArray,
    vetoes: dict[str, int],
    duration_s: float,
) -> RunResult:
    world, cluster = episode.world, episode.world.cluster
    c, p = len(cluster.class_names), len(cluster.pool_names)
    return RunResult(
        class_names=cluster.class_names,
        pool_names=cluster.pool_names,
        duration_s=duration_s,
        bill=Bill(usd=sums.usd[b, :p, :c], idle_usd=sums.idle_usd[b, :p, :c]),
        tally=sums.tally[b, :c],
        attainment_wanted=cluster.targets.attainment,
        replica_changes=int(np.abs(np.diff(replicas[:, :p], axis=0)).sum()),
        vetoes=vetoes,
        replicas=replicas[:, :p],
        tokens=sums.tokens[b, :p],
        covered_tokens=sums.covered_tokens[b, :p],
        events=sums.events[b, :p],
        asleep_hr=sums.asleep_hr[b, :p],
        gpu_hr=sums.replica_hr[b, :p] * [sum(draw.gpus for draw in own) for own in world.draws],
        energy_j=sums.energy_j[b, :p],
        pue=float(world.tariff.pue),
        power_basis={name: _basis(draws) for name, draws in zip(cluster.pool_names, world.draws, strict=True)},
        scaling=costs.rows(cluster.pool_names, b),
    )


def _basis(draws: Sequence[Draw]) -> str:
    """Measured only where all of a replica's GPU types are."""
    return "fitted" if all(draw.basis == "fitted" for draw in draws) else "tdp"


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
