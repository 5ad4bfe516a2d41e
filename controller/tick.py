"""A tick as it is kept and told: everything that went into a decision, what came of it, and how the sidecar stands after it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from ..env.contract import Action, Answer, Decision, FloatArray, Memory, Mode, Plan, Snapshot
from ..env.counterfactual import Comparison
from ..env.guard import GuardState
from ..env.window import FINISHED, LOST, MET
from ..telemetry.record import Reach
from .drift import Drift
from .handover import Remembered
from .health import WELL, Health
from .observing import Observation
from .trial import Outcome


class Recorder(Protocol):
    """Whoever keeps ticks: decision log, store, metrics."""

    async def record(self, tick: Tick) -> None:
        """Keep one tick."""
        ...


@dataclass(frozen=True)
class Tick:
    """Everything about one tick, inputs first."""

    observation: Observation
    plan: Plan
    memory: Memory
    """Of whoever decided, before."""
    guard_state: GuardState
    """The guard's, before it looked."""
    reach: Reach
    """What the policy could touch."""
    decision: Decision
    fell_back: bool
    """The policy failed, and the fallback decided."""
    in_force: Action
    """What stands in the world after acting; in `advise` what stood there before."""
    health: Health
    """What could not be seen or done."""
    took_s: float
    """Wall-clock seconds from observing to recording."""
    comparison: Comparison
    """With the fallback rule."""
    remembered: tuple[Remembered, Remembered]
    """What policy and fallback remember after it."""
    changed_at_s: FloatArray
    """`[P]` what the guard remembers after it, beside what is in force."""
    answer: Answer | None = None
    """What the policy's network answered; None where a rule decided."""
    drift: Drift = field(default_factory=Drift)
    """How far the world is from the one that the policy was trained in."""

    @property
    def snapshot(self) -> Snapshot:
        """What was seen."""
        return self.observation.snapshot

    @property
    def saving_usd_per_hr(self) -> float:
        """Rent of the replicas in force less that of those decided on: what an adviser expects to save; else about 0."""
        price = self.snapshot.plausible("usd_per_hr", 0.0)
        return float(((self.in_force.replicas - self.decision.applied.replicas) * price).sum())

    @property
    def outcome(self) -> Outcome:
        """What came of the decision before, for a trial."""
        counts = self.observation.tick.counts
        return Outcome(
            judged=counts[:, FINISHED] + counts[:, LOST],
            met=counts[:, MET],
            usd=float(self.comparison.usd.sum()),
            rule_usd=float(self.comparison.rule_usd.sum()),
        )


@dataclass
class Status:
    """How the sidecar is, for its API."""

    mode: Mode
    goal: Mode
    """As high as the mode may rise by itself."""
    gate: str = ""
    """What the next mode's gate waits for; empty where there is none."""
    last_move: str = ""
    """How the mode came about, where it changed."""
    ticks: int = 0
    fallback_ticks: int = 0
    last_tick_at_s: float = field(default_factory=time.monotonic)
    """On the wall's monotonic clock; before the first tick, when the sidecar was made."""
    applied: bool = False
    """Whether a decision has reached the world."""
    version: str = ""
    """That decides, of a registry's."""
    trial: str = ""
    """Of a candidate, and how far it has come; empty where there is none."""
    exploration: str = ""
    """What its campaign has spent, and whether it is over; empty where there is none."""
    health: Health = WELL
    """What is wrong now."""
    last: Tick | None = None
