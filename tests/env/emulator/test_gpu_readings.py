"""GPU readings follow what the engine did."""

from __future__ import annotations

import pytest

from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.emulator.gpu_readings import WINDOW_S, GpuMeter


def test_idle_gpu_is_at_idle_draw_and_a_little_above_the_room() -> None:
    meter = GpuMeter(gpu("L40S-48GB"))
    for minute in range(1, 20):
        reading = meter.read(60.0 * minute, 0.0, 0.0)
    assert (reading.busy_frac, reading.power_w) == (0.0, pytest.approx(0.15 * 350))
    assert reading.temp_c == pytest.approx(25 + 55 * 0.15, abs=0.1)


def test_full_batches_draw_more_than_small_ones_and_warm_it() -> None:
    small, full = GpuMeter(gpu("L40S-48GB")), GpuMeter(gpu("L40S-48GB"))
    before = full.read(10.0, 10.0, 10.0)
    weak, strong = small.read(600.0, 600.0, 60.0), full.read(600.0, 600.0, 600.0)
    assert 0.6 * 350 < weak.power_w < strong.power_w < 350
    assert before.temp_c < weak.temp_c < strong.temp_c < 90


def test_readings_are_means_over_a_window_however_often_they_are_read() -> None:
    often, seldom = GpuMeter(gpu("H100-SXM-80GB")), GpuMeter(gpu("H100-SXM-80GB"))
    for tenth in range(1, 101):
        frequent = often.read(WINDOW_S * tenth / 10, WINDOW_S * tenth / 20, 0.0)
    for window in range(1, 11):
        sparse = seldom.read(WINDOW_S * window, WINDOW_S * window / 2, 0.0)
    assert frequent.busy_frac == sparse.busy_frac == pytest.approx(0.5)
    assert frequent.temp_c == pytest.approx(sparse.temp_c, abs=0.5)
