"""From what was scraped to what was measured: arrivals are conserved, replicas are paid for from their start."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.audit.histograms import Histogram
from poolpilot.audit.load import requests_of, whole_counts
from poolpilot.audit.measured import AuditError
from poolpilot.audit.prometheus.client import Window
from poolpilot.audit.prometheus.measuring import measured_of
from poolpilot.audit.prometheus.reading import Past, PoolPast
from poolpilot.telemetry.engine_dialects import VLLM

from ..fleets import described

NAN = math.nan
BEGIN_S = 1.79e9
WINDOW = Window(BEGIN_S, BEGIN_S + 120.0, 10.0)
TOKENS = np.array([1.0, 10.0, 100.0, 1000.0])
K = WINDOW.moments


def histogram(values: list[float], bounds: np.ndarray = TOKENS) -> Histogram:
    counts = np.bincount(np.searchsorted(bounds, values), minlength=len(bounds) + 1).astype(float)
    return Histogram(bounds, counts, float(sum(values)))


def a_past(**changes: object) -> Past:
    """One replica all the time, one that comes in the middle; 3 requests end in each step of each."""
    there = np.ones((2, K))
    there[1, :6] = NAN
    running = there * 2.0
    finished = np.cumsum(np.full((2, K), 3.0), axis=1) * there
    finished[1] -= finished[1, 6] - 3.0
    started = np.array([[BEGIN_S - 500.0] * K, [BEGIN_S + 35.0] * K]) * there
    prompts, outputs = histogram([50.0] * 5 + [500.0]), histogram([20.0] * 6)
    seconds = np.array([0.05, 0.5, 5.0])
    latencies = {"ttft_s": histogram([0.1] * 8 + [3.0] * 2, seconds), "tpot_s": histogram([0.02] * 9 + [0.3], seconds)}
    pool = PoolPast(
        VLLM,
        ("a", "b"),
        {"running": running, "waiting": there * 0.0, "kv_used_frac": there * 0.4, "started_s": started},
        {"chat": finished},
        {"chat": running.copy()},
        {"chat": {"prompt_tokens": [prompts], "output_tokens": [outputs], **{k: [h] for k, h in latencies.items()}}},
    )
    return Past(WINDOW, 1.0, K - 1, {"l40s": replace(pool, **changes)})  # type: ignore[arg-type]


def measured(tmp_path: Path, past: Past | None = None, **provision_s: float):  # type: ignore[no-untyped-def]
    return measured_of(past or a_past(), described(tmp_path, count=1), "test", provision_s or {"l40s": 0.0})


def test_arrivals_are_what_ended_and_what_is_still_inside(tmp_path: Path) -> None:
    found = measured(tmp_path)
    # 12 steps of the first replica; the second ends 3 in each of 7 and has 2 inside.
    assert found.arrived.sum() == 12 * 3 + 7 * 3 + 2
    assert found.classes["chat"].requests == 12 * 3 + 7 * 3
    assert found.share[-1].tolist() == [[1.0]]


def test_replicas_are_paid_for_from_their_start(tmp_path: Path) -> None:
    found = measured(tmp_path, l40s=5.0)
    # First seen at 60 s, so about at 55 s; its process began at 35 s and its machine 5 s before.
    assert found.starting.sum() * 10.0 == pytest.approx(25.0)
    assert found.start_s.tolist() == [25.0]
    assert found.replica_hr[0] * 3600.0 == pytest.approx(120.0 + 25.0 + 65.0)


def test_a_scrape_that_failed_frees_no_machine_and_a_restart_does(tmp_path: Path) -> None:
    past = a_past()
    figures = {name: values.copy() for name, values in past.pools["l40s"].figures.items()}
    for values in figures.values():
        values[0, 4] = NAN
    found = measured(tmp_path, a_past(figures=figures))
    assert found.up[:, 0].tolist() == measured(tmp_path).up[:, 0].tolist()
    assert found.starting.tolist() == measured(tmp_path).starting.tolist()
    figures["started_s"][0, 5:] = BEGIN_S + 44.0
    restarted = measured(tmp_path, a_past(figures=figures))
    assert restarted.up[3:5, 0].tolist() == [0.5, 0.5]
    # Seen again at 50 s, so about at 45 s; its process began at 44 s.
    assert (restarted.starting - found.starting).sum() * 10.0 == pytest.approx(1.0)


def test_attainment_lies_between_both_ends_of_what_histograms_allow(tmp_path: Path) -> None:
    low, high = measured(tmp_path).attainment["chat"]
    # Two of ten are late with the first token (some part of its bucket lies within), one of ten is slow.
    assert 0.5 < low < high < 1.0
    assert low == pytest.approx(
        sum(measured(tmp_path).classes["chat"].__getattribute__(n) for n in ("ttft_met", "tpot_met")) - 1.0
    )


def test_busy_counters_are_believed_before_what_scrapes_saw(tmp_path: Path) -> None:
    assert measured(tmp_path).busy_frac[2, 0] == pytest.approx(1.0)
    figures = dict(a_past().pools["l40s"].figures)
    there = np.isfinite(figures["running"])
    figures["busy_s_total"] = np.where(there, np.arange(K) * 4.0, NAN)
    figures["useful_s_total"] = np.where(there, np.arange(K) * 1.0, NAN)
    found = measured(tmp_path, a_past(figures=figures))
    assert found.busy_frac[2, 0] == pytest.approx(0.4)
    assert found.useful_frac.tolist() == [0.25]


def test_a_fleet_that_served_nobody_is_refused(tmp_path: Path) -> None:
    idle = np.where(np.isfinite(a_past().pools["l40s"].figures["running"]), 0.0, NAN)
    with pytest.raises(AuditError, match="no request ended"):
        measured(tmp_path, a_past(finished={"chat": idle}, inside={"chat": idle}))


def test_without_histograms_of_lengths_their_means_do(tmp_path: Path) -> None:
    past = a_past().pools["l40s"]
    grown = np.where(np.isfinite(past.figures["running"]), np.cumsum(np.full((2, K), 300.0), axis=1), NAN)
    figures = {**past.figures, "prompt_tokens_total": grown, "generation_tokens_total": grown / 3.0}
    found = measured(tmp_path, a_past(figures=figures, histograms={"chat": {}}))
    lengths = found.lengths["chat"][0]
    assert lengths.prompt_tokens.mean == pytest.approx(3.0 * lengths.output_tokens.mean)
    with pytest.raises(AuditError, match="neither histograms nor counters"):
        measured(tmp_path, a_past(histograms={"chat": {}}))


def test_drawn_requests_are_as_many_and_as_long_as_measured(tmp_path: Path) -> None:
    found = measured(tmp_path)
    one, other = (requests_of(found, np.array([8192.0]), seed) for seed in (0, 1))
    assert len(one) == len(other) == round(found.arrived.sum())
    step = (one.arrival_s // 10.0).astype(int)
    assert np.bincount(step, minlength=12).tolist() == whole_counts(found.arrived[:, 0]).tolist()
    assert one.prompt_tokens.mean() == pytest.approx(125.0, rel=0.08)
    assert (one.arrival_s != other.arrival_s).any()
    again = requests_of(found, np.array([8192.0]), 0)
    assert (one.arrival_s == again.arrival_s).all()


@given(rates=st.lists(st.floats(0.0, 30.0), min_size=1, max_size=60))
def test_whole_counts_keep_the_sum(rates: list[float]) -> None:
    counts = whole_counts(np.array(rates))
    assert (counts >= 0).all()
    assert abs(counts.sum() - sum(rates)) <= 0.5 + 1e-6
