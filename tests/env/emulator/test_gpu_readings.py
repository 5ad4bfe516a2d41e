"""GPU readings follow what the engine did."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.emulator.gpu_readings import WINDOW_S, GpuMeter
from poolpilot.env.perf.power import draw_of
from poolpilot.env.perf.roofline import iteration_law

CARD, SHAPE = gpu("L40S-48GB"), model("llama-3.1-8b")
DRAW = draw_of(CARD, SHAPE, "bf16")
BEST_TOKEN_S = iteration_law(CARD, SHAPE, "bf16").best_token_s


@dataclass
class Did:
    """What an engine did so far."""

    busy_s: float = 0.0
    useful_s: float = 0.0
    iterations: int = 0
    fresh_tokens: int = 0
    recomputed_tokens: int = 0


def a_meter() -> GpuMeter:
    return GpuMeter(DRAW, BEST_TOKEN_S)


def test_idle_gpu_is_at_idle_draw_and_a_little_above_the_room() -> None:
    meter = a_meter()
    for minute in range(1, 20):
        reading = meter.read(60.0 * minute, Did())
    assert (reading.busy_frac, reading.power_w) == (0.0, pytest.approx(0.15 * 350))
    assert reading.temp_c == pytest.approx(25 + 55 * 0.15, abs=0.1)


def test_full_batches_draw_more_than_small_ones_and_warm_it() -> None:
    small, full = a_meter(), a_meter()
    before = full.read(10.0, Did())
    # Iterations of 25 ms without a pause: alone, and with 64 others.
    weak = small.read(600.0, Did(590.0, 60.0, 23_600, 23_600))
    strong = full.read(600.0, Did(590.0, 400.0, 23_600, 64 * 23_600))
    assert 0.4 * 350 < weak.power_w < strong.power_w < 350
    assert before.temp_c < weak.temp_c < strong.temp_c < 90


def test_readings_are_means_over_a_window_however_often_they_are_read() -> None:
    often, seldom = a_meter(), a_meter()
    for tenth in range(1, 101):
        frequent = often.read(WINDOW_S * tenth / 10, Did(WINDOW_S * tenth / 20, 0.0, 4 * tenth, 4 * tenth))
    for window in range(1, 11):
        sparse = seldom.read(WINDOW_S * window, Did(WINDOW_S * window / 2, 0.0, 40 * window, 40 * window))
    assert frequent.busy_frac == sparse.busy_frac == pytest.approx(0.5)
    assert frequent.power_w == pytest.approx(sparse.power_w)
    assert frequent.temp_c == pytest.approx(sparse.temp_c, abs=0.5)
