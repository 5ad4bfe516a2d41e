"""Delays drawn in compiled code follow the distributions that a scenario names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.scenario.delays import Delay, EmpiricalDelay, FixedDelay, LognormalDelay
from poolpilot.env.sim import chance
from poolpilot.env.sim.delays import delay_row, drawn_ps, no_delays
from poolpilot.env.sim.state import FAR_PS, LOAD

SHAPES = {
    "fixed": FixedDelay(s=42.0),
    "nothing": FixedDelay(s=0.0),
    "log-normal": LognormalDelay(mean_s=60.0, spread_frac=0.4),
    "two quantiles": EmpiricalDelay(quantiles=((0.0, 10.0), (1.0, 30.0))),
    "a long tail": EmpiricalDelay(quantiles=((0.0, 20.0), (0.5, 30.0), (0.9, 45.0), (0.99, 200.0), (1.0, 900.0))),
    "a step": EmpiricalDelay(quantiles=((0.0, 5.0), (0.7, 5.0), (1.0, 5.0))),
}


def draws_s(delay: Delay | None, count: int, seed: int = 1) -> np.ndarray:
    table = no_delays(2)
    table[1, LOAD] = delay_row(delay)
    drawn = [drawn_ps(table, 1, LOAD, seed, chance.LOAD, 77, nth) for nth in range(count)]
    return np.array(drawn, dtype=np.float64) / 1e12


@pytest.mark.parametrize("delay", SHAPES.values(), ids=SHAPES)
def test_draws_have_the_quantiles_and_the_mean(delay: Delay) -> None:
    drawn = np.sort(draws_s(delay, 20_000))
    for share in (0.05, 0.3, 0.5, 0.8, 0.95):
        assert drawn[int(share * len(drawn))] == pytest.approx(delay.at(share), rel=0.05, abs=1e-9)
    assert drawn.mean() == pytest.approx(delay.mean_s, rel=0.03, abs=1e-9)


def test_what_has_no_delay_never_ends() -> None:
    assert (draws_s(None, 3) == FAR_PS / 1e12).all()


@given(st.lists(st.floats(0.0, 1e4), min_size=2, max_size=16), st.integers(0, 2**62))
def test_no_draw_leaves_the_quantiles(seconds: list[float], seed: int) -> None:
    shares = np.linspace(0.0, 1.0, len(seconds)).tolist()
    delay = EmpiricalDelay(quantiles=tuple(zip(shares, sorted(seconds), strict=True)))
    drawn = draws_s(delay, 20, seed)
    assert (drawn >= min(seconds) - 1e-9).all()
    assert (drawn <= max(seconds) + 1e-9).all()
    assert min(seconds) - 1e-9 <= delay.mean_s <= max(seconds) + 1e-9


@pytest.mark.parametrize("delay", SHAPES.values(), ids=SHAPES)
def test_twice_as_long_is_twice_as_long_everywhere(delay: Delay) -> None:
    double = delay.scaled(2.0)
    assert double.mean_s == pytest.approx(2.0 * delay.mean_s)
    for share in (0.0, 0.3, 0.999):
        assert double.at(share) == pytest.approx(2.0 * delay.at(share))
