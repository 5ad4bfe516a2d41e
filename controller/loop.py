"""The sidecar's loop: observe, decide, guard, act, record. The deciding parts are pure (`deciding`)."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np

from ..agents.planner.replan import Replanner
from ..env.contract import Action, Decision, Memory, Mode, Plan, Policy, Reason, ReasonCode, Snapshot
from ..env.guard import GuardState, Limits, first_state
from ..env.ledger import scaling_seconds_of
from ..env.scenario import Scenario
from ..telemetry.assemble import PoolState
from ..telemetry.engine_collector import ReplicaEndpoint
from ..telemetry.store import StoreError
from .actuators.caps import CapFiles
from .actuators.envoy import EnvoyRejected, EnvoyUnreachable
from .actuators.envoy_config import Endpoint, RoutingTable
from .actuators.processes import LocalProcesses
from .actuators.replicas import CausedSeconds, PoolReplicas, Stage
from .deciding import Minds, Proposed, conclude, fall_back, name_of, propose
from .observing import Observation, Observer, ReplicaUse
from .routing import routing_table

_LOG: Final = logging.getLogger(__name__)
POLICY_SHARE_OF_TICK: Final = 0.5
"""A policy that takes longer than this share of a tick is not waited for: the fallback decides."""


_PART_OF: Final = {"starting_s": "cold_start", "draining_s": "drain"}
"""Parts of the bill's idle layer, by the actuator's names."""


class Routing(Protocol):
    """Whoever makes the proxy follow a table."""

    async def apply(self, table: RoutingTable) -> object:
        """Make the proxy run `table`; raises EnvoyRejected or EnvoyUnreachable."""
        ...


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
    decision: Decision
    fell_back: bool
    """The policy failed, and the fallback decided."""
    troubles: tuple[str, ...]
    """What could not be done, in words."""
    took_s: float
    """Wall-clock seconds from observing to recording."""

    @property
    def snapshot(self) -> Snapshot:
        """What was seen."""
        return self.observation.snapshot


@dataclass
class Status:
    """How the sidecar is, for its API."""

    mode: Mode
    ticks: int = 0
    fallback_ticks: int = 0
    last_tick_at_s: float = field(default_factory=time.monotonic)
    """On the wall's monotonic clock; before the first tick, when the sidecar was made."""
    applied: bool = False
    """Whether a decision has reached the world."""
    troubles: tuple[str, ...] = ()
    last: Tick | None = None


@dataclass
class Sidecar:
    """One controller of one cluster."""

    scenario: Scenario
    policy: Policy
    fallback: Policy
    planner: Replanner
    limits: Limits
    observer: Observer
    processes: LocalProcesses
    routing: Routing
    caps: CapFiles
    recorder: Recorder
    first_plan: Plan
    mode: Mode
    speed_up: float
    status: Status = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is known yet; the plan counts as the last good action."""
        self.status = Status(self.mode)
        self._cluster = self.scenario.cluster()
        self._plan, self._planned_at_s = self.first_plan, 0.0
        self._planning: asyncio.Task[Plan] | None = None
        self._thinking: asyncio.Future[tuple[Proposed, Minds]] | None = None
        self._minds = Minds(policy={}, fallback={})
        self._caused: tuple[CausedSeconds, ...] = ()
        self._guard_state: GuardState = first_state(self.first_plan, self._cluster)
        start = np.array([float(pool.replicas.start) for pool in self.scenario.pools.values()])
        # What is up is what the scenario starts with, whatever the plan would have.
        self._applied: Action = replace(self._guard_state.applied, replicas=start)

    async def run(self, ticks: AsyncIterator[float]) -> None:
        """Tick until `ticks` ends. A tick that fails is logged and the next one goes on from what it finds."""
        async for now_s in ticks:
            try:
                await self.tick(now_s)
            except Exception as error:  # noqa: BLE001  # the world keeps its last decision, the next tick tries again
                _LOG.exception("tick at %.1f s failed", now_s)
                self.status.troubles = (f"tick failed: {type(error).__name__}: {error}",)

    async def tick(self, now_s: float) -> Tick:
        """One round."""
        started = time.monotonic()
        observation = await self._observe(now_s)
        snapshot, plan, minds, guard_state = observation.snapshot, self._take_plan(), self._minds, self._guard_state
        proposed = await self._propose(snapshot, plan)
        fell_back = proposed.trouble is not None
        decision, self._guard_state = conclude(
            proposed, snapshot, plan, self._cluster, self.limits, guard_state, self.status.ticks, self.mode
        )
        troubles = await self._act(decision) if self.mode is Mode.ACTIVE else ()
        self._plan_again(snapshot)
        memory = minds.fallback if fell_back else minds.policy
        took_s = time.monotonic() - started
        tick = Tick(observation, plan, memory, guard_state, decision, fell_back, troubles, took_s)
        self._note(tick)
        try:
            await self.recorder.record(tick)
        except (StoreError, OSError) as error:
            _LOG.warning("tick %d not recorded: %s", decision.tick, error)
            self.status.troubles = (*troubles, f"not recorded: {error}")
        return tick

    async def _observe(self, now_s: float) -> Observation:
        states, usage = self.processes.states(), self.processes.usage()
        used = {name: ReplicaUse(u.ready_s + u.draining_s, u.starting_s, u.draining_s) for name, u in usage.items()}
        # Kept until they are in a bill: a look that fails must not lose them.
        self._caused = (*self._caused, *self.processes.caused())
        caused = scaling_seconds_of(
            ((c.tick, c.pool, _PART_OF[c.kind], c.seconds) for c in self._caused), self._cluster.pool_names
        )
        observation = await self.observer.observe(
            now_s, _pages(states), self._pool_states(states), used, caused, self._applied.route
        )
        self._caused = ()
        return observation

    def _pool_states(self, states: Mapping[str, PoolReplicas]) -> dict[str, PoolState]:
        return {
            name: PoolState(
                ready=pool.ready,
                starting=pool.starting,
                draining=pool.draining,
                asleep=0,  # local processes are never put to sleep
                target=int(self._applied.replicas[self._cluster.pool_names.index(name)]),
            )
            for name, pool in states.items()
        }

    async def _propose(self, snapshot: Snapshot, plan: Plan) -> Proposed:
        """The policy's proposal in time, or the fallback's."""
        patience_s = POLICY_SHARE_OF_TICK * self.scenario.tick_s / self.speed_up
        late = f"no answer in {patience_s:.2f} s"
        if self._thinking is not None and not self._thinking.done():
            late = "still busy with an earlier tick"  # a second one beside it would only take its time and a thread
        else:
            work = asyncio.to_thread(propose, self.policy, self.fallback, snapshot, plan, self._minds)
            self._thinking = asyncio.ensure_future(work)
            await asyncio.wait({self._thinking}, timeout=patience_s)
            if self._thinking.done():
                proposed, self._minds = self._thinking.result()
                return proposed
        action, memory = self.fallback.decide(snapshot, plan, self._minds.fallback)
        self._minds = Minds(self._minds.policy, memory)
        trouble = Reason(ReasonCode.POLICY_TIMEOUT, name_of(self.policy), math.nan, math.nan, late)
        return fall_back(self.fallback, action, trouble)

    async def _act(self, decision: Decision) -> tuple[str, ...]:
        """Caps first, then replicas, then routing; replicas that left routing may then stop."""
        action = decision.applied
        troubles = []
        names = self._cluster.pool_names
        for name, cap, budget in zip(names, action.batch_cap, action.token_budget, strict=True):
            try:
                self.caps.apply(name, int(cap), int(budget))
            except (OSError, ValueError) as error:
                troubles.append(f"caps of {name}: {error}")
        targets = {name: int(count) for name, count in zip(names, action.replicas, strict=True)}
        await self.processes.apply(targets, decision.tick)
        states = self.processes.states()
        ready = {name: pool.endpoints for name, pool in states.items()}
        try:
            await self.routing.apply(routing_table(self.scenario, action, ready, self.speed_up))
        except (EnvoyRejected, EnvoyUnreachable) as error:
            troubles.append(f"routing: {error}")
        else:
            self.processes.release(frozenset(e for endpoints in ready.values() for e in endpoints))
        for name, pool in states.items():
            if pool.last_failure:  # the actuator replaces it; the sidecar itself stays ready
                _LOG.warning("%s: %s", name, pool.last_failure)
        self._applied = action
        return tuple(troubles)

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

    def _note(self, tick: Tick) -> None:
        status = self.status
        status.ticks += 1
        status.fallback_ticks += tick.fell_back
        status.last_tick_at_s = time.monotonic()
        status.applied = self.mode is Mode.ACTIVE
        status.troubles = tick.troubles
        status.last = tick


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
