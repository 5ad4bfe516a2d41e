"""Generated requests have the statistics that were asked for, and stay put when something else changes.

Seeds are fixed. A tolerance is at least three standard errors of the figure it bounds, so that it holds for nearly
every seed: the tests would still find a generator that is off by more.
"""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from poolpilot.env.workload.arrivals import renewal_points
from poolpilot.env.workload.draws import lengths_at
from poolpilot.env.workload.generate import generate
from poolpilot.env.workload.requests import Workload, WorkloadError
from poolpilot.env.workload.spec import Bimodal, Bursts, ClassLoad, Fixed, GeneratedSpec, Lognormal, Steps

N = 200_000
PROMPT = Lognormal(mean=1155, p95=3300, min=10, max=8000)
OUTPUT = Lognormal(median=130, sigma=1.0, max=1500)


def a_load(**changes: Any) -> ClassLoad:
    return ClassLoad(**{"rate_per_s": 2.0, "prompt_tokens": PROMPT, "output_tokens": OUTPUT, **changes})


def requests_of(load: ClassLoad, duration_s: float, seed: int = 0) -> Workload:
    return generate(GeneratedSpec(classes={"chat": load}), ("chat",), duration_s, seed)


def assert_same(a: Workload, b: Workload) -> None:
    for name in ("arrival_s", "prompt_tokens", "output_tokens", "class_index"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert a.class_names == b.class_names


GAPS = [("poisson", 1.0), ("gamma", 0.3), ("gamma", 2.0), ("weibull", 0.3), ("weibull", 1.0), ("weibull", 2.0)]


@pytest.mark.parametrize(("kind", "cv"), GAPS)
def test_gaps_have_the_rate_the_cv_and_the_distribution_asked_for(kind: str, cv: float) -> None:
    gaps = np.diff(renewal_points(kind, cv, N, np.random.default_rng(1)))
    # The mean's standard error is cv / sqrt(N); the cv's is below 4 cv / sqrt(N) for gaps as heavy as these.
    assert gaps.mean() == pytest.approx(1.0, abs=4 * cv / N**0.5)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=12 * cv / N**0.5)
    expected = stats.gamma(1 / cv**2, scale=cv**2) if kind != "weibull" else unit_weibull(cv)
    assert stats.kstest(gaps, expected.cdf).pvalue > 1e-3


def unit_weibull(cv: float) -> Any:
    """A Weibull distribution of mean 1 found by scipy's own moments."""
    shapes = np.geomspace(0.3, 8.0, 40_001)
    log_g1, log_g2 = (stats.weibull_min.moment(k, shapes) for k in (1, 2))
    shape = shapes[np.argmin(np.abs(log_g2 / log_g1**2 - 1.0 - cv**2))]
    return stats.weibull_min(shape, scale=1.0 / stats.weibull_min.mean(shape))


@pytest.mark.parametrize(("kind", "cv"), GAPS)
def test_short_runs_have_the_right_number_of_requests_on_average(kind: str, cv: float) -> None:
    # A bursty process that began with an ordinary gap would make (cv^2 - 1) / 2 points too many in each short run.
    rng = np.random.default_rng(5)
    counts = [len(renewal_points(kind, cv, 5.0, rng)) for _ in range(8000)]
    assert np.mean(counts) == pytest.approx(5.0, abs=4 * np.std(counts) / 8000**0.5)


@pytest.mark.parametrize(("arrivals", "cv"), [("poisson", 1.0), ("gamma", 1.5), ("weibull", 1.5)])
def test_the_rate_is_the_mean_rate_through_days_and_bursts(arrivals: str, cv: float) -> None:
    shape = [
        {"kind": "diurnal", "period_s": 3600, "amplitude": 0.6, "peak_at_s": 0},
        {"kind": "bursts", "every_s": 300, "duration_s": 30, "factor": 4},
    ]
    load = requests_of(a_load(arrivals=arrivals, cv=cv, shape=shape), 72_000.0)
    # Standard error: 240 bursts move the mean by about 1.5 %, gaps by cv / sqrt(144 000), below 0.4 %.
    assert len(load) / 72_000.0 == pytest.approx(2.0, rel=0.06)
    by_quarter = np.bincount((load.arrival_s % 3600 // 900).astype(int)) / (72_000.0 / 4)
    quarter = 0.6 * 2.0 / np.pi  # mean of the cosine over the quarter before or after its peak
    assert by_quarter / by_quarter.mean() == pytest.approx(
        [1 + quarter, 1 - quarter, 1 - quarter, 1 + quarter], abs=0.12
    )


def test_requests_follow_the_week() -> None:
    days = (1.0, 1.2, 1.1, 1.0, 0.9, 0.3, 0.2)
    load = requests_of(a_load(rate_per_s=0.5, shape=[{"kind": "weekly", "factors": days}]), 4 * 604_800.0)
    counts = np.bincount((load.arrival_s % 604_800 // 86_400).astype(int), minlength=7)
    expected = 4 * 0.5 * 86_400 * np.array(days) / np.mean(days)
    assert counts == pytest.approx(expected, abs=4 * expected.max() ** 0.5)


def test_requests_follow_steps_exactly() -> None:
    load = requests_of(a_load(shape=[Steps(times_s=(0, 10_000, 20_000), factors=(1, 0, 3))]), 30_000.0)
    counts = np.bincount((load.arrival_s // 10_000).astype(int), minlength=3)
    assert counts[1] == 0
    assert counts[[0, 2]] == pytest.approx([20_000, 60_000], rel=0.03)  # four standard errors of a Poisson count


def test_a_burst_multiplies_the_rate_by_its_factor() -> None:
    bursts = Bursts(every_s=400, duration_s=200, factor=6)
    load = requests_of(a_load(rate_per_s=20.0, shape=[bursts]), 40_000.0)
    busy = load.rates_per_s(10.0)[:-1, 0]
    high = busy > 20.0  # between 5.7 requests/s in quiet and 34.3 in bursts, 10 standard deviations from either
    # A bucket that a burst's edge cuts is on neither level: leave out those beside a change.
    inner = (high[1:-1] == high[:-2]) & (high[1:-1] == high[2:])
    level = busy[1:-1]
    assert level[inner & high[1:-1]].mean() / level[inner & ~high[1:-1]].mean() == pytest.approx(6.0, rel=0.02)


def test_lengths_have_the_mean_and_quantiles_asked_for() -> None:
    load = requests_of(a_load(rate_per_s=100.0), 2000.0)
    # With 200 000 draws: standard error 0.2 % of the mean, 0.4 % of a 95th percentile, 0.3 % of a median.
    assert load.prompt_tokens.mean() == pytest.approx(1155, rel=0.01)
    assert np.quantile(load.prompt_tokens, 0.95) == pytest.approx(3300, rel=0.015)
    assert np.median(load.output_tokens) == pytest.approx(130, rel=0.015)
    assert np.log(np.quantile(load.output_tokens, 0.84134) / 130) == pytest.approx(1.0, abs=0.02)
    for values, spec in ((load.prompt_tokens, PROMPT), (load.output_tokens, OUTPUT)):
        assert spec.min <= values.min() <= values.max() <= spec.max
        assert values.mean() == pytest.approx(spec.mean_tokens, rel=0.01)


def test_a_bimodal_length_is_the_mixture_of_its_parts() -> None:
    spec = Bimodal(short=Lognormal(median=30, sigma=0.5), long=Lognormal(median=2000, sigma=0.3), long_share=0.25)
    values = lengths_at(spec, np.random.default_rng(2).standard_normal(N))
    # The parts do not overlap at 300: 30 e^(4.6 x 0.5) and 2000 e^(-6.3 x 0.3).
    long = values > 300
    assert long.mean() == pytest.approx(0.25, abs=0.004)
    for part, median, sigma in ((values[~long], 30, 0.5), (values[long], 2000, 0.3)):
        assert np.median(part) == pytest.approx(median, rel=0.02)
        assert np.log(part).std() == pytest.approx(sigma, rel=0.03)
    assert values.mean() == pytest.approx(spec.mean_tokens, rel=0.01)


def test_a_fixed_length_is_that_length() -> None:
    load = requests_of(a_load(prompt_tokens=Fixed(tokens=7), output_tokens=Fixed(tokens=0)), 100.0)
    assert set(load.prompt_tokens) == {7}
    assert set(load.output_tokens) == {0}


@pytest.mark.parametrize("rho", [-0.8, 0.0, 0.5, 1.0])
def test_prompt_and_output_lengths_are_correlated_as_asked(rho: float) -> None:
    load = requests_of(a_load(rate_per_s=100.0, correlation=rho), 2000.0)
    rank = stats.spearmanr(load.prompt_tokens, load.output_tokens).statistic
    assert rank == pytest.approx(6.0 / np.pi * np.arcsin(rho / 2.0), abs=0.01)  # of a Gaussian copula


def test_correlation_leaves_each_length_as_it_was() -> None:
    free, tied = (requests_of(a_load(rate_per_s=50.0, correlation=rho), 2000.0) for rho in (0.0, 0.9))
    assert np.array_equal(free.prompt_tokens, tied.prompt_tokens)
    assert stats.ks_2samp(free.output_tokens, tied.output_tokens).pvalue > 1e-3


BURSTY = a_load(arrivals="weibull", cv=2.0, shape=[Bursts(every_s=100, duration_s=20, factor=5)])


def test_the_seed_decides_everything() -> None:
    assert_same(requests_of(BURSTY, 3000.0, seed=4), requests_of(BURSTY, 3000.0, seed=4))
    assert not np.array_equal(requests_of(BURSTY, 50.0, seed=4).arrival_s, requests_of(BURSTY, 50.0, seed=5).arrival_s)


def test_a_longer_run_begins_with_the_shorter_one() -> None:
    long, short = requests_of(BURSTY, 9000.0).slice(0.0, 2500.0), requests_of(BURSTY, 2500.0)
    assert long.arrival_s == pytest.approx(short.arrival_s, abs=1e-6)  # the last cell of the shorter run is cut
    assert np.array_equal(long.prompt_tokens, short.prompt_tokens)
    assert np.array_equal(long.output_tokens, short.output_tokens)


def test_changing_a_class_leaves_the_others() -> None:
    names = ("chat", "code", "embedding")

    def others(**classes: ClassLoad) -> Workload:
        load = generate(GeneratedSpec(classes={"chat": BURSTY, **classes}), names, 1000.0, 9)
        mine = load.class_index == 0
        return Workload(
            load.arrival_s[mine], load.prompt_tokens[mine], load.output_tokens[mine], load.class_index[mine], names
        )

    alone = others()
    assert_same(others(code=a_load()), alone)
    assert_same(others(embedding=a_load(), code=a_load(rate_per_s=7.0, cv=3.0, arrivals="gamma")), alone)


def test_changing_lengths_leaves_arrivals() -> None:
    plain, other = (requests_of(a_load(output_tokens=length), 500.0) for length in (OUTPUT, Fixed(tokens=5)))
    assert np.array_equal(plain.arrival_s, other.arrival_s)
    assert np.array_equal(plain.prompt_tokens, other.prompt_tokens)


def test_two_alike_classes_are_not_in_step() -> None:
    load = generate(GeneratedSpec(classes={"a": BURSTY, "b": BURSTY}), ("a", "b"), 500.0, 0)
    first, second = (load.arrival_s[load.class_index == c] for c in (0, 1))
    assert not np.intersect1d(first, second).size


def test_a_class_without_a_rate_has_no_requests() -> None:
    load = requests_of(a_load(rate_per_s=0.0), 100.0)
    assert (len(load), load.class_names) == (0, ("chat",))


@pytest.mark.parametrize(
    ("classes", "duration_s", "message"),
    [
        ({"chat": a_load(), "chatt": a_load()}, 10.0, "unknown class 'chatt'; classes are chat"),
        ({"chat": a_load(rate_per_s=1e6)}, 1e5, r"chat.rate_per_s: 1e\+06: makes 1e\+11 requests in 100000 s"),
        ({"chat": a_load()}, 0.0, "duration_s: 0.0: wanted a finite number above 0"),
        ({"chat": a_load()}, float("inf"), "duration_s: inf: wanted a finite"),
    ],
)
def test_what_cannot_be_generated_is_said(classes: dict[str, ClassLoad], duration_s: float, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        generate(GeneratedSpec(classes=classes), ("chat",), duration_s, 0)
