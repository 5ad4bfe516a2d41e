"""Timeline rows say what a tick saw and did, class by class and pool by pool, and never make up what is not known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from poolpilot.env.contract import (
    CLASS_COLUMNS,
    FORECAST_HORIZON_S,
    POOL_COLUMNS,
    Action,
    Cluster,
    Snapshot,
    blank_snapshot,
)
from poolpilot.env.scenario import load_scenario
from poolpilot.env.timeline import SHOWN_HORIZON_S, UNITS, WHOLE, TimelineRow, timeline_rows

CLUSTER = load_scenario("two-models").cluster()


def seen(**columns: list[float]) -> Snapshot:
    """A snapshot of 100 s in which only `columns` are known."""
    snapshot = blank_snapshot(100.0, len(CLUSTER.class_names), len(CLUSTER.pool_names))
    for column in (*CLASS_COLUMNS, *POOL_COLUMNS):
        if column.name in columns:
            getattr(snapshot, column.block)[:, column.index] = columns[column.name]
    return snapshot


def applied(cluster: Cluster) -> Action:
    serves = cluster.serves.astype(float)
    pools = len(cluster.pool_names)
    return Action(
        route=serves / serves.sum(axis=-1, keepdims=True),
        admit=np.ones(len(cluster.class_names)),
        batch_cap=np.arange(pools) + 8.0,
        token_budget=np.full(pools, 2048.0),
        replicas=np.arange(pools) + 1.0,
    )


def values(rows: list[TimelineRow], measure: str) -> dict[str, float | None]:
    return {row["name"] + row["pool"]: row["value"] for row in rows if row["measure"] == measure}


def test_each_class_and_pool_has_its_own_rows_with_their_units() -> None:
    classes, pools = CLUSTER.class_names, CLUSTER.pool_names
    rows = timeline_rows(
        CLUSTER,
        seen(arrival_rate_per_s=[1.0 + c for c in range(len(classes))], waiting=[5.0 * p for p in range(len(pools))]),
        applied(CLUSTER),
    )
    assert values(rows, "rate_per_s") == {name: 1.0 + c for c, name in enumerate(classes)}
    assert values(rows, "queue") == {name: 5.0 * p for p, name in enumerate(pools)}
    assert values(rows, "replicas_target") == {name: 1.0 + p for p, name in enumerate(pools)}
    assert values(rows, "batch_cap") == {name: 8.0 + p for p, name in enumerate(pools)}
    assert {row["measure"] for row in rows} == set(UNITS)
    assert all(row["unit"] == UNITS[row["measure"]] for row in rows)
    assert {row["kind"] for row in rows if row["measure"] in ("rate_per_s", "weight", "attainment")} == {"class"}


def test_weights_are_of_the_pools_that_can_serve_the_class_and_sum_to_one() -> None:
    rows = timeline_rows(CLUSTER, seen(), applied(CLUSTER))
    for c, name in enumerate(CLUSTER.class_names):
        own = {row["pool"]: row["value"] for row in rows if row["measure"] == "weight" and row["name"] == name}
        assert set(own) == {pool for p, pool in enumerate(CLUSTER.pool_names) if CLUSTER.serves[c, p]}
        assert math.fsum(value or 0.0 for value in own.values()) == pytest.approx(1.0)


def test_a_forecast_stands_at_the_minute_that_it_is_of() -> None:
    snapshot = seen()
    snapshot.forecast_per_s[:, FORECAST_HORIZON_S.index(SHOWN_HORIZON_S)] = 7.0
    rows = [row for row in timeline_rows(CLUSTER, snapshot, applied(CLUSTER)) if row["measure"] == "forecast_per_s"]
    assert {(row["time_s"], row["value"]) for row in rows} == {(100.0 + 300.0 - 30.0, 7.0)}


def test_rent_is_of_all_that_is_held_and_a_bill_goes_before_it() -> None:
    pools = len(CLUSTER.pool_names)
    held = {"ready": [2.0] * pools, "starting": [1.0] * pools, "usd_per_hr": [3.0] * pools}
    rows = timeline_rows(CLUSTER, seen(**held), applied(CLUSTER))
    assert values(rows, "usd_per_hr") == {**dict.fromkeys(CLUSTER.pool_names, 9.0), WHOLE: 9.0 * pools}
    billed = timeline_rows(CLUSTER, seen(**held), applied(CLUSTER), billed_usd_per_hr=11.0)
    assert values(billed, "usd_per_hr")[WHOLE] == 11.0


def test_what_is_not_known_is_none_and_no_number() -> None:
    rows = timeline_rows(CLUSTER, seen(), applied(CLUSTER))
    assert set(values(rows, "usd_per_hr").values()) == {None}
    for measure in ("rate_per_s", "forecast_per_s", "attainment", "replicas", "queue", "kv_use", "temperature_c"):
        assert set(values(rows, measure).values()) == {None}, measure
    hot = replace(seen(gpu_temp_c=[math.inf] * len(CLUSTER.pool_names)))
    assert set(values(timeline_rows(CLUSTER, hot, applied(CLUSTER)), "temperature_c").values()) == {None}
