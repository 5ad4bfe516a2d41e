"""Corrections from few points: what they recover, and that they look at no more than they are given."""

from dataclasses import replace

import numpy as np
import pytest

from poolpilot.env.accuracy.few_shot import MOST_GIVEN, chosen_points, fit_correction
from poolpilot.env.accuracy.points import TPOT, UNCHANGED, Correction, Points, Predict, stats
from poolpilot.env.accuracy.serving import serving_points
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.check import ServingRow, law_of, tpot_s
from poolpilot.env.perf.factors import shipped_factors
from poolpilot.env.perf.law import FloatArray

TRUE = Correction(base=1.3, tokens=0.8, kv_read=1.6)


def rows(engine: str = "vllm-0.19.0", factor: float = 1.0) -> list[ServingRow]:
    """A sweep of one GPU and model whose true law is not the believed one."""
    card, shape = gpu("H100"), model("llama-3.1-8b")
    made = []
    for n in (1.0, 4.0, 16.0, 32.0, 64.0, 100.0):
        for prompt, output in ((128.0, 128.0), (1000.0, 200.0), (2000.0, 100.0), (200.0, 2000.0), (50.0, 500.0)):
            row = ServingRow("lab", card, shape, "bf16", 1, engine, prompt, output, n, None, False, 1.0, None, None)
            true_s = tpot_s(row, TRUE.apply(law_of(row)))
            made.append(replace(row, tpot_s=factor * true_s))
    return made


def points_of(some: list[ServingRow]) -> tuple[Points, Predict, FloatArray]:
    (points,), left_out = serving_points(some)
    assert not left_out
    predict = points.predictor(shipped_factors())
    return points, predict, predict(UNCHANGED, np.arange(len(points)))


def errors(points: Points, predict: Predict, correction: Correction, given: FloatArray) -> float:
    rest = np.setdiff1d(np.arange(len(points)), given)
    return stats(predict(correction, rest) / points.measured[rest] - 1.0).median


def test_a_correction_recovers_a_law_of_the_same_shape() -> None:
    points, predict, plain = points_of(rows())
    given = chosen_points(points, plain, 12)
    found = fit_correction(points, predict, given)
    assert errors(points, predict, UNCHANGED, given) > 0.1
    assert errors(points, predict, found, given) < 0.01
    assert found.base == pytest.approx(TRUE.base, rel=0.1)


def test_engines_get_a_factor_of_their_own() -> None:
    points, predict, plain = points_of(rows() + rows("sglang-0.5", factor=1.5))
    given = chosen_points(points, plain)
    found = fit_correction(points, predict, given)
    assert errors(points, predict, found, given) < 0.02
    assert found.by_kind["sglang"] / found.by_kind["vllm"] == pytest.approx(1.5, rel=0.1)


def test_only_the_given_points_are_looked_at() -> None:
    points, predict, plain = points_of(rows())
    given = chosen_points(points, plain, 10)
    spoilt = np.where(np.isin(np.arange(len(points)), given), points.measured, 1e6)
    assert fit_correction(replace(points, measured=spoilt), predict, given) == fit_correction(points, predict, given)
    np.testing.assert_array_equal(chosen_points(replace(points, measured=spoilt), plain, 10), given)


def test_what_few_points_do_not_tell_stays_as_it_was() -> None:
    points, predict, plain = points_of([row for row in rows() if row.concurrency == 1.0])
    found = fit_correction(points, predict, chosen_points(points, plain))
    assert found.sequences == pytest.approx(1.0, abs=0.1)
    assert found.kv_read == pytest.approx(1.0, abs=0.1)
    assert fit_correction(points, predict, np.zeros(0, dtype=np.int64)) == UNCHANGED


@pytest.mark.parametrize(
    ("count", "most", "given"), [(60, MOST_GIVEN, 20), (10, MOST_GIVEN, 5), (4, 20, 2), (3, 20, 0)]
)
def test_never_more_than_asked_for_and_never_more_than_half(count: int, most: int, given: int) -> None:
    points, _, plain = points_of((rows() + rows("sglang-0.5"))[:count])
    picked = chosen_points(points, plain, most)
    assert len(picked) == len(set(picked.tolist())) == given


def test_the_choice_spans_the_range_of_every_kind() -> None:
    points, _, plain = points_of(rows() + rows("sglang-0.5"))
    picked = chosen_points(points, plain)
    for kind in ("vllm", "sglang"):
        of = np.array([i for i in range(len(points)) if points.kinds[i] == kind])
        own = np.intersect1d(of, picked)
        assert len(own) == 10
        assert {plain[of].min(), plain[of].max()} <= set(plain[own].tolist())
    assert set(points.quantities) == {TPOT}
