"""A slow integral controller on head-room around any rule: more after misses, less while the allowance lasts.

Source: integral control of a set-point with clamping against wind-up (Astrom and Murray, Feedback Systems, 2nd ed.,
ch. 11); the set-point is the allowance of misses over a rolling window, as error budgets are watched in reliability
engineering (Google, Site Reliability Workbook, ch. 5).

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ...env.codec import Proposal, track_budget, whole_replicas
from ...env.contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot
from ..rules import Knob, Rule

SUFFIX: Final = "+integral"
"""`NAME+integral` is the rule NAME with this controller around it."""
KNOBS: Final = (
    Knob("gain", 1.0, 0.1, 6.0, "growth of the logarithm of head-room per hour at an allowance just used up", log=True),
    Knob("limit", 0.35, 0.05, 0.7, "head-room is multiplied by at most exp(this), and by no less than exp(-this)"),
)
"""What it adds to the knobs of the rule."""

WRAPPED: Final = "wrapped."
"""The rule's own memory is kept under names that start so."""
AIM: Final = 0.25
"""Share of the allowance that is to be left: at 0 half of all windows would miss."""
MOST_SPARE, MOST_OVERDRAWN = 0.3, 4.0
"""How much of the allowance is counted at most, left and overdrawn: head-room grows faster than it shrinks."""
LONGEST_S: Final = 300.0
"""A longer tick counts as this long."""


@dataclass(frozen=True)
class Integral:
    """`rule` with its head-room controlled, class by class."""

    cluster: Cluster
    rule: Rule
    gain: float = 1.0
    limit: float = 0.35

    @property
    def name(self) -> str:
        """The rule's name with the suffix."""
        return f"{getattr(self.rule, 'name', type(self.rule).__name__)}{SUFFIX}"

    @property
    def follows_plan(self) -> bool:
        """As the rule does."""
        return self.rule.follows_plan

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The corrected proposal's action."""
        proposal, memory = self.propose(snapshot, plan, memory)
        return proposal.action, memory

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """The rule's proposal with each class's need times its factor; zeros in memory mean a factor of 1."""
        own: Memory = {k.removeprefix(WRAPPED): v for k, v in memory.items() if k.startswith(WRAPPED)}
        proposal, own = self.rule.propose(snapshot, plan, own)
        left, budget = track_budget(snapshot, self.cluster, memory)
        if "log_factor" in memory:
            elapsed_s = np.clip(snapshot.time_s - memory["budget_at_s"], 0.0, LONGEST_S)[..., None]
            log_factor = memory["log_factor"] + self._change(left, proposal, snapshot) * elapsed_s / 3600.0
        else:
            log_factor = np.zeros(self.cluster.class_mask.shape)
        log_factor = np.where(self.cluster.class_mask, np.clip(log_factor, -self.limit, self.limit), 0.0)
        bent = with_headroom(proposal, np.exp(log_factor), self.cluster)
        remembered = {WRAPPED + name: value for name, value in own.items()}
        return bent, {**remembered, **budget, "log_factor": log_factor}

    def _change(self, left: FloatArray, proposal: Proposal, snapshot: Snapshot) -> FloatArray:
        """`[..., C]` per hour. Nothing grows while what was asked for has not come, nor where nothing more can be had.

        That is the second half of the guard against wind-up: clamping alone would go on counting misses that more
        head-room cannot mend any sooner.
        """
        error = np.clip(AIM - left, -MOST_SPARE, MOST_OVERDRAWN)
        cluster = self.cluster
        used = proposal.need > 0
        target = snapshot.plausible("target", proposal.action.replicas)
        pending = target > snapshot.plausible("ready", target) + 0.5
        exhausted = proposal.action.replicas >= cluster.max_replicas
        waits = (used & pending[..., None, :]).any(axis=-1)
        stuck = ~(cluster.serves & ~exhausted[..., None, :]).any(axis=-1)
        return self.gain * np.where((error > 0) & (waits | stuck), 0.0, error)


def with_headroom(proposal: Proposal, factor: FloatArray, cluster: Cluster) -> Proposal:
    """A proposal with each class's need times `factor` `[..., C]`, rounded again.

    What the rule holds beyond its need (a cooldown, a floor, replicas not yet replaced) stays on top, as in
    `env.codec.decode`; a factor of 1 changes nothing.
    """
    base = proposal.action
    need = proposal.need * factor[..., None]
    on_top = base.replicas - np.minimum(whole_replicas(proposal.need.sum(axis=-2)), cluster.max_replicas)
    counts = np.minimum(whole_replicas(need.sum(axis=-2)), cluster.max_replicas) + on_top
    counts = np.clip(counts, cluster.min_replicas, cluster.max_replicas)
    # A rule within its limits stays so to the last bit; one that goes beyond is left to the guard.
    counts = np.where((factor == 1.0).all(axis=-1, keepdims=True), base.replicas, counts)
    return Proposal(action=replace(base, replicas=counts), need=need)
