"""Reading tables: what is understood, what is left out, and what is refused."""

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.perf.tables import SERVING_COLUMNS, TableError, read_serving, read_table

GOOD = {
    "source": "lab",
    "gpu": "H100-SXM-80GB",
    "n_gpu": "2",
    "tp": "2",
    "pp": "1",
    "model": "Qwen/Qwen3-32B",
    "precision": "bfloat16",
    "engine": "vllm-0.19.0",
    "input_tokens": "1000",
    "output_tokens": "200",
    "batch_or_concurrency": "16",
    "request_rate": "",
    "ttft_ms": "90",
    "tpot_ms": "21.5",
    "throughput_out_tok_s": "",
    "slo_note": "agg;max_num_seqs=128",
}


def a_table(folder: Path, *rows: dict[str, str]) -> Path:
    path = folder / "runs.csv"
    lines = [",".join(SERVING_COLUMNS), *(",".join({**GOOD, **row}[c] for c in SERVING_COLUMNS) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_row_of_one_replica_is_understood(tmp_path: Path) -> None:
    (row,), left_out = read_serving(a_table(tmp_path, {}))
    assert not left_out
    assert (row.gpu.name, row.model.name, row.precision) == ("H100-SXM-80GB", "Qwen/Qwen3-32B", "bf16")
    assert (row.tensor_parallel, row.concurrency, row.tpot_s) == (2, 16.0, pytest.approx(0.0215))
    assert (row.request_rate_per_s, row.max_num_seqs, row.static_batch) == (None, 128.0, False)


@pytest.mark.parametrize(
    ("task", "understood"), [("lm-arena-chat", True), ("gpqa", True), ("image-chat", False), ("sourcegraph-fim", False)]
)
def test_median_gaps_need_no_prompt_length_where_prompts_are_short(tmp_path: Path, task: str, understood: bool) -> None:
    note = f"task={task};tpot=median ITL;max_num_seqs=16"
    rows, left_out = read_serving(a_table(tmp_path, {"input_tokens": "", "slo_note": note}))
    assert [(row.decode_only, row.prompt_tokens) for row in rows] == [(True, 0.0)] * understood
    assert list(left_out) == ["input_tokens or output_tokens blank"] * (not understood)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": "H1000"}, "unknown GPU 'H1000'"),
        ({"model": "acme/none"}, "unknown model 'acme/none'"),
        ({"precision": "fp4"}, "precision fp4 is not modelled"),
        ({"pp": "2"}, "not one tensor-parallel replica"),
        ({"n_gpu": "4"}, "not one tensor-parallel replica"),
        ({"tp": "1.5", "n_gpu": "1.5"}, "not one tensor-parallel replica"),
        ({"input_tokens": ""}, "input_tokens or output_tokens blank"),
        ({"engine": "llama.cpp"}, "llama.cpp does not batch continuously"),
        ({"slo_note": "disagg"}, "prefill and decode on separate workers"),
        ({"slo_note": "prefix caching on"}, "prefix caching hides an unknown part of the prompts"),
        ({"slo_note": "agg;batch_size_not_concurrency=4"}, "the concurrency is not stated"),
    ],
)
def test_other_rows_are_left_out_for_a_stated_reason(tmp_path: Path, changes: dict[str, str], reason: str) -> None:
    rows, left_out = read_serving(a_table(tmp_path, {}, changes))
    assert len(rows) == 1
    assert left_out == {reason: 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tp": "0"}, r"runs.csv: row 2: tp: 0, wanted a number above 0"),
        ({"tpot_ms": "-3"}, r"runs.csv: row 2: tpot_ms: -3, wanted a number above 0"),
        ({"output_tokens": "inf"}, r"runs.csv: row 2: output_tokens: inf, wanted a number above 0"),
        ({"input_tokens": "many"}, r"runs.csv: column input_tokens: 'many', wanted a number or blank"),
    ],
)
def test_impossible_figures_are_named(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(TableError, match=message):
        read_serving(a_table(tmp_path, {}, changes))


def test_a_column_left_blank_throughout_is_blank(tmp_path: Path) -> None:
    (row,), _ = read_serving(a_table(tmp_path, {"precision": "", "slo_note": "", "ttft_ms": ""}))
    assert row.precision == "fp16"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "none.csv: cannot be read as .csv"),
        ("broken.parquet", b"not parquet", "broken.parquet: cannot be read as .parquet"),
        ("empty.csv", b"", "empty.csv: cannot be read as .csv"),
        ("header.csv", b"a,b\n", "header.csv: no rows"),
        ("short.csv", b"a\n1\n", "short.csv: column b is missing; wanted a, b"),
        ("double.csv", b"a,b,b\n1,2,3\n", "double.csv: column b stands twice"),
        ("bytes.csv", b"\x80\n1\n", "bytes.csv: cannot be read as .csv"),
    ],
)
def test_files_that_are_no_table_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TableError, match=message):
        read_table(path, ("a", "b"))


HEADER = (",".join(SERVING_COLUMNS) + "\n").encode()
CELL = st.one_of(st.sampled_from(sorted(GOOD.values())), st.text(max_size=8), st.floats().map(str))
LINE = st.lists(CELL, min_size=len(SERVING_COLUMNS), max_size=len(SERVING_COLUMNS)).map(",".join)


@settings(deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=200).map(lambda content: HEADER + content),
        st.lists(LINE, max_size=3).map(lambda lines: HEADER + "\n".join(lines).encode()),
    )
)
def test_any_bytes_end_in_rows_or_in_a_table_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.csv"
        path.write_bytes(content)
        with contextlib.suppress(TableError):
            read_serving(path)
