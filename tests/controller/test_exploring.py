"""A sidecar whose policy explores: on the canary's pools alone, on an account, and with everything in the record."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from poolpilot.agents.checkpoint import shipped_checkpoints
from poolpilot.agents.exploring import SPREAD
from poolpilot.controller.choosing import PolicyChoice
from poolpilot.controller.exploration import Account, accounted, parted, spent
from poolpilot.controller.exploring import FILE, Explorer, account_text, read_account
from poolpilot.controller.loop import Sidecar
from poolpilot.env.contract import BILL_LAYERS, IDLE_PARTS, Bill, Mode, ReasonCode, blank_snapshot
from poolpilot.env.guard import GuardState, first_state
from poolpilot.env.scenario.control import Exploration
from poolpilot.env.window import TALLY_WIDTH

from .test_loop import SCENARIO, Followed, Kept, a_bench
from .test_proposing import a_follower, a_registry
from .ticks import a_plan, a_sitting

ALLOWED = Exploration(enabled=True, usd=10.0, attainment=0.1)
SECOND_POOL = np.arange(len(SCENARIO.pool_names)) == 1


def an_explorer(sidecar: Sidecar, folder: Path, on_account: Callable[[Account, bool], None]) -> Explorer:
    """On the second pool alone."""
    cluster = SCENARIO.cluster()
    return Explorer(
        ALLOWED,
        cluster,
        sidecar.limits,
        SCENARIO.tick_s,
        0.0,
        SECOND_POOL,
        folder / FILE,
        sidecar.first_plan,
        np.random.default_rng(1),
        on_account=on_account,
    )


async def test_a_sidecar_explores_on_the_pools_of_its_canary_alone_and_says_so(tmp_path: Path) -> None:
    cluster, kept = SCENARIO.cluster(), Kept()
    policy = PolicyChoice(next(iter(shipped_checkpoints()))).make(cluster)
    told: list[tuple[Account, bool]] = []
    async with a_bench(tmp_path) as bench:
        sidecar = bench.sidecar(policy, kept, Followed(), Mode.ACTIVE)
        sidecar.proposals.explorer = an_explorer(
            sidecar, tmp_path, lambda account, exploring: told.append((account, exploring))
        )
        await sidecar.run(bench.ticks(8))
        await bench.processes.stop_all()
    explored = [tick for tick in kept.ticks if SPREAD in tick.memory]
    assert explored
    assert [exploring for _, exploring in told] == [SPREAD in tick.memory for tick in kept.ticks]
    for tick in explored:
        assert tick.reach.mode is Mode.CANARY
        assert np.array_equal(tick.decision.applied.batch_cap[~SECOND_POOL], tick.reach.rest.batch_cap[~SECOND_POOL])
        assert any(reason.code is ReasonCode.EXPLORING for reason in tick.decision.reasons)
        assert tick.answer is not None
    account = read_account(tmp_path / FILE)
    assert account is not None
    assert account.ticks == sum(not tick.fell_back for tick in kept.ticks)
    assert sidecar.status.mode is Mode.ACTIVE


def test_an_account_is_read_as_it_was_written(tmp_path: Path) -> None:
    account = Account("first", 100.0, 1.5, 2.0, np.array([0.5, 0.0]), 0.75, 10, 8, 2)
    (tmp_path / FILE).write_bytes(account_text(account))
    again = read_account(tmp_path / FILE)
    assert again is not None
    assert account_text(again) == account_text(account)
    assert again.requests == 2.75


def test_whichever_part_of_the_budget_is_spent_first_ends_it() -> None:
    nothing = Account("first", 100.0)
    assert spent(nothing, ALLOWED, 10.0) == ""
    assert spent(Account("first", 100.0, usd=10.0), ALLOWED, 10.0) == "$10.000 of $10 are spent"
    assert "requests are spent" in spent(
        Account("first", 100.0, expected_requests=60.0, unexplained_most=40.0), ALLOWED, 10.0
    )
    assert spent(Account("first", 100.0, ticks=8640), ALLOWED, 10.0) == "its 24 hours are over"


async def test_nothing_is_tried_while_a_candidate_takes_turns_with_the_policy(tmp_path: Path) -> None:
    registry, candidate = a_registry(tmp_path)
    kept = Kept()
    told: list[tuple[int, bool]] = []
    async with a_bench(tmp_path) as bench:
        sidecar = a_follower(bench, registry, kept)
        sidecar.proposals.explorer = an_explorer(
            sidecar, tmp_path, lambda account, exploring: told.append((account.ticks, exploring))
        )
        await sidecar.run(bench.ticks(4, lambda k: k == 2 and registry.end_trial(candidate, "enough")))
        await bench.processes.stop_all()
    assert told == [(0, False), (0, False), (1, True), (2, True)]
    assert [SPREAD in tick.memory for tick in kept.ticks] == [False, False, True, True]


async def test_where_the_policy_is_not_at_home_nothing_is_tried_and_everybody_is_told(tmp_path: Path) -> None:
    cluster, kept, off = SCENARIO.cluster(), Kept(), [math.nan]
    policy = PolicyChoice(next(iter(shipped_checkpoints()))).make(cluster)
    told: list[bool] = []
    before = ""
    async with a_bench(tmp_path) as bench:
        sidecar = bench.sidecar(policy, kept, Followed(), Mode.ACTIVE)
        sidecar.proposals.twin = lambda: off[0]
        sidecar.proposals.explorer = explorer = an_explorer(
            sidecar, tmp_path, lambda account, exploring: told.append(exploring)
        )

        def moves_away(tick: int) -> None:
            nonlocal before
            if tick == 5:
                off[0], before = 0.7, sidecar.status.exploration

        await sidecar.run(bench.ticks(8, moves_away))
        await bench.processes.stop_all()
    assert any(told[:5])
    assert before.startswith("campaign first: $")
    assert "waits" not in before
    assert told == [SPREAD in tick.memory for tick in kept.ticks]
    late = [tick for tick in kept.ticks if tick.drift.drifts]
    assert len(late) == 3
    assert not any(SPREAD in tick.memory for tick in late)
    assert sidecar.status.exploration.endswith("waits, the policy is not at home here")
    account = read_account(tmp_path / FILE)
    assert account is not None
    assert account.usd == explorer.account.usd, "what is counted meanwhile is kept"


@pytest.mark.parametrize(
    ("given_up", "charged_s"), [(1.0, 0.0), (0.0, 6.0)], ids=["without noise too", "because of noise"]
)
def test_a_replica_that_drains_costs_what_noise_costs_only_where_noise_drains_it(
    given_up: float, charged_s: float
) -> None:
    sitting = a_sitting()
    cluster, plan, span_s = sitting.cluster, a_plan(sitting.cluster), 10.0
    first = np.arange(len(cluster.pool_names)) == 0
    ready = np.full(len(cluster.pool_names), 2.0)
    snapshot = blank_snapshot(span_s, len(cluster.class_names), len(cluster.pool_names))
    snapshot.ready[:], snapshot.starting[:], snapshot.draining[:] = ready, 0.0, 0.0  # it was gone by then
    snapshot.usd_per_hr[:] = cluster.usd_per_hr
    action = replace(first_state(plan, cluster).applied, replicas=ready)
    state = GuardState(np.full(ready.shape, -np.inf), action)
    followed = replace(parted(action, state, snapshot), at_s=0.0, leaving=given_up * first)
    # Of the first pool one more was there for 6 s of the 10.
    usd = np.zeros((len(ready), len(cluster.class_names), len(BILL_LAYERS)))
    usd[:, 0, BILL_LAYERS.index("idle")] = (ready * span_s + 6.0 * first) * cluster.usd_per_hr / 3600.0
    bill = Bill(usd, np.zeros((*usd.shape[:2], len(IDLE_PARTS))))
    counts = np.zeros((len(cluster.class_names), TALLY_WIDTH))
    account = accounted(
        Account("first", 100.0, unexplained=np.zeros(len(counts))),
        followed,
        snapshot,
        plan,
        cluster,
        action,
        bill,
        counts,
    )
    assert account.usd == pytest.approx(charged_s * cluster.usd_per_hr[0] / 3600.0, abs=1e-6)
