"""The compiled sight is what the contract's own functions say of the same tallies."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.contract import CLASS_COLUMNS
from poolpilot.env.sim.sight import remember_some, see_classes
from poolpilot.env.window import FINISHED, TALLY_WIDTH, TTFT, WINDOW_WIDTH, class_columns


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 4), st.sampled_from([0.0, 10.0, 60.0]))
def test_the_class_block_is_that_of_the_window(seed: int, b: int, c: int, window_s: float) -> None:
    rng = np.random.default_rng(seed)
    tally = np.zeros((b, c, TALLY_WIDTH))
    if window_s:
        tally[..., :TTFT] = rng.integers(0, 40, (b, c, TTFT))
        tally[..., FINISHED] += 1.0
        counts = rng.integers(0, 5, tally[..., TTFT:].shape) * (rng.random(tally[..., TTFT:].shape) < rng.random())
        tally[..., TTFT:] = counts
        tally[rng.random((b, c)) < 0.3] = 0.0  # nobody came
    mask = rng.random((b, c)) < 0.8
    in_flight = rng.integers(0, 9, (b, c)).astype(float)
    seen = np.full((b, c, len(CLASS_COLUMNS)), -1.0)
    see_classes(tally, np.full(b, window_s), in_flight, mask, seen)
    expected = np.where(mask[..., None], class_columns(tally, np.full(b, window_s), in_flight), np.nan)
    np.testing.assert_allclose(seen, expected, rtol=1e-14)  # the two exponentials may round apart


def test_the_window_is_the_sum_of_its_last_ticks() -> None:
    rng = np.random.default_rng(4)
    ticks = rng.integers(0, 9, (20, 3, 2, TALLY_WIDTH)).astype(float)
    recent, window = np.zeros((6, 3, 2, WINDOW_WIDTH)), np.zeros((3, 2, WINDOW_WIDTH))
    for t, tally in enumerate(ticks):
        remember_some(tally, recent[t % 6], window, 0, 2)
        remember_some(tally, recent[t % 6], window, 2, 3)
        np.testing.assert_array_equal(window, ticks[max(0, t - 5) : t + 1, ..., :WINDOW_WIDTH].sum(axis=0))
