"""What is proposed at a tick, and how far it may reach: by the policy or a registry's version, a candidate in its turn,
with noise where exploration is allowed, and with the fallback rule's share where the world has moved away."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ..env.contract import Action, Decision, Memory, Mode, Plan, Reason, Snapshot
from ..env.guard import GuardState
from ..env.scenario import Scenario
from ..telemetry.record import Reach
from .deciding import Proposed
from .drift import Drift, drifted
from .exploring import Explorer
from .health import WELL, Health
from .ladder import Ladder
from .observing import Observation
from .thinking import Thinker
from .versions import Versions


@dataclass(frozen=True)
class Asked:
    """What came of asking."""

    proposed: Proposed
    memory: Memory
    """Of whoever proposes, before."""
    reach: Reach
    """What of it may be touched."""


@dataclass
class Proposals:
    """Everybody who has a say in what is proposed."""

    scenario: Scenario
    thinker: Thinker
    versions: Versions | None = None
    """Follows the registry that the policy is of; its thinker is this one's."""
    explorer: Explorer | None = None
    """Where exploration is enabled."""
    twin: Callable[[], float] = lambda: math.nan
    """The newest error of the simulated twin that somebody told; NaN for none."""
    drift: Drift = field(default_factory=Drift, init=False)
    """How far the world is from the one that the policy was trained in, as of the last tick."""

    def __post_init__(self) -> None:
        """Nobody was asked yet."""
        control, pools = self.scenario.control, self.scenario.pool_names
        self._canary_pools = np.array([name in (control.canary.pools or ()) for name in pools])
        self._trial_pools = np.array([name in (control.trial.pools or pools) for name in pools])

    async def follow(self, mode: Mode) -> bool:
        """Before a decision in `mode`: whether another version decides from now on."""
        return self.versions is not None and await self.versions.follow(mode)

    async def ask(
        self, snapshot: Snapshot, plan: Plan, patience_s: float, trouble: Reason | None, ladder: Ladder, rest: Action
    ) -> Asked:
        """What is proposed, before any exploration.

        Args:
            snapshot: what is seen.
            plan: the planner's.
            patience_s: of the wall, for each answer.
            trouble: why the policy is not to be asked now; None asks it.
            ladder: how far the policy may go.
            rest: what stands where a canary does not reach, unless the fallback rule decides there.
        """
        if self.versions is None:
            proposed, memory = await self.thinker.propose(snapshot, plan, patience_s, trouble)
        else:
            proposed, memory = await self.versions.propose(snapshot, plan, patience_s, trouble, ladder.mode)
        self.drift = self._drifted(proposed, float(snapshot.time_s))
        return Asked(proposed, memory, self._reach(proposed, ladder, rest))

    async def explore(
        self, asked: Asked, observation: Observation, plan: Plan, in_force: Action, state: GuardState, patience_s: float
    ) -> Asked:
        """The same with noise on it, where exploration may be now; as it is elsewhere.

        Args:
            asked: what `ask` gave.
            observation: of this tick; what it tells of the one before is put on the campaign's account.
            plan: the planner's.
            in_force: what stands in the world.
            state: of the guard, before it looks.
            patience_s: of the wall.
        """
        explorer, snapshot = self.explorer, observation.snapshot
        if explorer is None:
            return asked
        explorer.count(snapshot, plan, in_force, observation.bill, observation.tick.counts)
        why = self._nothing_is_tried()
        if why:
            explorer.rests(asked.proposed, asked.reach, why)
            return asked
        proposed, memory, reach = await explorer.explore(
            self.thinker.policy, asked.proposed, asked.memory, asked.reach, snapshot, plan, state, patience_s
        )
        return replace(asked, proposed=proposed, memory=memory, reach=reach)

    def _nothing_is_tried(self) -> str:
        """Why there is to be no noise now; empty where there may be."""
        if self.drift.drifts:
            return "the policy is not at home here"
        compared = self.versions is not None and self.versions.takes_turns
        return "the policy is compared with a candidate" if compared else ""

    def news(self, proposed: Proposed) -> tuple[Reason, ...]:
        """What the decision on `proposed` is to say of versions and exploration."""
        of_versions = self.versions.news() if self.versions is not None else ()
        of_noise = self.explorer.news(proposed) if self.explorer is not None else ()
        return (*of_versions, *of_noise)

    def decided(self, decision: Decision, snapshot: Snapshot, plan: Plan) -> None:
        """After a decision."""
        if self.explorer is not None:
            self.explorer.decided(decision, snapshot, plan)

    def health(self) -> Health:
        """What is wrong with the registry, with exploration, and with the world."""
        asides = (self.versions, self.explorer)
        troubles = (*(aside.trouble for aside in asides if aside is not None), self.drift.in_words())
        return WELL.with_warnings(filter(None, troubles))

    def _drifted(self, proposed: Proposed, now_s: float) -> Drift:
        """What the tick says of the world that the policy was trained in; a fallback's tick says nothing."""
        answer = proposed.answer
        outside, features = (math.nan, ()) if answer is None else (answer.outside_frac, answer.outside)
        return drifted(self.drift, now_s, outside, features, self.twin(), self.scenario.control.drift)

    def _reach(self, proposed: Proposed, ladder: Ladder, rest: Action) -> Reach:
        """What the policy may touch; what has been active once leaves the rest to the rule, a candidate to the incumbent."""
        if proposed.incumbent is not None:
            return Reach(Mode.CANARY, np.array(0.0), self._trial_pools, proposed.incumbent)
        canary = self.scenario.control.canary
        by_rule = canary.rest == "rule" or ladder.was_active
        share = np.array(canary.traffic_share)
        others = proposed.rule if by_rule or (self.drift.drifts and ladder.mode is not Mode.CANARY) else rest
        return Reach(ladder.mode, share, self._canary_pools, others, self.drift.trust)
