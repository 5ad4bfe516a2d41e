"""The sidecar's loop: observe, decide, guard, act, record. The deciding parts are pure (`deciding`, `reach`, `ladder`)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from ..agents.planner.replan import Replanner
from ..env.contract import NO_DECISION, Action, Mode, Plan, Reason, ReasonCode
from ..env.guard import GuardState, Limits, first_state
from ..env.scenario import Scenario
from ..telemetry.store import StoreError
from . import shadow
from .acting import Hands
from .blindness import blind
from .comparing import begun, compared
from .deciding import Proposed, conclude
from .fencing import Fenced
from .handover import Account
from .health import Health
from .judging import evidence
from .ladder import RUNGS, Ladder, Move, asked, judged, renewed, wanting
from .looking import Eyes
from .observing import Observation, Observer
from .planning import Plans
from .proposing import Proposals
from .thinking import POLICY_SHARE_OF_TICK
from .tick import Recorder, Status, Tick

_LOG: Final = logging.getLogger(__name__)


@dataclass
class Sidecar:
    """One controller of one cluster."""

    scenario: Scenario
    proposals: Proposals
    planner: Replanner
    limits: Limits
    observer: Observer
    hands: Hands
    recorder: Recorder
    first_plan: Plan
    ladder: Ladder
    speed_up: float
    in_force: Action
    """What stands in the world: weights, admission, caps and counts."""
    resumed: bool = False
    """It goes on from what another sidecar left: nothing is changed before there is something to be seen."""
    steps_back: bool = True
    """Whether a breach lowers the mode; off only to compare policies, bad ones included."""
    keep: Callable[[Ladder, Action, Action], None] = lambda ladder, in_force, rest: None
    """Told at every change what the next sidecar needs to know: the ladder, what is in force, and `rest`."""
    rest: Action | None = None
    """What stood in the world when the present mode began; left out: what is in force."""
    fencing_token: int = 0
    """Of its term; stands in every decision."""
    account: Account | None = None
    """Where the last term ended; None begins anew."""
    begins_at_s: float = 0.0
    """On its clock."""
    status: Status = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is known yet; what is in force counts as the last good action."""
        self.status = Status(self.ladder.mode, self.ladder.goal)
        if self.account is not None:
            self.status.ticks, self.status.fallback_ticks = self.account.tick + 1, self.account.fallback_ticks
        self._rest = self.rest or self.in_force
        self._cluster = self.scenario.cluster()
        self._gates = self.scenario.control.gates
        self._eyes = Eyes(self.observer, self.hands.replicas, self._cluster)
        self._plans = Plans(self.planner, self.first_plan, self.begins_at_s)
        state = first_state(self.first_plan, self._cluster)
        changed_at_s = state.changed_at_s
        if self.resumed:  # where nobody knows when something was scaled last, the cooldown begins anew
            anew = np.full_like(state.changed_at_s, self.begins_at_s)
            changed_at_s = anew if self.account is None else self.account.changed_at_s
        self._guard_state: GuardState = GuardState(changed_at_s, self.in_force)
        self._shadow = shadow.found(self.in_force.replicas)
        self._courses = begun(self.in_force)
        self._moved: Move | None = None
        self._unrecorded = ""
        self._ticking = False

    # Time

    async def run(self, ticks: AsyncIterator[float]) -> None:
        """Tick until `ticks` ends, or another sidecar leads (Fenced). A tick that fails is logged, and the next one goes on."""
        async for now_s in ticks:
            try:
                await self.tick(now_s)
            except Fenced:
                raise
            except Exception as error:  # noqa: BLE001  # the world keeps its last decision, the next tick tries again
                _LOG.exception("tick at %.1f s failed", now_s)
                kept = await self.hands.apply(self.in_force, self.in_force, NO_DECISION)
                failed = (f"tick failed: {type(error).__name__}: {error}",)
                self.status.health = Health(problems=failed).and_also(kept.health)

    async def tick(self, now_s: float) -> Tick:
        """One round. RuntimeError while another one is under way: two would act on top of each other."""
        if self._ticking:
            raise RuntimeError("a tick is under way; two would act on top of each other")
        self._ticking = True
        try:
            return await self._tick(now_s)
        finally:
            self._ticking = False

    async def _tick(self, now_s: float) -> Tick:
        started = time.monotonic()
        observation = await self._eyes.look(now_s, self.in_force)
        snapshot, plan, guard_state = observation.snapshot, self._plans.newest(), self._guard_state
        patience_s, trouble = POLICY_SHARE_OF_TICK * self.scenario.tick_s / self.speed_up, self._trouble(observation)
        if await self.proposals.follow(self.ladder.mode):
            self.ladder = renewed(self.ladder)
        own = await self.proposals.ask(snapshot, plan, patience_s, trouble, self.ladder, self._rest)
        own = await self.proposals.explore(own, observation, plan, self.in_force, guard_state, patience_s)
        decision, state = conclude(
            own.proposed,
            snapshot,
            plan,
            self._cluster,
            self.limits,
            guard_state,
            self.status.ticks,
            own.reach,
            (*self._news(), *self.proposals.news(own.proposed)),
            self.fencing_token,
        )
        self.proposals.decided(decision, snapshot, plan)
        comparison, self._courses = compared(
            self._courses,
            own.proposed,
            decision,
            snapshot,
            plan,
            self._cluster,
            self.limits,
            self.in_force,
            observation.bill,
        )
        wanted = self.in_force if own.reach.mode is Mode.ADVISE else decision.applied
        acted = await self.hands.apply(wanted, self.in_force, decision.tick)
        self.in_force = acted.in_force
        self._guard_state = replace(state, applied=self.in_force)
        self._plans.again(snapshot)
        health = observation.health(self.scenario.guard.stale_after_s).and_also(acted.health)
        tick = Tick(
            observation,
            plan,
            own.memory,
            guard_state,
            own.reach,
            decision,
            own.proposed.trouble is not None,
            self.in_force,
            health.and_also(self.proposals.health()),
            time.monotonic() - started,
            comparison,
            self.proposals.thinker.remembered(),
            self._guard_state.changed_at_s,
            own.proposed.answer,
            self.proposals.drift,
        )
        self._note(tick)
        self._judge(tick, own.proposed)
        await self._record(tick)
        return tick

    async def _record(self, tick: Tick) -> None:
        try:
            await self.recorder.record(tick)
        except (StoreError, OSError) as error:
            _LOG.warning("tick %d not recorded: %s", tick.decision.tick, error)
            self._unrecorded = str(error)
            self.status.health = self.status.health.with_warnings((f"not recorded: {error}",))
        else:
            self._unrecorded = ""

    def _trouble(self, observation: Observation) -> Reason | None:
        """Why the policy is not to be asked now."""
        trouble = blind(observation, self._cluster, self.scenario.guard.stale_after_s, resumed=self.resumed)
        if trouble is None:
            self.resumed = False
        if trouble is None and self._unrecorded:
            trouble = Reason(ReasonCode.STORE_GONE, "store", math.nan, math.nan, self._unrecorded)
        return trouble

    # Modes

    def request_mode(self, mode: Mode) -> str | None:
        """Somebody asks for a mode: down at once, up one rung at a time as the gates allow.

        Returns:
            None if the mode is in force or under way (`status.gate` tells what it waits for), else why it is not to be had.
        """
        self.ladder, move, refusal = asked(self.ladder, mode, self._gates)
        self._moved_by(move)
        return refusal

    def _judge(self, tick: Tick, proposed: Proposed) -> None:
        """What the tick says of the policy, and whether that moves the mode."""
        snapshot, plan, now_s = tick.snapshot, tick.plan, float(tick.snapshot.time_s)
        cold_start_s = snapshot.plausible("cold_start_s", self._cluster.cold_start_s)
        self._shadow = shadow.wished(self._shadow, now_s, proposed.rule.replicas, cold_start_s)
        up = shadow.up(self._shadow, now_s, cold_start_s)
        counts, versions = tick.observation.tick.counts, self.proposals.versions
        found = evidence(counts, snapshot, plan, proposed, tick.decision, up, self._cluster)
        if versions is not None and not versions.judge(now_s, self.ladder.mode, found, tick.outcome):
            self._moved_by(None)  # a candidate's doing, which is not held against the version that decides
        elif self._unusable(proposed.trouble):
            self.ladder = renewed(self.ladder)
            self._moved_by(None)
        elif (
            tick.decision.mode is self.ladder.mode or proposed.plain is not None
        ):  # else it was changed meanwhile, and this tick was of another one
            after, move = judged(self.ladder, found, self._gates, steps_back=self.steps_back)
            back = move is not None and not move.up and versions is not None and versions.roll_back(move.why)
            self.ladder = renewed(self.ladder) if back else after
            self._moved_by(None if back else move)

    def _unusable(self, trouble: Reason | None) -> bool:
        """Whether a version on probation answered with what cannot be used, and is gone back from: no need to wait for more."""
        own, versions = (ReasonCode.POLICY_ERROR, ReasonCode.NOT_FINITE), self.proposals.versions
        if not self.steps_back or versions is None or trouble is None or trouble.code not in own:
            return False
        return versions.roll_back(f"{trouble.code}: {trouble.detail}")

    def _moved_by(self, move: Move | None) -> None:
        if move is not None:
            said = f"{move.before} to {move.after}: {move.why}"
            _LOG.warning("mode %s", said)
            self._moved, self._rest, self.status.last_move = move, self.in_force, said
        self._tell_status()
        self._keep()

    def _keep(self) -> None:
        try:
            self.keep(self.ladder, self.in_force, self._rest)
        except OSError as error:
            _LOG.warning("what stands could not be kept: %s", error)
            self.status.health = self.status.health.with_warnings((f"what stands could not be kept: {error}",))

    def _news(self) -> tuple[Reason, ...]:
        """The change of mode since the last decision."""
        move, self._moved = self._moved, None
        if move is None:
            return ()
        code = ReasonCode.PROMOTED if move.up else ReasonCode.STEPPED_BACK
        before, after = float(RUNGS.index(move.before)), float(RUNGS.index(move.after))
        return (Reason(code, move.after.value, before, after, move.why),)

    # Telling

    def _note(self, tick: Tick) -> None:
        status = self.status
        status.ticks += 1
        status.fallback_ticks += tick.fell_back
        status.last_tick_at_s = time.monotonic()
        status.applied = tick.decision.mode is not Mode.ADVISE
        status.health = tick.health
        status.last = tick
        self._tell_status()

    def _tell_status(self) -> None:
        self.status.mode, self.status.goal = self.ladder.mode, self.ladder.goal
        versions = self.proposals.versions
        if versions is not None:
            self.status.version, self.status.trial = versions.incumbent, versions.told
        if self.proposals.explorer is not None:
            self.status.exploration = self.proposals.explorer.told
        self.status.gate = "" if self.ladder.mode is Mode.ACTIVE else wanting(self.ladder, self._gates)
