"""What is kept of every tick: what was seen, decided and applied, and what came of the tick before.

Enough to decide the tick again to the last bit (the rules' proposals follow from snapshot, plan and memory), and to learn
from it. Symbols: `C` classes, `P` pools, `L` layers of the bill, `K` parts of its idle layer, `W` columns of a tally.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...env.contract import (
    BILL_LAYERS,
    IDLE_PARTS,
    Action,
    Answer,
    BoolArray,
    Cluster,
    Decision,
    FloatArray,
    Memory,
    Mode,
    Plan,
    ScalingCost,
    Snapshot,
)
from ...env.counterfactual import Comparison
from ...env.guard import GuardState, Limits
from ...env.window import empty_tally


@dataclass(frozen=True)
class Chosen:
    """A policy as somebody chose it, told so that it can be made again."""

    name: str
    """As `agents.portfolio.policy_factory` is asked for it."""
    setting: tuple[float, ...] = ()
    """Of static-round-robin and held-plan."""
    knobs: Mapping[str, float] = field(default_factory=dict)
    """Of any other rule; those left out are as shipped."""
    miss_price: float | None = None
    """What a checkpoint should act by instead of its card's."""


@dataclass(frozen=True)
class Sat:
    """One who may decide in a sitting, and how to have it decide again."""

    name: str
    """As decisions name it."""
    policy_hash: str
    chosen: Chosen


@dataclass(frozen=True)
class Sitting:
    """What does not change while a sidecar leads."""

    scenario: str
    """Its name."""
    cluster: Cluster
    limits: Limits
    policies: tuple[Sat, ...] = ()
    """Policy and fallback, where a log can tell how to make them."""
    tick_s: float = float("nan")
    """The decider's seconds from tick to tick; NaN where nobody said."""
    speed_up: float = 1.0
    """The decider's seconds in a second of the wall."""


@dataclass(frozen=True)
class Reach:
    """What the policy may touch at one tick."""

    mode: Mode
    share: FloatArray
    """`[]` of each class's traffic that a canary decides on; 0 where it is given pools instead."""
    pools: BoolArray
    """`[P]` that a canary may scale and cap."""
    rest: Action
    """What goes for everything beyond a canary's reach, and for the share of a decision that the policy is not trusted
    with."""
    trust: float = 1.0
    """The policy's share of every decision; below 1 where the world is not the one it was trained in."""


@dataclass(frozen=True)
class Since:
    """What came of the decision before: dollars and requests of the time since the tick before."""

    span_s: float
    """The decider's seconds; 0 at the first tick of a sitting."""
    usd: FloatArray
    """`[P, L]` the bill by pool and layer (`BILL_LAYERS`), NaN where it is not known."""
    class_usd: FloatArray
    """`[C]` the same bill by class."""
    idle_usd: FloatArray
    """`[K]` its idle layer by `IDLE_PARTS`."""
    tally: FloatArray
    """`[C, W]` requests (`env.window`); token sums over those in `told`."""
    told: FloatArray
    """`[C]` finished requests whose token usage is known."""


def nothing_since(cluster: Cluster) -> Since:
    """Before the first tick nothing came of anything."""
    n_classes, n_pools = len(cluster.class_names), len(cluster.pool_names)
    return Since(
        span_s=0.0,
        usd=np.zeros((n_pools, len(BILL_LAYERS))),
        class_usd=np.zeros(n_classes),
        idle_usd=np.zeros(len(IDLE_PARTS)),
        tally=empty_tally(n_classes),
        told=np.zeros(n_classes),
    )


@dataclass(frozen=True)
class TickRecord:
    """All that went into one decision, the decision, and what came of the one before."""

    sitting: Sitting
    snapshot: Snapshot
    plan: Plan
    memory: Memory
    """What whoever decided remembered, before it decided."""
    guard_state: GuardState
    """What the guard remembered, before it looked."""
    reach: Reach
    """What the policy could touch."""
    decision: Decision
    """Its policy name and hash are those of whoever decided."""
    fell_back: bool = False
    """The policy failed and the fallback decided; why is the first of the reasons."""
    scaling: tuple[ScalingCost, ...] = ()
    """Dollars since the tick before that scaling took, by the decision that caused them."""
    wall_s: float = 0.0
    """When it was recorded, in seconds since 1970."""
    answer: Answer | None = None
    """What a network answered, and how likely; None where a rule decided."""
    in_force: Action | None = None
    """What stands in the world after acting; None: what the decision applied."""
    since: Since | None = None
    """None where nobody counted."""
    comparison: Comparison | None = None
    """With the fallback rule; None where nobody compared."""

    @property
    def stands(self) -> Action:
        """What stands in the world until the next tick."""
        return self.decision.applied if self.in_force is None else self.in_force
