"""A policy explores on a real cluster: within its canary's pools, on an account that a killed sidecar leaves to the next one,
until that is spent. `poolpilot control` as people run it, real Envoy, real Valkey, emulated replicas under load."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from poolpilot.agents.checkpoint import shipped_checkpoints
from poolpilot.agents.exploring import DRAWN, SPREAD
from poolpilot.commands.demonstration.stack import Stage, addressees
from poolpilot.controller.decision_replay import replay as decide_again
from poolpilot.controller.exploration import Account
from poolpilot.controller.exploring import FILE, read_account
from poolpilot.env.contract import Mode, Reason, ReasonCode
from poolpilot.env.emulator.replay import Replay, replay
from poolpilot.telemetry.record import TickRecord, read_log
from poolpilot.telemetry.valkey import embedded_valkey

from .candidates_stage import a_steady_stage, until
from .miniature import Control, Told, control, end_processes_naming

pytestmark = pytest.mark.e2e

USD = 0.006
"""One replica of the cheap pool for 12 s."""
HOURS = 0.06
"""Noise that saves more than it costs is over then."""
SPENT, ALLOWED = (f'poolpilot_exploration_usd{{part="{part}"}}' for part in ("spent", "allowed"))
CAMPAIGN = f"""\
control:
  canary: {{pools: [cheap]}}
  exploration: {{enabled: true, campaign: drill, usd: {USD}, attainment: 0.5, hours: {HOURS}, spread: 2, hold_ticks: 2}}
"""


@asynccontextmanager
async def clients(stage: Stage, url: str) -> AsyncIterator[Replay]:
    """Requests come as long as the block lasts."""
    seen = Replay()
    load = asyncio.create_task(replay(stage.workload, addressees(stage.scenario), url, stage.speed_up, seen))
    try:
        yield seen
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)


async def test_exploration_keeps_to_its_pools_and_to_an_account_that_outlives_the_sidecar(tmp_path: Path) -> None:
    folder, options = tmp_path / "run", ("--policy", next(iter(shipped_checkpoints())), "--no-step-back")
    try:
        async with embedded_valkey(tmp_path / "valkey") as valkey:
            stage = a_steady_stage(tmp_path, valkey.url, 2000.0, CAMPAIGN)
            async with control(stage, folder, *options) as first, clients(stage, first.url) as seen:
                await until(lambda: account_in(folder).explored_ticks >= 4)
                early = await first.told()
                await first.killed()
                left = account_in(folder)
                async with control(stage, folder, *options) as second:
                    assert second.url == first.url, "the same Envoy"
                    over = await told(second, lambda now: "over" in now.status["exploration"])
                    later = await told(second, lambda now: now.status["ticks"] >= over.status["ticks"] + 5)
                    gone = [record.detail for record in seen.records if record.outcome == "lost"]
    finally:
        end_processes_naming(tmp_path)
    assert gone == []
    ticks = list(read_log(folder / "decisions.jsonl", lambda _: None))
    noisy = [tick for tick in ticks if SPREAD in tick.memory]
    # What the sidecar says of itself while it goes on, and once it is over, is what stands in the record.
    spent = [reason.wanted for tick in noisy for reason in reasons(tick)]
    assert len(spent) == len(noisy)
    assert early.status["exploration"].startswith("campaign drill: $")
    assert early.figures[SPENT] in [0.0, *spent]
    assert early.figures[ALLOWED] == USD
    whole = account_in(folder)
    assert whole.usd >= USD or whole.ticks * stage.scenario.tick_s >= HOURS * 3600.0
    assert f"of ${USD:g} are spent" in over.status["exploration"] or "hours are over" in over.status["exploration"]
    assert later.figures["poolpilot_exploring"] == 0.0
    assert later.figures[SPENT] == whole.usd
    # The account outlived the sidecar, and what is spent is spent.
    assert spent == sorted(spent)
    assert left.usd <= account_in(folder).usd
    assert left.explored_ticks <= sum(tick.decision.fencing_token == 1 for tick in noisy) + 1
    assert account_in(folder).explored_ticks >= left.explored_ticks + sum(
        tick.decision.fencing_token == 2 for tick in noisy
    )
    assert not any(SPREAD in tick.memory for tick in ticks[-5:])
    # Noise went no further than the canary does.
    own = np.array([name == "cheap" for name in stage.scenario.pool_names])
    moved = 0
    for tick in noisy:
        applied, rest = tick.decision.applied, tick.reach.rest
        assert tick.decision.mode is Mode.CANARY
        assert tick.reach.pools.tolist() == own.tolist()
        np.testing.assert_array_equal(applied.batch_cap[~own], rest.batch_cap[~own])
        np.testing.assert_array_equal(applied.replicas[~own], rest.replicas[~own])
        moved += bool((applied.replicas[own] != rest.replicas[own]).any())
    assert moved > 0, "and did something"
    assert {tick.decision.mode for tick in ticks} - {Mode.CANARY} == {Mode.ACTIVE}
    drawn = [tick for tick in noisy if tick.memory[DRAWN] > 0.0]
    assert 0 < len(drawn) < len(noisy), "held over some ticks"
    assert all(tick.answer is not None and math.isfinite(tick.answer.log_probability) for tick in drawn)
    # All of it can be decided again.
    assert decide_again(ticks).differences == ()


def reasons(tick: TickRecord) -> list[Reason]:
    """What a tick says of exploration."""
    return [reason for reason in tick.decision.reasons if reason.code is ReasonCode.EXPLORING]


def account_in(folder: Path) -> Account:
    """As it is kept."""
    kept = read_account(folder / FILE)
    return Account("", 0.0) if kept is None else kept


async def told(sidecar: Control, enough: Callable[[Told], bool], patience_s: float = 120.0) -> Told:
    """What the sidecar says once that is enough."""
    async with asyncio.timeout(patience_s):
        while not enough(now := await sidecar.told()):
            await asyncio.sleep(0.1)
    return now
