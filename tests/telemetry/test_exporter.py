"""The sidecar's metrics page says what was decided, spent and reached."""

from dataclasses import replace

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from poolpilot.env.contract import (
    BILL_LAYERS,
    CLASS_COLUMNS,
    IDLE_PARTS,
    Action,
    Bill,
    Decision,
    Mode,
    Reason,
    ReasonCode,
    Snapshot,
    blank_snapshot,
)
from poolpilot.telemetry.exporter import SidecarMetrics

from .samples import CLUSTER

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
    assert page["poolpilot_ready_replicas{l4}"] == 3
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
    metrics.show_decision(DECISION, in_force, 2.5)
    page = metrics.page().decode()
    for pool, wanted, advised in zip(CLUSTER.pool_names, in_force.replicas, DECISION.applied.replicas, strict=True):
        assert f'poolpilot_desired_replicas{{pool="{pool}"}} {wanted}' in page
        assert f'poolpilot_advised_replicas{{pool="{pool}"}} {advised}' in page
    assert "poolpilot_expected_saving_usd_per_hour 2.5" in page
