"""Corrections of a law, and statistics of errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.accuracy.points import KNEE_TOKENS, UNCHANGED, Correction, stats
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.roofline import iteration_law

LAW = iteration_law(gpu("H100"), model("qwen3-30b-a3b"), "bf16")
FACTOR = st.floats(0.05, 20.0)


def test_no_correction_changes_nothing_and_one_for_all_terms_scales() -> None:
    np.testing.assert_allclose(UNCHANGED.apply(LAW).as_row(), LAW.as_row(), rtol=1e-12)
    double = Correction(2.0, 2.0, 2.0, 2.0, 2.0, 2.0)
    np.testing.assert_allclose(double.apply(LAW).as_row(), LAW.scaled(2.0).as_row())


def test_each_multiplier_has_its_own_part() -> None:
    base = Correction(base=2.0).apply(LAW)
    assert float(base.linear(1.0)) == pytest.approx(2 * float(LAW.linear(1.0)))
    assert float(base.linear(4096) - base.linear(1)) == pytest.approx(float(LAW.linear(4096) - LAW.linear(1)))
    few, many = Correction(few_tokens=2.0).apply(LAW), Correction(tokens=2.0).apply(LAW)
    rise, beyond = LAW.linear(KNEE_TOKENS) - LAW.linear(1.0), LAW.linear(4096.0) - LAW.linear(KNEE_TOKENS)
    assert float(few.linear(4096.0) - LAW.linear(4096.0)) == pytest.approx(float(rise))
    assert float(many.linear(4096.0) - LAW.linear(4096.0)) == pytest.approx(float(beyond))
    assert float(many.linear(64.0)) == pytest.approx(float(LAW.linear(64.0)))


@given(base=FACTOR, few=FACTOR, tokens=FACTOR)
def test_a_corrected_law_is_a_law(base: float, few: float, tokens: float) -> None:
    corrected = Correction(base, few, tokens).apply(LAW)  # IterationLaw refuses times that fall with the tokens
    assert float(corrected.linear(1.0)) > 0


def test_errors_are_of_the_measured_value() -> None:
    found = stats([-0.5, 0.1, 0.2, 0.1])
    assert (found.count, found.median) == (4, pytest.approx(0.15))
    assert found.bias == pytest.approx(-0.025)
    assert found.p90 == pytest.approx(np.quantile([0.1, 0.1, 0.2, 0.5], 0.9))
    assert stats([]).count == 0
    assert np.isnan(stats([]).median)
