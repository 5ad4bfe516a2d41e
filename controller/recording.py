"""Keeps every tick: decision log, store, metrics, and the running bill as a small file."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..env.contract import BILL_LAYERS, IDLE_PARTS, Action, Cluster, FloatArray, ScalingCost
from ..env.ledger import dearest, dearest_rows
from ..telemetry.exporter import SidecarMetrics
from ..telemetry.record import Sat, Since, Sitting, TickRecord, entry_of
from ..telemetry.store import Store, Superseded, TickEntry
from .decision_log import DecisionLog
from .fencing import UNFENCED, Fence, Fenced
from .handover import FILE as HANDOVER_FILE
from .handover import Account, Handover, cluster_hash
from .observing import Observation
from .tick import Tick

BILL_FILE = "bill.json"
_DECISIONS_SHOWN = 20
_DECISIONS_KEPT = 2000
"""Decisions whose costs are added up; the cheapest are let go beyond."""

_DECISIONS_HANDED_OVER = 100
"""Of these, what the next leader is told at every tick."""


@dataclass
class Records:
    """Everything that is kept of a sitting."""

    sitting: Sitting
    log: DecisionLog
    store: Store
    metrics: SidecarMetrics
    folder: Path
    fence: Fence = UNFENCED
    account: Account | None = None
    """Where the last term ended: what is counted here goes on from it."""
    _usd: FloatArray = field(init=False)
    _idle_usd: FloatArray = field(init=False)
    _scaling: tuple[ScalingCost, ...] = field(default=(), init=False)
    _ticks: int = field(default=0, init=False)
    _fallback_ticks: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Nothing was spent since the last term, or at all."""
        self.cluster: Cluster = self.sitting.cluster
        self._cluster_hash = cluster_hash(self.cluster)
        pools, classes = len(self.cluster.pool_names), len(self.cluster.class_names)
        self._usd = np.zeros((pools, classes, len(BILL_LAYERS)))
        self._idle_usd = np.zeros(len(IDLE_PARTS))
        self._began_unix_s = time.time()
        if (left := self.account) is not None:
            self._usd, self._idle_usd, self._scaling = left.usd.copy(), left.idle_usd.copy(), left.scaling
            self._ticks, self._fallback_ticks = left.ticks, left.fallback_ticks
            self._began_unix_s = left.began_unix_s

    def sit(self, sat: Sat) -> None:
        """Somebody more may decide from now on: the log tells how to have it decide again."""
        if sat not in self.sitting.policies:
            self.sitting = replace(self.sitting, policies=(sat, *self.sitting.policies))

    async def record(self, tick: Tick) -> None:
        """Keep one tick: on this machine first, then in the store.

        Raises:
            Fenced: a newer leader took over.
            OSError: the log cannot be written; the store has the tick all the same.
            StoreError: the store is gone.
        """
        decision = tick.decision
        now_s = decision.time_s
        self._ticks += 1
        self._fallback_ticks += tick.fell_back
        observation = tick.observation
        self._usd += np.nan_to_num(observation.bill.usd)
        self._idle_usd += np.nan_to_num(observation.bill.idle_usd).sum(axis=(0, 1))
        known = [cost for cost in observation.scaling if not np.isnan(cost.usd)]
        self._scaling = dearest_rows((*self._scaling, *known), _DECISIONS_KEPT)
        self.metrics.show_snapshot(tick.snapshot)
        self.metrics.show_decision(decision, tick.fell_back, tick.in_force, tick.saving_usd_per_hr)
        self.metrics.show_drift(tick.drift.outside_frac, tick.drift.twin_error, tick.drift.trust)
        self.metrics.sources.show(
            observation.sources, observation.prices, observation.proxy, observation.broken_log_lines
        )
        self.metrics.sources.add_requests(observation.tick)
        if observation.span_s > 0:
            self.metrics.add_bill(observation.bill, observation.span_s)
        self.metrics.add_tick(tick.took_s, time.time())
        self.metrics.learner.show(time.time())
        entry = entry_of(
            TickRecord(
                self.sitting,
                tick.snapshot,
                tick.plan,
                tick.memory,
                tick.guard_state,
                tick.reach,
                decision,
                fell_back=tick.fell_back,
                scaling=observation.scaling,
                wall_s=time.time(),
                answer=tick.answer,
                in_force=None if same_action(tick.in_force, decision.applied) else tick.in_force,
                since=since_of(observation),
                comparison=tick.comparison,
            )
        )
        handover = self._handover(tick).text()
        try:
            # Before the log: whoever takes over between the two gives no tick a number that another one has.
            self.fence.write(self.folder / HANDOVER_FILE, handover.encode())
            self.log.append_entry(entry)
            self._write_bill(now_s, tick.health.troubles)
        finally:  # a full disk here does not keep the tick out of the store
            await self._store(entry, handover)

    def _handover(self, tick: Tick) -> Handover:
        """What the next leader goes on from."""
        account = Account(
            began_unix_s=self._began_unix_s,
            scenario=self.sitting.scenario,
            class_names=self.cluster.class_names,
            pool_names=self.cluster.pool_names,
            cluster_hash=self._cluster_hash,
            fencing_token=self.fence.token,
            tick=tick.decision.tick,
            time_s=tick.decision.time_s,
            wall_s=time.time(),
            ticks=self._ticks,
            fallback_ticks=self._fallback_ticks,
            usd=self._usd,
            idle_usd=self._idle_usd,
            scaling=dearest_rows(self._scaling, _DECISIONS_HANDED_OVER),
            plan=tick.plan,
            changed_at_s=tick.changed_at_s,
        )
        return Handover(account, *tick.remembered)

    async def _store(self, entry: TickEntry, handover: str) -> None:
        try:
            await self.store.append_tick(entry, self.fence.token, handover)
        except Superseded as error:
            raise Fenced(error.where, error.token, error.newer) from None

    def _write_bill(self, now_s: float, troubles: tuple[str, ...]) -> None:
        document: dict[str, Any] = {
            "time_s": now_s,
            "since_unix_s": self._began_unix_s,
            "ticks": self._ticks,
            "fallback_ticks": self._fallback_ticks,
            "usd": float(self._usd.sum()),
            "usd_by_layer": dict(zip(BILL_LAYERS, self._usd.sum(axis=(0, 1)).tolist(), strict=True)),
            "usd_idle_by_part": dict(zip(IDLE_PARTS, self._idle_usd.tolist(), strict=True)),
            "dearest_decisions": list(dearest(self._scaling, _DECISIONS_SHOWN)),
            "usd_by_pool": dict(zip(self.cluster.pool_names, self._usd.sum(axis=(1, 2)).tolist(), strict=True)),
            "usd_by_class": dict(zip(self.cluster.class_names, self._usd.sum(axis=(0, 2)).tolist(), strict=True)),
            "troubles": list(troubles),
        }
        self.fence.write(self.folder / BILL_FILE, (json.dumps(document) + "\n").encode())


def since_of(observation: Observation) -> Since | None:
    """What came of the decision before, as it is recorded; None where the requests of the time since could not be read."""
    if observation.log_trouble:
        return None
    usd = observation.bill.usd
    return Since(
        span_s=observation.span_s,
        usd=usd.sum(axis=1),
        class_usd=usd.sum(axis=(0, 2)),
        idle_usd=observation.bill.idle_usd.sum(axis=(0, 1)),
        tally=observation.tick.counts,
        told=observation.tick.told,
    )


def same_action(a: Action, b: Action) -> bool:
    """To the last bit."""
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Action))
