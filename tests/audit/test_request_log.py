"""Request logs: any columns, units and clocks; what they do not tell is not made up."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poolpilot.audit.measured import AuditError, Measured
from poolpilot.audit.request_log import read_request_log
from poolpilot.audit.request_rows import AskedLog
from poolpilot.env.workload.traces import TraceError

from .fleets import described

TWO_POOLS = """\
schema: 1
model: llama-2-13b
pools:
  h100: {gpu: H100-SXM-80GB, price: 6.88, count: 1}
  l40s: {gpu: L40S-48GB, precision: fp8, price: 1.8, moves: [[0, 2], [30, 4]]}
classes:
  chat: {target: {ttft_s: 1.0, tpot_s: 0.1, attainment: 0.9}}
  batch: {target: {deadline_s: 600}}
"""
LOG = """\
when,who,where,in,out,ttft_ms,took_ms,code
2026-11-27T08:00:10Z,chat,h100,100,11,500,1500,200
2026-11-27T08:00:00Z,chat,l40s,200,21,2000,3000,200
2026-11-27T08:01:00Z,batch,l40s,900,1,300,400,200
2026-11-27T08:00:50Z,chat,h100,300,0,,,503
"""
COLUMNS = {
    "arrival": "when",
    "class": "who",
    "pool": "where",
    "prompt_tokens": "in",
    "output_tokens": "out",
    "ttft": "ttft_ms",
    "duration": "took_ms",
    "status": "code",
}


def read(
    folder: Path, log: str = LOG, columns: dict[str, str] | None = None, text: str = TWO_POOLS, **more: object
) -> Measured:
    path = folder / "log.csv"
    path.write_text(log)
    asked = AskedLog(path, COLUMNS if columns is None else columns, {}, **more)  # type: ignore[arg-type]
    return read_request_log(asked, described(folder, text))


def test_rows_are_sorted_counted_and_judged(tmp_path: Path) -> None:
    measured = read(tmp_path)
    assert measured.requests is not None
    assert measured.requests.arrival_s.tolist() == [0.0, 10.0, 60.0]
    assert measured.requests.prompt_tokens.tolist() == [200, 100, 900]
    assert measured.arrived.sum(axis=0).tolist() == [2.0, 1.0]
    chat = measured.classes["chat"]
    # The second waits 2 s for its first token, the refused one never had any: one of three is in time.
    assert chat.attainment == pytest.approx(1 / 3)
    assert chat.requests == 3
    assert chat.ttft_mean_s == pytest.approx(1.25)
    assert chat.tpot_mean_s == pytest.approx((1.0 / 10 + 1.0 / 20) / 2)
    assert measured.classes["batch"].attainment == 1.0
    assert measured.began_at_s == 1795766400.0
    assert any("1 requests of the log failed" in note for note in measured.notes)


def test_counts_and_routing_are_those_that_are_told(tmp_path: Path) -> None:
    measured = read(tmp_path)
    # Until the last answer, 70 s: one replica; in the second pool two for half a minute, then four.
    assert measured.replica_hr * 3600.0 == pytest.approx([70.0, 2 * 30.0 + 4 * 40.0])
    got = (measured.arrived[:, :, None] * measured.share).sum(axis=0)
    assert got.tolist() == [[1.0, 1.0], [0.0, 1.0]]
    assert measured.work_tokens.tolist() == [[111.0, 0.0], [221.0, 901.0]]
    assert measured.running.max() == 1.0


@pytest.mark.parametrize("unit", [1.0, 1e3, 1e6, 1e9])
def test_numbers_since_1970_are_told_by_their_size(tmp_path: Path, unit: float) -> None:
    log = "arrival,prompt_tokens,output_tokens\n" + "".join(f"{int((1.7e9 + t) * unit)},10,5\n" for t in (0, 30, 90))
    text = TWO_POOLS.replace("  batch: {target: {deadline_s: 600}}\n", "")
    measured = read(tmp_path, log, {}, text)
    assert measured.requests is not None
    assert measured.requests.arrival_s == pytest.approx([0.0, 30.0, 90.0], abs=1e-4)
    assert measured.began_at_s == pytest.approx(1.7e9)
    assert np.isnan(measured.share).all()
    assert math.isnan(measured.classes["chat"].attainment)
    assert measured.attainment["chat"] == (0.0, 1.0)


def test_parquet_with_times_and_another_origin(tmp_path: Path) -> None:
    table = pa.table(
        {
            "created_at": pa.array([0, 1_500, 61_000], pa.timestamp("ms")),
            "input_tokens": [5, 6, 7],
            "output_tokens": [1, 2, 3],
            "first_token_at": pa.array([100, None, 61_200], pa.timestamp("ms")),
        }
    )
    path = tmp_path / "log.parquet"
    pq.write_table(table, path)
    text = TWO_POOLS.replace("  batch: {target: {deadline_s: 600}}\n", "")
    measured = read_request_log(AskedLog(path, {}, {}, from_s=1.0), described(tmp_path, text))
    assert measured.requests is not None
    assert measured.requests.arrival_s == pytest.approx([0.5, 60.0])
    assert measured.classes["chat"].ttft_mean_s == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (LOG.replace("200,21", "0,21"), "row 2: in: '0': wanted 1 or more tokens"),
        (LOG.replace("chat,l40s", "gold,l40s"), "class 'gold' is not described"),
        (LOG.replace("chat,h100,100", "chat,a10,100"), "pool 'a10' is not described"),
        (LOG.replace(",500,", ",-5,"), "ttft_ms"),
        (LOG.replace("2026-11-27T08:00:50Z", "tomorrow"), "wanted a time"),
        ("when,who,where,in,out,ttft_ms,took_ms,code\n", "has no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, log: str, said: str) -> None:
    with pytest.raises((AuditError, TraceError)) as refused:
        read(tmp_path, log)
    assert said in str(refused.value)


def test_a_log_needs_counts_and_a_class_of_each_request(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"pools\.h100: wanted count or moves"):
        read(tmp_path, text=TWO_POOLS.replace("count: 1", "min: 0"))
    plain = "arrival,prompt_tokens,output_tokens\n0,1,1\n"
    with pytest.raises(AuditError, match="no column that tells the class"):
        read(tmp_path, plain, {})


def test_a_column_of_another_unit_is_not_taken_for_years(tmp_path: Path) -> None:
    log = "arrival,prompt_tokens,output_tokens\n0,1,1\n90000000,1,1\n"
    text = TWO_POOLS.replace("  batch: {target: {deadline_s: 600}}\n", "")
    with pytest.raises(TraceError, match="--unit arrival=ms"):
        read(tmp_path, log, {}, text)


def test_answers_in_one_piece_tell_no_first_token(tmp_path: Path) -> None:
    """A gateway that logs the first byte of an answer that was not streamed logs its end."""
    log = LOG.replace("batch,l40s,900,1,300,400,200", "batch,l40s,900,50,4000,4001,200")
    measured = read(tmp_path, log)
    batch, chat = measured.classes["batch"], measured.classes["chat"]
    assert math.isnan(batch.ttft_mean_s)
    assert math.isnan(batch.tpot_mean_s)
    assert batch.e2e_mean_s == pytest.approx(4.001)
    assert batch.attainment == 1.0
    assert chat.ttft_mean_s == pytest.approx(1.25)
    assert any(note.startswith("1 answers came in one piece") for note in measured.notes)
    assert not any("in one piece" in note for note in read(tmp_path).notes)


def test_the_time_of_emulated_engines_passes_faster(tmp_path: Path) -> None:
    measured, fast = read(tmp_path), read(tmp_path, speed_up=3.0)
    assert fast.began_at_s == measured.began_at_s
    assert fast.requests is not None
    assert measured.requests is not None
    assert fast.requests.arrival_s == pytest.approx(3.0 * measured.requests.arrival_s)
    for name in ("ttft_mean_s", "tpot_mean_s", "e2e_p95_s"):
        assert getattr(fast.classes["chat"], name) == pytest.approx(3.0 * getattr(measured.classes["chat"], name))
    until = read(tmp_path, speed_up=3.0, until_s=measured.began_at_s + 60.0)
    assert until.duration_s == pytest.approx(180.0)
