"""A candidate that is bad live meets a real cluster: it is caught in its turn, a bad promotion is gone back from, and the
incumbent serves on. `poolpilot control` as people run it, real Envoy, emulated replicas."""

from __future__ import annotations

from pathlib import Path

import pytest

from poolpilot.agents.registry import BEFORE_TRIAL, CANARY, Registry, Verdict
from poolpilot.controller.decision_replay import replay as decide_again
from poolpilot.env.contract import Mode, ReasonCode
from poolpilot.telemetry.record import read_log
from poolpilot.telemetry.valkey import embedded_valkey
from poolpilot.tests.agents.registry.candidates import a_checkpoint, let_through

from .candidates_stage import a_candidate, a_steady_stage, deciders, served, until

pytestmark = pytest.mark.e2e

STARVING = {"class_output": (-1.0, 0.0), "pool_output": (-1.0, 0.0, -1.0, 0.0)}
"""Half the head-room, a fifth fewer replicas, half the batch: what looks cheap, and is bad live."""


async def test_a_starving_candidate_is_caught_in_its_turn_and_a_forced_promotion_of_it_is_gone_back_from(
    tmp_path: Path,
) -> None:
    registry = Registry.found(tmp_path / "registry", a_checkpoint(tmp_path / "first", name="first"))
    first = registry.incumbent()
    folder = tmp_path / "run"
    async with embedded_valkey(tmp_path / "valkey") as valkey:
        stage = a_steady_stage(tmp_path, valkey.url)
        # After the incumbent, so that there is something to hold it against.
        candidate = a_candidate(stage, registry, "starving", **STARVING, window=1)
        let_through(registry, candidate, BEFORE_TRIAL)
        registry.begin_trial(candidate, first)
        async with served(stage, registry, folder):
            await until(lambda: registry.state().on_trial == "")
            found = registry.evidence(candidate)[CANARY]
            registry.promote(candidate, first, force="to see what becomes of it")
            await until(lambda: registry.incumbent() == first)
            await until(lambda: deciders(folder)[-2:] == [first, first])
    # The trial: it had its turns, did harm, and was stopped.
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith("breach in its turn: ")
    assert 0.0 < found.figures["suffered_frac"] < found.figures["tried_frac"] < 0.75
    # The promotion: gone back from in the tick after the breach, and written down.
    last = registry.history()[-1]
    assert (last.kind, last.version, last.before) == ("rolled back", first, candidate)
    assert "requests met their targets" in last.reason
    ticks = list(read_log(folder / "decisions.jsonl"))
    tried = [tick for tick in ticks if tick.decision.mode is Mode.CANARY]
    assert {tick.decision.policy_hash for tick in tried} == {candidate}
    told = [
        (tick.decision.policy_hash, reason.detail)
        for tick in ticks
        for reason in tick.decision.reasons
        if reason.code is ReasonCode.VERSION
    ]
    assert [who for who, detail in told if detail.startswith("rolled back from")] == [first]
    # Who decided what can be told from the log alone, and decided again.
    again = decide_again(ticks)
    assert again.differences == ()
    assert {f"first {first}", f"starving {candidate}"} <= set(again.decided)
