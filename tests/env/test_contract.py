"""The contract's own promises: columns by name, masks, and what a snapshot may hold."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from poolpilot.env.contract import (
    BILL_LAYERS,
    CLASS_COLUMNS,
    FORECAST_HORIZON_S,
    POOL_COLUMNS,
    Bill,
    Cluster,
    SchemaError,
    Snapshot,
    blank_snapshot,
)

from .clusters import a_cluster, a_snapshot, row, with_columns


@pytest.fixture
def cluster() -> Cluster:
    return row(a_cluster(np.random.default_rng(0), 1, 2, 3), 0)


@pytest.mark.parametrize("column", CLASS_COLUMNS + POOL_COLUMNS, ids=lambda c: c.name)
def test_a_column_is_read_by_name_from_its_own_place(column: object) -> None:
    snapshot = blank_snapshot(0.0, 2, 3)
    name, block, index = column.name, column.block, column.index  # type: ignore[attr-defined]
    getattr(snapshot, block)[..., index] = 0.25
    assert (getattr(snapshot, name) == 0.25).all()
    assert snapshot.known(name).all()
    others = [c.name for c in CLASS_COLUMNS + POOL_COLUMNS if c.name != name]
    assert not any(snapshot.known(other).any() for other in others)


def test_columns_keep_the_order_of_definition() -> None:
    for columns in (CLASS_COLUMNS, POOL_COLUMNS):
        assert [c.index for c in columns] == list(range(len(columns)))
    assert CLASS_COLUMNS[0] is Snapshot.arrival_rate_per_s
    assert POOL_COLUMNS[0] is Snapshot.ready


def test_a_blank_snapshot_knows_nothing_and_passes_the_check(cluster: Cluster) -> None:
    blank = blank_snapshot(5.0, 2, 3)
    assert np.isnan(blank.classes).all()
    assert np.isnan(blank.pools).all()
    assert blank.check(cluster) is blank


@pytest.mark.parametrize("column", CLASS_COLUMNS + POOL_COLUMNS, ids=lambda c: c.name)
@pytest.mark.parametrize("wrong", [-1e-9, np.inf, "above"])
def test_a_value_that_cannot_be_is_refused_by_name(cluster: Cluster, column: object, wrong: object) -> None:
    name, high = column.name, column.high  # type: ignore[attr-defined]
    snapshot = with_columns(blank_snapshot(0.0, 2, 3), **{name: high})
    assert snapshot.check(cluster) is snapshot
    value = high * 1.001 if wrong == "above" else wrong
    with pytest.raises(SchemaError, match=rf"^snapshot\.{name}: "):
        with_columns(snapshot, **{name: value}).check(cluster)


@pytest.mark.parametrize("value", [-0.1, np.inf])
def test_a_forecast_that_cannot_be_is_refused(cluster: Cluster, value: float) -> None:
    blank = blank_snapshot(0.0, 2, 3)
    blank.forecast_per_s[1, 2] = value
    with pytest.raises(SchemaError, match=r"^snapshot\.forecast_per_s: "):
        blank.check(cluster)


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        ("classes", (3, len(CLASS_COLUMNS))),
        ("classes", (2, len(CLASS_COLUMNS) - 1)),
        ("pools", (2, len(POOL_COLUMNS))),
        ("forecast_per_s", (2, len(FORECAST_HORIZON_S) + 1)),
    ],
)
def test_another_clusters_shape_is_refused_by_block(cluster: Cluster, block: str, shape: tuple[int, int]) -> None:
    with pytest.raises(SchemaError, match=rf"^snapshot\.{block}: shape"):
        replace(blank_snapshot(0.0, 2, 3), **{block: np.zeros(shape)}).check(cluster)


def test_random_plausible_snapshots_pass_in_batches(cluster: Cluster) -> None:
    rng = np.random.default_rng(1)
    batch = a_cluster(rng, 4, 2, 3)
    snapshot = a_snapshot(rng, batch)
    assert snapshot.check(batch) is snapshot


def test_a_contract_value_cannot_change(cluster: Cluster) -> None:
    with pytest.raises(FrozenInstanceError):
        cluster.spot = cluster.spot  # type: ignore[misc]


def test_a_class_with_a_deadline_is_deferrable(cluster: Cluster) -> None:
    targets = replace(cluster.targets, deadline_s=np.array([np.nan, 60.0]))
    assert targets.deferrable.tolist() == [False, True]


def test_a_bills_layers_sum_to_its_total() -> None:
    usd = np.random.default_rng(2).random((4, 3, 2, len(BILL_LAYERS)))
    bill = Bill(usd, usd[..., :4])
    assert np.allclose(sum(bill.layer_usd(layer) for layer in BILL_LAYERS), bill.total_usd)
    assert bill.total_usd.shape == (4,)
