"""The sidecar's loop: observe, decide, guard, act, record. The deciding parts are pure (`deciding`, `reach`, `ladder`)."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np

from ..agents.planner.replan import Replanner
from ..env.contract import (
    NO_DECISION,
    Action,
    Answer,
    Decision,
    FloatArray,
    Memory,
    Mode,
    Plan,
    Reason,
    ReasonCode,
    Snapshot,
)
from ..env.counterfactual import Comparison
from ..env.guard import GuardState, Limits, first_state
from ..env.ledger import scaling_seconds_of
from ..env.scenario import Scenario
from ..env.window import FINISHED, LOST, MET
from ..telemetry.assemble import PoolState
from ..telemetry.engine_collector import ReplicaEndpoint
from ..telemetry.record import Reach
from ..telemetry.store import StoreError
from . import shadow
from .acting import Hands
from .actuators.envoy_config import Endpoint
from .actuators.replicas import CausedSeconds, PoolReplicas, Stage
from .blindness import blind
from .comparing import begun, compared
from .deciding import Proposed, conclude
from .drift import Drift, drifted
from .exploring import Explorer
from .fencing import Fenced
from .handover import Account, Remembered
from .health import WELL, Health
from .judging import evidence
from .ladder import RUNGS, Ladder, Move, asked, judged, renewed, wanting
from .observing import Observation, Observer, ReplicaUse
from .thinking import POLICY_SHARE_OF_TICK, Thinker
from .trial import Outcome
from .versions import Versions

_LOG: Final = logging.getLogger(__name__)
_PART_OF: Final = {"starting_s": "cold_start", "draining_s": "drain", "asleep_s": "asleep"}
"""Parts of the bill's idle layer, by the actuator's names."""


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


@dataclass
class Sidecar:
    """One controller of one cluster."""

    scenario: Scenario
    thinker: Thinker
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
    twin: Callable[[], float] = lambda: math.nan
    """The newest error of the simulated twin that somebody told; NaN for none."""
    versions: Versions | None = None
    """Follows the registry that the policy is of; its thinker is this one's."""
    explorer: Explorer | None = None
    """Where exploration is enabled."""
    status: Status = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is known yet; what is in force counts as the last good action."""
        self.status = Status(self.ladder.mode, self.ladder.goal)
        if self.account is not None:
            self.status.ticks, self.status.fallback_ticks = self.account.tick + 1, self.account.fallback_ticks
        self._rest = self.rest or self.in_force
        self._cluster = self.scenario.cluster()
        self._gates = self.scenario.control.gates
        canary = self.scenario.control.canary
        pools = self._cluster.pool_names
        self._canary_pools = np.array([name in (canary.pools or ()) for name in pools])
        self._trial_pools = np.array([name in (self.scenario.control.trial.pools or pools) for name in pools])
        self._plan, self._planned_at_s = self.first_plan, self.begins_at_s
        self._planning: asyncio.Task[Plan] | None = None
        self._caused: tuple[CausedSeconds, ...] = ()
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
        self._drift = Drift()
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
        observation = await self._observe(now_s)
        snapshot, plan, guard_state = observation.snapshot, self._take_plan(), self._guard_state
        patience_s = POLICY_SHARE_OF_TICK * self.scenario.tick_s / self.speed_up
        proposed, memory = await self._propose(snapshot, plan, patience_s, self._trouble(observation))
        self._drift = self._drifted(proposed, float(snapshot.time_s))
        reach = self._reach(proposed)
        explorer, news = self.explorer, self._news()
        if explorer is not None:
            explorer.count(snapshot, plan, self.in_force, observation.bill, observation.tick.counts)
            proposed, memory, reach = await explorer.explore(
                self.thinker.policy,
                proposed,
                memory,
                reach,
                snapshot,
                plan,
                guard_state,
                patience_s,
                at_home=not self._drift.drifts,
            )
            news = (*news, *explorer.news(proposed))
        decision, state = conclude(
            proposed,
            snapshot,
            plan,
            self._cluster,
            self.limits,
            guard_state,
            self.status.ticks,
            reach,
            news,
            self.fencing_token,
        )
        if explorer is not None:
            explorer.decided(decision, snapshot, plan)
        comparison, self._courses = compared(
            self._courses,
            proposed,
            decision,
            snapshot,
            plan,
            self._cluster,
            self.limits,
            self.in_force,
            observation.bill,
        )
        wanted = self.in_force if reach.mode is Mode.ADVISE else decision.applied
        acted = await self.hands.apply(wanted, self.in_force, decision.tick)
        self.in_force = acted.in_force
        self._guard_state = replace(state, applied=self.in_force)
        self._plan_again(snapshot)
        health = observation.health(self.scenario.guard.stale_after_s).and_also(acted.health)
        health = health.and_also(self._version_health())
        health = health.with_warnings(filter(None, (self._drift.in_words(),)))
        took_s = time.monotonic() - started
        fell_back = proposed.trouble is not None
        tick = Tick(
            observation,
            plan,
            memory,
            guard_state,
            reach,
            decision,
            fell_back,
            self.in_force,
            health,
            took_s,
            comparison,
            self.thinker.remembered(),
            self._guard_state.changed_at_s,
            proposed.answer,
            self._drift,
        )
        self._note(tick)
        self._judge(tick, proposed)
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

    # Modes

    def request_mode(self, mode: Mode) -> str | None:
        """Somebody asks for a mode: down at once, up one rung at a time as the gates allow.

        Returns:
            None if the mode is in force or under way (`status.gate` tells what it waits for), else why it is not to be had.
        """
        self.ladder, move, refusal = asked(self.ladder, mode, self._gates)
        self._moved_by(move)
        return refusal

    async def _propose(
        self, snapshot: Snapshot, plan: Plan, patience_s: float, trouble: Reason | None
    ) -> tuple[Proposed, Memory]:
        """What the policy proposes; of a registry's, the version that decides or the candidate whose turn it is."""
        if self.versions is None:
            return await self.thinker.propose(snapshot, plan, patience_s, trouble)
        if await self.versions.follow(self.ladder.mode):
            self.ladder = renewed(self.ladder)
        return await self.versions.propose(snapshot, plan, patience_s, trouble, self.ladder.mode)

    def _version_health(self) -> Health:
        asides = (self.versions, self.explorer)
        troubles = tuple(aside.trouble for aside in asides if aside is not None and aside.trouble)
        return Health(warnings=troubles) if troubles else WELL

    def _drifted(self, proposed: Proposed, now_s: float) -> Drift:
        """What the tick says of the world that the policy was trained in; a fallback's tick says nothing."""
        answer = proposed.answer
        outside, features = (math.nan, ()) if answer is None else (answer.outside_frac, answer.outside)
        return drifted(self._drift, now_s, outside, features, self.twin(), self.scenario.control.drift)

    def _reach(self, proposed: Proposed) -> Reach:
        """What the policy may touch; what has been active once leaves the rest to the rule, a candidate to the incumbent."""
        if proposed.incumbent is not None:
            return Reach(Mode.CANARY, np.array(0.0), self._trial_pools, proposed.incumbent)
        canary = self.scenario.control.canary
        by_rule = canary.rest == "rule" or self.ladder.was_active
        share = np.array(canary.traffic_share)
        rest = proposed.rule if by_rule or (self._drift.drifts and self.ladder.mode is not Mode.CANARY) else self._rest
        return Reach(self.ladder.mode, share, self._canary_pools, rest, self._drift.trust)

    def _judge(self, tick: Tick, proposed: Proposed) -> None:
        """What the tick says of the policy, and whether that moves the mode."""
        snapshot, plan, now_s = tick.snapshot, tick.plan, float(tick.snapshot.time_s)
        cold_start_s = snapshot.plausible("cold_start_s", self._cluster.cold_start_s)
        self._shadow = shadow.wished(self._shadow, now_s, proposed.rule.replicas, cold_start_s)
        up = shadow.up(self._shadow, now_s, cold_start_s)
        counts = tick.observation.tick.counts
        found = evidence(counts, snapshot, plan, proposed, tick.decision, up, self._cluster)
        if self.versions is not None and not self.versions.judge(now_s, self.ladder.mode, found, _outcome(tick)):
            self._moved_by(None)  # a candidate's doing, which is not held against the version that decides
        elif self._unusable(proposed.trouble):
            self.ladder = renewed(self.ladder)
            self._moved_by(None)
        elif (
            tick.decision.mode is self.ladder.mode or proposed.plain is not None
        ):  # else it was changed meanwhile, and this tick was of another one
            after, move = judged(self.ladder, found, self._gates, steps_back=self.steps_back)
            back = move is not None and not move.up and self.versions is not None and self.versions.roll_back(move.why)
            self.ladder = renewed(self.ladder) if back else after
            self._moved_by(None if back else move)

    def _unusable(self, trouble: Reason | None) -> bool:
        """Whether a version on probation answered with what cannot be used, and is gone back from: no need to wait for more."""
        own = (ReasonCode.POLICY_ERROR, ReasonCode.NOT_FINITE)
        if not self.steps_back or self.versions is None or trouble is None or trouble.code not in own:
            return False
        return self.versions.roll_back(f"{trouble.code}: {trouble.detail}")

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
        told = self.versions.news() if self.versions is not None else ()
        move, self._moved = self._moved, None
        if move is None:
            return told
        code = ReasonCode.PROMOTED if move.up else ReasonCode.STEPPED_BACK
        before, after = float(RUNGS.index(move.before)), float(RUNGS.index(move.after))
        return (*told, Reason(code, move.after.value, before, after, move.why))

    # Seeing

    def _trouble(self, observation: Observation) -> Reason | None:
        """Why the policy is not to be asked now."""
        trouble = blind(observation, self._cluster, self.scenario.guard.stale_after_s, resumed=self.resumed)
        if trouble is None:
            self.resumed = False
        if trouble is None and self._unrecorded:
            trouble = Reason(ReasonCode.STORE_GONE, "store", math.nan, math.nan, self._unrecorded)
        return trouble

    async def _observe(self, now_s: float) -> Observation:
        replicas = self.hands.replicas
        states, usage = replicas.states(), replicas.usage()
        used = {
            name: ReplicaUse(u.ready_s + u.draining_s, u.starting_s, u.draining_s, u.asleep_s)
            for name, u in usage.items()
        }
        # Kept until they are in a bill: a look that fails must not lose them.
        self._caused = (*self._caused, *replicas.caused())
        caused = scaling_seconds_of(
            ((c.tick, c.pool, _PART_OF[c.kind], c.seconds) for c in self._caused), self._cluster.pool_names
        )
        observation = await self.observer.observe(
            now_s, _pages(states), self._pool_states(states), used, caused, self.in_force.route
        )
        self._caused = ()
        return observation

    def _pool_states(self, states: Mapping[str, PoolReplicas]) -> dict[str, PoolState]:
        return {
            name: PoolState(
                ready=pool.ready,
                starting=pool.starting,
                draining=pool.draining,
                asleep=pool.asleep,
                target=int(self.in_force.replicas[self._cluster.pool_names.index(name)]),
            )
            for name, pool in states.items()
        }

    # Planning

    def _take_plan(self) -> Plan:
        """The newest plan; one that is still being made is not waited for."""
        if self._planning and self._planning.done():
            try:
                self._plan = self._planning.result()
            except (RuntimeError, ValueError) as error:
                _LOG.warning("no new plan: %s", error)
            self._planning = None
        return self._plan

    def _plan_again(self, snapshot: Snapshot) -> None:
        """Start a new plan off the tick's path, where one is due."""
        if self._planning is None and self.planner.due(self._plan, self._planned_at_s, snapshot):
            self._planned_at_s = float(snapshot.time_s)
            self._planning = asyncio.create_task(asyncio.to_thread(self.planner.again, self._plan, snapshot))

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
        if self.versions is not None:
            self.status.version, self.status.trial = self.versions.incumbent, self.versions.told
        if self.explorer is not None:
            self.status.exploration = self.explorer.told
        self.status.gate = "" if self.ladder.mode is Mode.ACTIVE else wanting(self.ladder, self._gates)


def _outcome(tick: Tick) -> Outcome:
    """What came of the decision before, for a trial."""
    counts, compared_ = tick.observation.tick.counts, tick.comparison
    return Outcome(
        judged=counts[:, FINISHED] + counts[:, LOST],
        met=counts[:, MET],
        usd=float(compared_.usd.sum()),
        rule_usd=float(compared_.rule_usd.sum()),
    )


def _pages(states: Mapping[str, PoolReplicas]) -> tuple[ReplicaEndpoint, ...]:
    """The metrics pages of replicas that serve or drain."""
    return tuple(
        ReplicaEndpoint(r.pool, r.name, _url(r.endpoint), draining=r.stage is Stage.DRAINING)
        for pool in states.values()
        for r in pool.replicas
        if r.endpoint and r.stage in (Stage.READY, Stage.DRAINING)
    )


def _url(endpoint: Endpoint) -> str:
    return f"http://{endpoint.host}:{endpoint.port}/metrics"
