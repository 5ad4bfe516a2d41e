"""Batches of jobs come when and as large as was asked."""

from typing import Any

import numpy as np
import pytest

from poolpilot.env.workload.generate import generate
from poolpilot.env.workload.requests import Workload, WorkloadError
from poolpilot.env.workload.spec import Fixed, GeneratedSpec, JobLoad, SharedPrefix

HOUR_S, DAY_S = 3600.0, 86_400.0


def a_load(**changes: Any) -> JobLoad:
    base = {"kind": "jobs", "requests_mean": 100.0, "prompt_tokens": Fixed(tokens=9), "output_tokens": Fixed(tokens=3)}
    return JobLoad(**{**base, **changes})


def jobs_of(load: JobLoad, duration_s: float, seed: int = 0) -> Workload:
    return generate(GeneratedSpec(classes={"batch": load}), ("batch",), duration_s, seed)


def test_batches_come_every_night() -> None:
    load = jobs_of(a_load(at_s=(22 * HOUR_S, 2 * HOUR_S)), 3 * DAY_S)
    times, counts = np.unique(load.arrival_s, return_counts=True)
    assert times.tolist() == [day * DAY_S + hour * HOUR_S for day in range(3) for hour in (2, 22)]
    assert set(counts) == {100}


def test_a_batch_is_handed_in_over_its_time() -> None:
    load = jobs_of(a_load(requests_mean=20_000, at_s=(HOUR_S,), over_s=600.0), DAY_S)
    into_s = load.arrival_s - HOUR_S
    assert into_s.min() >= 0.0
    assert into_s.max() < 600.0
    assert into_s.mean() == pytest.approx(300.0, abs=5.0)  # standard error 1.2
    assert np.quantile(into_s, [0.25, 0.75]) == pytest.approx([150, 450], abs=8.0)


@pytest.mark.parametrize(("mean", "cv"), [(50.0, 0.5), (0.4, 0.0), (7.3, 1.5)])
def test_batches_have_the_mean_and_spread_asked_for(mean: float, cv: float) -> None:
    n = 20_000
    load = jobs_of(a_load(every_s=10.0, requests_mean=mean, requests_cv=cv), 10.0 * n)
    counts = np.bincount((load.arrival_s / 10.0).round().astype(int), minlength=n)
    # Rounding at random to whole requests adds a variance of at most 1/4.
    deviation = (mean * mean * cv * cv + 0.25) ** 0.5
    assert counts.mean() == pytest.approx(mean, abs=4 * deviation / n**0.5)
    if cv:
        assert counts.std() == pytest.approx(mean * cv, rel=0.05)


def test_a_batch_may_share_its_instructions() -> None:
    prefix = SharedPrefix(count=3, zipf=0.0, tokens=Fixed(tokens=91))
    load = jobs_of(a_load(requests_mean=3000, shared_prefix=prefix), 10.0)
    assert set(load.prompt_tokens) == {100}
    assert load.prefix_hit_share() == pytest.approx(0.91, abs=0.001)


def test_too_many_batches_or_requests_are_refused() -> None:
    with pytest.raises(WorkloadError, match=r"batch\.every_s: 1: too often for a run of 1e\+07 s"):
        jobs_of(a_load(every_s=1.0), 1e7)
    with pytest.raises(WorkloadError, match=r"batch\.requests_mean: 1e\+07: makes 1e\+08 requests"):
        jobs_of(a_load(every_s=1.0, requests_mean=1e7), 10.0)
