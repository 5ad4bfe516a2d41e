"""Puts a sidecar together on this machine: replicas as local processes, Envoy by files, caps by files, a store.

A working folder holds everything of one cluster: `envoy/`, `caps/`, `logs/`, `roster.json`, `decisions.jsonl`,
`bill.json`, `standing.json`. A sidecar that starts in a folder where another one died takes over its Envoy and its
replicas, and goes on with the weights, caps, counts and mode that it finds.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
import numpy as np

from ..agents.checkpoint import CheckpointError
from ..agents.planner.replan import Replanner, replanner_of
from ..agents.portfolio import PolicyFactory
from ..env.beliefs import opening_load
from ..env.contract import Action, Cluster, Mode, Plan, Policy
from ..env.guard import first_state
from ..env.scenario import Scenario
from ..env.workload.load import load_workload
from ..telemetry.access import LOOPBACK, Access, is_loopback, serving
from ..telemetry.engine_collector import EngineCollector
from ..telemetry.envoy_log import LogTail
from ..telemetry.exporter import SidecarMetrics
from ..telemetry.log_sources import OneLog
from ..telemetry.store import Lease, Store
from . import standing
from .acting import Hands
from .actuators import envoy_process
from .actuators.admission import AdmissionError, CappedRouting
from .actuators.caps import CapFiles
from .actuators.child import ReplicaCommand, lacks_shutdown_timeout, plugin_environment
from .actuators.envoy import EnvoyFiles, EnvoyRejected, EnvoyUnreachable, write
from .actuators.envoy_config import Endpoint
from .actuators.envoy_keeper import kept
from .actuators.envoy_process import EnvoyFolder, RunningEnvoy
from .actuators.fleet import Fleet
from .actuators.in_flight import requests_at
from .actuators.local_replica import LocalSettings
from .actuators.own_servers import OwnServers
from .actuators.processes import LocalProcesses
from .actuators.sleep_mode import DEV_MODE, Sleeping
from .api import api
from .choosing import FALLBACK, PolicyChoice
from .clock import Clock
from .decision_log import DecisionLog, Sat, Sitting
from .fencing import Fence
from .front import Front
from .ladder import Ladder, standing_on
from .leadership import LEASE_S, Leadership
from .loop import Sidecar, Status
from .observing import Observer, more_sources
from .other_envoys import other_envoys
from .recording import Records
from .reloading import Reloading
from .routing import routing_table
from .standing import Standing, StandingError
from .thinking import Thinker
from .xds.address import XdsAddress

_LOG: Final = logging.getLogger(__name__)
YESTERDAY_SEED: Final = 1_000_000
"""The load that planning starts from is that of another day than any that is replayed."""
WARM_UP_S: Final = 120.0
"""Wall-clock patience for the first replicas, where all are emulated."""
REAL_WARM_UP_S: Final = 1800.0
"""As `WARM_UP_S`, where some load a real model: hundreds of gigabytes may come over the network."""
TAKE_OVER_S: Final = 2.0
"""Wall-clock patience for replicas that were found running to answer their health check."""
PROCESS_START_S: Final = 1.5
"""Wall-clock seconds from starting an emulated replica until it serves, as measured on two busy cores."""
COLLECTING_SHARE_OF_TICK: Final = 0.5
"""Pages that have not come after this share of a tick are missing at this one (a second's patience they have always)."""
MISSED_TICKS_ALIVE: Final = 5
"""A sidecar whose last tick is older than this many ticks is not alive."""


class StartError(RuntimeError):
    """The sidecar cannot start; the message says what is missing."""


@dataclass(frozen=True)
class ControlSettings:
    """How one sidecar is run."""

    folder: Path
    """The working folder; made when it is not there."""
    scenario_file: Path
    """Handed to emulated replicas."""
    store_url: str
    """Of Redis or Valkey."""
    store_prefix: str = "poolpilot"
    mode: Mode = Mode.ADVISE
    """To begin with; whoever sets another one than `advise` vouches for the gates below."""
    goal: Mode | None = None
    """As high as the mode may rise by itself; None: no higher than it begins."""
    steps_back: bool = True
    """Whether a breach lowers the mode; off only to compare policies, bad ones included."""
    speed_up: float = 1.0
    """Scenario seconds in a second of the wall; above 1 for emulated clusters only."""
    port: int = 0
    """Of Envoy; 0 takes a free one."""
    api_port: int = 0
    stream_interval: int = 1
    """Tokens that emulated replicas put into one event."""
    seed: int = 0
    """Draws provisioning delays."""
    leave_running: bool = False
    """At the end, leave Envoy and replicas to the next sidecar."""
    shared_store: bool = True
    """Whether other sidecars can reach the store: only then may several run in one folder, one leading."""
    lease_s: float = LEASE_S
    """Wall-clock seconds after which a leader that is gone is replaced."""
    api_host: str = LOOPBACK
    """Address of the API; any but loopback needs `api_token`."""
    api_token: str | None = None
    """Whoever shows it may change the mode; without one nobody may."""
    xds: XdsAddress | None = None
    """Where Envoys on other machines ask for their configuration; None serves none."""

    @property
    def asked(self) -> str:
        """What is asked of the mode, in words."""
        return f"{self.mode} up to {self.goal or self.mode}"


async def steer(
    scenario: Scenario,
    make_policy: PolicyFactory | PolicyChoice,
    settings: ControlSettings,
    stopping: asyncio.Event,
    on_ready: Callable[[RunningEnvoy, str], None],
    on_waiting: Callable[[Lease, str], None] = lambda leader, address: None,
) -> Status:
    """Run one sidecar until `stopping`: it leads, or stands by while another one leads; how it was at the end.

    Where it leads and finds nothing, the replicas that the scenario starts with are brought up first, without a
    provisioning delay; scenario time begins, and `on_ready` is told Envoy's and the API's addresses, when they serve.
    `on_waiting` is told who leads instead, and the API's address. At the end all is stopped, unless another one waits to
    take over.

    Raises:
        StartError: the first replicas do not come up, or the folder is another sidecar's.
        EnvoyStartError: Envoy does not start.
        ServeError: Envoys elsewhere cannot be served.
        StoreError: the store does not answer at the start.
    """
    folder, cluster = settings.folder, scenario.cluster()
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        stack.enter_context(_sharing(folder, settings.shared_store))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        store = await stack.enter_async_context(Store(settings.store_url, prefix=settings.store_prefix))
        await store.ping()
        prepared = _prepared(scenario, make_policy, cluster)
        leadership = Leadership(store, folder, lease_s=settings.lease_s)
        front = Front(leadership, settings.mode, CapFiles(folder / "caps"))
        tick_wall_s = scenario.tick_s / settings.speed_up
        access = Access(settings.api_token, is_loopback(settings.api_host))
        app = api(front.backing, MISSED_TICKS_ALIVE * tick_wall_s, access)
        address = await stack.enter_async_context(serving(app, settings.api_port, settings.api_host))
        status = Status(settings.mode, settings.goal or settings.mode)

        async def term(fence: Fence) -> Status:
            return await _lead(
                scenario,
                prepared,
                settings,
                session,
                store,
                leadership,
                fence,
                stopping,
                front,
                lambda envoy: on_ready(envoy, address),
            )

        while fence := await leadership.win(stopping, lambda leader: on_waiting(leader, address)):
            led = await leadership.lead(fence, partial(term, fence))
            front.leads(None)
            if led is not None:
                status = led
        return status


async def _lead(
    scenario: Scenario,
    prepared: _Prepared,
    settings: ControlSettings,
    session: aiohttp.ClientSession,
    store: Store,
    leadership: Leadership,
    fence: Fence,
    stopping: asyncio.Event,
    front: Front,
    on_ready: Callable[[RunningEnvoy], None],
) -> Status:
    """Act through `fence`, until `stopping` or until somebody else leads."""
    time_of: list[Clock] = []

    def now_s() -> float:
        return time_of[0].now_s() if time_of else 0.0

    folder, cluster, plan = settings.folder, prepared.cluster, prepared.plan
    try:
        left = standing.read(folder / standing.FILE, cluster)
    except (StandingError, OSError) as error:
        raise StartError(str(error)) from None
    opening = left.in_force if left else _opening(plan, scenario)
    caps = CapFiles(folder / "caps", fence)
    warming = [True]
    rng = np.random.default_rng(settings.seed)

    def provision_s(pool: str) -> float:
        return 0.0 if warming[0] else _drawn_delay_s(scenario, pool, settings.speed_up, rng)

    async with AsyncExitStack() as stack:
        sitting = Sitting(scenario.name, cluster, scenario.limits(), prepared.sat)
        log = stack.enter_context(DecisionLog(folder / "decisions.jsonl", sitting, fence))
        own = {name: pool.addresses for name, pool in scenario.pools.items() if pool.endpoints is not None}
        local = LocalProcesses(
            commands={
                name: _command(scenario, name, settings, caps.path(name))
                for name in scenario.pool_names
                if name not in own
            },
            settings=LocalSettings(
                log_dir=folder / "logs",
                roster=folder / "roster.json",
                speed_up=settings.speed_up,
                grace_s=0.3,
                poll_s=0.1,
                first_backoff_s=0.5,
                hung_after_s=scenario.guard.stale_after_s,
                fence=fence,
            ),
            clock=now_s,
            provision_s=provision_s,
            in_flight=partial(requests_at, session),
            sleeps=_sleeps(scenario),
        )
        processes = Fleet(local, OwnServers(own, session, now_s))
        envoy, found = await _envoy(scenario, opening, settings, fence)
        keeper = await stack.enter_async_context(kept(envoy, fence))
        # What served before we came goes on serving if we cannot take it over.
        leave_running = settings.leave_running or found
        try:
            adopted = await processes.adopt()
            resumed = left is not None and adopted > 0
            if resumed:
                warming[0] = False
                await _until_answered(local, stopping)
            else:  # what served is gone, and what it needed with it
                opening = _opening(plan, scenario)
            for name, cap, budget in zip(scenario.pool_names, opening.batch_cap, opening.token_budget, strict=True):
                caps.apply(name, int(cap), int(budget), fence.token)
            await processes.apply(dict(zip(scenario.pool_names, map(int, opening.replicas), strict=True)))
            if not resumed:
                await _until_ready(local, scenario, opening, stopping)
            ladder = _ladder(left, settings, cluster)
            if stopping.is_set():
                leave_running = settings.leave_running
                return Status(ladder.mode, ladder.goal)
            files = EnvoyFiles(envoy.folder.xds, envoy.admin_url, log=envoy.folder.log, fence=fence)
            routing = CappedRouting(files, envoy.admin_url, fence)
            table = routing_table(scenario, opening, _ready(processes), settings.speed_up)
            try:
                await routing.apply(table)
            except (EnvoyRejected, EnvoyUnreachable, AdmissionError) as error:
                if not found:
                    raise StartError(str(error)) from None
                _LOG.error("routing stays as it was found; the next tick tries again: %s", error)
            others = await stack.enter_async_context(other_envoys(settings.xds))
            await others.open(table)
            warming[0], leave_running = False, settings.leave_running
            clock = Clock(scenario.tick_s, settings.speed_up)
            time_of.append(clock)
            metrics = SidecarMetrics(cluster, scenario.tick_s / settings.speed_up)
            sidecar = Sidecar(
                scenario=scenario,
                thinker=Thinker(prepared.policy, prepared.fallback),
                planner=prepared.planner,
                limits=scenario.limits(),
                observer=Observer(
                    scenario,
                    OneLog(LogTail(envoy.folder.access_log, from_start=False), others.logs),
                    EngineCollector(
                        session, now_s, budget_s=COLLECTING_SHARE_OF_TICK * scenario.tick_s / settings.speed_up
                    ),
                    settings.speed_up,
                    more_sources(scenario, session, now_s, lambda: envoy.admin_url),
                ),
                hands=Hands(scenario, processes, others.beside(routing), caps, settings.speed_up, fence),
                recorder=Records(sitting, log, store, metrics, folder, fence),
                first_plan=plan,
                ladder=ladder,
                speed_up=settings.speed_up,
                in_force=opening,
                resumed=resumed,
                steps_back=settings.steps_back,
                rest=left.rest if left and left.mode is ladder.mode else None,
                keep=standing.Keeper(folder / standing.FILE, cluster, settings.asked, fence).keep,
                fencing_token=fence.token,
            )
            front.leads(sidecar, metrics, fence.token)
            on_ready(envoy)
            await sidecar.run(_until(clock.ticks(), stopping))
            return sidecar.status
        finally:
            if leave_running or fence.passed or leadership.standby:
                await processes.detach()
            else:
                await processes.stop_all()
                fence.check()
                await keeper.stop()


@dataclass(frozen=True)
class _Prepared:
    """What needs no leadership and takes time: whoever stands by has it ready."""

    cluster: Cluster
    planner: Replanner
    plan: Plan
    policy: Policy
    fallback: Policy
    sat: tuple[Sat, ...]


def _prepared(scenario: Scenario, make_policy: PolicyFactory | PolicyChoice, cluster: Cluster) -> _Prepared:
    planner, plan = first_plan(scenario)
    fallback = FALLBACK.make(cluster)
    sat = [Sat.of(FALLBACK, fallback)]
    policy: Policy
    if isinstance(make_policy, PolicyChoice):
        try:
            policy = decider = make_policy.make(cluster)
            sat.insert(0, Sat.of(make_policy, decider))
        except CheckpointError:  # its files are spoilt, and may be whole again later
            policy = Reloading(make_policy.name, make_policy.factory, cluster)
            sat.insert(0, Sat(make_policy.name, "", make_policy))
    else:
        policy = make_policy(cluster)
    return _Prepared(cluster, planner, plan, policy, fallback, tuple(sat))


@contextmanager
def _sharing(folder: Path, shared_store: bool) -> Iterator[None]:
    """Keep out, as long as the block lasts, whoever could not be in one election with this one (StartError).

    A store that only this process has elects nobody else.
    """
    with (folder / ".sidecars").open("ab") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared_store else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"{folder}: another sidecar runs in this folder; give both the same --store, or each its own folder"
            ) from None
        yield


def first_plan(scenario: Scenario) -> tuple[Replanner, Plan]:
    """The planner, and its plan for the load that a day like this one opens with."""
    yesterday = load_workload(
        scenario.workload, scenario.class_names, scenario.duration_s, YESTERDAY_SEED, scenario.base_dir
    )
    planner = replanner_of(scenario, yesterday)
    return planner, planner.first(opening_load(yesterday, scenario.duration_s))


async def _envoy(
    scenario: Scenario, opening: Action, settings: ControlSettings, fence: Fence
) -> tuple[RunningEnvoy, bool]:
    """The Envoy that still runs in the folder, or a new one; whether it was found. It outlives this process."""
    folder = EnvoyFolder(settings.folder / "envoy")
    found = envoy_process.find(folder)
    if found:
        return found, True
    folder.xds.mkdir(parents=True, exist_ok=True)
    write(folder.xds, routing_table(scenario, opening, {}, settings.speed_up), fence)
    return await envoy_process.start(folder, port=settings.port, outlives_us=True, fence=fence), False


def _opening(plan: Plan, scenario: Scenario) -> Action:
    """What is in force before the first tick: the plan's weights, and the counts that the scenario starts with."""
    start = np.array([float(pool.replicas.start) for pool in scenario.pools.values()])
    return replace(
        first_state(plan, scenario.cluster()).applied, batch_cap=scenario.cluster().max_batch_cap, replicas=start
    )


def _ladder(left: Standing | None, settings: ControlSettings, cluster: Cluster) -> Ladder:
    """The rung on which the last sidecar stood, unless this one is started in another mode."""
    if left is None or left.asked != settings.asked:
        return standing_on(settings.mode, cluster.class_names, settings.goal)
    return left.ladder()


def _ready(processes: Fleet) -> Mapping[str, tuple[Endpoint, ...]]:
    return {name: pool.endpoints for name, pool in processes.states().items()}


async def _until_answered(processes: LocalProcesses, stopping: asyncio.Event) -> None:
    """Wait until the replicas that were taken over have answered, so that routing does not lose them; not for long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(TAKE_OVER_S):
            while any(pool.starting for pool in processes.states().values()) and not stopping.is_set():
                await asyncio.sleep(0.05)


async def _until_ready(processes: LocalProcesses, scenario: Scenario, opening: Action, stopping: asyncio.Event) -> None:
    """Wait until the first replicas of our own serve, or `stopping` is set.

    Servers of the user's own are not waited for: whoever starts them may wait for what we want of them.
    """
    wanted = dict(zip(scenario.pool_names, opening.replicas, strict=True))

    def missing() -> bool:
        return any(pool.ready < wanted[name] for name, pool in processes.states().items())

    patience_s = REAL_WARM_UP_S if any(pool.command for pool in scenario.pools.values()) else WARM_UP_S
    try:
        async with asyncio.timeout(patience_s):
            while missing() and not stopping.is_set():
                await asyncio.sleep(0.1)
    except TimeoutError:
        failures = [pool.last_failure for pool in processes.states().values() if pool.last_failure]
        raise StartError(f"the first replicas did not serve within {patience_s:g} s: {'; '.join(failures)}") from None


def _command(scenario: Scenario, name: str, settings: ControlSettings, cap_file: Path) -> ReplicaCommand:
    """How a replica of the pool is started: as the scenario says, or emulated."""
    own = scenario.pools[name].command
    if own is not None:
        if lacks_shutdown_timeout(own):
            _LOG.warning("pool %s: command has no --shutdown-timeout: what SIGTERM meets in vLLM is cut", name)
        dev_mode = {} if scenario.pools[name].sleep is None else DEV_MODE
        return ReplicaCommand(own, cap_file, {**plugin_environment(cap_file), **dev_mode})
    emulate = (sys.executable, "-m", "poolpilot", "emulate", "--scenario", str(settings.scenario_file), "--pool", name)
    where = ("--host", "{host}", "--port", "{port}", "--cap-file", "{cap_file}")
    # The drawn delay covers loading: what is left is to start the process.
    pace = ("--speed-up", f"{settings.speed_up:g}", "--stream-interval", str(settings.stream_interval))
    loaded = ("--load-seconds", "0")
    dev = () if scenario.pools[name].sleep is None else ("--dev-mode",)
    return ReplicaCommand((*emulate, *where, *pace, *loaded, *dev), cap_file)


def _sleeps(scenario: Scenario) -> dict[str, Sleeping]:
    """The pools whose replicas sleep before they are stopped."""
    return {
        name: Sleeping(pool.sleep.level, pool.sleep.max, math.inf if pool.sleep.keep_s is None else pool.sleep.keep_s)
        for name, pool in scenario.pools.items()
        if pool.sleep is not None
    }


def _drawn_delay_s(scenario: Scenario, pool: str, speed_up: float, rng: np.random.Generator) -> float:
    """A cold start as the scenario has it, less what the process itself takes to start."""
    cold = scenario.cold_start(pool)
    whole_s = cold.provision.at(rng.random()) + cold.load.at(rng.random())
    return max(0.0, whole_s - PROCESS_START_S * speed_up)


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
