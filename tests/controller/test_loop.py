"""The loop keeps ticking, whoever fails: policy, store, Envoy, the look at the world."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.controller.acting import Hands, Routing
from poolpilot.controller.actuators import envoy
from poolpilot.controller.actuators.caps import CapFiles
from poolpilot.controller.actuators.child import ReplicaCommand
from poolpilot.controller.actuators.envoy_config import Endpoint, PoolBackends, RoutingTable
from poolpilot.controller.actuators.envoy_process import EnvoyFolder, embedded
from poolpilot.controller.actuators.local_replica import LocalSettings
from poolpilot.controller.actuators.processes import LocalProcesses
from poolpilot.controller.decision_log import DecisionLog
from poolpilot.controller.decision_replay import replay
from poolpilot.controller.ladder import Ladder, standing_on
from poolpilot.controller.loop import Sidecar
from poolpilot.controller.observing import Observer
from poolpilot.controller.preparing import first_plan
from poolpilot.controller.proposing import Proposals
from poolpilot.controller.recording import BILL_FILE, Records
from poolpilot.controller.routing import routing_table
from poolpilot.controller.thinking import Thinker
from poolpilot.controller.tick import Recorder, Tick
from poolpilot.env.contract import Action, Memory, Mode, Plan, Policy, ReasonCode, Snapshot
from poolpilot.env.guard import first_state
from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.telemetry.engine_collector import EngineCollector
from poolpilot.telemetry.envoy_log import LogTail
from poolpilot.telemetry.exporter import SidecarMetrics
from poolpilot.telemetry.record import DefectKind, Sitting, read, read_log
from poolpilot.telemetry.store import Store, StoreError

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
    processes: LocalProcesses = field(init=False)
    """Of the sidecar that was made last."""

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
        speed_up: float = 0.1,  # patience enough for a busy machine
        *,
        goal: Mode | None = None,
        resumed: bool = False,
        keep: Callable[[Ladder, Action, Action], None] = lambda ladder, in_force, rest: None,
    ) -> Sidecar:
        """All parts but the given ones are real."""
        planner, plan = first_plan(self.scenario)
        caps = CapFiles(self.folder / "caps")
        self.processes = LocalProcesses(
            {name: ReplicaCommand(("sleep", "{port}"), caps.path(name)) for name in self.scenario.pool_names},
            LocalSettings(self.folder / "logs"),
            lambda: self.now_s,
            lambda _: 1e6,  # no machine ever comes
            self.no_requests,
        )
        cluster = self.scenario.cluster()
        return Sidecar(
            scenario=self.scenario,
            proposals=Proposals(self.scenario, Thinker(policy, PlanTracking(cluster))),
            planner=planner,
            limits=self.scenario.limits(),
            observer=observer or self.observer(),
            hands=Hands(self.scenario, self.processes, routing, caps, speed_up),
            recorder=recorder,
            first_plan=plan,
            ladder=standing_on(mode, cluster.class_names, goal),
            speed_up=speed_up,
            in_force=replace(first_state(plan, cluster).applied, replicas=np.zeros(len(cluster.pool_names))),
            resumed=resumed,
            keep=keep,
        )

    def observer(self) -> Observer:
        """Looks at a log that nobody writes to."""
        (self.folder / "access.log").touch()
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
        sidecar.speed_up = 1.0
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
        await bench.processes.stop_all()
    assert sidecar.status.ticks == 3
    assert "not recorded" in sidecar.status.health.troubles[-1]
    assert NOBODY.removesuffix("/0") in sidecar.status.health.troubles[-1]
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
        await bench.processes.stop_all()
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
        troubles.append(sidecar.status.health.troubles)

    async with a_bench(tmp_path, scenario) as bench, embedded(folder) as running:
        files = envoy.EnvoyFiles(folder.xds, running.admin_url, log=folder.log)
        sidecar = bench.sidecar(rule, Kept(), Spoiling(files, spoilt=[1]))
        await sidecar.run(bench.ticks(3, look))
        look(3)
        await bench.processes.stop_all()
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
        (tmp_path / "access.log").touch()
        blind = Blind(SCENARIO, LogTail(tmp_path / "access.log"), collector, speed_up=10.0)
        sidecar = bench.sidecar(PlanTracking(SCENARIO.cluster()), kept, Followed(), Mode.ADVISE, blind)
        await sidecar.run(bench.ticks(3, lambda _: seen.append(sidecar.status.health.troubles)))
    assert "KeyError" in seen[2][0]
    assert sidecar.status.health.troubles == ()
    assert [tick.decision.tick for tick in kept.ticks] == [0, 1]


class Stumbling(Blind):
    """Raises at its second look, when it has looked already."""

    async def observe(self, *args: Any, **kwargs: Any) -> Any:
        """As always, but once."""
        self.looks += 1
        seen = await Observer.observe(self, *args, **kwargs)
        if self.looks == 2:
            raise KeyError("a pool that nobody knows")
        return seen


@pytest.mark.parametrize(
    ("observer", "times_s", "episodes", "kinds"),
    [
        pytest.param(Observer, (0.0, 10.0, 40.0, 50.0), [4], {DefectKind.LATE_TICKS}, id="it had no time"),
        pytest.param(Blind, (0.0, 10.0, 20.0, 30.0), [3], {DefectKind.LATE_TICKS}, id="a look failed"),
        pytest.param(Stumbling, (0.0, 10.0, 20.0, 30.0), [1, 2], {DefectKind.GAP}, id="a look was lost"),
    ],
)
async def test_a_late_tick_is_recorded_as_of_all_the_time_that_was_looked_at(
    tmp_path: Path, observer: type[Observer], times_s: Sequence[float], episodes: list[int], kinds: set[DefectKind]
) -> None:
    sitting = Sitting(SCENARIO.name, SCENARIO.cluster(), SCENARIO.limits(), tick_s=SCENARIO.tick_s)
    (tmp_path / "access.log").touch()
    async with AsyncExitStack() as stack:
        bench = await stack.enter_async_context(a_bench(tmp_path))
        store = await stack.enter_async_context(Store(NOBODY, timeout_s=0.2))
        log = stack.enter_context(DecisionLog(tmp_path / "decisions.jsonl", sitting))
        records = Records(sitting, log, store, SidecarMetrics(sitting.cluster), tmp_path)
        collector = EngineCollector(bench.session, lambda: bench.now_s)
        eyes = observer(SCENARIO, LogTail(tmp_path / "access.log"), collector, speed_up=10.0)
        sidecar = bench.sidecar(PlanTracking(sitting.cluster), records, Followed(), observer=eyes)

        async def ticks() -> AsyncIterator[float]:
            for bench.now_s in times_s:
                yield bench.now_s

        await sidecar.run(ticks())
        await bench.processes.stop_all()
    record = read([tmp_path / "decisions.jsonl"])
    assert [len(episode) for episode in record.episodes] == episodes
    assert {defect.kind for defect in record.defects} & {DefectKind.GAP, DefectKind.LATE_TICKS} == kinds
    again = replay(read_log(tmp_path / "decisions.jsonl"), lambda decision, sitting: PlanTracking(sitting.cluster))
    assert again.ticks == sum(episodes)
    assert again.differences == ()


@pytest.mark.parametrize("mode", list(Mode))
async def test_an_adviser_keeps_what_is_in_force_a_canary_moves_its_share_and_only_an_active_one_scales(
    tmp_path: Path, mode: Mode
) -> None:
    routing, kept = Followed(), Kept()
    async with a_bench(tmp_path) as bench:
        sidecar = bench.sidecar(Contrary(), kept, routing, mode)
        opening = sidecar.in_force
        await sidecar.run(bench.ticks(2))
        asked_for = sum(len(pool.replicas) for pool in bench.processes.states().values())
        await bench.processes.stop_all()
    assert (asked_for > 0) is (mode is Mode.ACTIVE)
    assert sidecar.status.applied is (mode is not Mode.ADVISE)
    assert [tick.decision.mode for tick in kept.ticks] == [mode, mode]
    wanted = kept.ticks[0].decision.proposed.route
    share = {Mode.ADVISE: 0.0, Mode.CANARY: 0.05, Mode.ACTIVE: 1.0}[mode]
    # Nothing is up yet: a canary sends nothing where nothing is.
    share = 0.0 if mode is Mode.CANARY else share
    expected = share * wanted + (1.0 - share) * opening.route
    np.testing.assert_allclose(sidecar.in_force.route, expected)
    assert len(routing.tables) == 2
    for table in routing.tables:
        for c, requests in enumerate(table.classes):
            for pool, weight in requests.weights:
                assert weight == pytest.approx(expected[c, SCENARIO.pool_names.index(pool)])


class Contrary:
    """Wants all replicas that there can be, and everything sent to the first pool that can serve it."""

    name, policy_hash = "contrary", ""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The same at every tick."""
        cluster = SCENARIO.cluster()
        first = np.zeros(cluster.serves.shape)
        first[np.arange(len(first)), cluster.serves.argmax(axis=1)] = 1.0
        return replace(first_state(plan, cluster).applied, route=first, replicas=cluster.max_replicas), memory


async def test_two_ticks_cannot_overlap(tmp_path: Path) -> None:
    awake = threading.Event()
    async with a_bench(tmp_path) as bench:
        sidecar = bench.sidecar(Sleepy(awake), Kept(), Followed(), Mode.ADVISE, speed_up=1.0)
        first = asyncio.create_task(sidecar.tick(0.0))
        await asyncio.sleep(0.05)
        with pytest.raises(RuntimeError, match="a tick is under way"):
            await sidecar.tick(1.0)
        awake.set()
        await first
        assert (await sidecar.tick(2.0)).decision.tick == 1


async def test_a_log_that_never_came_is_named_and_the_weights_stay_until_it_comes(tmp_path: Path) -> None:
    kept = Kept()
    async with a_bench(tmp_path) as bench:
        sidecar = bench.sidecar(Contrary(), kept, Followed())
        log = tmp_path / "access.log"
        log.unlink()
        await sidecar.run(bench.ticks(7, lambda i: log.touch() if i == 5 else None))
        await bench.processes.stop_all()
    assert [tick.fell_back for tick in kept.ticks] == [False] * 4 + [True] + [False] * 2
    blind = kept.ticks[4]
    reason = blind.decision.reasons[0]
    assert (reason.code, reason.subject) == (ReasonCode.MISSING_TELEMETRY, "classes")
    assert str(log) in reason.detail
    assert "wanted Envoy's log" in reason.detail
    assert blind.decision.policy_name == "plan-tracking"
    np.testing.assert_array_equal(blind.decision.applied.route, kept.ticks[3].decision.applied.route)
    assert str(log) in kept.ticks[0].health.troubles[0]
    assert kept.ticks[6].health.troubles == ()


class Forgetful(Kept):
    """A recorder whose store is gone at some ticks."""

    async def record(self, tick: Tick) -> None:
        """Kept, or not."""
        await super().record(tick)
        if tick.decision.tick in (1, 2):
            raise StoreError("store at nowhere: connection refused")


async def test_while_ticks_are_not_recorded_the_fallback_decides(tmp_path: Path) -> None:
    kept = Forgetful()
    async with a_bench(tmp_path) as bench:
        sidecar = bench.sidecar(Contrary(), kept, Followed())
        await sidecar.run(bench.ticks(5))
        await bench.processes.stop_all()
    assert [tick.fell_back for tick in kept.ticks] == [False, False, True, True, False]
    assert kept.ticks[2].decision.reasons[0].code is ReasonCode.STORE_GONE
    assert "connection refused" in kept.ticks[2].decision.reasons[0].detail


class Broken:
    """A proxy that is down."""

    def __init__(self) -> None:
        self.calls = 0

    async def apply(self, table: RoutingTable) -> None:
        """Never."""
        self.calls += 1
        raise envoy.EnvoyUnreachable("Envoy's admin interface does not answer")


async def test_what_could_not_be_done_is_told_and_does_not_count_as_in_force(tmp_path: Path) -> None:
    kept = Kept()
    async with a_bench(tmp_path) as bench:
        sidecar = bench.sidecar(Contrary(), kept, Broken())
        opening = sidecar.in_force
        await sidecar.run(bench.ticks(2))
        asked_for = sum(len(pool.replicas) for pool in bench.processes.states().values())
        await bench.processes.stop_all()
    assert asked_for > 0  # the other parts go on
    np.testing.assert_array_equal(sidecar.in_force.route, opening.route)
    np.testing.assert_array_equal(kept.ticks[1].guard_state.applied.route, opening.route)
    assert not np.array_equal(sidecar.in_force.replicas, opening.replicas)
    assert kept.ticks[0].health.troubles == ("routing: Envoy's admin interface does not answer",)
    assert sidecar.status.health.troubles[0].startswith("routing: ")


async def test_a_sidecar_that_goes_on_from_another_changes_nothing_before_it_has_seen_the_traffic(
    tmp_path: Path,
) -> None:
    kept, routing, stood = Kept(), Followed(), list[Action]()
    async with a_bench(tmp_path) as bench:
        sidecar = bench.sidecar(
            Contrary(), kept, routing, resumed=True, keep=lambda ladder, in_force, rest: stood.append(in_force)
        )
        opening = sidecar.in_force
        await sidecar.run(bench.ticks(2))
        await bench.processes.stop_all()
    first, second = kept.ticks
    assert first.decision.reasons[0].code is ReasonCode.RESUMING
    np.testing.assert_array_equal(first.in_force.route, opening.route)
    np.testing.assert_array_equal(first.in_force.batch_cap, opening.batch_cap)
    assert not second.fell_back
    assert not np.array_equal(second.in_force.route, opening.route)
    assert len(routing.tables) == 2
    np.testing.assert_array_equal(stood[-1].route, second.in_force.route)


async def test_the_mode_rises_when_its_gate_passes_and_falls_when_asked_to(tmp_path: Path) -> None:
    gates = SCENARIO.control.gates.model_copy(update={"ticks": 3, "vetoes_per_tick": 100.0})
    scenario = SCENARIO.model_copy(update={"control": SCENARIO.control.model_copy(update={"gates": gates})})
    kept = Kept()
    async with a_bench(tmp_path, scenario) as bench:
        sidecar = bench.sidecar(PlanTracking(scenario.cluster()), kept, Followed(), Mode.ADVISE)
        assert sidecar.request_mode(Mode.CANARY) is None
        assert sidecar.status.gate == "0 of 3 ticks"
        await sidecar.run(bench.ticks(5))
        assert sidecar.status.mode is Mode.CANARY
        assert sidecar.request_mode(Mode.ADVISE) is None
        await sidecar.run(bench.ticks(1))
        await bench.processes.stop_all()
    assert [t.decision.mode for t in kept.ticks] == [Mode.ADVISE] * 3 + [Mode.CANARY] * 2 + [Mode.ADVISE]
    risen, fallen = kept.ticks[3].decision.reasons[-1], kept.ticks[5].decision.reasons[-1]
    assert (risen.code, risen.subject, risen.wanted, risen.applied) == (ReasonCode.PROMOTED, "canary", 0.0, 1.0)
    assert (fallen.code, fallen.subject, fallen.detail) == (ReasonCode.STEPPED_BACK, "advise", "asked for")
    assert "asked for" in sidecar.status.last_move


async def test_a_policy_that_keeps_failing_loses_its_mode(tmp_path: Path) -> None:
    class Failing(Contrary):
        def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
            raise ZeroDivisionError("no load")

    gates = SCENARIO.control.gates.model_copy(update={"breach_ticks": 2})
    scenario = SCENARIO.model_copy(update={"control": SCENARIO.control.model_copy(update={"gates": gates})})
    kept = Kept()
    async with a_bench(tmp_path, scenario) as bench:
        sidecar = bench.sidecar(Failing(), kept, Followed())
        await sidecar.run(bench.ticks(6))
        await bench.processes.stop_all()
    assert [t.decision.mode for t in kept.ticks] == [Mode.ACTIVE] * 2 + [Mode.CANARY] * 2 + [Mode.ADVISE] * 2
    told = kept.ticks[2].decision.reasons[-1]
    assert (told.code, told.detail) == (ReasonCode.STEPPED_BACK, "the policy failed in 100% of 2 ticks")
    assert all(t.fell_back for t in kept.ticks)
    # What was active once leaves the rest to the rule; an adviser leaves all as it is.
    assert kept.ticks[2].reach.rest is not kept.ticks[2].guard_state.applied
    np.testing.assert_array_equal(kept.ticks[5].in_force.replicas, kept.ticks[4].in_force.replicas)
