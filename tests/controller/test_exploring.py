"""A sidecar whose policy explores: on the canary's pools alone, on an account, and with everything in the record."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from poolpilot.agents.checkpoint import shipped_checkpoints
from poolpilot.agents.exploring import SPREAD
from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.agents.registry import BEFORE_TRIAL, Registry
from poolpilot.controller.choosing import PolicyChoice
from poolpilot.controller.exploration import Account, spent
from poolpilot.controller.exploring import FILE, Explorer, account_text, read_account
from poolpilot.controller.loop import Sidecar
from poolpilot.controller.trial import rules_of
from poolpilot.controller.versions import Versions
from poolpilot.env.contract import Mode, ReasonCode
from poolpilot.env.scenario.control import Exploration
from poolpilot.tests.agents.registry.candidates import a_checkpoint, let_through

from .test_loop import SCENARIO, Followed, Kept, a_bench

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
    assert spent(Account("first", 100.0, usd=10.0), ALLOWED, 10.0) == "$10.00 of $10.00 are spent"
    assert "requests are spent" in spent(
        Account("first", 100.0, expected_requests=60.0, unexplained_most=40.0), ALLOWED, 10.0
    )
    assert spent(Account("first", 100.0, ticks=8640), ALLOWED, 10.0) == "its 24 hours are over"


async def test_nothing_is_tried_while_a_candidate_takes_turns_with_the_policy(tmp_path: Path) -> None:
    registry = Registry.found(tmp_path / "registry", a_checkpoint(tmp_path / "first"))
    candidate = registry.add(a_checkpoint(tmp_path / "second", pool_output=(0.3, 0.2, 0.0, 0.0)))
    let_through(registry, candidate, BEFORE_TRIAL)
    registry.begin_trial(candidate, registry.incumbent())
    cluster, kept = SCENARIO.cluster(), Kept()
    told: list[tuple[int, bool]] = []
    gates, asked = SCENARIO.control.gates, SCENARIO.control.trial
    async with a_bench(tmp_path) as bench:
        sidecar = bench.sidecar(PlanTracking(cluster), kept, Followed(), Mode.ACTIVE)
        sidecar.proposals.versions = Versions(
            registry,
            cluster,
            sidecar.proposals.thinker,
            rules_of(asked, gates, cluster.class_names, cluster.cold_start_s),
            0.0,
            asked.wait_s,
        )
        sidecar.proposals.explorer = an_explorer(
            sidecar, tmp_path, lambda account, exploring: told.append((account.ticks, exploring))
        )
        await sidecar.run(bench.ticks(4, lambda k: k == 2 and registry.end_trial(candidate, "enough")))
        await bench.processes.stop_all()
    assert told == [(0, False), (0, False), (1, True), (2, True)]
    assert [SPREAD in tick.memory for tick in kept.ticks] == [False, False, True, True]
