"""Watts and degrees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.sim.power import BUSY_HIGH_TDP_FRAC, BUSY_LOW_TDP_FRAC, power_w, throttles, warmed_c

SHARE = st.floats(0.0, 1.0)


def watts(busy: float, useful: float) -> float:
    return float(power_w(np.array(busy), np.array(useful), np.array(400.0), np.array(60.0)))


@given(SHARE, SHARE)
def test_draw_lies_between_idle_and_full(busy: float, share: float) -> None:
    assert 60.0 <= watts(busy, busy * share) <= BUSY_HIGH_TDP_FRAC * 400.0 + 1e-9


@given(SHARE, SHARE, SHARE)
def test_draw_grows_with_time_busy(less: float, more: float, share: float) -> None:
    less, more = sorted((less, more))
    assert watts(less, less * share) <= watts(more, more * share) + 1e-9


@pytest.mark.parametrize(
    ("busy", "useful", "expected"),
    [(0.0, 0.0, 60.0), (1.0, 0.0, 400 * BUSY_LOW_TDP_FRAC), (1.0, 1.0, 400 * BUSY_HIGH_TDP_FRAC)],
)
def test_draw_at_the_corners(busy: float, useful: float, expected: float) -> None:
    assert watts(busy, useful) == pytest.approx(expected)


def warmed(temp_c: float, draw_w: float, elapsed_s: float, tdp_w: float = 400.0) -> float:
    arrays = (np.array(v) for v in (temp_c, draw_w, tdp_w, 25.0, 55.0, 60.0))
    return float(warmed_c(*arrays, elapsed_s))


@given(st.floats(20.0, 100.0), st.floats(0.0, 400.0), st.floats(0.0, 500.0), st.floats(0.0, 500.0))
def test_warming_in_two_spans_is_warming_in_one(temp_c: float, draw_w: float, first_s: float, then_s: float) -> None:
    assert warmed(warmed(temp_c, draw_w, first_s), draw_w, then_s) == pytest.approx(
        warmed(temp_c, draw_w, first_s + then_s)
    )


def test_full_draw_ends_at_its_steady_temperature() -> None:
    assert warmed(25.0, 400.0, 1e4) == pytest.approx(80.0)
    assert warmed(25.0, 400.0, 60.0, tdp_w=0.0) == pytest.approx(25.0)  # a GPU whose TDP no source states


@pytest.mark.parametrize(
    ("was", "temp_c", "expected"),
    [(False, 89.0, False), (False, 91.0, True), (True, 89.0, True), (True, 84.0, False)],
)
def test_a_slowed_gpu_recovers_only_when_clearly_cooler(was: bool, temp_c: float, expected: bool) -> None:
    assert bool(throttles(np.array(was), np.array(temp_c), np.array(90.0), np.array(5.0))) is expected
