"""A row of the evaluation: one policy, head-room and seed on one scenario. docs/evaluation.md lists the columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from ...env.contract import BILL_LAYERS, IDLE_PARTS
from ...env.sim.state import EVENTS
from ..rollout import LATENCIES, PERCENTILES

Row: TypeAlias = dict[str, Any]
"""Named by its suite, scenario, policy, headroom and seed; no two have the same."""


class RowsError(ValueError):
    """A file holds no rows of an evaluation; the message is one line."""


def _numbers(names: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.float64()) for name in names]


def _counts(names: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.int64()) for name in names]


CLASS = pa.struct(
    [
        ("name", pa.string()),
        *_numbers(["wanted", "attainment"]),
        *_counts(["arrived", "finished", "met", "lost", "shed"]),
        ("met_output_tokens", pa.float64()),
        *_numbers([f"{label}_{at}_s" for label in LATENCIES for at in PERCENTILES]),
    ]
)
POOL = pa.struct(
    [
        ("name", pa.string()),
        ("covered_frac", pa.float64()),
        *_counts(EVENTS),
        *_numbers(["asleep_hr", "gpu_hours", "energy_kwh", "usd", "mean_replicas"]),
    ]
)
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("suite", "scenario", "policy", "kind")),
        ("headroom", pa.float64()),
        ("seed", pa.int64()),
        ("world", pa.string()),
        *_numbers(["duration_s", "reference_usd_per_hr", "usd_per_hr", "usd_per_1000_met", "worst_shortfall"]),
        ("replica_changes", pa.int64()),
        ("covered_frac", pa.float64()),
        *_counts(["finished", "met", "lost", "shed"]),
        *_numbers(["goodput_requests_per_s", "goodput_tokens_per_s"]),
        ("vetoes", pa.map_(pa.string(), pa.int64())),
        *_numbers([f"usd_{layer}" for layer in BILL_LAYERS]),
        *_numbers([f"usd_idle_{part}" for part in IDLE_PARTS]),
        *_numbers(["usd_cooling", "energy_kwh", "gpu_hours", "bound_usd_per_hr", "above_bound_frac"]),
        ("knobs", pa.map_(pa.string(), pa.float64())),
        ("classes", pa.list_(CLASS)),
        ("pools", pa.list_(POOL)),
    ]
)


def table_of(rows: Sequence[Row]) -> pa.Table:
    """The rows as a typed table."""
    flat = [{**row, "vetoes": sorted(row["vetoes"].items()), "knobs": list(row["knobs"].items())} for row in rows]
    return pa.Table.from_pylist(flat, schema=SCHEMA)


def rows_of(table: pa.Table) -> list[Row]:
    """The rows of a table: values of the schema's types, columns in its order."""
    return [{**row, "vetoes": dict(row["vetoes"]), "knobs": dict(row["knobs"])} for row in table.to_pylist()]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Keep rows as Parquet; the whole file or nothing. The same rows make the same bytes."""
    temporary = path.with_name(path.name + ".part")
    pq.write_table(table_of(rows), temporary, compression="zstd")
    temporary.replace(path)


def read_rows(path: Path) -> list[Row]:
    """What `write_rows` kept.

    Raises:
        RowsError: not Parquet, or with other columns than rows of this version have.
    """
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise RowsError(f"{path}: not readable as Parquet: {str(error).splitlines()[0][:200]}") from None
    if table.schema.remove_metadata() != SCHEMA:
        wrong = sorted(set(table.schema.names) ^ set(SCHEMA.names))
        raise RowsError(
            f"{path}: columns {', '.join(wrong) or 'of other types'} differ from those that this version writes;"
            " wanted rows.parquet of `poolpilot evaluate --out`"
        )
    return rows_of(table)
