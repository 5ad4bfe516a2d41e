"""A snapshot holds what was measured, and marks the rest as unknown."""

import math
from dataclasses import replace

import numpy as np
import pytest

from poolpilot.env import forecast
from poolpilot.env.contract import FORECAST_HORIZON_S, POOL_COLUMNS, SchemaError, Snapshot
from poolpilot.env.coverage import CalibratedRanges
from poolpilot.telemetry.assemble import Measured, PoolState, assemble
from poolpilot.telemetry.gpu_readings import GpuReading, PoolGpus
from poolpilot.telemetry.readings import ReplicaReading
from poolpilot.telemetry.tally import ClassWindow, tally

from .samples import ANSWERED, CLUSTER, GONE, NOW_S, PAGE, USE, reading, start

FRESH_S = 30.0
SUMS = ("running", "waiting", "power_w", "tokens_per_s")
MEANS = ("kv_used_frac", "gpu_util_frac", "gpu_temp_c", "batch_cap", "token_budget")
COUNTS = ("ready", "starting", "draining", "asleep", "target")


RANGES = CalibratedRanges(
    calibrated=np.array([True, False]),
    tokens=np.array([[1.0, 4096.0]] * 2),
    sequences=np.array([[1.0, 64.0]] * 2),
    context_tokens=np.array([[32.0, 4096.0]] * 2),
    kv_tokens=np.array([20_000.0, 80_000.0]),
)
TWO_READY = PoolState(ready=2, starting=0, draining=0, asleep=0, target=2)
NONE_UP = PoolState(ready=0, starting=0, draining=0, asleep=0, target=0)


def assembled(*readings: ReplicaReading, l4: PoolState | None = TWO_READY, gpus: PoolGpus | None = None) -> Snapshot:
    measured = Measured(
        time_s=100.0,
        window=ClassWindow(60.0),
        readings=readings,
        pools={"h100": NONE_UP} if l4 is None else {"l4": l4, "h100": NONE_UP},
        usd_per_hr=np.array([0.8, 4.0]),
        cold_start_s=np.array([80.0, 120.0]),
        preemptions_per_hr=np.array([0.0, 0.1]),
        forecast=forecast.start(3),
        ranges=RANGES,
        gpus={} if gpus is None else {"l4": gpus},
    )
    return assemble(CLUSTER, measured, FRESH_S)


def known(snapshot: Snapshot, pool: int = 0) -> set[str]:
    return {c.name for c in POOL_COLUMNS if snapshot.known(c.name)[pool]}


ALWAYS = {"usd_per_hr", "cold_start_s", "preemptions_per_hr", "telemetry_age_s"}


def test_everything_measured_is_known_but_throttling() -> None:
    snapshot = assembled(reading("a"), reading("b", page=replace(PAGE, kv_used_frac=0.7, gpu_temp_c=71.0)))
    assert {c.name for c in POOL_COLUMNS} - known(snapshot) == {"throttled"}
    seen = {name: getattr(snapshot, name)[0] for name in (*SUMS, *MEANS)}
    assert seen == pytest.approx(
        {
            "running": 20.0,
            "waiting": 4.0,
            "power_w": 140.0,
            "tokens_per_s": 200.0,
            "kv_used_frac": 0.6,
            "gpu_util_frac": 0.5,
            "gpu_temp_c": 71.0,
            "batch_cap": 64.0,
            "token_budget": 2048.0,
        }
    )
    assert snapshot.ready[0] == 2
    assert snapshot.telemetry_age_s[0] == 0


def test_gpus_with_a_source_of_their_own_count_before_the_pages() -> None:
    told = PoolGpus(
        (GpuReading("GPU-1", 0.9, 0.8, 84.0, 300.0, 1.0), GpuReading("GPU-2", 0.7, 0.8, 60.0, 200.0, 0.0)), 0.0, True
    )
    snapshot = assembled(reading("a"), reading("b"), gpus=told)
    assert {c.name for c in POOL_COLUMNS} == known(snapshot)
    assert (snapshot.gpu_util_frac[0], snapshot.gpu_temp_c[0], snapshot.power_w[0]) == (0.8, 84.0, 500.0)
    assert snapshot.throttled[0] == 0.5
    silent = assembled(reading("a"), reading("b"), gpus=PoolGpus((), 90.0, False, ("no page",)))
    assert (silent.gpu_temp_c[0], silent.power_w[0]) == (60.0, 140.0)
    assert not silent.known("throttled")[0]


def test_one_silent_replica_hides_the_sums_but_not_the_means() -> None:
    silent = reading("b", page=None, age_s=40.0, use=None, error=GONE)
    snapshot = assembled(reading("a"), silent)
    assert known(snapshot) == {*ALWAYS, *COUNTS, *MEANS}
    assert snapshot.telemetry_age_s[0] == 0


def test_a_missed_page_is_replaced_by_the_last_one_until_that_is_old() -> None:
    missed = reading("b", age_s=FRESH_S, use=None, error=GONE)
    assert assembled(reading("a"), missed).running[0] == 20.0
    assert math.isnan(assembled(reading("a"), missed).tokens_per_s[0])
    assert math.isnan(assembled(reading("a"), replace(missed, age_s=FRESH_S + 1)).running[0])


@pytest.mark.parametrize("age_s", [31.0, 500.0])
def test_when_all_pages_fail_the_age_grows_and_the_engines_are_unknown(age_s: float) -> None:
    old = [reading(name, age_s=age_s + n, use=None, error=GONE) for n, name in enumerate("ab")]
    snapshot = assembled(*old)
    assert known(snapshot) == {*ALWAYS, *COUNTS}
    assert snapshot.telemetry_age_s[0] == age_s
    never = [replace(r, page=None) for r in old]
    assert assembled(*never).telemetry_age_s[0] == age_s + 1


def test_a_pool_without_replicas_has_nothing_running() -> None:
    snapshot = assembled()
    assert [getattr(snapshot, name)[1] for name in SUMS] == [0.0] * 4
    assert snapshot.telemetry_age_s[1] == 0
    assert math.isnan(snapshot.kv_used_frac[1])


def test_machines_that_start_or_sleep_hide_the_power() -> None:
    assert math.isnan(assembled(reading("a"), reading("b"), l4=replace(TWO_READY, starting=1)).power_w[0])
    assert assembled(reading("a"), reading("b"), l4=replace(TWO_READY, starting=1)).running[0] == 20.0


def test_the_share_inside_the_calibrated_range_comes_from_batch_context_and_budget() -> None:
    def share(**page: float) -> float:
        changed = replace(PAGE, **page)  # type: ignore[arg-type]
        return float(assembled(reading("a", page=changed), reading("b", page=changed)).coverage_frac[0])

    output = USE.generation_tokens / (USE.prompt_tokens + USE.generation_tokens)
    assert share() == 1.0  # 10 sequences a replica with a KV cache of 20,000 tokens half full
    assert share(running=100.0, kv_used_frac=0.9) == pytest.approx(1.0 - output)
    assert share(kv_used_frac=0.001) == pytest.approx(1.0 - output)
    assert share(token_budget=8192.0) == pytest.approx(output)
    assert share(token_budget=math.nan) == 1.0
    assert math.isnan(assembled(reading("a", use=None), reading("b")).coverage_frac[0])


def test_a_draining_replica_counts_in_sums_and_not_in_means() -> None:
    draining = reading("b", draining=True, page=replace(PAGE, kv_used_frac=0.1, batch_cap=1.0))
    snapshot = assembled(reading("a"), draining, l4=replace(TWO_READY, ready=1, draining=1))
    assert snapshot.running[0] == 20.0
    assert (snapshot.kv_used_frac[0], snapshot.batch_cap[0]) == (0.5, 64.0)


def test_a_pool_whose_actuator_is_silent_has_unknown_counts() -> None:
    snapshot = assembled(reading("a"), l4=None)
    assert known(snapshot) == {*ALWAYS, *MEANS}


def test_vllm_without_a_plugin_tells_neither_cap_nor_gpu() -> None:
    plain = replace(
        PAGE,
        batch_cap=math.nan,
        token_budget=math.nan,
        gpu_util_frac=math.nan,
        gpu_temp_c=math.nan,
        gpu_power_w=math.nan,
    )
    use = replace(USE, busy_s=math.nan)
    one = PoolState(ready=1, starting=0, draining=0, asleep=0, target=1)
    snapshot = assembled(reading("a", page=plain, use=use), l4=one)
    missing = {"batch_cap", "token_budget", "gpu_util_frac", "gpu_temp_c", "power_w", "throttled"}
    assert {c.name for c in POOL_COLUMNS} - known(snapshot) == missing
    told = assembled(reading("a", page=plain, use=USE), l4=replace(one, batch_cap=32.0, token_budget=512.0))
    assert (told.batch_cap[0], told.token_budget[0], told.gpu_util_frac[0]) == (32.0, 512.0, 0.5)


def test_classes_and_forecast_come_from_window_and_state() -> None:
    tick = tally([start("b"), start("a"), ANSWERED], {}, CLUSTER, NOW_S)
    measured = Measured(
        time_s=100.0,
        window=ClassWindow(60.0).pushed(100.0, 10.0, tick),
        readings=(),
        pools={},
        usd_per_hr=np.array([0.8, 4.0]),
        cold_start_s=np.array([80.0, 120.0]),
        preemptions_per_hr=np.zeros(2),
        forecast=forecast.observe(forecast.start(3), np.array([0.2, 0.0, np.nan]), 10.0),
        ranges=RANGES,
    )
    snapshot = assemble(CLUSTER, measured, FRESH_S)
    np.testing.assert_allclose(snapshot.arrival_rate_per_s, [0.2, 0.0, 0.0])
    np.testing.assert_array_equal(snapshot.in_flight, [1, 0, 0])
    np.testing.assert_allclose(snapshot.forecast_per_s[:2], np.outer([0.2, 0.0], np.ones(len(FORECAST_HORIZON_S))))
    assert np.isnan(snapshot.forecast_per_s[2]).all()
    assert np.isnan(snapshot.telemetry_age_s).all()


def test_a_pool_that_the_cluster_lacks_is_named() -> None:
    with pytest.raises(SchemaError, match="'a100': unknown; pools are l4, h100"):
        assembled(reading("a", pool="a100"))


def test_an_impossible_price_is_named() -> None:
    measured = Measured(
        time_s=0.0,
        window=ClassWindow(60.0),
        readings=(),
        pools={},
        usd_per_hr=np.array([-0.8, 4.0]),
        cold_start_s=np.zeros(2),
        preemptions_per_hr=np.zeros(2),
        forecast=forecast.start(3),
        ranges=RANGES,
    )
    with pytest.raises(SchemaError, match=r"usd_per_hr: -0\.8"):
        assemble(CLUSTER, measured, FRESH_S)
