"""A sidecar whose policy explores: on the canary's pools alone, on an account, and with everything in the record."""

from pathlib import Path

import numpy as np

from poolpilot.agents.checkpoint import shipped_checkpoints
from poolpilot.agents.exploring import SPREAD
from poolpilot.controller.choosing import PolicyChoice
from poolpilot.controller.exploration import Account, spent
from poolpilot.controller.exploring import FILE, Explorer, account_text, read_account
from poolpilot.env.contract import Mode, ReasonCode
from poolpilot.env.scenario.control import Exploration

from .test_loop import SCENARIO, Followed, Kept, a_bench

ALLOWED = Exploration(enabled=True, usd=10.0, attainment=0.1)


async def test_a_sidecar_explores_on_the_pools_of_its_canary_alone_and_says_so(tmp_path: Path) -> None:
    cluster, kept = SCENARIO.cluster(), Kept()
    policy = PolicyChoice(next(iter(shipped_checkpoints()))).make(cluster)
    own = np.arange(len(cluster.pool_names)) == 1
    told: list[tuple[Account, bool]] = []
    async with a_bench(tmp_path) as bench:
        sidecar = bench.sidecar(policy, kept, Followed(), Mode.ACTIVE)
        sidecar.explorer = Explorer(
            ALLOWED,
            cluster,
            sidecar.limits,
            SCENARIO.tick_s,
            0.0,
            own,
            tmp_path / FILE,
            sidecar.first_plan,
            np.random.default_rng(1),
            on_account=lambda account, exploring: told.append((account, exploring)),
        )
        await sidecar.run(bench.ticks(8))
        await bench.processes.stop_all()
    explored = [tick for tick in kept.ticks if SPREAD in tick.memory]
    assert explored
    assert [exploring for _, exploring in told] == [SPREAD in tick.memory for tick in kept.ticks]
    for tick in explored:
        assert tick.reach.mode is Mode.CANARY
        assert np.array_equal(tick.decision.applied.batch_cap[~own], tick.reach.rest.batch_cap[~own])
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
    assert spent(Account("first", 100.0, usd=10.0), ALLOWED, 10.0) == "$10.00 of $10.00 are spent"
    assert "requests are spent" in spent(
        Account("first", 100.0, expected_requests=60.0, unexplained_most=40.0), ALLOWED, 10.0
    )
    assert spent(Account("first", 100.0, ticks=8640), ALLOWED, 10.0) == "its 24 hours are over"
