"""A candidate's trial: turns drawn by lot, differences of blocks, a verdict that may come early either way."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from poolpilot.agents.registry import Verdict
from poolpilot.controller.ladder import Evidence
from poolpilot.controller.trial import (
    ALL,
    BILL,
    Outcome,
    Rules,
    Trial,
    at,
    begun,
    candidates_window,
    decided,
    figures,
    is_candidates,
    paused,
    resumed,
    rules_of,
    settled,
    told,
    verdict_of,
)
from poolpilot.env.contract import FloatArray
from poolpilot.env.scenario.control import Gates
from poolpilot.env.scenario.control import Trial as Asked

CLASSES = ("chat", "code")
TICK_S = 10.0


def some_rules(**asked: object) -> Rules:
    given = {"share": 0.5, "settle_s": 20.0, "measure_s": 40.0, **asked}
    return rules_of(Asked.model_validate(given), Gates(), CLASSES, np.array([60.0, np.nan]))


def fine(failed: bool = False, met: float = 97.0) -> Evidence:
    """A tick of 100 requests a class, of which the rule would be expected to meet 95 %."""
    hundred, most = np.full(2, 100.0), np.full(2, 0.95)
    return Evidence(hundred, np.full(2, met), most, most, most, 0, failed)


class World:
    """Requests and a bill that hang on who decided, with noise that both share within a block."""

    def __init__(self, seed: int, *, worse: float = 0.0, dearer: float = 0.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.worse, self.dearer = worse, dearer

    def outcome(self, candidate: bool, now_s: float) -> Outcome:
        day = 1.0 + 0.5 * math.sin(now_s / 900.0)
        judged = self.rng.poisson(60.0 * day, 2).astype(np.float64)
        share = 0.97 - self.worse * candidate
        met = self.rng.binomial(judged.astype(int), share).astype(np.float64)
        rule = 1.2 * day
        usd = 0.9 * rule * math.exp(self.rng.normal(0.0, 0.03) + self.dearer * candidate)
        return Outcome(judged, met, usd, rule)


def run(trial: Trial, world: World, ticks: int) -> tuple[Trial, list[bool]]:
    """As the sidecar drives it; who decided at each tick."""
    who: list[bool] = []
    for k in range(ticks):
        now_s = k * TICK_S
        trial = told(trial, now_s, world.outcome(bool(who and who[-1]), now_s))
        if trial.verdict is not Verdict.RUNNING:
            break
        trial = at(trial, now_s)
        who.append(is_candidates(trial))
        trial = decided(trial, now_s, fine())
    return trial, who


# Turns


def test_each_block_has_one_window_of_the_candidates_and_it_is_drawn_by_lot() -> None:
    rules = some_rules(share=0.25)
    trial = begun(rules, "c" * 16, "a" * 16)
    ticks_a_window = int(rules.window_s / TICK_S)
    _, who = run(trial, World(0), 5 * rules.windows * ticks_a_window)
    blocks = np.array(who).reshape(5, rules.windows, ticks_a_window)
    assert (blocks.all(axis=2) == blocks.any(axis=2)).all()  # whole windows
    assert (blocks.any(axis=2).sum(axis=1) == 1).all()
    drawn = [candidates_window(trial, block) for block in range(200)]
    assert [int(np.flatnonzero(block.any(axis=1))[0]) for block in blocks] == drawn[:5]
    assert all(drawn.count(window) > 30 for window in range(4))


def test_the_longest_cold_start_is_left_out_of_what_is_measured() -> None:
    rules = some_rules(settle_s=None)
    assert (rules.settle_s, rules.windows) == (60.0, 2)
    trial = begun(rules, "c" * 16, "a" * 16)
    for k in range(12):
        now_s = k * TICK_S
        trial = told(trial, now_s, Outcome(np.ones(2), np.ones(2), 1.0, 1.0))
        trial = decided(at(trial, now_s), now_s, fine())
        assert settled(trial, now_s) == (now_s % rules.window_s >= 60.0)
    # The outcomes of decisions from 60 s on, told a tick later each.
    assert [own.judged[0] for own in trial.sums] == [4.0, 0.0]
    assert sum(own.judged[0] for own in trial.served) == 11.0


def test_what_was_seen_before_the_trial_is_not_the_trials() -> None:
    trial = begun(some_rules(), "c" * 16, "a" * 16)
    trial = told(trial, 0.0, Outcome(np.full(2, 50.0), np.zeros(2), 9.0, 1.0))
    assert sum(own.judged.sum() for own in trial.served) == 0.0


# Verdicts


def blocks_of(rng: np.random.Generator, n: int, worse: float, dearer: float) -> list[FloatArray]:
    """`[M]` differences of windows of 240 requests a class."""
    own, other = (rng.binomial(240, 0.97 - w, (n, 2)) / 240.0 for w in (worse, 0.0))
    classes = own - other
    bill = rng.normal(dearer, 0.04, n)
    return [np.array([*classes[k], classes[k].mean(), bill[k]]) for k in range(n)]


def first_verdict(rules: Rules, blocks: list[FloatArray]) -> tuple[Verdict, int]:
    """As if somebody looked after every block."""
    for n in range(1, len(blocks) + 1):
        verdict, _ = verdict_of(rules, blocks[:n])
        if verdict is not Verdict.RUNNING:
            return verdict, n
    return Verdict.RUNNING, len(blocks)


@pytest.mark.parametrize(
    ("worse", "dearer", "never", "at_most"),
    [
        (0.01, 0.0, Verdict.PASS, 0.05),  # exactly as much worse as the slack allows
        (0.0, 0.03, Verdict.PASS, 0.05),
        (0.01, 0.03, Verdict.FAIL, 0.05),
        (0.0, 0.0, Verdict.FAIL, 0.02),  # as good as the incumbent
    ],
    ids=["worse by the slack", "dearer by the slack", "both, turned down", "as good, turned down"],
)
def test_false_alarms_are_rare_however_often_it_is_looked_at(
    worse: float, dearer: float, never: Verdict, at_most: float
) -> None:
    rules, rng, runs = some_rules(blocks=40), np.random.default_rng(5), 150
    found = [first_verdict(rules, blocks_of(rng, 40, worse, dearer))[0] for _ in range(runs)]
    assert found.count(never) / runs <= at_most + 2.0 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize(
    ("worse", "dearer", "wanted", "power", "blocks"),
    [
        (0.0, -0.05, Verdict.PASS, 0.9, 30),
        (0.08, 0.0, Verdict.FAIL, 0.95, 15),
        (0.0, 0.15, Verdict.FAIL, 0.95, 15),
    ],
    ids=["cheaper and as good", "misses more", "dearer"],
)
def test_what_is_clearly_so_is_found_early(
    worse: float, dearer: float, wanted: Verdict, power: float, blocks: int
) -> None:
    rules, rng, runs = some_rules(blocks=60), np.random.default_rng(6), 40
    found = [first_verdict(rules, blocks_of(rng, 60, worse, dearer)) for _ in range(runs)]
    assert sum(verdict is wanted for verdict, _ in found) >= power * runs
    assert np.median([n for verdict, n in found if verdict is wanted]) <= blocks


def test_a_trial_that_cannot_tell_ends_without_a_promotion() -> None:
    rules = some_rules(blocks=8, attainment_slack=0.0001, cost_slack=0.0001)
    verdict, why = verdict_of(rules, blocks_of(np.random.default_rng(0), 8, 0.0, 0.0))
    assert verdict is Verdict.UNKNOWN
    assert why.startswith("not known after 8 blocks: attainment of ")


def test_a_class_without_requests_holds_nothing_up_and_all_requests_together_must_be_known() -> None:
    rules = some_rules()
    blocks = blocks_of(np.random.default_rng(1), 40, 0.0, -0.1)
    silent = [np.where([False, True, False, False], np.nan, block) for block in blocks]
    assert first_verdict(rules, silent)[0] is Verdict.PASS
    none = [np.where([True, True, True, False], np.nan, block) for block in blocks]
    assert first_verdict(rules, none)[0] is Verdict.RUNNING


@pytest.mark.parametrize(
    ("world", "wanted", "said"),
    [
        (World(1, dearer=-0.2), Verdict.PASS, "no worse in any measure"),
        (World(2, worse=0.2), Verdict.FAIL, "attainment of"),
        (World(3, dearer=0.4), Verdict.FAIL, "saving of the bill -"),
    ],
    ids=["better", "worse", "dearer"],
)
def test_a_trial_from_its_first_tick_to_its_verdict(world: World, wanted: Verdict, said: str) -> None:
    trial, who = run(begun(some_rules(measure_s=200.0), "c" * 16, "a" * 16), world, 6000)
    assert (trial.verdict, said in trial.reason) == (wanted, True), trial.reason
    found = figures(trial)
    assert set(found["measures"]) == {*CLASSES, ALL, BILL}
    assert found["tried_frac"] == pytest.approx(np.mean(who), abs=0.02)
    json.dumps(found, allow_nan=False)


def test_the_share_of_requests_that_suffered_is_told() -> None:
    trial, _ = run(begun(some_rules(blocks=12), "c" * 16, "a" * 16), World(4, worse=0.3), 3000)
    found = figures(trial)
    assert found["suffered_frac"] == pytest.approx(0.3 * found["tried_frac"], rel=0.1)


# At once


def test_a_candidate_without_a_usable_answer_fails_at_once() -> None:
    trial = begun(some_rules(), "c" * 16, "a" * 16)
    own = candidates_window(trial, 0)
    now_s = own * trial.rules.window_s
    trial = at(at(trial, 0.0), now_s)
    failed = decided(trial, now_s, fine(failed=True), "not_finite: fallback decides")
    assert failed.verdict is Verdict.FAIL
    assert "the candidate gave no usable answer: not_finite" in failed.reason
    assert not is_candidates(failed)


def test_a_breach_in_its_turn_ends_the_trial_before_the_block_does() -> None:
    trial = begun(some_rules(measure_s=600.0), "c" * 16, "a" * 16)
    start_s = candidates_window(trial, 0) * trial.rules.window_s
    trial = at(trial, 0.0)
    for k in range(40):
        now_s = start_s + k * TICK_S
        trial = decided(at(trial, now_s), now_s, fine(met=60.0))
        if trial.verdict is not Verdict.RUNNING:
            break
    assert (trial.verdict, k + 1) == (Verdict.FAIL, Gates().breach_ticks)
    assert trial.reason.startswith("breach in its turn: chat: 60.0% of 1200 requests met their targets")


def test_the_incumbents_own_bad_ticks_are_not_held_against_the_candidate() -> None:
    trial = begun(some_rules(measure_s=600.0), "c" * 16, "a" * 16)
    start_s = (1 - candidates_window(trial, 0)) * trial.rules.window_s
    trial = at(trial, 0.0)
    for k in range(20):
        now_s = start_s + k * TICK_S
        trial = decided(at(trial, now_s), now_s, fine(met=10.0))
    assert trial.verdict is Verdict.RUNNING


# Interrupted


def test_a_trial_goes_on_after_a_restart_with_the_blocks_that_were_done() -> None:
    rules = some_rules()
    before, _ = run(begun(rules, "c" * 16, "a" * 16), World(7), 45)
    assert len(before.blocks) == 3
    kept = json.loads(json.dumps(figures(before)))
    after = resumed(begun(rules, "c" * 16, "a" * 16), kept)
    assert np.allclose(after.blocks, before.blocks)
    assert figures(after) == figures(before)
    other = replace(rules, measure_s=41.0)
    assert resumed(begun(other, "c" * 16, "a" * 16), kept).blocks == ()
    for spoilt in ({**kept, "blocks": [[1.0]]}, {**kept, "candidate": 3}, {}):
        assert resumed(begun(rules, "c" * 16, "a" * 16), spoilt).blocks == ()


def test_a_block_in_which_the_policies_did_not_take_turns_is_given_up() -> None:
    trial, _ = run(begun(some_rules(), "c" * 16, "a" * 16), World(8), 9)
    assert sum(own.judged.sum() for own in trial.sums) > 0
    given_up = paused(trial)
    assert math.isnan(given_up.since_s)
    assert sum(own.judged.sum() for own in given_up.sums) == 0
    assert given_up.served == trial.served
