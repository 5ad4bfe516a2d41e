"""How near a simulation is to what was measured: the same matches, what differs is named and judged by how much."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.contract import Targets
from poolpilot.env.window import TALLY_WIDTH, TPOT, bucket_of
from poolpilot.training.matching import Verdict, match
from poolpilot.training.observed import ClassSeen, Observed, around, classes_seen, mean_of

CHAT = ClassSeen(
    requests=1000.0,
    attainment=0.97,
    ttft_p50_s=0.4,
    ttft_p95_s=1.6,
    tpot_p50_s=0.03,
    tpot_p95_s=0.05,
    ttft_target_s=2.0,
    tpot_target_s=0.1,
)
TIME_S = np.arange(0.0, 600.0, 10.0)
MEASURED = Observed(600.0, {"chat": CHAT}, 5.0, TIME_S, np.full(60, 3.0), np.full(60, 27.0))


def changed(**of_chat: float) -> Observed:
    return replace(MEASURED, classes={"chat": replace(CHAT, **of_chat)})


def test_a_measurement_matches_itself() -> None:
    found = match(MEASURED, MEASURED)
    assert found.verdict is Verdict.GOOD
    assert found.reasons == ()
    assert {own.figure for own in found.figures} >= {"bill_usd", "attainment", "ttft_p95_s", "tpot_p50_s", "queue"}
    assert all(own.error == 0.0 for own in found.figures)
    assert "e2e_p50_s of chat" in found.not_compared


@pytest.mark.parametrize(
    ("simulated", "verdict", "said"),
    [
        (replace(MEASURED, bill_usd=5.1), Verdict.GOOD, ""),
        (replace(MEASURED, bill_usd=5.3), Verdict.ROUGH, "bill"),
        (replace(MEASURED, bill_usd=6.0), Verdict.BAD, "bill"),
        (changed(attainment=0.94), Verdict.ROUGH, "attainment of chat"),
        (changed(tpot_p50_s=0.05), Verdict.BAD, "median TPOT of chat"),
        (changed(ttft_p95_s=2.3), Verdict.ROUGH, "95th percentile of TTFT"),
        (replace(MEASURED, waiting=np.full(60, 40.0)), Verdict.BAD, "mean queue"),
        (changed(requests=700.0), Verdict.BAD, "requests served of chat"),
    ],
)
def test_the_verdict_is_that_of_the_worst_figure_and_names_it(simulated: Observed, verdict: Verdict, said: str) -> None:
    found = match(MEASURED, simulated)
    assert found.verdict is verdict
    assert bool(found.reasons) == bool(said)
    assert said in "".join(found.reasons[:1])


def test_a_latency_far_below_its_target_may_be_off_by_any_factor() -> None:
    real, made = changed(ttft_p50_s=0.02), changed(ttft_p50_s=0.06)
    (ttft,) = (own for own in match(real, made).figures if own.figure == "ttft_p50_s")
    assert ttft.error == pytest.approx(0.04 / 0.2)
    assert ttft.verdict is Verdict.GOOD


def test_where_latencies_have_a_gap_a_percentile_beside_it_may_be_off_by_a_little_of_its_rank() -> None:
    """Of two unlike pools one serves half of the requests, and a percent more or less."""
    none = np.array([np.nan])
    targets = Targets(none, np.array([0.1]), none, none, np.array([0.9]), np.array(np.inf))

    def seen(slow: int) -> Observed:
        tally = np.zeros((1, TALLY_WIDTH))
        for at_s, count in ((0.015, 1000 - slow), (0.04, slow)):
            tally[0, TPOT + bucket_of(at_s)] += count
        return replace(MEASURED, classes=classes_seen(["chat"], tally, targets), around_s=around(["chat"], tally))

    def error(real: Observed, made: Observed) -> float:
        (found,) = (own.error for own in match(real, made).figures if own.figure == "tpot_p50_s")
        return found

    assert seen(490).classes["chat"].tpot_p50_s < 0.02
    assert seen(510).classes["chat"].tpot_p50_s > 0.03
    assert error(seen(490), seen(510)) == error(seen(510), seen(490)) == 0.0
    assert abs(error(seen(440), seen(510))) < 0.02, "up to where its own percentile is within two points of the gap"
    assert error(seen(440), seen(540)) > 0.5
    assert error(seen(540), seen(440)) < -0.3
    assert match(seen(490), mean_of([seen(510), seen(505)])).figures


def test_what_was_not_measured_is_listed_and_latencies_that_lack_make_it_rough() -> None:
    blank = dict.fromkeys(("ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "tpot_p95_s", "attainment"), math.nan)
    found = match(changed(**blank), MEASURED)
    assert found.verdict is Verdict.ROUGH
    assert "no latency of chat" in found.reasons[0]
    assert "attainment of chat" in found.not_compared
    assert math.isnan(found.worst("attainment"))


def test_the_queue_is_compared_over_time_not_on_the_mean() -> None:
    early = np.where(TIME_S < 300.0, 60.0, 0.0)
    found = match(replace(MEASURED, waiting=early), replace(MEASURED, waiting=early[::-1].copy()))
    (queue,) = (own for own in found.figures if own.figure == "queue")
    assert queue.measured == queue.simulated
    assert queue.verdict is Verdict.BAD


def test_curves_of_other_steps_are_compared_where_both_are() -> None:
    fine_s = np.arange(0.0, 600.0, 1.0)
    simulated = replace(MEASURED, time_s=fine_s, waiting=np.full(600, 3.0), running=np.full(600, 27.0))
    gap = replace(MEASURED, waiting=np.where(TIME_S < 100.0, math.nan, 3.0))
    (queue,) = (own for own in match(gap, simulated).figures if own.figure == "queue")
    assert queue.error == 0.0


@pytest.mark.parametrize(
    ("simulated", "said"),
    [(replace(MEASURED, classes={"other": CHAT}), "classes"), (replace(MEASURED, duration_s=900.0), "duration_s")],
)
def test_other_stretches_are_refused(simulated: Observed, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        match(MEASURED, simulated)


@given(factor=st.floats(0.05, 20.0))
def test_a_larger_error_never_gets_a_better_verdict(factor: float) -> None:
    order = [Verdict.GOOD, Verdict.ROUGH, Verdict.BAD]
    wider = 1.0 + (factor - 1.0) * 2.0
    near, far = (match(MEASURED, replace(MEASURED, bill_usd=5.0 * f)).verdict for f in (factor, wider))
    assert order.index(far) >= order.index(near)
