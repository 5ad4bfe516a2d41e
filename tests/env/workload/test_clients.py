"""Requests drawn from a service's clients have the clients' rates, gaps and lengths."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy import stats

from poolpilot.env.workload.clients import rates_of_clients
from poolpilot.env.workload.load import load_workload
from poolpilot.env.workload.requests import Workload, WorkloadError
from poolpilot.env.workload.spec import WorkloadSpec

SPEC: TypeAdapter[WorkloadSpec] = TypeAdapter(WorkloadSpec)
WINDOWS = 200


def a_service(folder: Path) -> Path:
    """Client 1: bursty gamma, 2 requests/s; client 2: regular Weibull, 1 request/s, without lengths of its own."""
    gamma = "".join(f"{600 * i},2.0,2.0,Gamma,0.25,2.0\n" for i in range(WINDOWS))
    weibull = "".join(f"{600 * i},1.0,0.5,Weibull,2.1013,1.13\n" for i in range(WINDOWS))
    for client, trace in ((1, gamma), (2, weibull)):
        (folder / f"chunk-{client}-trace.csv").write_text(trace)
    lengths = {"0": {"input_tokens": "{100: 0.3, 900: 0.7}", "output_tokens": "{10: 0.5, 20: 0.5}"}}
    later = {"60000": {"input_tokens": "{50: 1.0}", "output_tokens": "{7: 1.0}"}}
    (folder / "chunk-1-dataset.json").write_text(json.dumps(lengths | later))
    (folder / "chunk-2-dataset.json").write_text(json.dumps({"0": {"input_tokens": "{}", "output_tokens": "{}"}}))
    return folder


def drawn(folder: Path, duration_s: float, seed: int = 0, **changes: Any) -> Workload:
    assign = [{"class": "two", "where": {"client": 2}}, {"class": "one"}]
    spec = SPEC.validate_python({"kind": "servegen", "path": ".", "assign": assign, **changes})
    return load_workload(spec, ("one", "two"), duration_s, seed, a_service(folder))


def test_each_client_has_its_rate_and_its_gaps(tmp_path: Path) -> None:
    load = drawn(tmp_path, 600.0 * WINDOWS)
    for k, (rate, cv, law) in enumerate(
        [(2.0, 2.0, stats.gamma(0.25, scale=2.0)), (1.0, 0.5, stats.weibull_min(2.1013, scale=1.1291))]
    ):
        times = load.arrival_s[load.class_index == k]
        assert len(times) / (600.0 * WINDOWS) == pytest.approx(rate, rel=4 * cv / len(times) ** 0.5)
        gaps = np.diff(times)
        gaps = gaps[times[1:] // 600 == times[:-1] // 600]  # windows are drawn apart
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.04)
        assert stats.kstest(gaps[:20_000], law.cdf).statistic < 0.02


def test_lengths_are_those_of_the_bucket_and_are_lent_to_who_has_none(tmp_path: Path) -> None:
    load = drawn(tmp_path, 600.0 * WINDOWS)
    early = load.arrival_s < 60_000.0
    for k in (0, 1):
        mine = load.class_index == k
        assert (load.prompt_tokens[mine & early] == 900).mean() == pytest.approx(0.7, abs=0.01)
        assert set(load.prompt_tokens[mine & early]) == {100, 900}
        assert set(load.prompt_tokens[mine & ~early]) == {50}
        assert set(load.output_tokens[mine & ~early]) == {7}


def test_the_whole_is_scaled_to_the_rate_asked_for(tmp_path: Path) -> None:
    load = drawn(tmp_path, 60_000.0, rate_per_s=12.0)
    assert len(load) / 60_000.0 == pytest.approx(12.0, rel=0.01)
    assert (load.class_index == 0).mean() == pytest.approx(2 / 3, abs=0.01)
    times = load.arrival_s[load.class_index == 0]
    assert np.diff(times).std() / np.diff(times).mean() == pytest.approx(2.0, rel=0.05)


def test_a_part_begins_within_a_window_and_a_longer_run_leaves_it_as_it_was(tmp_path: Path) -> None:
    part = drawn(tmp_path, 450.0, start_s=300.0)
    longer = load_workload(
        SPEC.validate_python({"kind": "servegen", "path": ".", "start_s": 300.0, "assign": [{"class": "one"}]}),
        ("one", "two"),
        5000.0,
        0,
        tmp_path,
    )
    assert part.duration_s < 450.0
    assert len(part) == pytest.approx(1350, rel=0.2)
    # Whole windows are the same; the last one of the short run is drawn at its own length.
    assert np.isin(np.round(part.arrival_s[part.arrival_s < 300.0], 6), np.round(longer.arrival_s, 6)).all()
    assert len(longer) > len(part)


def test_a_part_without_requests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"no client sends from start_s 1e\+06 to 1\.001e\+06"):
        drawn(tmp_path, 1000.0, start_s=1e6)
    with pytest.raises(WorkloadError, match="wanted at most 5e"):
        drawn(tmp_path, 100_000.0, rate_per_s=1e5)


def test_rates_are_those_of_the_requests_and_unknown_where_the_trace_has_a_gap(tmp_path: Path) -> None:
    service = a_service(tmp_path)
    for path in service.glob("chunk-*-trace.csv"):
        rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join(rows[:3] + rows[5:8]))
    spec = SPEC.validate_python({"kind": "servegen", "path": ".", "rate_per_s": 4.0, "assign": [{"class": "one"}]})
    load = load_workload(spec, ("one",), 8 * 600.0, 5, service)
    rates = rates_of_clients(service, 4.0, 10.0, 5)
    gap = np.repeat([False, False, False, True, True, False, False, False], 60)
    assert np.isnan(rates[gap]).all()
    counts = np.histogram(load.arrival_s, np.arange(0.0, 4801.0, 10.0))[0]
    np.testing.assert_allclose(rates[~gap] * 10.0, counts[~gap])
    assert np.nansum(rates_of_clients(service, None, 10.0, 5)) * 10.0 == pytest.approx(6 * 600 * 3.0, rel=0.1)


@pytest.mark.shared_data
def test_a_published_service_keeps_its_skew_among_clients(shared_data: Path) -> None:
    clients = [{"class": "largest", "where": {"client": [str(c) for c in range(16)]}}, {"class": "others"}]
    spec = SPEC.validate_python(
        {
            "kind": "servegen",
            "path": str(shared_data / "traces" / "servegen_deepseek_r1_clients.parquet"),
            "rate_per_s": 5.0,
            "assign": clients,
        }
    )
    load = load_workload(spec, ("largest", "others"), 86_400.0, 0, Path())
    assert len(load) / 86_400.0 == pytest.approx(5.0, rel=0.02)
    rates = load.rates_per_s(3600.0).sum(axis=1)
    assert rates.max() / rates.mean() > 1.5  # its day is not flat
