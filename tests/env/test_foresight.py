"""The true rates of the next minutes, at the very places where a forecast would be guessed."""

from __future__ import annotations

import numpy as np
import pytest

from poolpilot.env.batch import ClusterBatch
from poolpilot.env.contract import FORECAST_HORIZON_S
from poolpilot.env.foresight import TrueRates
from poolpilot.env.scenario import load_scenario
from poolpilot.env.workload.requests import Workload
from poolpilot.training.worlds import episode_of


def arriving(*per_minute: int, names: tuple[str, ...] = ("chat",)) -> Workload:
    """So many requests of the first class in each minute, evenly."""
    arrival_s = np.concatenate([60.0 * m + np.arange(n) * 60.0 / max(n, 1) for m, n in enumerate(per_minute)])
    ones = np.ones(len(arrival_s), dtype=np.int64)
    return Workload(arrival_s, ones, ones, ones * 0, names)


def test_each_step_is_the_mean_of_the_minute_that_ends_there() -> None:
    minutes = (60, 120, 0, 240, 300, 30, 0, 0, 0, 600, 60, 0, 0, 0, 900, 60)
    rates = TrueRates([arriving(*minutes)], [60.0 * len(minutes)], 1)
    expected = [minutes[int(h) // 60 - 1] / 60.0 for h in FORECAST_HORIZON_S]
    assert rates.ahead(np.zeros(1))[0, 0] == pytest.approx(expected)
    later = rates.ahead(np.full(1, 60.0))[0, 0]
    assert later == pytest.approx([minutes[int(h) // 60] / 60.0 for h in FORECAST_HORIZON_S])


def test_between_minutes_it_is_what_arrives_in_the_sixty_seconds_before() -> None:
    rates = TrueRates([arriving(60, 120, 120)], [180.0], 1)
    assert rates.ahead(np.full(1, 30.0))[0, 0, 0] == pytest.approx((30 + 60) / 60.0)


def test_beyond_the_end_the_last_minute_goes_on() -> None:
    rates = TrueRates([arriving(60, 60, 180)], [180.0], 1)
    assert rates.ahead(np.full(1, 170.0))[0, 0] == pytest.approx([3.0] * len(FORECAST_HORIZON_S))


def test_classes_that_only_pad_a_batch_are_unknown_and_silent_ones_are_zero() -> None:
    rates = TrueRates([arriving(60), arriving(60, names=("chat", "code"))], [60.0, 60.0], 2)
    ahead = rates.ahead(np.zeros(2))
    assert np.isnan(ahead[0, 1]).all()
    assert (ahead[1, 1] == 0).all()


def test_a_world_shorter_than_a_minute_has_one_rate() -> None:
    assert TrueRates([arriving(60)], [30.0], 1).ahead(np.zeros(1))[0, 0] == pytest.approx([1.0] * 5)


def test_a_new_cluster_at_a_seat_brings_its_own_arrivals() -> None:
    rates = TrueRates([arriving(60), arriving(60)], [60.0, 60.0], 1)
    rates.replace(np.array([1]), [arriving(300)], [60.0])
    assert rates.ahead(np.zeros(2))[:, 0, 0] == pytest.approx([1.0, 5.0])


def test_a_batch_with_foresight_differs_in_its_forecasts_alone() -> None:
    scenario = load_scenario("mixed-chat").model_copy(update={"duration_s": 120.0})
    episodes = [episode_of(scenario, seed, 1.0, quickly=True) for seed in range(2)]
    plain, told = (ClusterBatch(episodes, scenario.tick_s, foresight=told) for told in (False, True))
    for seats in (None, np.array([1])):
        if seats is not None:
            for batch in (plain, told):
                batch.restart(seats, [episode_of(scenario, 7, 1.0, quickly=True)])
        seen, foreseen = plain.snapshot(), told.snapshot()
        assert np.array_equal(seen.classes, foreseen.classes, equal_nan=True)
        assert np.array_equal(seen.pools, foreseen.pools, equal_nan=True)
        for b, episode in enumerate(told.episodes):
            arrived = episode.world.workload.rates_per_s(60.0)[0]
            assert foreseen.forecast_per_s[b, : len(arrived), 0] == pytest.approx(arrived)
