"""The compiled capacities are those of the plain version."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.contract import Targets
from poolpilot.env.perf.capacities import asked_of, capacities_some, engines_of
from poolpilot.env.perf.capacity import capacity_per_s
from poolpilot.env.perf.law import TOKENS_GRID, IterationLaw

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


def targets(ttft_s: FloatArray, tpot_s: FloatArray, e2e_s: FloatArray, attainment: FloatArray) -> Targets:
    """End-to-end targets of the first class, deadlines of the others."""
    first = np.arange(ttft_s.shape[-1]) == 0
    return Targets(
        ttft_s, tpot_s, np.where(first, e2e_s, np.nan), np.where(first, np.nan, e2e_s), attainment, np.array(np.inf)
    )


TARGETS = st.one_of(st.just(float("nan")), st.floats(1e-3, 20.0))


@settings(deadline=None)  # the first call compiles
@given(
    st.integers(0, 2**32),
    st.floats(1.0, 12000.0),
    st.one_of(st.sampled_from([0.0, 1.0, 1.5]), st.floats(0.0, 3000.0)),
    TARGETS,
    TARGETS,
    st.one_of(st.just(float("nan")), st.floats(1e-2, 200.0)),
    st.floats(0.0, 1.0),
    st.floats(500.0, 1e6),
    st.integers(1, 600),
    st.integers(64, 16384),
)
def test_every_pair_carries_what_the_plain_version_says(
    seed: int,
    prompt: float,
    output: float,
    ttft_s: float,
    tpot_s: float,
    e2e_s: float,
    attainment: float,
    kv_tokens: float,
    seqs: int,
    budget: int,
) -> None:
    rng = np.random.default_rng(seed)
    linear_s = np.maximum.accumulate(rng.uniform(0.002, 0.02) + rng.uniform(1e-6, 1e-4) * TOKENS_GRID)
    law = IterationLaw(TOKENS_GRID, linear_s, rng.uniform(0, 1e-9), rng.uniform(0, 1e-6), rng.uniform(0, 1e-4))
    wanted = (prompt, output, ttft_s, tpot_s, e2e_s, attainment)
    plain = capacity_per_s(law, kv_tokens, seqs, budget, *wanted)
    # Beside a second pool with more loads to try, and a class that the first pool does not serve.
    engines = engines_of(np.stack([law.as_row()] * 2), [kv_tokens, 2e5], [budget, 2048], [seqs, 900])
    rates = np.full((1, 2, 2), np.nan)
    capacities_some(
        np.array([0]),
        type(engines)(*(part[None] for part in engines)),
        np.array([[[True, True], [False, True]]]),
        asked_of(targets(*(np.full((1, 2), value) for value in wanted[2:]))),
        np.full((1, 2), prompt),
        np.full((1, 2), output),
        rates,
    )
    assert rates[0, 0, 0] == pytest.approx(plain, rel=1e-9, abs=1e-12)
    assert rates[0, 1, 0] == 0.0
    assert (
        rates[0, 0, 1]
        == rates[0, 1, 1]
        == pytest.approx(capacity_per_s(law, 2e5, 900, 2048, *wanted), rel=1e-9, abs=1e-12)
    )


def test_clusters_not_asked_for_stay_as_they_are() -> None:
    law = IterationLaw(TOKENS_GRID, 0.01 + 1e-5 * TOKENS_GRID, 0.0, 1e-7, 1e-5)
    engines = engines_of(law.as_row()[None], [1e5], [2048], [64])
    rates = np.full((3, 1, 1), -1.0)
    one = np.ones((3, 1))
    capacities_some(
        np.array([1]),
        type(engines)(*(np.stack([part] * 3) for part in engines)),
        np.ones((3, 1, 1), dtype=np.bool_),
        asked_of(targets(one, one, 60.0 * one, 0.95 * one)),
        500.0 * one,
        200.0 * one,
        rates,
    )
    assert rates[0, 0, 0] == rates[2, 0, 0] == -1.0
    assert rates[1, 0, 0] > 0.0
