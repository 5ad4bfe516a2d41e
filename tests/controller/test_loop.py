"""The loop keeps ticking, whoever fails: policy, store, Envoy, the look at the world."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.controller.actuators import envoy
from poolpilot.controller.actuators.caps import CapFiles
from poolpilot.controller.actuators.child import ReplicaCommand
from poolpilot.controller.actuators.envoy_config import Endpoint, PoolBackends, RoutingTable
from poolpilot.controller.actuators.envoy_process import EnvoyFolder, embedded
from poolpilot.controller.actuators.local_replica import LocalSettings
from poolpilot.controller.actuators.processes import LocalProcesses
from poolpilot.controller.assembly import first_plan
from poolpilot.controller.decision_log import DecisionLog, Sitting, read_log
from poolpilot.controller.loop import Recorder, Routing, Sidecar, Tick
from poolpilot.controller.observing import Observer
from poolpilot.controller.recording import BILL_FILE, Records
from poolpilot.controller.routing import routing_table
from poolpilot.env.contract import Action, Memory, Mode, Plan, Policy, ReasonCode, Snapshot
from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.telemetry.engine_collector import EngineCollector
from poolpilot.telemetry.envoy_log import LogTail
from poolpilot.telemetry.exporter import SidecarMetrics
from poolpilot.telemetry.store import Store

SCENARIO = load_scenario("mixed-chat")
NOBODY = "redis://127.0.0.1:1/0"


class Kept:
    """Remembers ticks."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []

    async def record(self, tick: Tick) -> None:
        self.ticks.append(tick)


class Followed:
    """A proxy that does as it is told, and remembers."""

    def __init__(self) -> None:
        self.tables: list[RoutingTable] = []

    async def apply(self, table: RoutingTable) -> None:
        self.tables.append(table)


@dataclass
class Bench:
    """A sidecar whose replicas are processes that never serve."""

    scenario: Scenario
    folder: Path
    session: aiohttp.ClientSession
    now_s: float = 0.0

    async def no_requests(self, endpoint: Endpoint) -> int:
        """Nothing is in flight at a replica that never serves."""
        return 0

    def sidecar(
        self,
        policy: Policy,
        recorder: Recorder,
        routing: Routing,
        mode: Mode = Mode.ACTIVE,
        observer: Observer | None = None,
        speed_up: float = 10.0,
    ) -> Sidecar:
        """All parts but the given ones are real."""
        planner, plan = first_plan(self.scenario)
        caps = CapFiles(self.folder / "caps")
        processes = LocalProcesses(
            {name: ReplicaCommand(("sleep", "{port}"), caps.path(name)) for name in self.scenario.pool_names},
            LocalSettings(self.folder / "logs"),
            lambda: self.now_s,
            lambda _: 1e6,  # no machine ever comes
            self.no_requests,
        )
        return Sidecar(
            scenario=self.scenario,
            policy=policy,
            fallback=PlanTracking(self.scenario.cluster()),
            planner=planner,
            limits=self.scenario.limits(),
            observer=observer or self.observer(),
            processes=processes,
            routing=routing,
            caps=caps,
            recorder=recorder,
            first_plan=plan,
            mode=mode,
            speed_up=speed_up,
        )

    def observer(self) -> Observer:
        """Looks at a log that nobody writes."""
        collector = EngineCollector(self.session, lambda: self.now_s)
        return Observer(self.scenario, LogTail(self.folder / "access.log"), collector, speed_up=10.0)

    async def ticks(self, n: int, before: Callable[[int], None] = lambda _: None) -> AsyncIterator[float]:
        """Scenario times of `n` ticks."""
        for i in range(n):
            before(i)
            self.now_s = i * self.scenario.tick_s
            yield self.now_s


@asynccontextmanager
async def a_bench(folder: Path, scenario: Scenario = SCENARIO) -> AsyncIterator[Bench]:
    async with aiohttp.ClientSession() as session:
        yield Bench(scenario, folder, session)


class Sleepy:
    """A rule that does not answer before it is woken."""

    name, policy_hash = "sleepy", ""

    def __init__(self, awake: threading.Event) -> None:
        self.awake, self.asked = awake, 0
        self.rule = PlanTracking(SCENARIO.cluster())

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The rule's answer, late."""
        self.asked += 1
        self.awake.wait(30.0)
        return self.rule.decide(snapshot, plan, memory)


async def test_a_policy_that_does_not_answer_is_not_waited_for_nor_asked_twice(tmp_path: Path) -> None:
    awake = threading.Event()
    policy, kept = Sleepy(awake), Kept()
    async with a_bench(tmp_path) as bench:
        sidecar = bench.sidecar(policy, kept, Followed(), Mode.ADVISE, speed_up=100.0)
        await sidecar.run(bench.ticks(3))
        assert policy.asked == 1
        awake.set()
        await asyncio.sleep(0.2)
        sidecar.speed_up = 1.0  # patience enough for a busy machine
        await sidecar.run(bench.ticks(1))
    late, busy, still, answered = kept.ticks
    for tick in (late, busy, still):
        assert tick.fell_back
        assert tick.decision.policy_name == "plan-tracking"
        assert (tick.decision.reasons[0].code, tick.decision.reasons[0].subject) == (
            ReasonCode.POLICY_TIMEOUT,
            "sleepy",
        )
    assert "no answer in 0.05 s" in late.decision.reasons[0].detail
    assert "busy" in busy.decision.reasons[0].detail
    assert not answered.fell_back
    assert answered.decision.policy_name == "sleepy"
    assert (sidecar.status.ticks, sidecar.status.fallback_ticks) == (4, 3)


async def test_a_store_that_is_gone_does_not_stop_ticks_nor_the_log_on_disk(tmp_path: Path) -> None:
    cluster = SCENARIO.cluster()
    sitting = Sitting(SCENARIO.name, cluster, SCENARIO.limits())
    async with AsyncExitStack() as stack:
        bench = await stack.enter_async_context(a_bench(tmp_path))
        store = await stack.enter_async_context(Store(NOBODY, timeout_s=0.2))
        log = stack.enter_context(DecisionLog(tmp_path / "decisions.jsonl", sitting))
        records = Records(sitting, log, store, SidecarMetrics(cluster), tmp_path)
        sidecar = bench.sidecar(PlanTracking(cluster), records, Followed())
        await sidecar.run(bench.ticks(3))
        await sidecar.processes.stop_all()
    assert sidecar.status.ticks == 3
    assert "not recorded" in sidecar.status.troubles[0]
    assert NOBODY.removesuffix("/0") in sidecar.status.troubles[0]
    assert [record.decision.tick for record in read_log(tmp_path / "decisions.jsonl")] == [0, 1, 2]
    assert (tmp_path / BILL_FILE).is_file()


async def test_every_idle_dollar_of_a_start_is_on_the_account_of_its_decision(tmp_path: Path) -> None:
    # No machine ever comes, so that all rent is cold start.
    cluster = SCENARIO.cluster()
    sitting = Sitting(SCENARIO.name, cluster, SCENARIO.limits())
    async with AsyncExitStack() as stack:
        bench = await stack.enter_async_context(a_bench(tmp_path))
        store = await stack.enter_async_context(Store(NOBODY, timeout_s=0.2))
        log = stack.enter_context(DecisionLog(tmp_path / "decisions.jsonl", sitting))
        metrics = SidecarMetrics(cluster)
        records = Records(sitting, log, store, metrics, tmp_path)
        sidecar = bench.sidecar(PlanTracking(cluster), records, Followed())
        await sidecar.run(bench.ticks(5))
        await sidecar.processes.stop_all()
    ticks = list(read_log(tmp_path / "decisions.jsonl"))
    wanted = ticks[0].decision.applied.replicas
    rent = float((wanted * cluster.usd_per_hr).sum()) / 3600.0 * SCENARIO.tick_s
    assert rent > 0
    assert ticks[0].scaling == ()
    assert sum(cost.usd for cost in ticks[1].scaling) == pytest.approx(rent)
    assert {(cost.tick, cost.part) for cost in ticks[1].scaling} == {(0, "cold_start")}
    bill = json.loads((tmp_path / BILL_FILE).read_text())
    charged = sum(cost.usd for tick in ticks for cost in tick.scaling)
    assert bill["usd_idle_by_part"]["cold_start"] == pytest.approx(charged)
    assert bill["usd_by_layer"]["idle"] == pytest.approx(charged)
    assert bill["dearest_decisions"][0]["tick"] == 0
    assert sum(decision["usd"] for decision in bill["dearest_decisions"]) == pytest.approx(charged)
    shown = [line for line in metrics.page().decode().splitlines() if line.startswith("poolpilot_idle_usd_total{")]
    assert sum(float(line.split()[-1]) for line in shown) == pytest.approx(charged)


class Spoiling:
    """Hands tables on to a real Envoy, those at some ticks with an address that it must refuse."""

    def __init__(self, files: envoy.EnvoyFiles, spoilt: Sequence[int]) -> None:
        self.files, self.spoilt, self.calls = files, spoilt, -1

    async def apply(self, table: RoutingTable) -> object:
        """As told, or spoilt."""
        self.calls += 1
        if self.calls in self.spoilt:
            first, *others = table.pools
            bad = PoolBackends(first.name, (Endpoint("not-an-address", 80),))
            table = replace(table, pools=(bad, *others))
        return await self.files.apply(table)


async def test_what_envoy_refuses_is_a_trouble_and_its_last_weights_stay(tmp_path: Path) -> None:
    scenario = SCENARIO
    _, plan = first_plan(scenario)
    cluster = scenario.cluster()
    folder = EnvoyFolder(tmp_path / "envoy")
    folder.xds.mkdir(parents=True)
    rule = PlanTracking(cluster)
    opening = Action(plan.route, np.ones(len(cluster.class_names)), plan.batch_cap, plan.batch_cap, plan.replicas)
    envoy.write(folder.xds, routing_table(scenario, opening, {}))
    files_at: list[dict[str, Any]] = []
    troubles: list[tuple[str, ...]] = []

    def look(_: int) -> None:
        files_at.append({path.name: path.read_text() for path in sorted(folder.xds.iterdir())})
        troubles.append(sidecar.status.troubles)

    async with a_bench(tmp_path, scenario) as bench, embedded(folder) as running:
        files = envoy.EnvoyFiles(folder.xds, running.admin_url, log=folder.log)
        sidecar = bench.sidecar(rule, Kept(), Spoiling(files, spoilt=[1]))
        await sidecar.run(bench.ticks(3, look))
        look(3)
        await sidecar.processes.stop_all()
    assert troubles[1] == ()
    assert "malformed IP address: not-an-address" in troubles[2][0]
    assert troubles[2][0].startswith("routing: ")
    assert files_at[2] == files_at[1]
    assert troubles[3] == ()
    assert sidecar.status.ticks == 3


class Blind(Observer):
    """An observer that fails at its second look."""

    looks = 0

    async def observe(self, *args: Any, **kwargs: Any) -> Any:
        """As always, but once."""
        self.looks += 1
        if self.looks == 2:
            raise KeyError("a pool that nobody knows")
        return await super().observe(*args, **kwargs)


async def test_a_tick_that_fails_is_a_trouble_and_the_next_one_goes_on(tmp_path: Path) -> None:
    kept, seen = Kept(), []
    async with a_bench(tmp_path) as bench:
        collector = EngineCollector(bench.session, lambda: bench.now_s)
        blind = Blind(SCENARIO, LogTail(tmp_path / "access.log"), collector, speed_up=10.0)
        sidecar = bench.sidecar(PlanTracking(SCENARIO.cluster()), kept, Followed(), Mode.ADVISE, blind)
        await sidecar.run(bench.ticks(3, lambda _: seen.append(sidecar.status.troubles)))
    assert "KeyError" in seen[2][0]
    assert sidecar.status.troubles == ()
    assert [tick.decision.tick for tick in kept.ticks] == [0, 1]


@pytest.mark.parametrize("mode", list(Mode))
async def test_only_an_active_sidecar_touches_the_world(tmp_path: Path, mode: Mode) -> None:
    routing, kept = Followed(), Kept()
    async with a_bench(tmp_path) as bench:
        sidecar = bench.sidecar(PlanTracking(SCENARIO.cluster()), kept, routing, mode)
        await sidecar.run(bench.ticks(2))
        asked_for = sum(len(pool.replicas) for pool in sidecar.processes.states().values())
        await sidecar.processes.stop_all()
    active = mode is Mode.ACTIVE
    assert (len(routing.tables) == 2) is active
    assert (asked_for > 0) is active
    assert any((tmp_path / "caps").iterdir()) is active
    assert sidecar.status.applied is active
    assert [tick.decision.mode for tick in kept.ticks] == [mode, mode]
