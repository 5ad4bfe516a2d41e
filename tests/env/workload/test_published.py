"""The published figures are what the data say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy import stats

from poolpilot.env.workload import published
from poolpilot.env.workload.draws import lengths_at
from poolpilot.env.workload.spec import Lognormal

Floats = NDArray[np.float64]
pytestmark = pytest.mark.shared_data
WINDOW_S, BUCKET_S, DAY_S = 600, 21_600, 86_400
PUBLISHED_Q = [0, 1, 5, 10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90, 95, 98, 99, 99.5, 99.9, 100]


def columns(path: Path, *names: str) -> tuple[Any, ...]:
    table = pq.read_table(path, columns=list(names))
    return tuple(table.column(name).to_numpy() for name in names)


def ks_distance(values: Floats, fit: Lognormal) -> float:
    scores = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    return float(stats.ks_2samp(values, lengths_at(fit, scores)).statistic)


@pytest.mark.parametrize(
    ("file", "lengths", "distances", "rank_correlation"),
    [
        ("azure_llm_2023_conv", published.CHAT_LENGTHS, (0.23, 0.26), 0.073),
        ("mooncake_conversation", published.LONG_CONTEXT_LENGTHS, (0.12, 0.19), 0.072),
    ],
    ids=["chat", "long context"],
)
def test_lengths_of_a_trace(
    shared_data: Path,
    file: str,
    lengths: published.Lengths,
    distances: tuple[float, float],
    rank_correlation: float,
) -> None:
    both = columns(shared_data / "traces" / f"{file}.parquet", "input_tokens", "output_tokens")
    for values, fit, distance in zip(both, (lengths.prompt_tokens, lengths.output_tokens), distances, strict=True):
        assert fit.mean == pytest.approx(values.mean(), rel=1e-3)
        assert fit.p95 == pytest.approx(np.quantile(values, 0.95), rel=1e-3)
        assert (fit.min, fit.max) == (values.min(), values.max())
        assert ks_distance(values.astype(np.float64), fit) == pytest.approx(distance, abs=0.01)
    rank = stats.spearmanr(*both).statistic
    assert rank == pytest.approx(rank_correlation, abs=1e-3)
    # The normal-score correlation that has this rank correlation (Gaussian copula).
    assert lengths.correlation == pytest.approx(2.0 * np.sin(np.pi * rank / 6.0), abs=1e-3)


@pytest.fixture(scope="module")
def pooled_lengths(shared_data: Path) -> Callable[[Callable[[float, float], bool]], dict[str, Any]]:
    """Mean, p95, least and most of the clients that a rule on (mean prompt, mean output) picks, in m-large."""
    path = shared_data / "traces"
    window, client, rate = columns(path / "servegen_m_large_clients.parquet", "window_start_s", "client", "rate_rps")
    requests: dict[tuple[int, int], float] = {}
    for key, per_s in zip(zip(client, window // BUCKET_S * BUCKET_S, strict=True), rate, strict=True):
        requests[key] = requests.get(key, 0.0) + float(per_s) * WINDOW_S
    names = ["client", "bucket_start_s", "field", "mean", *(f"q{q:g}" for q in PUBLISHED_Q)]
    table = pq.read_table(path / "servegen_m_large_lengths.parquet", columns=names)
    who, bucket, mean = (table.column(i).to_numpy() for i in (0, 1, 3))
    weight = np.array([requests.get(key, 0.0) for key in zip(who, bucket, strict=True)])
    field = np.array(table.column("field").to_pylist())
    quantiles = np.stack([table.column(name).to_numpy() for name in names[4:]], axis=1).astype(np.float64)

    def of(rows: NDArray[np.bool_]) -> dict[str, float]:
        rows = rows & (weight > 0)
        rank = (np.arange(400) + 0.5) / 4.0
        values = np.concatenate([np.interp(rank, PUBLISHED_Q, row) for row in quantiles[rows]])
        order = np.argsort(values)
        share = np.cumsum(np.repeat(weight[rows], len(rank))[order])
        return {
            "mean": float(np.average(mean[rows], weights=weight[rows])),
            "p95": float(values[order][np.searchsorted(share, 0.95 * share[-1])]),
            "min": float(quantiles[rows, 0].min()),
            "max": float(quantiles[rows, -1].max()),
        }

    def pool(picks: Callable[[float, float], bool]) -> dict[str, Any]:
        chosen = []
        for c in np.unique(who):
            each = [(who == c) & (field == name) & (weight > 0) for name in ("input_tokens", "output_tokens")]
            if all(rows.any() for rows in each) and picks(*(of(rows)["mean"] for rows in each)):
                chosen.append(c)
        mine = np.isin(who, chosen)
        return {
            "clients": len(chosen),
            "in": of(mine & (field == "input_tokens")),
            "out": of(mine & (field == "output_tokens")),
        }

    return pool


@pytest.mark.parametrize(
    ("picks", "clients", "lengths"),
    [
        (lambda i, o: i >= 2000 and 4 * o <= i and o > 50, 13, published.SUMMARISATION_LENGTHS),
        (lambda i, o: o <= 20, 29, published.CLASSIFICATION_LENGTHS),
        (lambda i, o: 800 <= i <= 4000 and 20 < o <= 100, 27, published.SHORT_ANSWER_LENGTHS),
    ],
    ids=["summarisation", "classification", "short answers"],
)
def test_lengths_of_servegen_clients(
    pooled_lengths: Callable[[Callable[[float, float], bool]], dict[str, Any]],
    picks: Callable[[float, float], bool],
    clients: int,
    lengths: published.Lengths,
) -> None:
    pooled = pooled_lengths(picks)
    assert pooled["clients"] == clients
    for side, fit in (("in", lengths.prompt_tokens), ("out", lengths.output_tokens)):
        assert fit.mean == pytest.approx(pooled[side]["mean"], rel=0.01)
        assert fit.p95 == pytest.approx(pooled[side]["p95"], rel=0.01)
        assert fit.max == pooled[side]["max"]
        assert fit.min == max(1.0, pooled[side]["min"])  # a request that made no token is not one of this kind


def test_arrivals_of_the_chat_trace_are_nearly_poisson(shared_data: Path) -> None:
    (arrival_s,) = columns(shared_data / "traces" / "azure_llm_2023_conv.parquet", "arrival_s")
    windows = [arrival_s[arrival_s // WINDOW_S == k] for k in range(int(arrival_s[-1] // WINDOW_S))]
    cvs = [np.diff(window).std() / np.diff(window).mean() for window in windows]
    assert np.median(cvs) == pytest.approx(published.CHAT_CV, abs=0.005)


def total_rate(shared_data: Path, service: str) -> Floats:
    window, rate = columns(shared_data / "traces" / f"servegen_{service}_clients.parquet", "window_start_s", "rate_rps")
    return np.bincount(window // WINDOW_S, weights=rate)


@pytest.mark.parametrize(("service", "known"), [("m_large", "m-large"), ("deepseek_r1", "deepseek-r1")])
def test_how_far_a_service_moves_in_ten_minutes(shared_data: Path, service: str, known: str) -> None:
    moves = np.abs(np.diff(np.log(total_rate(shared_data, service))))
    np.testing.assert_allclose(np.quantile(moves, [0.5, 0.9, 0.99]), published.TEN_MINUTE_MOVES[known], atol=0.0006)


@pytest.mark.parametrize("service", ["m_large", "deepseek_r1"])
def test_how_unequal_clients_are(shared_data: Path, service: str) -> None:
    path = shared_data / "traces" / f"servegen_{service}_clients.parquet"
    client, rate = columns(path, "client", "rate_rps")
    sizes = np.sort(np.bincount(client, weights=rate))[::-1][:40]
    slope = np.polyfit(np.log(np.arange(1, 41)), np.log(sizes), 1)[0]
    assert -slope == pytest.approx(published.CLIENT_ZIPF, abs=0.01)


def test_bursts_of_single_clients(shared_data: Path) -> None:
    path = shared_data / "traces" / "servegen_m_large_clients.parquet"
    window, client, rate = columns(path, "window_start_s", "client", "rate_rps")
    index, windows = window // WINDOW_S, int(window.max() // WINDOW_S) + 1
    lengths_s, heights, sizes = [], [], []
    for c in np.unique(client):
        series = np.bincount(index[client == c], weights=rate[client == c], minlength=windows)
        if series.mean() * WINDOW_S < 20:
            continue
        around = np.median(np.lib.stride_tricks.sliding_window_view(series, 19), axis=1)
        high = np.zeros(windows, dtype=bool)
        high[9:-9] = (around > 0) & (series[9:-9] > 1.5 * around)
        edges = np.flatnonzero(np.diff(high.astype(int), prepend=0, append=0))
        for start, end in edges.reshape(-1, 2):
            lengths_s.append((end - start) * WINDOW_S)
            heights.append(series[start:end].mean() / around[start - 9])
            sizes.append(series.mean())
    assert len(lengths_s) / len(np.unique(client)) / 10 == pytest.approx(published.CLIENT_BURSTS_PER_DAY, rel=0.05)
    assert np.average(lengths_s, weights=sizes) == pytest.approx(published.CLIENT_BURST_S, rel=0.1)
    order = np.argsort(heights)
    share = np.cumsum(np.array(sizes)[order]) / np.sum(sizes)
    typical, high_ones = (np.array(heights)[order][np.searchsorted(share, at)] for at in (0.5, 0.9))
    assert (typical, high_ones) == pytest.approx(published.CLIENT_BURST_FACTORS, rel=0.1)


def test_cv_of_single_clients(shared_data: Path) -> None:
    path = shared_data / "traces" / "servegen_m_large_clients.parquet"
    cv, rate = columns(path, "cv", "rate_rps")
    order = np.argsort(cv)
    share = np.cumsum(rate[order].astype(np.float64))
    median, p75 = cv[order][np.searchsorted(share, [0.5 * share[-1], 0.75 * share[-1]])]
    assert (median, p75) == pytest.approx((published.CLIENT_CV_MEDIAN, published.CLIENT_CV_P75), abs=0.005)
    family = np.array(pq.read_table(path, columns=["family"]).column(0).to_pylist())
    assert (family == "Gamma").mean() == pytest.approx(0.78, abs=0.005)


def test_day(shared_data: Path) -> None:
    rate = total_rate(shared_data, "m_small")
    angle = 2.0 * np.pi * np.arange(len(rate)) * WINDOW_S / DAY_S
    basis = np.stack([np.ones(len(rate)), np.cos(angle), np.sin(angle)], axis=1)
    (mean, cos, sin), *_ = np.linalg.lstsq(basis, rate, rcond=None)
    assert published.DAY.amplitude == pytest.approx(np.hypot(cos, sin) / mean, abs=0.005)
    assert published.DAY.peak_at_s == pytest.approx(
        np.arctan2(sin, cos) % (2.0 * np.pi) / (2.0 * np.pi) * DAY_S, abs=30.0
    )
    explained = 1.0 - (rate - basis @ [mean, cos, sin]).var() / rate.var()
    assert explained == pytest.approx(0.32, abs=0.005)
    by_hour = rate.reshape(10, 24, 6).mean(axis=(0, 2))
    assert published.DAY_BY_HOUR.factors == pytest.approx(by_hour / by_hour.mean(), abs=0.001)


def test_bursts_of_a_service(shared_data: Path) -> None:
    rate = total_rate(shared_data, "m_large")
    around = np.array([np.median(rate[max(0, i - 9) : i + 10]) for i in range(len(rate))])
    high = rate > 1.25 * around
    n_bursts = int((high & ~np.concatenate([[False], high[:-1]])).sum())
    assert n_bursts == 44
    bursts = published.SERVICE_BURSTS
    assert bursts.duration_s == pytest.approx(high.sum() * WINDOW_S / n_bursts, rel=0.01)
    assert bursts.every_s == pytest.approx(len(rate) * WINDOW_S / n_bursts, rel=0.01)
    assert bursts.factor == pytest.approx((rate / around)[high].mean(), rel=0.01)


def test_a_preset_becomes_a_class() -> None:
    load = published.CHAT_LENGTHS.load(5.0, cv=published.CHAT_CV, shape=(published.DAY, published.SERVICE_BURSTS))
    assert (load.rate_per_s, load.cv, load.correlation) == (5.0, 1.04, 0.076)
