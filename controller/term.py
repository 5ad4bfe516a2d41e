"""One term of leadership: takes up what is there, or brings it up, ticks until it is over, and leaves or stops it all.

What was found running in the folder goes on: Envoy, replicas, weights, caps, counts and mode. Whatever the term changes it
changes through its fence, so that a leader of the past changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
import numpy as np

from ..agents.registry import Registry, RegistryError, named_registry
from ..env.contract import Action, Cluster, Plan
from ..env.scenario import Scenario
from ..telemetry.engine_collector import EngineCollector
from ..telemetry.envoy_log import LogTail
from ..telemetry.exported_learner import ExplorationMetrics
from ..telemetry.exporter import SidecarMetrics
from ..telemetry.learner_progress import PROGRESS_FILE
from ..telemetry.log_sources import OneLog
from ..telemetry.record import Keeping, Sitting
from ..telemetry.store import DAY_S, Store, StoreError
from . import exploring, handover, standing
from .acting import Hands
from .actuators import envoy_process
from .actuators.admission import AdmissionError, CappedRouting
from .actuators.caps import CapFiles
from .actuators.envoy import EnvoyFiles, EnvoyRejected, EnvoyUnreachable, write
from .actuators.envoy_config import Endpoint, RoutingTable
from .actuators.envoy_keeper import kept
from .actuators.envoy_process import EnvoyFolder, RunningEnvoy
from .actuators.fleet import Fleet
from .actuators.in_flight import requests_at
from .actuators.local_replica import LocalSettings
from .actuators.own_servers import OwnServers
from .actuators.processes import LocalProcesses
from .clock import Clock
from .decision_log import DecisionLog
from .exploration import Account as ExplorationAccount
from .exploring import Explorer
from .fencing import Fence
from .first_replicas import PROCESS_START_S, command_of, drawn_delay_s, sleeps_of, until_answered, until_ready
from .front import Front
from .handover import Account
from .ladder import Ladder, standing_on
from .leadership import Leadership
from .loop import Sidecar
from .observing import Observer, more_sources
from .other_envoys import OtherEnvoys, other_envoys
from .preparing import Prepared, opening_action
from .proposing import Proposals
from .recording import Records
from .routing import routing_table
from .settings import ControlSettings, StartError
from .standing import Standing, StandingError
from .thinking import Thinker
from .tick import Status
from .trial import rules_of
from .twin_watch import TwinWatch
from .versions import Versions

_LOG: Final = logging.getLogger(__name__)
COLLECTING_SHARE_OF_TICK: Final = 0.5
"""Pages that have not come after this share of a tick are missing at this one (a second's patience they have always)."""

REGISTRY_PATIENCE_S: Final = 0.2
"""Of the wall, for another writer of the registry: one that was stopped half-way must hold up no tick, and no lease."""
MOST_PATIENCE_S: Final = 5.0
"""Of the wall, for proxies elsewhere to follow one step of a change."""


@dataclass
class Term:
    """A leader's work, from winning the election until `stopping` or until somebody else leads."""

    scenario: Scenario
    prepared: Prepared
    settings: ControlSettings
    session: aiohttp.ClientSession
    store: Store
    leadership: Leadership
    fence: Fence
    front: Front
    _clock: Clock | None = field(default=None, init=False)
    """None until scenario time begins, or goes on."""
    _warming: bool = field(default=True, init=False)
    """The first replicas come without a provisioning delay."""

    def __post_init__(self) -> None:
        """Nothing is looked at or started yet."""
        self._rng = np.random.default_rng(self.settings.seed)
        self._caps = CapFiles(self.settings.folder / "caps", self.fence)
        self._cluster: Cluster = self.prepared.cluster

    def _sitting(self) -> Sitting:
        scenario = self.scenario
        return Sitting(
            scenario.name,
            self._cluster,
            scenario.limits(),
            self.prepared.sat,
            scenario.tick_s,
            self.settings.speed_up,
        )

    def _keeping(self) -> Keeping:
        """How much of the decision log is kept."""
        own = self.scenario.control.record
        return Keeping(max_bytes=int(own.max_gb * 1e9), max_age_s=own.max_days * DAY_S)

    def now_s(self) -> float:
        """Scenario time; 0 until it begins."""
        return self._clock.now_s() if self._clock else 0.0

    async def lead(self, stopping: asyncio.Event, on_ready: Callable[[RunningEnvoy], None]) -> Status:
        """All of it; how the sidecar was at the end. Raises as `assembly.steer`."""
        left, thinker = self._left(), Thinker(self.prepared.policy, self.prepared.fallback)
        account = await self._account(thinker)
        async with AsyncExitStack() as stack:
            sitting = self._sitting()
            path, keeping = self.settings.folder / "decisions.jsonl", self._keeping()
            log = stack.enter_context(DecisionLog(path, sitting, self.fence, keeping))
            local = self._local()
            processes = Fleet(local, self._own_servers())
            opening = left.in_force if left else opening_action(self.prepared.plan, self.scenario)
            envoy, found = await self._envoy(opening)
            keeper = await stack.enter_async_context(kept(envoy, self.fence))
            # What served before we came goes on serving if we cannot take it over.
            leave_running = self.settings.leave_running or found
            try:
                resumed = await processes.adopt() > 0 and left is not None
                if resumed:
                    self._warming = False
                    await until_answered(local, stopping)
                else:  # what served is gone, and what it needed with it
                    opening = opening_action(self.prepared.plan, self.scenario)
                await self._bring_about(opening, processes)
                if not resumed:
                    await until_ready(local, self.scenario, opening, stopping)
                ladder = self._ladder(left)
                if stopping.is_set():
                    leave_running = self.settings.leave_running
                    return Status(ladder.mode, ladder.goal)
                routing = await self._routing(envoy, opening, processes, found=found)
                others = await stack.enter_async_context(
                    other_envoys(self.settings.xds, self.fence, self._others_patience_s())
                )
                await others.open(self._table(opening, processes))
                self._warming, leave_running = False, self.settings.leave_running
                self._clock = clock = self._clock or Clock(self.scenario.tick_s, self.settings.speed_up)
                tick_wall_s = self.scenario.tick_s / self.settings.speed_up
                metrics = SidecarMetrics(self._cluster, tick_wall_s, self._learner_file())
                records = Records(sitting, log, self.store, metrics, self.settings.folder, self.fence, account)
                sidecar = Sidecar(
                    scenario=self.scenario,
                    proposals=Proposals(
                        self.scenario,
                        thinker,
                        self._versions(thinker, records),
                        self._explorer(metrics.exploration),
                        TwinWatch(self.settings.folder).error,
                    ),
                    planner=self.prepared.planner,
                    limits=self.scenario.limits(),
                    observer=self._observer(envoy, others),
                    hands=Hands(
                        self.scenario,
                        processes,
                        routing,
                        self._caps,
                        self.settings.speed_up,
                        self.fence,
                        others.routing,
                    ),
                    recorder=records,
                    first_plan=self._plan(account),
                    ladder=ladder,
                    speed_up=self.settings.speed_up,
                    in_force=opening,
                    resumed=resumed,
                    steps_back=self.settings.steps_back,
                    rest=left.rest if left and left.mode is ladder.mode else None,
                    keep=self._keeper().keep,
                    fencing_token=self.fence.token,
                    account=account,
                    begins_at_s=clock.now_s(),
                )
                self.front.leads(sidecar, metrics, self.fence.token)
                on_ready(envoy)
                await sidecar.run(_until(clock.ticks(), stopping))
                return sidecar.status
            finally:
                if leave_running or self.fence.passed or self.leadership.standby:
                    await processes.detach()
                else:
                    await processes.stop_all()
                    self.fence.check()
                    await keeper.stop()

    # What is there

    def _left(self) -> Standing | None:
        """What the last sidecar left."""
        try:
            return standing.read(self.settings.folder / standing.FILE, self._cluster)
        except (StandingError, OSError) as error:
            raise StartError(str(error)) from None

    async def _account(self, thinker: Thinker) -> Account | None:
        """Where the last term ended. Time goes on from there, and whoever decides as then remembers what it did."""
        path = self.settings.folder / handover.FILE
        texts: dict[str, str | bytes | None] = {str(path): handover.read(path)}
        try:
            texts["what the store has of the last leader"] = await self.store.handover()
        except StoreError as error:
            _LOG.warning("what the last leader left in the store is not taken over: %s", error)
        left = handover.newest(texts, self.scenario.name, self._cluster)
        if left is None:
            return None
        left = handover.as_far_as_same(left, self._cluster, *thinker.remembered())
        thinker.recall(left.policy.memory, left.fallback.memory)
        tick_s, speed_up = self.scenario.tick_s, self.settings.speed_up
        begins_at_s = left.account.next_s(time.time(), tick_s, speed_up)
        self._clock = Clock(tick_s, speed_up, begins_at_s=begins_at_s)
        return left.account

    def _plan(self, account: Account | None) -> Plan:
        """The one that was in force, if it is of this cluster."""
        if account is not None and account.cluster_hash == handover.cluster_hash(self._cluster):
            return account.plan
        return self.prepared.plan

    async def _envoy(self, opening: Action) -> tuple[RunningEnvoy, bool]:
        """The Envoy that still runs in the folder, or a new one; whether it was found. It outlives this process."""
        folder = EnvoyFolder(self.settings.folder / "envoy")
        found = envoy_process.find(folder)
        if found:
            return found, True
        folder.xds.mkdir(parents=True, exist_ok=True)
        write(folder.xds, routing_table(self.scenario, opening, {}, self.settings.speed_up), self.fence)
        port = self.settings.port
        return await envoy_process.start(folder, port=port, outlives_us=True, fence=self.fence), False

    def _ladder(self, left: Standing | None) -> Ladder:
        """The rung on which the last sidecar stood, unless this one is started in another mode."""
        if left is None or left.asked != self.settings.asked:
            return standing_on(self.settings.mode, self._cluster.class_names, self.settings.goal)
        return left.ladder()

    def _keeper(self) -> standing.Keeper:
        return standing.Keeper(self.settings.folder / standing.FILE, self._cluster, self.settings.asked, self.fence)

    # Who acts

    def _local(self) -> LocalProcesses:
        """The replicas that are processes of this machine; nothing is started yet."""
        scenario, settings = self.scenario, self.settings
        return LocalProcesses(
            commands={
                name: command_of(scenario, name, settings, self._caps.path(name))
                for name, pool in scenario.pools.items()
                if pool.endpoints is None
            },
            settings=LocalSettings(
                log_dir=settings.folder / "logs",
                roster=settings.folder / "roster.json",
                speed_up=settings.speed_up,
                ahead_s=PROCESS_START_S,
                grace_s=0.3,
                poll_s=0.1,
                first_backoff_s=0.5,
                hung_after_s=scenario.guard.stale_after_s,
                fence=self.fence,
            ),
            clock=self.now_s,
            provision_s=self._provision_s,
            in_flight=partial(requests_at, self.session),
            sleeps=sleeps_of(scenario),
        )

    def _provision_s(self, pool: str) -> float:
        true = self.settings.world or self.scenario
        return 0.0 if self._warming else drawn_delay_s(true, pool, self._rng)

    def _own_servers(self) -> OwnServers:
        own = {name: pool.addresses for name, pool in self.scenario.pools.items() if pool.endpoints is not None}
        return OwnServers(own, self.session, self.now_s)

    async def _bring_about(self, opening: Action, processes: Fleet) -> None:
        """Caps and counts; routing comes when the replicas are there."""
        names = self.scenario.pool_names
        for name, cap, budget in zip(names, opening.batch_cap, opening.token_budget, strict=True):
            self._caps.apply(name, int(cap), int(budget), self.fence.token)
        await processes.apply(dict(zip(names, map(int, opening.replicas), strict=True)))

    async def _routing(self, envoy: RunningEnvoy, opening: Action, processes: Fleet, *, found: bool) -> CappedRouting:
        """Our own Envoy's, following `opening`; one that was found keeps what it has if it cannot."""
        files = EnvoyFiles(envoy.folder.xds, envoy.admin_url, log=envoy.folder.log, fence=self.fence)
        routing = CappedRouting(files, envoy.admin_url, self.fence)
        try:
            await routing.apply(self._table(opening, processes))
        except (EnvoyRejected, EnvoyUnreachable, AdmissionError) as error:
            if not found:
                raise StartError(str(error)) from None
            _LOG.error("routing stays as it was found; the next tick tries again: %s", error)
        return routing

    def _table(self, opening: Action, processes: Fleet) -> RoutingTable:
        ready: Mapping[str, tuple[Endpoint, ...]] = {n: pool.endpoints for n, pool in processes.states().items()}
        return routing_table(self.scenario, opening, ready, self.settings.speed_up)

    # Who decides

    def _versions(self, thinker: Thinker, records: Records) -> Versions | None:
        """Follows the registry that the policy is of; None if it is of none."""
        chosen = self.prepared.chosen
        asked = named_registry(chosen.name) if chosen is not None else None
        if chosen is None or asked is None or asked[1]:
            return None
        control = self.scenario.control
        try:
            registry = Registry(asked[0], REGISTRY_PATIENCE_S)
        except RegistryError as error:
            raise StartError(str(error)) from None
        return Versions(
            registry,
            self._cluster,
            thinker,
            rules_of(control.trial, control.gates, self._cluster.class_names, self._cluster.cold_start_s),
            control.trial.probation_ticks * self.scenario.tick_s / self.settings.speed_up,
            control.trial.wait_s / self.settings.speed_up,
            chosen.miss_price,
            self.fence,
            records.sit,
            records.metrics.versions,
        )

    def _explorer(self, metrics: ExplorationMetrics) -> Explorer | None:
        """Has the policy explore; None unless the scenario says so."""
        control = self.scenario.control
        if not control.exploration.enabled:
            return None
        settings, pools = control.exploration, control.canary.pools or ()

        def show(account: ExplorationAccount, exploring: bool) -> None:
            metrics.show(
                exploring=exploring,
                usd=(account.usd, settings.usd or 0.0),
                requests=(account.requests, account.allowed_requests),
            )

        return Explorer(
            settings,
            self._cluster,
            self.scenario.limits(),
            self.scenario.tick_s,
            control.canary.traffic_share,
            np.array([name in pools for name in self._cluster.pool_names]),
            self.settings.folder / exploring.FILE,
            self.prepared.plan,
            np.random.default_rng(self.settings.seed + self.fence.token),
            self.fence,
            show,
        )

    def _learner_file(self) -> Path | None:
        """Where whoever learns for the registry tells how far that is."""
        chosen = self.prepared.chosen
        asked = named_registry(chosen.name) if chosen is not None else None
        return asked[0] / PROGRESS_FILE if asked is not None else None

    def _others_patience_s(self) -> float:
        """What is offered goes out in three steps, and all of them must not outlast a tick by much."""
        return min(MOST_PATIENCE_S, max(1.0, self.scenario.tick_s / self.settings.speed_up / 3.0))

    # Who sees

    def _observer(self, envoy: RunningEnvoy, others: OtherEnvoys) -> Observer:
        speed_up = self.settings.speed_up
        return Observer(
            self.scenario,
            OneLog(LogTail(envoy.folder.access_log, from_start=False), others.logs),
            EngineCollector(
                self.session, self.now_s, budget_s=COLLECTING_SHARE_OF_TICK * self.scenario.tick_s / speed_up
            ),
            speed_up,
            more_sources(self.scenario, self.session, self.now_s, lambda: envoy.admin_url),
        )


async def _until(ticks: AsyncIterator[float], stopping: asyncio.Event) -> AsyncIterator[float]:
    """The ticks, until `stopping` is set; a tick that is being waited for is given up."""
    stopped = asyncio.create_task(stopping.wait())
    try:
        while not stopping.is_set():
            following = asyncio.ensure_future(anext(ticks))
            done, _ = await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if following not in done:
                following.cancel()
                return
            yield following.result()
    finally:
        stopped.cancel()
