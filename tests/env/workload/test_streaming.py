"""A trace of any length is read in little memory, and batches are the trace."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from poolpilot.env.workload.draws import uniform_of_rows
from poolpilot.env.workload.formats import json_lines, sources
from poolpilot.env.workload.traces import Selection, Trace, TraceError, read_trace, read_trace_batches
from poolpilot.tests.env.workload.trace_files import a_file

ROWS_SHORT = 300_000
ROWS_LONG = int(os.environ.get("POOLPILOT_TRACE_ROWS", "4000000"))  # 50000000 takes some minutes and 2 GB of disk
READ = """
import json, resource, sys
from poolpilot.env.workload.traces import Selection, read_trace, read_trace_batches
path, selection = sys.argv[1], Selection(**json.loads(sys.argv[2]))
if sys.argv[3] == "batches":
    n = sum(len(batch) for batch in read_trace_batches(path, selection=selection))
else:
    n = len(read_trace(path, selection=selection))
print(json.dumps([n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def read_elsewhere(path: Path, how: str, **selection: Any) -> tuple[int, float]:
    """Requests read by a process of its own, and the most memory that it held, in MB."""
    command = [sys.executable, "-c", READ, str(path), json.dumps(selection), how]
    n, peak_kb = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return n, peak_kb / 1024.0


def rows(first: int, n: int) -> dict[str, Any]:
    i = np.arange(first, first + n)
    return {"arrival_s": i * 0.01, "input_tokens": i % 4000 + 1, "output_tokens": i % 500}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    folder = tmp_path_factory.mktemp("traces")
    made = {}
    schema = pa.table(rows(0, 1)).schema
    for n in (ROWS_SHORT, ROWS_LONG):
        made["csv", n], made["parquet", n] = folder / f"{n}.csv", folder / f"{n}.parquet"
        with pa_csv.CSVWriter(made["csv", n], schema) as csv, pq.ParquetWriter(made["parquet", n], schema) as parquet:
            for first in range(0, n, 2_000_000):
                table = pa.table(rows(first, min(2_000_000, n - first)))
                csv.write_table(table)
                parquet.write_table(table)
    return made


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_trace(files: dict[tuple[str, int], Path], kind: str) -> None:
    few, little_mb = read_elsewhere(files[kind, ROWS_SHORT], "batches")
    many, peak_mb = read_elsewhere(files[kind, ROWS_LONG], "batches")
    assert (few, many) == (ROWS_SHORT, ROWS_LONG)
    # The long trace is 122 MB as arrays of four columns.
    print(f"{kind}: {many} rows, {peak_mb:.0f} MB; {few} rows, {little_mb:.0f} MB")
    assert peak_mb < little_mb + 40.0


def test_only_what_is_selected_is_held(files: dict[tuple[str, int], Path]) -> None:
    _, little_mb = read_elsewhere(files["csv", ROWS_SHORT], "batches")
    n, peak_mb = read_elsewhere(files["csv", ROWS_LONG], "whole", keep=0.02, start_s=1000.0, end_s=31_000.0)
    assert n == pytest.approx(3_000_000 * 0.02, rel=0.02)
    assert peak_mb < little_mb + 40.0


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows at a time, so that short files have many batches."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", 256)
    monkeypatch.setattr(sources, "BATCH_ROWS", 7)
    monkeypatch.setattr(json_lines, "CHUNK_BYTES", 100)


def labelled(n: int) -> dict[str, Any]:
    i = np.arange(n)
    names = np.array(["a", "b", "c", "d"])[np.minimum(i // 30, 3)]
    hashes = [list(range(k % 3 + 1)) for k in range(n)]
    return {**rows(0, n), "input_tokens": 1537 + i, "class": names, "hash_ids": hashes}


def written(folder: Path, kind: str, columns: dict[str, Any]) -> Path:
    table = pa.table(columns)
    if kind == "parquet":
        pq.write_table(table, folder / "trace")
        return folder / "trace"
    if kind == "jsonl":
        return a_file(folder, "".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    lines = [",".join(table.column_names)]
    for row in table.to_pylist():
        lines.append(",".join(f'"{v}"' if isinstance(v, list) else str(v) for v in row.values()))
    return a_file(folder, "\n".join(lines))


def assert_same(a: Trace, b: Trace) -> None:
    for name in ("arrival_s", "prompt_tokens", "output_tokens", "row"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert [a.labels["class"].names[c] for c in a.labels["class"].codes] == [
        b.labels["class"].names[c] for c in b.labels["class"].codes
    ]
    assert a.blocks
    assert b.blocks
    assert np.array_equal(a.blocks.ids, b.blocks.ids)
    assert np.array_equal(a.blocks.starts, b.blocks.starts)


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
@pytest.mark.usefixtures("small_batches")
def test_batches_one_after_another_are_the_trace(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, labelled(120))
    parts = list(read_trace_batches(path))
    whole = read_trace(path)
    assert len(parts) > 10
    assert whole.arrival_s == pytest.approx(rows(0, 120)["arrival_s"])
    assert [whole.labels["class"].names[c] for c in whole.labels["class"].codes] == list(labelled(120)["class"])
    assert whole.blocks
    assert whole.blocks.ids[:6].tolist() == [0, 0, 1, 0, 1, 2]
    assert_same(Trace.joined(parts), whole)


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
@pytest.mark.usefixtures("small_batches")
def test_a_selection_is_the_same_part_of_the_trace_in_any_batches(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, labelled(120))
    whole = read_trace(path)
    part = read_trace(path, selection=Selection(start_s=0.2, end_s=0.9, keep=0.5, seed=3))
    kept = (whole.arrival_s >= 0.2) & (whole.arrival_s < 0.9) & (uniform_of_rows(whole.row, 3) < 0.5)
    assert_same(part, whole.picked(np.flatnonzero(kept)))


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arrival_s": 0.5}, "row 101: arrival_s: .*0.5.*: wanted no earlier than row 100's"),
        ({"output_tokens": -3}, "row 101: output_tokens: .*-3.*: wanted 0 or more tokens"),
    ],
)
@pytest.mark.usefixtures("small_batches")
def test_a_bad_row_is_named_by_its_place_in_the_file(
    tmp_path: Path, kind: str, change: dict[str, float], message: str
) -> None:
    columns = labelled(120)
    for name, value in change.items():
        columns[name] = np.array(columns[name])
        columns[name][100] = value
    with pytest.raises(TraceError, match=message):
        read_trace(written(tmp_path, kind, columns))


@pytest.mark.usefixtures("small_batches")
def test_what_comes_after_the_part_is_not_looked_at(tmp_path: Path) -> None:
    text = "arrival_s,input_tokens,output_tokens\n" + "".join(f"{i},5,1\n" for i in range(100)) + "oh,5,1\n"
    path = a_file(tmp_path, text)
    assert len(read_trace(path, selection=Selection(end_s=20.0))) == 20
    with pytest.raises(TraceError, match="row 101: arrival_s: 'oh'"):
        read_trace(path)


def test_rows_draw_evenly_and_apart_from_each_other() -> None:
    n = 400_000
    one, two = (uniform_of_rows(np.arange(n), 7, key) for key in (0, 1))
    for uniform in (one, two):
        assert np.bincount((uniform * 20).astype(int)) / n == pytest.approx(np.full(20, 0.05), abs=0.0018)
        assert np.corrcoef(uniform[1:], uniform[:-1])[0, 1] == pytest.approx(0.0, abs=4 / n**0.5)
    assert np.corrcoef(one, two)[0, 1] == pytest.approx(0.0, abs=4 / n**0.5)
    assert np.array_equal(uniform_of_rows(np.array([5, 3]), 7, 0), one[[5, 3]])
