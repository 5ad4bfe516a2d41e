"""Scaling changes the rate as asked, and of the rest what it says and no more."""

from typing import Any, Literal

import numpy as np
import pytest

from poolpilot.env.contract import FloatArray
from poolpilot.env.workload.generate import generate
from poolpilot.env.workload.requests import Workload, WorkloadError
from poolpilot.env.workload.scaling import scaled
from poolpilot.env.workload.spec import (
    ClassLoad,
    Diurnal,
    Fixed,
    GeneratedSpec,
    Lognormal,
    Scaling,
    SessionLoad,
    SharedPrefix,
)

SPAN_S = 40_000.0
Kind = Literal["compress", "thin", "superpose", "resample"]


def bursty(cv: float = 2.0, **changes: Any) -> Workload:
    load = ClassLoad(
        **{
            "rate_per_s": 2.0,
            "arrivals": "gamma",
            "cv": cv,
            "shape": [Diurnal(period_s=SPAN_S, amplitude=0.6, peak_at_s=SPAN_S / 4)],
            "prompt_tokens": Lognormal(median=400, sigma=1.0),
            "output_tokens": Lognormal(median=100, sigma=0.5),
            "correlation": 0.5,
            **changes,
        }
    )
    return generate(GeneratedSpec(classes={"chat": load}), ("chat",), SPAN_S, 5)


def cv_of_gaps(load: Workload, span_s: float = SPAN_S) -> float:
    """Without the slow movement of the rate: in tenths of the span."""
    tenth = (load.arrival_s // (span_s / 40)).astype(int)
    cvs = [gaps.std() / gaps.mean() for k in range(40) if len(gaps := np.diff(load.arrival_s[tenth == k])) > 100]
    return float(np.mean(cvs))


def by_tenth(load: Workload) -> FloatArray:
    counts = np.bincount((load.arrival_s // (SPAN_S / 10)).astype(int), minlength=10)[:10]
    shares: FloatArray = counts / counts.mean()
    return shares


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 3.0, 7.5])
@pytest.mark.parametrize("cv", [0.5, 2.0])
def test_resampling_keeps_gaps_day_and_lengths_at_any_rate(factor: float, cv: float) -> None:
    before = bursty(cv)
    after = scaled(before, Scaling(kind="resample", factor=factor), SPAN_S, 1)
    assert len(after) == pytest.approx(len(before) * factor, rel=0.01)
    assert cv_of_gaps(after) == pytest.approx(cv_of_gaps(before), rel=0.12)
    assert by_tenth(after) == pytest.approx(by_tenth(before), abs=0.15)
    assert np.log(after.prompt_tokens).mean() == pytest.approx(np.log(before.prompt_tokens).mean(), rel=0.02)
    together = [np.corrcoef(np.log(w.prompt_tokens), np.log(w.output_tokens))[0, 1] for w in (before, after)]
    assert together[1] == pytest.approx(together[0], abs=0.05)


def test_compressing_keeps_gaps_and_shortens_the_day() -> None:
    before = bursty()
    after = scaled(before, Scaling(kind="compress", factor=4), SPAN_S, 1)
    assert len(after) == len(before)
    assert after.duration_s == pytest.approx(before.duration_s / 4)
    assert cv_of_gaps(after, SPAN_S / 4) == pytest.approx(cv_of_gaps(before), rel=1e-6)


def test_thinning_keeps_the_share_and_the_day_and_makes_gaps_more_regular() -> None:
    before = bursty()
    after = scaled(before, Scaling(kind="thin", factor=0.1), SPAN_S, 1)
    assert len(after) == pytest.approx(len(before) * 0.1, abs=4 * (len(before) * 0.09) ** 0.5)
    assert set(after.arrival_s) <= set(before.arrival_s)
    assert by_tenth(after) == pytest.approx(by_tenth(before), abs=0.25)
    # A share p of a renewal process has cv^2 = 1 + p (cv^2 - 1).
    assert cv_of_gaps(after) == pytest.approx(1.3**0.5, rel=0.06)


def test_superposing_has_whole_copies_and_smooths() -> None:
    before = bursty()
    after = scaled(before, Scaling(kind="superpose", factor=8), SPAN_S, 1)
    assert len(after) == 8 * len(before)
    assert np.array_equal(np.sort(after.prompt_tokens), np.sort(np.tile(before.prompt_tokens, 8)))
    assert cv_of_gaps(after) < 0.85 * cv_of_gaps(before)
    assert set(before.arrival_s) <= set(after.arrival_s)  # the first copy stays where it is


@pytest.mark.parametrize("kind", ["superpose", "resample"])
def test_copies_share_system_prompts_but_not_what_one_user_said(kind: Kind) -> None:
    load = SessionLoad(
        kind="sessions",
        sessions_per_s=0.05,
        turns_mean=4,
        think_s=20,
        message_tokens=Fixed(tokens=50),
        output_tokens=Fixed(tokens=50),
        shared_prefix=SharedPrefix(tokens=Fixed(tokens=100)),
    )
    before = generate(GeneratedSpec(classes={"chat": load}), ("chat",), SPAN_S, 5)
    after = scaled(before, Scaling(kind=kind, factor=3), SPAN_S, 1)
    assert (after.prefixes.parent < 0).sum() == 1
    assert (after.prefixes.tokens[after.prefix_index] <= after.prompt_tokens).all()
    # If copies shared all, two of three would be hits from first to last token.
    assert after.prefix_hit_share() < before.prefix_hit_share() + 0.05


@pytest.mark.parametrize("kind", ["compress", "thin", "superpose", "resample"])
def test_scaling_depends_on_the_seed_alone_and_takes_nothing(kind: Kind) -> None:
    before = bursty(rate_per_s=0.05)
    scaling = Scaling(kind=kind, factor=1 if kind == "thin" else 2)
    one, two = (scaled(before, scaling, SPAN_S, 9) for _ in range(2))
    assert np.array_equal(one.arrival_s, two.arrival_s)
    assert len(scaled(before.slice(0.0, 1e-9), scaling, SPAN_S, 9)) == 0


def test_too_many_are_refused() -> None:
    with pytest.raises(WorkloadError, match=r"scale\.factor: 10000: makes 7\.\d+e\+08 requests, wanted at most 5e\+07"):
        scaled(bursty(), Scaling(kind="resample", factor=10_000), SPAN_S, 1)
