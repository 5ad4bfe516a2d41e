"""Fits find the law behind timed probes again, from few of them, with noise and outliers, and judge themselves honestly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.correction import Correction, corrected_law
from poolpilot.env.perf.law import IterationLaw
from poolpilot.env.perf.profiling import (
    Observation,
    Profile,
    ProfileError,
    chunks,
    fit_correction,
    fit_table,
    scores,
)
from poolpilot.env.perf.roofline import iteration_law
from poolpilot.env.perf.sweep import SweepLimits, plan_sweep

PLACES = {
    "L40S": ("L40S-48GB", "llama-2-13b", "fp8", 1),
    "A100": ("A100-SXM-80GB", "llama-3.1-8b", "bf16", 1),
    "H100 split": ("H100-SXM-80GB", "llama-3.1-70b", "fp8", 4),
}
ANSWER_S = 0.004
PLAN = plan_sweep(SweepLimits(2000, 300_000, 64, 8448))


def law_at(place: str) -> IterationLaw:
    name, shape, precision, tp = PLACES[place]
    return iteration_law(gpu(name), model(shape), precision, tp)


def timed(law: IterationLaw, budget: int, noise: float = 0.0, seed: int = 0) -> list[Observation]:
    """What a sweep of an engine with this law would bring."""
    rng = np.random.default_rng(seed)
    found = []
    for probe in PLAN:
        if probe.kind == "decode":
            context = probe.sequences * (probe.prompt_tokens + probe.output_tokens / 2.0)
            seconds = float(law.iteration_s(0, 0, probe.sequences, context))
        else:
            context = 0.0
            parts = chunks(probe.prompt_tokens, budget)
            seconds = ANSWER_S + sum(float(law.iteration_s(size, pairs, 0, 0)) for size, pairs in parts)
        seconds *= 1.0 + noise * rng.standard_normal()
        found.append(Observation(probe.kind, probe.sequences, probe.prompt_tokens, context, seconds, probe.held_out))
    return found


def off_everywhere(found: IterationLaw, true: IterationLaw) -> float:
    """Largest error over mixed iterations inside the range that was measured, most of them never probed."""
    rng = np.random.default_rng(1)
    n = rng.integers(1, 65, 400)
    prefill = rng.choice([0.0, 1.0], 400) * rng.integers(1, 1900, 400)
    pairs = prefill * (rng.integers(0, 4000, 400) + prefill / 2)
    work = prefill, pairs, n, n * rng.integers(64, 4000, 400)
    return float(np.abs(found.iteration_s(*work) / true.iteration_s(*work) - 1.0).max())


def table_or_factors(kind: str, place: str, observations: Sequence[Observation], budget: int | None) -> Profile:
    if kind == "table":
        return fit_table(observations, budget)
    name, shape, precision, tp = PLACES[place]
    return fit_correction(observations, gpu(name), model(shape), precision, tp, budget)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["table", "factors"])
def test_the_law_is_found_again(kind: str, place: str) -> None:
    true = law_at(place).scaled(1.25)
    observations = timed(true, 2048, noise=0.005)
    found = table_or_factors(kind, place, observations, 2048)
    assert off_everywhere(found.law, true) < 0.05
    judged = scores(found, [o for o in observations if o.held_out])
    assert judged is not None
    assert judged.median < 0.02
    assert abs(judged.bias) < 0.02
    assert found.answer_s == pytest.approx(ANSWER_S, abs=2e-3)


def test_factors_are_found_again() -> None:
    name, shape, precision, tp = PLACES["A100"]
    wanted = Correction(compute=0.8, memory=0.9, decode_attention=0.7, iteration_s=0.002)
    true = corrected_law(gpu(name), model(shape), precision, tp, wanted)
    found = fit_correction(timed(true, 2048), gpu(name), model(shape), precision, tp)
    assert found.correction is not None
    for field in ("compute", "memory", "decode_attention"):
        assert getattr(found.correction, field) == pytest.approx(getattr(wanted, field), rel=0.05), field
    assert off_everywhere(found.law, true) < 0.02


@pytest.mark.parametrize("budget", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("kind", ["table", "factors"])
def test_prompts_tell_the_token_budget(kind: str, budget: int) -> None:
    true = law_at("A100").scaled(1.1)
    assert table_or_factors(kind, "A100", timed(true, budget, noise=0.01), None).token_budget == budget


def test_an_outlier_does_not_bend_the_law() -> None:
    true = law_at("L40S")
    observations = timed(true, 2048)
    hit = next(i for i, o in enumerate(observations) if o.kind == "decode" and o.sequences == 8)
    observations[hit] = replace(observations[hit], seconds=3 * observations[hit].seconds)
    assert off_everywhere(fit_table(observations, 2048).law, true) < 0.08


def test_what_is_held_out_changes_no_bit_of_the_fit() -> None:
    observations = timed(law_at("L40S"), 2048, noise=0.01)
    wrong = [replace(o, seconds=9 * o.seconds) if o.held_out else o for o in observations]
    one, other = fit_table(observations), fit_table(wrong)
    np.testing.assert_array_equal(one.law.as_row(), other.law.as_row())
    held_out = scores(other, [o for o in wrong if o.held_out])
    assert held_out is not None
    assert held_out.median > 0.8


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_too_few_probes_of_a_kind_are_refused(kind: str) -> None:
    observations = timed(law_at("L40S"), 2048)
    few = [o for o in observations if o.kind != kind] + [o for o in observations if o.kind == kind][:2]
    with pytest.raises(ProfileError, match=f"2 {kind} probes of different shapes, wanted at least 3"):
        fit_table(few)


def test_no_scores_without_probes() -> None:
    assert scores(fit_table(timed(law_at("L40S"), 2048)), []) is None


def test_chunks_cover_the_prompt_and_its_pairs() -> None:
    parts = chunks(5000, 2048)
    assert [size for size, _ in parts] == [2048, 2048, 904]
    assert sum(pairs for _, pairs in parts) == 5000**2 / 2
