"""The sidecar's metrics page says what was decided, spent and reached."""

from dataclasses import fields, replace

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from poolpilot.env.contract import (
    BILL_LAYERS,
    CLASS_COLUMNS,
    FORECAST_HORIZON_S,
    IDLE_PARTS,
    POOL_COLUMNS,
    Action,
    Bill,
    Decision,
    Mode,
    Reason,
    ReasonCode,
    Snapshot,
    blank_snapshot,
)
from poolpilot.telemetry.envoy_stats import PoolProxyStats
from poolpilot.telemetry.exported_snapshot import CLASS_GAUGES, PERCENTILES, POOL_GAUGES, STATES
from poolpilot.telemetry.exporter import SidecarMetrics
from poolpilot.telemetry.prices import Prices
from poolpilot.telemetry.sources import SOURCES, SourceStates
from poolpilot.telemetry.tally import tally

from .samples import ANSWERED, CLUSTER, NOW_S, start

ACTION = Action(
    route=np.array([[0.25, 0.75], [1.0, 0.0], [0.0, 1.0]]),
    admit=np.array([1.0, 1.0, 0.4]),
    batch_cap=np.array([64.0, 128.0]),
    token_budget=np.array([2048.0, 1024.0]),
    replicas=np.array([3.0, 1.0]),
)
DECISION = Decision(
    tick=1,
    time_s=10.0,
    proposed=replace(ACTION, replicas=np.array([5.0, 1.0])),
    applied=ACTION,
    reasons=(
        Reason(ReasonCode.BUDGET, "l4", 5.0, 4.0),
        Reason(ReasonCode.BUDGET, "h100", 2.0, 1.0),
        Reason(ReasonCode.SCALE_STEP, "l4", 4.0, 3.0),
    ),
    expected_usd_per_hr=6.4,
    expected_attainment=np.ones(3),
    policy_name="static",
    policy_hash="abc",
    mode=Mode.ADVISE,
)


def shown(metrics: SidecarMetrics) -> dict[str, float]:
    """Every sample as `name{label values}`."""
    return {
        f"{sample.name}{{{','.join(sample.labels.values())}}}" if sample.labels else sample.name: sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }


def a_snapshot() -> Snapshot:
    snapshot = blank_snapshot(10.0, n_classes=3, n_pools=2)
    snapshot.classes[:, [c.name for c in CLASS_COLUMNS].index("attainment")] = [0.97, 1.0, np.nan]
    snapshot.telemetry_age_s[:] = [2.0, 40.0]
    snapshot.ready[:] = [3.0, 0.0]
    snapshot.coverage_frac[:] = [0.75, np.nan]
    return snapshot


def test_what_counts_begins_at_zero() -> None:
    page = shown(SidecarMetrics(CLUSTER))
    assert page["poolpilot_vetoes_total{budget}"] == 0
    assert page["poolpilot_decisions_total{active}"] == 0
    assert page["poolpilot_bill_usd_total{idle,h100}"] == 0
    assert page["poolpilot_attainment_target_ratio{chat}"] == 0.99
    assert not any(name.startswith("poolpilot_desired_replicas") for name in page)


def test_a_decision_is_shown() -> None:
    metrics = SidecarMetrics(CLUSTER)
    metrics.show_decision(DECISION)
    metrics.show_decision(replace(DECISION, mode=Mode.ACTIVE, reasons=()))
    page = shown(metrics)
    assert page["poolpilot_desired_replicas{l4}"] == 3
    assert page["poolpilot_proposed_replicas{l4}"] == 5
    assert page["poolpilot_route_weight{chat,h100}"] == 0.75
    assert page["poolpilot_applied_batch_cap{h100}"] == 128
    assert page["poolpilot_applied_token_budget{h100}"] == 1024
    assert page["poolpilot_admit_ratio{batch}"] == 0.4
    assert page["poolpilot_expected_usd_per_hour"] == 6.4
    assert (page["poolpilot_vetoes_total{budget}"], page["poolpilot_vetoes_total{scale_step}"]) == (2, 1)
    assert (page["poolpilot_decisions_total{advise}"], page["poolpilot_decisions_total{active}"]) == (1, 1)
    assert (page["poolpilot_mode{advise}"], page["poolpilot_mode{active}"]) == (0, 1)


def test_a_snapshot_is_shown_and_the_unknown_is_nan() -> None:
    metrics = SidecarMetrics(CLUSTER)
    metrics.show_snapshot(a_snapshot())
    page = shown(metrics)
    assert page["poolpilot_attainment_ratio{chat}"] == 0.97
    assert np.isnan(page["poolpilot_attainment_ratio{batch}"])
    assert page["poolpilot_telemetry_age_seconds{h100}"] == 40
    assert page["poolpilot_replicas{l4,ready}"] == 3
    assert np.isnan(page["poolpilot_replicas{l4,asleep}"])
    assert page["poolpilot_calibrated_traffic_ratio{l4}"] == 0.75
    assert np.isnan(page["poolpilot_calibrated_traffic_ratio{h100}"])


def test_dollars_add_up_and_unknown_ones_are_counted() -> None:
    metrics = SidecarMetrics(CLUSTER)
    usd = np.zeros((2, 3, len(BILL_LAYERS)))
    usd[0, :, BILL_LAYERS.index("compute")] = 0.01
    usd[1, 0, BILL_LAYERS.index("idle")] = 0.02
    idle_usd = np.zeros((2, 3, len(IDLE_PARTS)))
    idle_usd[1, 0, IDLE_PARTS.index("cold_start")] = 0.015
    idle_usd[1, 0, IDLE_PARTS.index("waiting")] = 0.005
    metrics.add_bill(Bill(usd, idle_usd), span_s=10.0)
    assert shown(metrics)["poolpilot_bill_usd_per_hour"] == pytest.approx(0.05 * 360)
    unknown = usd.copy()
    unknown[1, :, BILL_LAYERS.index("compute")] = np.nan
    metrics.add_bill(Bill(unknown, idle_usd), span_s=10.0)
    page = shown(metrics)
    assert page["poolpilot_bill_usd_total{compute,l4}"] == pytest.approx(0.06)
    assert page["poolpilot_bill_usd_total{idle,h100}"] == pytest.approx(0.04)
    assert page["poolpilot_bill_unknown_ticks_total{h100}"] == 1
    assert page["poolpilot_bill_unknown_ticks_total{l4}"] == 0
    assert np.isnan(page["poolpilot_bill_usd_per_hour"])


def test_ticks_are_timed() -> None:
    metrics = SidecarMetrics(CLUSTER)
    metrics.add_tick(0.02)
    metrics.add_tick(3.0)
    page = shown(metrics)
    assert page["poolpilot_tick_seconds_count"] == 2
    assert page["poolpilot_tick_seconds_bucket{0.025}"] == 1


def test_two_sidecars_in_one_process_stay_apart() -> None:
    one, other = SidecarMetrics(CLUSTER), SidecarMetrics(CLUSTER)
    one.show_decision(DECISION)
    assert shown(other)["poolpilot_decisions_total{advise}"] == 0


def test_an_autoscaler_is_told_what_is_in_force_and_not_what_an_adviser_would_do() -> None:
    metrics = SidecarMetrics(CLUSTER)
    in_force = replace(DECISION.applied, replicas=DECISION.applied.replicas + 1.0)
    metrics.show_decision(DECISION, False, in_force, 2.5)
    page = metrics.page().decode()
    for pool, wanted, advised in zip(CLUSTER.pool_names, in_force.replicas, DECISION.applied.replicas, strict=True):
        assert f'poolpilot_desired_replicas{{pool="{pool}"}} {wanted}' in page
        assert f'poolpilot_advised_replicas{{pool="{pool}"}} {advised}' in page
    assert "poolpilot_expected_saving_usd_per_hour 2.5" in page


def whole_snapshot() -> Snapshot:
    """Every figure known: of class c 100 + c, of pool p 10 + p, where that can be."""
    snapshot = blank_snapshot(10.0, n_classes=3, n_pools=2)
    for column in CLASS_COLUMNS:
        snapshot.classes[:, column.index] = np.minimum(100.0 + np.arange(3), column.high)
    for column in POOL_COLUMNS:
        snapshot.pools[:, column.index] = np.minimum(10.0 + np.arange(2), column.high)
    snapshot.forecast_per_s[:] = np.arange(len(FORECAST_HORIZON_S)) + 1.0
    return snapshot


def test_every_column_of_a_snapshot_is_shown() -> None:
    metrics = SidecarMetrics(CLUSTER)
    metrics.show_snapshot(whole_snapshot())
    page = shown(metrics)
    assert page["poolpilot_class_arrival_rate_per_second{embed}"] == 101
    assert (page["poolpilot_class_ttft_seconds{chat,p50}"], page["poolpilot_class_tpot_seconds{batch,p95}"]) == (
        100,
        102,
    )
    assert page["poolpilot_class_forecast_arrival_rate_per_second{chat,60}"] == 1
    assert page["poolpilot_pool_gpu_power_watts{h100}"] == 11
    assert page["poolpilot_replicas{l4,draining}"] == 10
    assert page["poolpilot_pool_rent_usd_per_hour{l4}"] == 4 * 10 * 10
    told = {*CLASS_GAUGES, *POOL_GAUGES, *STATES, "target", *(c for _, by in PERCENTILES.values() for c in by.values())}
    spreads = {"prompt_tokens_std", "output_tokens_std"}  # nobody watches those
    assert {column.name for column in (*CLASS_COLUMNS, *POOL_COLUMNS)} - told == spreads


def test_rent_adds_up_whether_its_split_is_known_or_not() -> None:
    metrics = SidecarMetrics(CLUSTER)
    metrics.show_snapshot(whole_snapshot())
    metrics.add_bill(Bill(np.full((2, 3, len(BILL_LAYERS)), np.nan), np.full((2, 3, len(IDLE_PARTS)), np.nan)), 36.0)
    page = shown(metrics)
    assert page["poolpilot_rent_usd_total{l4}"] == pytest.approx(4.0)
    assert np.isnan(page["poolpilot_bill_usd_per_hour"])


PRICES = Prices(np.array([0.8, 4.0]), np.array([np.nan, 120.0]))
WELL = SourceStates(dict.fromkeys(SOURCES, 2), dict.fromkeys(SOURCES, 0), ())
STATS = PoolProxyStats(
    **{
        **dict.fromkeys((f.name for f in fields(PoolProxyStats)), 0.0),
        "endpoints": 3.0,
        "healthy": 2.0,
        "retries_total": 7.0,
    }
)


def test_sources_that_failed_are_counted() -> None:
    metrics = SidecarMetrics(CLUSTER)
    metrics.sources.show(WELL, PRICES, {}, 0)
    failed = replace(WELL, failed={**WELL.failed, "engines": 1}, troubles=("telemetry of l4: nothing",))
    metrics.sources.show(failed, PRICES, {}, 5)
    metrics.sources.show(failed, PRICES, {}, 5)
    page = shown(metrics)
    assert page["poolpilot_source_reads_total{engines}"] == 6
    assert (page["poolpilot_source_errors_total{engines}"], page["poolpilot_source_errors_total{gpus}"]) == (2, 0)
    assert page["poolpilot_source_troubles"] == 1
    assert page["poolpilot_access_log_broken_lines_total"] == 5
    assert page["poolpilot_price_age_seconds{h100}"] == 120
    assert np.isnan(page["poolpilot_price_age_seconds{l4}"])


def test_envoys_counts_add_up_over_its_restarts() -> None:
    metrics = SidecarMetrics(CLUSTER)
    for retries in (7.0, 9.0, 2.0):
        metrics.sources.show(WELL, PRICES, {"l4": replace(STATS, retries_total=retries)}, 0)
    page = shown(metrics)
    assert page["poolpilot_proxy_events_total{retry,l4}"] == 11
    assert (page["poolpilot_proxy_endpoints{l4,known}"], page["poolpilot_proxy_endpoints{l4,healthy}"]) == (3, 2)
    assert np.isnan(page["poolpilot_proxy_endpoints{h100,known}"])
    metrics.sources.show(WELL, PRICES, {"l4": replace(STATS, retries_total=np.nan)}, 0)
    assert shown(metrics)["poolpilot_proxy_events_total{retry,l4}"] == 11


def test_requests_are_counted_by_what_became_of_them() -> None:
    metrics = SidecarMetrics(CLUSTER)
    late = replace(ANSWERED, stream_id="b", first_body_s=5.0, total_s=6.0)
    shed = replace(ANSWERED, stream_id="c", code=429, attempts=0)
    tick = tally([start("a"), ANSWERED, start("b"), late, shed], {}, CLUSTER, NOW_S)
    metrics.sources.add_requests(tick)
    metrics.sources.add_requests(tick)
    page = shown(metrics)
    assert page["poolpilot_requests_arrived_total{chat}"] == 6
    by = {outcome: page[f"poolpilot_requests_total{{chat,{outcome}}}"] for outcome in ("met", "late", "lost", "shed")}
    assert by == {"met": 2, "late": 2, "lost": 0, "shed": 2}


def test_who_decided_is_shown_and_the_fallback_counted() -> None:
    metrics = SidecarMetrics(CLUSTER, tick_wall_s=5.0)
    metrics.show_decision(DECISION)
    metrics.show_decision(
        replace(DECISION, policy_name="plan-tracking", policy_hash="", fencing_token=3), fell_back=True
    )
    metrics.add_tick(0.1, ended_at_s=NOW_S)
    page = shown(metrics)
    assert {name: value for name, value in page.items() if "policy_info" in name} == {
        "poolpilot_policy_info{,plan-tracking}": 1
    }
    assert page["poolpilot_fallback_decisions_total"] == 1
    assert page["poolpilot_fencing_token"] == 3
    assert (page["poolpilot_last_tick_timestamp_seconds"], page["poolpilot_tick_period_seconds"]) == (NOW_S, 5.0)
