"""The mode rises where its gate passes and falls at a breach, one rung at a time, with a reason."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.controller.ladder import RUNGS, Evidence, Ladder, Move, asked, judged, standing_on, wanting
from poolpilot.env.contract import Mode
from poolpilot.env.scenario.control import Gates

GATES = Gates(
    ticks=5,
    requests=50,
    vetoes_per_tick=2.0,
    breach_ticks=3,
    breach_requests=20,
    breach_vetoes_per_tick=6.0,
    wait_ticks=8,
)
CLASSES = ("chat", "code")
GOOD = Evidence(
    judged=np.array([20.0, 10.0]),
    met=np.array([20.0, 10.0]),
    rule_attains=np.array([0.99, 0.95]),
    rule_promises=np.array([0.99, 0.95]),
    policy_promises=np.array([0.99, 0.95]),
    vetoes=1,
    failed=False,
)
LATE = replace(GOOD, met=np.array([15.0, 10.0]))
FAILED = replace(GOOD, failed=True)


def after(ladder: Ladder, ticks: list[Evidence], gates: Gates = GATES) -> tuple[Ladder, list[Move]]:
    moves = []
    for tick in ticks:
        ladder, move = judged(ladder, tick, gates)
        if move:
            moves.append(move)
    return ladder, moves


def climbing() -> Ladder:
    return standing_on(Mode.ADVISE, CLASSES, Mode.ACTIVE)


def test_good_ticks_lead_from_advising_to_acting_one_gate_at_a_time() -> None:
    ladder, moves = after(climbing(), [GOOD] * 30)
    assert [(m.before, m.after, m.up) for m in moves] == [
        (Mode.ADVISE, Mode.CANARY, True),
        (Mode.CANARY, Mode.ACTIVE, True),
    ]
    assert ladder.was_active
    assert "5 ticks" in moves[0].why
    assert after(climbing(), [GOOD] * 4)[1] == []


def test_nobody_climbs_higher_than_asked() -> None:
    for mode in RUNGS:
        assert after(standing_on(mode, CLASSES), [GOOD] * 30)[1] == []
    ladder, _ = after(standing_on(Mode.ADVISE, CLASSES, Mode.CANARY), [GOOD] * 30)
    assert ladder.mode is Mode.CANARY


@pytest.mark.parametrize(
    ("mode", "tick", "words"),
    [
        (Mode.ADVISE, FAILED, "the policy failed in 100.0% of 5 ticks"),
        (Mode.ADVISE, replace(GOOD, vetoes=3), "3.00 vetoes a tick, wanted at most 2"),
        (
            Mode.ADVISE,
            replace(GOOD, policy_promises=np.array([0.99, 0.9])),
            "code: its proposals are expected to reach 90.0%, the fallback rule's 95.0%",
        ),
        (Mode.CANARY, replace(GOOD, judged=np.array([4.0, 5.0]), met=np.array([4.0, 5.0])), "45 of 50 requests"),
        (Mode.CANARY, replace(GOOD, met=np.array([19.3, 10.0])), "chat: 96.5% of 100 requests met their targets"),
        (Mode.CANARY, replace(GOOD, vetoes=3), "3.00 vetoes a tick"),
    ],
    ids=["fails", "vetoed", "promises less", "too few requests", "reaches less", "vetoed as canary"],
)
def test_a_gate_that_does_not_pass_says_what_it_waits_for(mode: Mode, tick: Evidence, words: str) -> None:
    ladder, moves = after(standing_on(mode, CLASSES, Mode.ACTIVE), [tick] * 5)
    assert moves == []
    assert words in wanting(ladder, GATES)


def test_what_happens_to_requests_is_not_held_against_an_adviser() -> None:
    _, moves = after(climbing(), [replace(GOOD, met=np.zeros(2))] * 5)
    assert [m.after for m in moves] == [Mode.CANARY]


@pytest.mark.parametrize(
    ("tick", "words"),
    [
        (LATE, "chat: 75.0% of 60 requests met their targets, the fallback rule is expected to reach 99.0%"),
        (FAILED, "the policy failed in 100% of 3 ticks"),
        (replace(GOOD, vetoes=7), "7.00 vetoes a tick, wanted at most 6"),
    ],
    ids=["too few met", "fails", "vetoed"],
)
@pytest.mark.parametrize("mode", [Mode.CANARY, Mode.ACTIVE])
def test_a_breach_goes_one_rung_down_and_says_why(mode: Mode, tick: Evidence, words: str) -> None:
    ladder, moves = after(standing_on(mode, CLASSES), [tick] * 3)
    assert [m.before for m in moves] == [mode]
    assert RUNGS.index(moves[0].after) == RUNGS.index(mode) - 1
    assert words in moves[0].why
    assert words in ladder.last_breach


def test_a_short_dip_or_a_few_requests_are_no_breach() -> None:
    active = standing_on(Mode.ACTIVE, CLASSES)
    assert after(active, [LATE, LATE])[1] == []  # not enough ticks yet
    few = replace(GOOD, judged=np.array([3.0, 0.0]), met=np.array([0.0, 0.0]))
    assert after(active, [few] * 6)[1] == []
    unlucky = replace(GOOD, judged=np.array([10.0, 10.0]), met=np.array([9.6, 10.0]))
    assert after(active, [unlucky] * 6)[1] == []  # one miss in thirty proves nothing


def test_whoever_fell_waits_longer_each_time_before_it_rises_again() -> None:
    ladder, _ = after(standing_on(Mode.ACTIVE, CLASSES), [LATE] * 3)
    assert (ladder.mode, ladder.wait_ticks) == (Mode.CANARY, 8)
    assert "stepped back" in wanting(ladder, GATES)
    ladder, moves = after(ladder, [GOOD] * 7)
    assert moves == []
    ladder, moves = after(ladder, [GOOD])
    assert [m.after for m in moves] == [Mode.ACTIVE]
    ladder, _ = after(ladder, [LATE] * 3)
    assert (ladder.mode, ladder.wait_ticks) == (Mode.CANARY, 16)


def test_evidence_of_another_rung_does_not_count() -> None:
    ladder, moves = after(climbing(), [LATE] * 5)
    assert [m.after for m in moves] == [Mode.CANARY]
    assert ladder.recent == ()
    assert after(ladder, [GOOD] * 2)[1] == []


@pytest.mark.parametrize("mode", RUNGS)
def test_asking_for_the_mode_in_force_or_a_lower_one_is_granted_at_once(mode: Mode) -> None:
    for lower in RUNGS[: RUNGS.index(mode) + 1]:
        ladder, move, refusal = asked(standing_on(mode, CLASSES, Mode.ACTIVE), lower, GATES)
        assert (ladder.mode, ladder.goal, refusal) == (lower, lower, None)
        assert (move is None) is (lower is mode)


def test_asking_for_more_is_under_way_and_climbs_by_its_gates() -> None:
    ladder, move, refusal = asked(standing_on(Mode.ADVISE, CLASSES), Mode.ACTIVE, GATES)
    assert (ladder.mode, ladder.goal, move, refusal) == (Mode.ADVISE, Mode.ACTIVE, None, None)
    assert after(ladder, [GOOD] * 10)[0].mode is Mode.ACTIVE


def test_asking_for_more_after_a_breach_is_refused_until_the_wait_is_over() -> None:
    fallen, _ = after(standing_on(Mode.ACTIVE, CLASSES), [LATE] * 3)
    same, move, refusal = asked(fallen, Mode.ACTIVE, GATES)
    assert (same, move) == (fallen, None)
    assert refusal is not None
    assert "75.0%" in refusal
    assert "8 ticks" in refusal
    # Whoever asks for less and then for more has decided anew.
    low, _, _ = asked(fallen, Mode.ADVISE, GATES)
    assert asked(low, Mode.ACTIVE, GATES)[2] is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([GOOD, LATE, FAILED]), max_size=60),
    st.sampled_from(RUNGS),
    st.sampled_from(RUNGS),
)
def test_no_run_of_ticks_skips_a_rung_or_passes_the_goal(ticks: list[Evidence], mode: Mode, goal: Mode) -> None:
    goal = max(mode, goal, key=RUNGS.index)
    ladder = standing_on(mode, CLASSES, goal)
    for tick in ticks:
        before = ladder.mode
        ladder, move = judged(ladder, tick, GATES)
        assert abs(RUNGS.index(ladder.mode) - RUNGS.index(before)) <= 1
        assert RUNGS.index(ladder.mode) <= RUNGS.index(goal)
        assert (move is not None) is (ladder.mode is not before)
        assert len(ladder.recent) <= max(GATES.ticks, GATES.breach_ticks)
        assert ladder.was_active or ladder.mode is not Mode.ACTIVE
