"""Each part is brought about by itself; one that fails is told, tried again with backoff, and hinders no other."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from poolpilot.controller.acting import FIRST_BACKOFF_S, MOST_BACKOFF_S, Hands
from poolpilot.controller.actuators.caps import CapFiles
from poolpilot.controller.actuators.envoy import EnvoyRejected
from poolpilot.controller.actuators.envoy_config import Endpoint, RoutingTable
from poolpilot.controller.actuators.replicas import CausedSeconds, PoolReplicas, RentedSeconds, Replica, Stage
from poolpilot.controller.preparing import first_plan
from poolpilot.env.contract import Action
from poolpilot.env.guard import first_state
from poolpilot.env.scenario import load_scenario

SCENARIO = load_scenario("mixed-chat")
_, PLAN = first_plan(SCENARIO)
IN_FORCE = first_state(PLAN, SCENARIO.cluster()).applied
WANTED = replace(
    IN_FORCE,
    replicas=IN_FORCE.replicas + 1.0,
    batch_cap=np.maximum(1.0, IN_FORCE.batch_cap - 1.0),
    admit=IN_FORCE.admit * 0.5,
)


class Fleet:
    """Replicas that are there as soon as they are asked for."""

    def __init__(self) -> None:
        self.targets: list[Mapping[str, int]] = []
        self.released: list[Collection[Endpoint]] = []
        self.broken = False

    def states(self) -> dict[str, PoolReplicas]:
        counts = self.targets[-1] if self.targets else {}
        return {
            name: PoolReplicas(
                tuple(
                    Replica(f"{name}-{i}", name, Stage.READY, Endpoint("127.0.0.1", 1000 + 100 * p + i))
                    for i in range(counts.get(name, 0))
                ),
                failed=0,
                last_failure="",
                cold_start_s=np.nan,
            )
            for p, name in enumerate(SCENARIO.pool_names)
        }

    def usage(self) -> dict[str, RentedSeconds]:
        return {}

    def caused(self) -> tuple[CausedSeconds, ...]:
        return ()

    async def apply(self, targets: Mapping[str, int], tick: int) -> None:
        if self.broken:
            raise RuntimeError("no more processes")
        self.targets.append(targets)

    def release(self, routed: Collection[Endpoint]) -> None:
        self.released.append(routed)


class Proxy:
    """Follows, unless it is broken."""

    def __init__(self) -> None:
        self.tables: list[RoutingTable] = []
        self.calls, self.broken = 0, False
        self.refusal: EnvoyRejected | None = None

    async def apply(self, table: RoutingTable) -> None:
        self.calls += 1
        if self.broken:
            raise ConnectionError("the proxy is down")
        if self.refusal:
            raise self.refusal
        self.tables.append(table)


class World:
    """Hands and what they hold."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 0.0
        self.fleet, self.proxy, self.caps = Fleet(), Proxy(), CapFiles(folder / "caps")
        self.hands = Hands(SCENARIO, self.fleet, self.proxy, self.caps, wall=lambda: self.now_s)


async def test_an_action_is_brought_about_in_every_part(tmp_path: Path) -> None:
    world = World(tmp_path)
    acted = await world.hands.apply(WANTED, IN_FORCE, tick=3)
    assert acted.health.troubles == ()
    for name in ("route", "admit", "batch_cap", "token_budget", "replicas"):
        np.testing.assert_array_equal(getattr(acted.in_force, name), getattr(WANTED, name))
    for p, name in enumerate(SCENARIO.pool_names):
        caps = world.caps.read(name)
        assert caps is not None
        assert caps.batch_cap == WANTED.batch_cap[p]
        assert world.fleet.targets[-1][name] == WANTED.replicas[p]
    routed = {e for pool in world.proxy.tables[-1].pools for e in pool.endpoints}
    assert len(routed) == WANTED.replicas.sum()
    assert set(world.fleet.released[-1]) == routed


async def test_a_proxy_that_is_down_keeps_its_weights_in_force_and_nothing_is_released(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.proxy.broken = True
    acted = await world.hands.apply(WANTED, IN_FORCE, tick=3)
    assert acted.health.problems == ("routing: the proxy is down",)
    np.testing.assert_array_equal(acted.in_force.admit, IN_FORCE.admit)
    np.testing.assert_array_equal(acted.in_force.replicas, WANTED.replicas)
    assert world.fleet.released == []


@pytest.mark.parametrize("follow", [True, False], ids=["replicas follow", "nothing follows"])
async def test_what_left_the_proxys_replicas_may_stop_though_routes_are_refused(tmp_path: Path, follow: bool) -> None:
    world = World(tmp_path)
    world.proxy.refusal = EnvoyRejected("refused", endpoints_follow=follow)
    acted = await world.hands.apply(WANTED, IN_FORCE, tick=3)
    assert acted.health.problems == ("routing: refused",)
    np.testing.assert_array_equal(acted.in_force.admit, IN_FORCE.admit)
    assert len(world.fleet.released) == follow


async def test_a_proxy_elsewhere_that_does_not_follow_holds_up_neither_ours_nor_readiness(tmp_path: Path) -> None:
    world, other = World(tmp_path), Proxy()
    world.hands.elsewhere, other.broken = other, True
    in_force = IN_FORCE
    for _ in range(4):
        acted = await world.hands.apply(WANTED, in_force, tick=3)
        in_force = acted.in_force
        assert acted.health.problems == ()
        assert acted.health.warnings[0].startswith("routing elsewhere: the proxy is down")
        world.now_s += 0.1
    np.testing.assert_array_equal(in_force.admit, WANTED.admit)
    assert world.proxy.calls == 4, "the other one's backoff is its own"
    assert other.calls < 4
    assert world.fleet.released == [], "it may still send to replicas that left"
    other.broken, world.now_s = False, world.now_s + MOST_BACKOFF_S
    assert (await world.hands.apply(WANTED, in_force, tick=4)).health.troubles == ()
    assert len(world.fleet.released) == 1


async def test_a_broken_part_hinders_no_other(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.fleet.broken = True
    (tmp_path / "caps" / f"{SCENARIO.pool_names[0]}.json").mkdir()
    acted = await world.hands.apply(WANTED, IN_FORCE, tick=3)
    assert [t.split(":")[0] for t in acted.health.warnings] == [f"caps of {SCENARIO.pool_names[0]}", "replicas"]
    np.testing.assert_array_equal(acted.in_force.replicas, IN_FORCE.replicas)
    assert acted.in_force.batch_cap[0] == IN_FORCE.batch_cap[0]
    np.testing.assert_array_equal(acted.in_force.batch_cap[1:], WANTED.batch_cap[1:])
    np.testing.assert_array_equal(acted.in_force.admit, WANTED.admit)


async def test_what_fails_is_tried_again_later_and_later_and_heals_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.proxy.broken = True
    in_force: Action = IN_FORCE
    tried_at_s = []
    while world.now_s < 120.0:
        calls = world.proxy.calls
        acted = await world.hands.apply(WANTED, in_force, tick=0)
        assert acted.health.troubles[0].startswith("routing: the proxy is down")
        if world.proxy.calls > calls:
            tried_at_s.append(world.now_s)
        else:
            assert "again in" in acted.health.troubles[0]
        world.now_s += 0.5
    gaps = np.diff(tried_at_s)
    assert gaps[0] == 0.5  # once more at the next tick
    assert gaps[1] == FIRST_BACKOFF_S
    assert (np.diff(gaps) >= 0).all()
    assert gaps.max() == pytest.approx(MOST_BACKOFF_S)
    world.proxy.broken = False
    world.now_s += MOST_BACKOFF_S
    acted = await world.hands.apply(WANTED, in_force, tick=0)
    assert acted.health.troubles == ()
    world.proxy.broken = True
    acted = await world.hands.apply(WANTED, acted.in_force, tick=0)
    assert acted.health.troubles == ("routing: the proxy is down",)  # counted anew
