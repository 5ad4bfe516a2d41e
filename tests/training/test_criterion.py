"""What is better is a bill and a shortfall, put together by one formula."""

from dataclasses import replace

import numpy as np
import pytest

from poolpilot.agents.portfolio import PLAN_TRACKING, policy_factory
from poolpilot.env.batch import Episode
from poolpilot.env.scenario import load_scenario
from poolpilot.env.window import FINISHED, LOST, MET
from poolpilot.training.criterion import HELD, SHORTFALL_PRICE, Outcome, loss, mean_outcome, outcome_of
from poolpilot.training.rollout import RunResult, rollout
from poolpilot.training.worlds import episode_of

SCENARIO = load_scenario("mixed-chat").model_copy(update={"duration_s": 60.0})


@pytest.fixture(scope="module")
def ran() -> tuple[list[RunResult], list[Episode]]:
    episodes = [episode_of(SCENARIO, seed, 1.0, quickly=True) for seed in (0, 1)]
    return rollout(episodes, policy_factory(PLAN_TRACKING), SCENARIO.tick_s), episodes


def finishing(result: RunResult, finished: list[float], met: list[float], lost: float = 0.0) -> RunResult:
    """The run with other counts of requests: `[C]` finished and met, and so many lost of each class."""
    tally = np.zeros_like(result.tally)
    tally[:, FINISHED], tally[:, MET], tally[:, LOST] = finished, met, lost
    return replace(result, tally=tally, attainment_wanted=np.array([0.99, 0.95, 0.9]))


def test_the_bill_is_counted_in_usual_bills_of_each_world(ran: tuple[list[RunResult], list[Episode]]) -> None:
    results, episodes = ran
    ticks = len(results[0].replicas)
    assert ticks == 6
    one, other = (float(r.bill.total_usd) / (e.reference_usd * ticks) for r, e in zip(results, episodes, strict=True))
    assert outcome_of(results, episodes).bill_ratio == pytest.approx((one + other) / 2.0)
    dearer = [replace(episode, reference_usd=2.0 * episode.reference_usd) for episode in episodes]
    assert outcome_of(results, dearer).bill_ratio == pytest.approx((one + other) / 4.0)


def test_attainment_is_of_all_seeds_requests_together(ran: tuple[list[RunResult], list[Episode]]) -> None:
    """A bad day of few requests weighs little: 90 of 100 and 900 of 900 are 99 %."""
    results, episodes = ran
    days = [
        finishing(results[0], [100, 100, 100], [90, 100, 100]),
        finishing(results[1], [900, 100, 100], [900, 90, 100]),
    ]
    assert outcome_of(days, episodes).shortfall == pytest.approx(0.0)
    assert outcome_of(days[:1], episodes[:1]).shortfall == pytest.approx(0.09 / 3.0)


def test_a_class_beyond_its_target_does_not_pay_for_another(ran: tuple[list[RunResult], list[Episode]]) -> None:
    results, episodes = ran
    (day,), own = [finishing(results[0], [100, 100, 100], [99, 100, 80])], episodes[:1]
    assert outcome_of([day], own).shortfall == pytest.approx(0.1 / 3.0)


def test_lost_requests_are_missed_and_a_class_without_requests_is_left_out(
    ran: tuple[list[RunResult], list[Episode]],
) -> None:
    results, episodes = ran
    lost = finishing(results[0], [80, 80, 80], [80, 80, 80], lost=20.0)
    assert outcome_of([lost], episodes[:1]).shortfall == pytest.approx((0.19 + 0.15 + 0.1) / 3.0)
    idle = finishing(results[0], [100, 0, 0], [89, 0, 0])
    assert outcome_of([idle], episodes[:1]).shortfall == pytest.approx(0.1)
    nobody = finishing(results[0], [0, 0, 0], [0, 0, 0])
    assert outcome_of([nobody], episodes[:1]).shortfall == 0.0


def test_scenarios_count_the_same() -> None:
    assert mean_outcome([Outcome(1.0, 0.0), Outcome(0.5, 0.02), Outcome(2.0, 0.01)]) == Outcome(
        pytest.approx(1.0), pytest.approx(0.01)
    )


def test_the_loss_is_the_bill_where_targets_are_held_and_steep_beyond() -> None:
    assert loss(Outcome(0.8, 0.0)) == loss(Outcome(0.8, HELD)) == 0.8
    assert loss(Outcome(0.8, HELD + 0.01)) == pytest.approx(0.8 + 0.01 * SHORTFALL_PRICE)
    assert (HELD, SHORTFALL_PRICE) == (0.0025, 40.0)
