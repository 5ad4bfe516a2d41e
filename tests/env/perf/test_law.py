"""The law of one iteration and its row layout."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.perf import law as laws
from poolpilot.env.perf.law import LAW_WIDTH, TOKENS_GRID, IterationLaw, law_from_row


def a_law(flat_s: float = 0.01, token_s: float = 1e-4) -> IterationLaw:
    return IterationLaw(TOKENS_GRID, np.maximum(flat_s, token_s * TOKENS_GRID), 1e-9, 3e-7, 4e-5)


LAW = a_law()
AMOUNT = st.floats(0.0, 1e5)


def test_the_sum_of_its_four_parts() -> None:
    got = LAW.iteration_s(prefill_tokens=500.0, attended_pairs=125_000.0, sequences=12.0, kv_tokens=9_000.0)
    assert float(got) == pytest.approx(512e-4 + 1e-9 * 125_000 + 3e-7 * 9_000 + 4e-5 * 12)


def test_flat_below_a_token_and_straight_on_beyond_the_grid() -> None:
    assert float(LAW.linear(0.0)) == float(LAW.linear(1.0)) == 0.01
    assert float(LAW.linear(50_000.0)) == pytest.approx(5.0)


@settings(deadline=None)
@given(AMOUNT, AMOUNT, AMOUNT, AMOUNT, AMOUNT)
def test_more_work_never_takes_less_time(p: float, a: float, n: float, k: float, more: float) -> None:
    time_s = LAW.iteration_s(p, a, n, k)
    for grown in ((p + more, a, n, k), (p, a + more, n, k), (p, a, n + more, k), (p, a, n, k + more)):
        assert LAW.iteration_s(*grown) >= time_s


@settings(deadline=None)
@given(st.lists(AMOUNT, min_size=1, max_size=5), st.floats(0.1, 10.0))
def test_arrays_give_what_single_values_give_and_scale(tokens: list[float], factor: float) -> None:
    together = LAW.iteration_s(np.array(tokens), 10.0, 2.0, 300.0)
    assert together.shape == (len(tokens),)
    assert together.tolist() == [float(LAW.iteration_s(t, 10.0, 2.0, 300.0)) for t in tokens]
    np.testing.assert_allclose(LAW.scaled(factor).iteration_s(np.array(tokens), 10.0, 2.0, 300.0), factor * together)


def test_row_layout_is_what_compiled_code_reads() -> None:
    row = LAW.as_row()
    assert row.dtype == np.float64
    assert row.shape == (LAW_WIDTH,) == (4 + len(TOKENS_GRID),)
    assert row[laws.ROW_SEQ_S] == row[0] == 4e-5
    assert row[laws.ROW_KV_READ_S] == row[1] == 3e-7
    assert row[laws.ROW_ATTEND_S] == row[2] == 1e-9
    assert row[laws.ROW_BEST_TOKEN_S] == row[3] == pytest.approx(1e-4)
    np.testing.assert_array_equal(row[laws.ROW_LINEAR_S :], LAW.linear_s)


def test_a_row_becomes_the_same_law_again() -> None:
    np.testing.assert_array_equal(law_from_row(LAW.as_row()).as_row(), LAW.as_row())
    with pytest.raises(ValueError, match="wanted"):
        law_from_row(LAW.as_row()[:-1])


def test_grid_grows_and_holds_the_ends() -> None:
    assert TOKENS_GRID[0] == 1
    assert TOKENS_GRID[-1] == 16384
    assert (np.diff(TOKENS_GRID) > 0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"linear_s": np.ones(3)},
        {"linear_s": -TOKENS_GRID},
        {"linear_s": TOKENS_GRID[::-1].copy()},
        {"linear_s": np.full(TOKENS_GRID.shape, np.nan)},
        {"seq_s": -1.0},
        {"kv_read_s_per_token": float("nan")},
        {"attend_s_per_pair": float("inf")},
    ],
    ids=["short table", "negative", "falling", "unknown", "negative sequence", "unknown read", "endless attention"],
)
def test_no_law_is_made_of_impossible_times(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        replace(LAW, **wrong)  # type: ignore[arg-type]
