"""GPU types mix within a cluster but never within the arithmetic: every pool moves by its own figures and no other's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest

from poolpilot.env.contract import FloatArray
from poolpilot.env.ledger import Tariff
from poolpilot.env.scenario import Fault
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.state import MEAN_S, PROVISION
from poolpilot.env.sim.world import WorldSpec
from poolpilot.env.workload.requests import Workload
from poolpilot.tests.env.sim.worlds import AClass, APool, a_law, a_world, an_action

PAID = Tariff(usd_per_kwh=np.array(0.2), pue=np.array(1.3), egress_usd_per_gb=np.array(5.0))
POOLS = (
    APool(a_law(0.012), name="fast", start=2, usd_per_hr=6.9, cold_start_s=31.0, kv_tokens=9000, crashes_per_hr=30.0),
    APool(
        a_law(0.03, 4e-5),
        name="spot",
        start=3,
        usd_per_hr=2.3,
        cold_start_s=12.0,
        cold_spread_frac=0.4,
        preemptions_per_hr=40.0,
        notice_s=7.0,
        kv_tokens=30000,
        batch_cap=16,
    ),
    APool(
        a_law(0.05, 1e-4),
        name="old",
        start=2,
        usd_per_hr=0.9,
        cold_start_s=20.0,
        load_s=11.0,
        stuck_start_frac=0.3,
        give_up_s=50.0,
        sleep_max=1,
        wake_s=2.0,
        asleep_rent_frac=0.5,
    ),
)
FAULTS = tuple(Fault(kind="crash", pool=pool.name, at_s=33.0) for pool in POOLS)
RATES_PER_S = {"fast": 4.0, "spot": 2.0, "old": 0.7}


def requests_of(names: Sequence[str]) -> Workload:
    """Of each pool's own class, the same whatever the others."""
    times, rows, classes = [], [], []
    for index, name in enumerate(names):
        rng = np.random.default_rng(sorted(RATES_PER_S).index(name))
        count = rng.poisson(RATES_PER_S[name] * 150.0)
        times.append(rng.uniform(0.0, 150.0, count))
        rows.append(np.stack([rng.integers(50, 900, count), rng.integers(5, 250, count)]))
        classes.append(np.full(count, index))
    order = np.argsort(np.concatenate(times), kind="stable")
    tokens = np.concatenate(rows, axis=1)[:, order]
    return Workload(
        np.concatenate(times)[order],
        tokens[0],
        tokens[1],
        np.concatenate(classes)[order],
        tuple(f"for-{n}" for n in names),
    )


def a_mixed_world(pools: Sequence[APool] = POOLS) -> WorldSpec:
    """Each pool with a class that only it may serve, so that what happens to a pool can be told apart."""
    names = [pool.name for pool in pools]
    classes = [AClass(ttft_s=1.0, tpot_s=0.2, pools=(place,)) for place in range(len(pools))]
    faults = tuple(fault for fault in FAULTS if fault.pool in names)
    return a_world(requests_of(names), pools, classes, faults=faults, tariff=PAID)


def pool_histories(world: WorldSpec, wanted: dict[str, Sequence[int]], ticks: int = 18) -> dict[str, list[FloatArray]]:
    """By pool, everything that comes out of a run for it and its class, tick by tick."""
    clusters = SimulatedClusters([world], 10.0)
    names = world.cluster.pool_names
    histories: dict[str, list[FloatArray]] = {name: [] for name in names}
    for tick in range(ticks):
        replicas = [float(wanted[name][tick % len(wanted[name])]) for name in names]
        outcome = clusters.advance(an_action(clusters, replicas=replicas, batch_cap=16.0))
        snapshot = clusters.snapshot()
        for p, name in enumerate(names):
            meter = [np.ravel(getattr(outcome.meter, field.name)[0, p]) for field in fields(outcome.meter)
                     if field.name not in ("egress_bytes", "class_work", "class_claim")]  # fmt: skip
            own = [outcome.tally[0, p], outcome.bill.usd[0, p, p], outcome.events[0, p], outcome.asleep_s[0, p : p + 1]]
            histories[name].append(np.concatenate([*meter, *own, snapshot.pools[0, p], snapshot.classes[0, p]]))
    return histories


WANTED: dict[str, Sequence[int]] = {"fast": (2, 3, 1), "spot": (3, 3, 4), "old": (2, 1, 2, 1)}


def differing(ours: dict[str, list[FloatArray]], theirs: dict[str, list[FloatArray]]) -> set[str]:
    """Names of pools of both that did not have the same history, bit by bit."""
    return {
        name
        for name in ours.keys() & theirs.keys()
        if not np.array_equal(np.array(ours[name]), np.array(theirs[name]), equal_nan=True)
    }


@pytest.fixture(scope="module")
def usual() -> dict[str, list[FloatArray]]:
    return pool_histories(a_mixed_world(), WANTED)


def test_the_worlds_of_these_tests_are_alive(usual: dict[str, list[FloatArray]]) -> None:
    for history in usual.values():
        assert len({tuple(row.tolist()) for row in history}) > 10


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_the_order_of_the_pools_does_not_matter(usual: dict[str, list[FloatArray]], order: tuple[int, ...]) -> None:
    # The requests of one moment keep their order, so that those of a class are the same requests with the same luck.
    permuted = a_mixed_world([POOLS[place] for place in order])
    first = a_mixed_world()
    relabelled = np.array(order).argsort()[first.workload.class_index]
    same = Workload(
        first.workload.arrival_s,
        first.workload.prompt_tokens,
        first.workload.output_tokens,
        relabelled,
        permuted.workload.class_names,
    )
    assert differing(usual, pool_histories(replace(permuted, workload=same), WANTED)) == set()


CHANGES: dict[str, dict[str, Any]] = {
    "law": {"law": a_law(0.033, 4e-5)},
    "KV cache": {"kv_tokens": 1600},
    "price": {"usd_per_hr": 2.4},
    "cold start": {"cold_start_s": 13.0},
    "spread of cold starts": {"cold_spread_frac": 0.1},
    "load": {"load_s": 3.0},
    "preemption rate": {"preemptions_per_hr": 120.0},
    "notice": {"notice_s": 2.0},
    "crashes": {"crashes_per_hr": 60.0},
    "stuck starts": {"stuck_start_frac": 1.0, "give_up_s": 30.0},
    "sleep": {"sleep_max": 2},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_one_pool_moves_that_pool_alone(usual: dict[str, list[FloatArray]], change: dict[str, Any]) -> None:
    changed = a_mixed_world((POOLS[0], replace(POOLS[1], **change), POOLS[2]))
    wanted = {**WANTED, "spot": (3, 2, 4)} if "sleep_max" in change else WANTED
    base = usual if wanted is WANTED else pool_histories(a_mixed_world(), wanted)
    assert differing(base, pool_histories(changed, wanted)) == {"spot"}


def second_pool_changed(name: str, value: Any, n_pools: int) -> Any:
    """The value with the second pool's figure another one; None if it holds no figure of each pool."""
    if isinstance(value, tuple) and len(value) == n_pools:
        held = value[1] if isinstance(value[1], tuple) else (value[1],)
        if not is_dataclass(held[0]):
            return None
        numbers = {f.name: v * 1.07 for f in fields(held[0]) if isinstance(v := getattr(held[0], f.name), float)}
        changed = replace(held[0], **numbers)
        return (value[0], (changed,) if isinstance(value[1], tuple) else changed, *value[2:])
    if not isinstance(value, np.ndarray) or n_pools not in value.shape or name == "give_up_after_s":
        return None
    values = value.copy()
    if name == "delays":
        values[1, PROVISION, MEAN_S] *= 1.1
        return values
    place: Any = 1 if value.shape[0] == n_pools else (slice(None), 1)
    whole = name in ("start_replicas", "batches_in_flight", "sleep_max")
    values[place] = values[place] + 1.0 if whole else values[place] * 1.07 + 0.01  # infinite ones stay
    return values


def test_no_figure_of_one_pool_is_read_for_another(usual: dict[str, list[FloatArray]]) -> None:
    """Whatever a world holds by pool, and whatever it may be called by then."""
    world = a_mixed_world()
    tried = set()
    for owner, holder in (("world", world), ("supply", world.supply)):
        for name in (field.name for field in fields(holder)):
            other = second_pool_changed(name, getattr(holder, name), len(POOLS))
            if other is None:
                continue
            tried.add(name)
            changed = replace(holder, **{name: other})
            whole = changed if owner == "world" else replace(world, supply=changed)
            assert differing(usual, pool_histories(whole, WANTED)) <= {"spot"}, name
    assert {"law_rows", "kv_tokens", "draws", "thermals", "price_usd_per_hr", "notice_s", "delays"} <= tried


@pytest.mark.parametrize("pool", POOLS, ids=[pool.name for pool in POOLS])
def test_a_pool_in_a_mixed_cluster_does_what_it_does_alone(pool: APool) -> None:
    # With one replica there is no choice of replica, which is drawn by a request's place among all.
    ones = [replace(own, start=1) for own in POOLS]
    single: dict[str, Sequence[int]] = {own.name: (1,) for own in POOLS}
    together = pool_histories(a_mixed_world(ones), single)
    alone = pool_histories(a_mixed_world([replace(pool, start=1)]), single)
    assert differing(together, alone) == set()
    assert set(alone) == {pool.name}
