"""Exploration and what is learned from it, in a cluster that is lived through as a sidecar lives."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from poolpilot.agents.exploring import DRAWN, SPREAD, noise_in
from poolpilot.agents.learned import learned_policy
from poolpilot.agents.portfolio import make_rule
from poolpilot.agents.registry import Registry, Verdict
from poolpilot.controller.exploring import FILE
from poolpilot.env.contract import Mode, ReasonCode
from poolpilot.env.spaces import SpaceLayout
from poolpilot.telemetry.record import read_stream
from poolpilot.telemetry.store import TickEntry
from poolpilot.training.finetuning.gates.logged import logged_steps
from poolpilot.training.finetuning.gates.off_policy import off_policy_gate
from poolpilot.training.finetuning.live import FEWEST_STEPS, LiveError, live_of

from .incumbents import a_registry
from .living import Lived, an_hour, exploration, live

TICKS, HOLD = 120, 3
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Registry, Path]:
    folder = tmp_path_factory.mktemp("world")
    return folder, a_registry(folder, headroom=0.2), an_hour(folder)


@pytest.fixture(scope="module")
def lived(world: tuple[Path, Registry, Path]) -> Lived:
    return live(*world, TICKS, exploration())


def test_a_policy_explores_within_its_share_and_every_draw_stands_in_the_record(lived: Lived) -> None:
    explored = [own for own in lived.records if SPREAD in own.memory]
    assert len(explored) > TICKS / 2
    drawn = [own for own in explored if bool(own.memory[DRAWN])]
    assert len(explored) / HOLD <= len(drawn) < len(explored)
    assert all(math.isfinite(own.answer.log_probability) for own in drawn)
    assert all(math.isnan(own.answer.log_probability) for own in lived.records if own not in drawn)
    assert all(any(r.code is ReasonCode.EXPLORING for r in own.decision.reasons) for own in explored)


def test_what_is_done_with_noise_does_not_anger_the_guard(lived: Lived) -> None:
    account = lived.explorer.account
    assert account.ticks == TICKS
    assert account.explored_ticks + account.refused_ticks == TICKS


def test_a_recorded_decision_with_noise_is_decided_again_to_the_last_bit(
    lived: Lived, world: tuple[Path, Registry, Path]
) -> None:
    registry = world[1]
    policy = learned_policy(registry.checkpoint(registry.incumbent()), lived.records[0].sitting.cluster, make_rule)
    for own in lived.records[:30]:
        action, _ = policy.decide(own.snapshot, own.plan, own.memory)
        assert np.array_equal(action.replicas, own.decision.proposed.replicas)
        assert np.array_equal(action.route, own.decision.proposed.route)


def test_recorded_steps_are_read_back_with_their_densities(lived: Lived, world: tuple[Path, Registry, Path]) -> None:
    registry = world[1]
    found = live_of(lived.record, registry.checkpoint(registry.incumbent()), HOLD)
    steps = found.transitions
    assert steps is not None
    draws = [own for own in lived.records if bool(own.memory.get(DRAWN, 0.0))]
    assert FEWEST_STEPS <= found.explored <= len(draws)
    recorded = {round(own.answer.log_probability, 3) for own in draws}
    assert {round(p, 3) for p in steps.log_prob[steps.explored]} <= recorded
    assert steps.follows[:-1].any()
    assert not steps.follows[-1]
    assert np.isfinite(steps.rewards).all()
    assert set(steps.spread[steps.explored]) == {0.5}


def test_a_step_with_a_late_tick_is_learned_from_as_one_that_lasted_longer(
    tmp_path: Path, world: tuple[Path, Registry, Path]
) -> None:
    _, registry, scenario = world
    late = {10: 3, 11: 2, 30: 6, 45: 2}
    own = live(tmp_path, registry, scenario, 80, exploration(), late=late)
    (episode,) = own.record.episodes
    found = live_of(own.record, registry.checkpoint(registry.incumbent()), HOLD)
    assert found.transitions is not None
    ticks = found.transitions.ticks
    assert ticks.max() >= 6.0
    assert set(ticks[ticks < 2 * HOLD]) >= {float(HOLD)}, "the others last as long as a draw is held"
    assert ticks.sum() <= episode.duration_s / episode.tick_s + 1e-9
    assert np.isfinite(found.transitions.rewards).all()


def test_what_others_decided_is_not_learned_from(lived: Lived, world: tuple[Path, Registry, Path]) -> None:
    registry = world[1]
    other = replace(registry.checkpoint(registry.incumbent()), version="0" * 16)
    other.card["files"] = {**other.card["files"], "policy.onnx": "1" * 64}
    found = live_of(lived.record, other, HOLD)
    assert found.transitions is None
    assert f"decided by {registry.incumbent()}, not by the incumbent" in found.left_out


def tampered(entries: list[tuple[str, TickEntry]], field: str, change) -> list[tuple[str, TickEntry]]:  # type: ignore[no-untyped-def]
    """The same entries, with a field of each changed."""
    told = []
    for where, entry in entries:
        document = json.loads(entry.fields[field])
        if document is not None:
            change(document)
        told.append((where, replace(entry, fields={**entry.fields, field: json.dumps(document)})))
    return told


def test_answers_that_the_network_did_not_give_are_refused(lived: Lived, world: tuple[Path, Registry, Path]) -> None:
    def change(answer: dict) -> None:  # type: ignore[type-arg]
        answer["pools"][0][0] = 0.9

    registry = world[1]
    record = read_stream(tampered(lived.entries, "answer", change))
    with pytest.raises(LiveError, match=r"recorded answers contradict the incumbent's network: \d+ times an answer"):
        live_of(record, registry.checkpoint(registry.incumbent()), HOLD)


def test_densities_that_are_made_up_are_refused(lived: Lived, world: tuple[Path, Registry, Path]) -> None:
    def change(answer: dict) -> None:  # type: ignore[type-arg]
        if answer["log_probability"] is not None:
            answer["log_probability"] += 5.0

    registry = world[1]
    record = read_stream(tampered(lived.entries, "answer", change))
    with pytest.raises(LiveError, match="a log-probability of"):
        live_of(record, registry.checkpoint(registry.incumbent()), HOLD)


def test_rewards_that_are_flipped_are_left_out_with_the_reason(
    lived: Lived, world: tuple[Path, Registry, Path]
) -> None:
    def change(since: dict) -> None:  # type: ignore[type-arg]
        since["usd"] = [[-usd for usd in row] for row in since["usd"]]

    registry = world[1]
    found = live_of(
        read_stream(tampered(lived.entries, "since", change)), registry.checkpoint(registry.incumbent()), HOLD
    )
    assert found.transitions is None
    assert any(why.startswith("implausible_outcome") for why in found.left_out)


def test_a_budget_that_is_spent_stops_it_and_a_restart_does_not_open_it_again(
    tmp_path: Path, world: tuple[Path, Registry, Path]
) -> None:
    _, registry, scenario = world
    settings = exploration(usd=0.002, spread=1.0)
    first = live(tmp_path, registry, scenario, 90, settings).explorer
    assert first.stopped.endswith("are spent")
    explored = first.account.explored_ticks
    assert 0 < explored < first.account.ticks or first.account.ticks < 90
    again = live(tmp_path, registry, scenario, 10, settings)
    assert again.explorer.account.explored_ticks == explored
    assert not any(SPREAD in own.memory for own in again.records)
    assert again.explorer.account.usd >= first.account.usd
    another = live(tmp_path, registry, scenario, 10, exploration(usd=1.0, campaign="second"))
    assert another.explorer.account.campaign == "second"
    assert any(SPREAD in own.memory for own in another.records)


def test_an_account_that_cannot_be_read_leaves_exploration_off(
    tmp_path: Path, world: tuple[Path, Registry, Path]
) -> None:
    (tmp_path / FILE).write_text("{}")
    _, registry, scenario = world
    off = live(tmp_path, registry, scenario, 5, exploration())
    assert not any(SPREAD in own.memory for own in off.records)
    assert "no exploration: " in off.explorer.trouble
    assert (tmp_path / FILE).read_text() == "{}"


@pytest.mark.parametrize(("mode", "on_trial"), [(Mode.ADVISE, False), (Mode.ACTIVE, True)])
def test_there_is_no_noise_where_nothing_is_done_or_a_candidate_is_tried(
    tmp_path: Path, world: tuple[Path, Registry, Path], mode: Mode, on_trial: bool
) -> None:
    _, registry, scenario = world
    off = live(tmp_path, registry, scenario, 5, exploration(), mode, on_trial=on_trial)
    assert not any(SPREAD in own.memory for own in off.records)


def test_by_share_only_the_share_of_traffic_is_touched(tmp_path: Path, world: tuple[Path, Registry, Path]) -> None:
    _, registry, scenario = world
    share = 0.1
    done = live(tmp_path, registry, scenario, 40, exploration(), pools=(), share=share)
    plain = live(tmp_path / "plain", registry, scenario, 1)
    assert plain.records
    for own in done.records:
        if noise_in(own.memory) is None:
            continue
        moved = np.abs(own.decision.applied.route - own.reach.rest.route).sum(axis=1) / 2.0
        assert (moved <= share + 1e-9).all()
        assert np.array_equal(own.decision.applied.batch_cap, own.reach.rest.batch_cap)


def test_noise_is_of_the_spread_that_was_asked_for_and_where_it_means_something(lived: Lived) -> None:
    draws = [noise_in(own.memory) for own in lived.records if bool(own.memory.get(DRAWN, 0.0))]
    pools = np.concatenate([own.pools.ravel() for own in draws if own is not None])
    assert np.std(pools) == pytest.approx(0.5 * math.exp(-2.3), rel=0.25)
    admits = np.concatenate([own.classes[:, 1] for own in draws if own is not None])
    assert not admits.any()


def test_the_log_gate_sees_the_steps_with_the_deviations_that_their_noise_had(
    lived: Lived, world: tuple[Path, Registry, Path]
) -> None:
    registry = world[1]
    incumbent = registry.checkpoint(registry.incumbent())
    steps, log_std, _ = logged_steps(lived.record, incumbent)
    assert steps is not None
    assert log_std is not None
    of_class = SpaceLayout().action_sizes[0]
    assert log_std[0, 0] == pytest.approx(-1.6 + math.log(steps.spread[0]))
    assert np.isnan(log_std[:, 1]).all()  # nothing may be put off
    assert log_std[0, of_class] == pytest.approx(-2.3 + math.log(steps.spread[0]))
    found = off_policy_gate(steps, log_std, incumbent, incumbent, {})
    assert found.verdict is not Verdict.FAIL
    assert found.figures["effective"] > 0.0


def test_a_record_that_contradicts_itself_cannot_speak_for_a_candidate(
    lived: Lived, world: tuple[Path, Registry, Path]
) -> None:
    def change(answer: dict) -> None:  # type: ignore[type-arg]
        answer["pools"][0][0] = 0.9

    registry = world[1]
    record = read_stream(tampered(lived.entries, "answer", change))
    with pytest.raises(LiveError, match="contradict the incumbent's network"):
        logged_steps(record, registry.checkpoint(registry.incumbent()))
