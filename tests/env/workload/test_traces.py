"""A trace is read as it was written, or refused with its file, row, column and value."""

import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from poolpilot.env.workload.assign import assign_classes
from poolpilot.env.workload.requests import WorkloadError
from poolpilot.env.workload.spec import AssignRule, TraceFormat
from poolpilot.env.workload.traces import Trace, TraceError, read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,0
"""
PLAIN = "arrival_s,input_tokens,output_tokens\n"


def a_file(folder: Path, content: str | bytes, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def a_parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "trace.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_azure_timestamps_keep_all_their_digits(tmp_path: Path) -> None:
    trace = read_trace(a_file(tmp_path, AZURE))
    assert trace.arrival_s == pytest.approx([0.0, 4.314579, 4.541877], abs=1e-9)
    assert trace.prompt_tokens.tolist() == [374, 396, 879]
    assert trace.output_tokens.tolist() == [44, 109, 0]
    assert (trace.arrival_s.dtype, trace.prompt_tokens.dtype, trace.output_tokens.dtype) == ("f8", "i8", "i8")


@pytest.mark.parametrize("suffix", ["+00:00", "Z", "+02:00"])
def test_azure_timestamps_may_name_their_zone(tmp_path: Path, suffix: str) -> None:
    lines = AZURE.splitlines()
    zoned = [lines[0], *(line.replace(",", f"{suffix},", 1) for line in lines[1:])]
    assert read_trace(a_file(tmp_path, "\n".join(zoned))).arrival_s == pytest.approx([0.0, 4.314579, 4.541877])


@pytest.mark.parametrize(
    "text",
    [
        PLAIN + "5,10,1\n6.5,20,0\n",
        "output_tokens,note,arrival_s,input_tokens\n1,x,5,10\n0,,6.5,20\n",
        PLAIN + " 5 ,10.0, 1\n6.5e0,20,0\n",
        (PLAIN + "5,10,1\n6.5,20,0").replace("\n", "\r\n"),
        "\ufeff" + PLAIN + '"5","10","1"\n6.5,20,0\n',
    ],
    ids=["as documented", "other order and more columns", "spaces and decimals", "Windows lines", "quotes and a mark"],
)
def test_plain_csv(tmp_path: Path, text: str) -> None:
    trace = read_trace(a_file(tmp_path, text))
    assert trace.arrival_s.tolist() == [0.0, 1.5]
    assert trace.prompt_tokens.tolist() == [10, 20]
    assert trace.output_tokens.tolist() == [1, 0]


START = datetime(2023, 11, 16)
TIMES = [START, START + timedelta(seconds=1.5)]


@pytest.mark.parametrize(
    "columns",
    [
        {
            "arrival_s": [5.0, 6.5],
            "input_tokens": pa.array([10, 20], pa.int32()),
            "output_tokens": pa.array([1, 0], pa.uint8()),
        },
        {
            "arrival_s": [5.0, 6.5],
            "input_tokens": ["10", "20"],
            "output_tokens": pa.array(["1", "0"]).dictionary_encode(),
        },
        {"TIMESTAMP": TIMES, "ContextTokens": [10, 20], "GeneratedTokens": [1.0, 0.0]},
        {"TIMESTAMP": pa.array(TIMES, pa.timestamp("ms", "UTC")), "ContextTokens": [10, 20], "GeneratedTokens": [1, 0]},
        {"TIMESTAMP": [str(t) for t in TIMES], "ContextTokens": [10, 20], "GeneratedTokens": [1, 0]},
    ],
    ids=["plain", "text", "azure", "azure with zone", "azure text"],
)
def test_parquet(tmp_path: Path, columns: dict[str, Any]) -> None:
    trace = read_trace(a_parquet(tmp_path, **columns))
    assert trace.arrival_s.tolist() == [0.0, 1.5]
    assert trace.prompt_tokens.tolist() == [10, 20]
    assert trace.output_tokens.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; wanted a CSV, Parquet or JSON lines trace"),
        (PLAIN, "has no rows; wanted one row a request under arrival_s, input_tokens, output_tokens"),
        (
            "a,b\n1,2\n",
            r"has columns 'a', 'b'; wanted each once: TIMESTAMP, ContextTokens, GeneratedTokens \(azure\), or Time",
        ),
        ("arrival_s,input_tokens\n1,2\n", "has columns 'arrival_s', 'input_tokens'; wanted each once"),
        ("arrival_s,input_tokens,output_tokens,arrival_s\n1,2,3,4\n", "wanted each once"),
        (PLAIN + "0,1\n", "not readable as CSV, Parquet or JSON lines: CSV parse error: .*Expected 3 columns, got 2"),
        (PLAIN + "0,1,1\n1,,1\n", "row 2: input_tokens: blank: wanted a value in every row"),
        (PLAIN + "0,1,1\n1,2,nan\n", "row 2: output_tokens: 'nan': wanted a finite number"),
        (PLAIN + "0,1,1\ninf,2,2\n", "row 2: arrival_s: 'inf': wanted a finite number"),
        (PLAIN + "0,1,1\n1,many,2\n2,few,2\n", "row 2: input_tokens: 'many': wanted a number"),
        (PLAIN + "0,1,1\n1,1,1\n2,0,2\n", "row 3: input_tokens: '0': wanted 1 or more tokens"),
        (PLAIN + "0,1,1\n1,-5,1\n", "row 2: input_tokens: '-5': wanted 1 or more tokens"),
        (PLAIN + "0,1,-1\n", "row 1: output_tokens: '-1': wanted 0 or more tokens"),
        (PLAIN + "0,1,1.5\n", "row 1: output_tokens: '1.5': wanted a whole number of tokens"),
        (PLAIN + "0,10000001,1\n", "row 1: input_tokens: '10000001': wanted at most 10000000 tokens in one request"),
        (
            PLAIN + "0,1,1\n5,1,1\n4,1,1\n",
            "row 3: arrival_s: '4': wanted no earlier than row 2's '5'; sort the file by arrival_s",
        ),
        (
            PLAIN + "0,1,1\n1700000000000,1,1\n",
            "row 2: arrival_s: '1700000000000': wanted at most 315360000 s .10 years. after",
        ),
        (PLAIN + "-1e308,1,1\n1e308,1,1\n", "row 2: arrival_s: '1e308': wanted at most 315360000 s"),
        (PLAIN + "2023-11-16 18:15:46,1,1\n", "row 1: arrival_s: '2023-11-16 18:15:46': wanted a number"),
        (AZURE + "yesterday,1,1\n", "row 4: TIMESTAMP: 'yesterday': wanted a time like 2023-11-16 18:15:46.6805900"),
        (
            AZURE + "2023-11-16 18:15:59+00:00,1,1\n",
            "row 4: TIMESTAMP: '2023-11-16 18:15:59.00:00': wanted a time like",
        ),
        (AZURE + "2023-13-16 18:15:59,1,1\n", "row 4: TIMESTAMP: '2023-13-16 18:15:59': wanted a time like"),
        (
            AZURE + "2023-11-16 18:15:46,1,1\n",
            "row 4: TIMESTAMP: '2023-11-16 18:15:46': wanted no earlier than row 3's",
        ),
        (
            AZURE.replace("2023-11-16 18:15:46", "1700-11-16 18:15:46"),
            "row 2: TIMESTAMP: .* wanted at most 315360000 s",
        ),
        ("\x00\x01\x02", "not readable as CSV, Parquet or JSON lines: CSV parse error: Empty CSV file"),
        (b"\xff\xfe\xfd,\xff\n1,2\n", "not readable as CSV, Parquet or JSON lines: .*utf-?8"),
        (PLAIN.encode() + b"0,\xff,1\n", "not readable as CSV, Parquet or JSON lines: .*UTF8"),
        (b"PAR1 and then nothing of the sort", "not readable as CSV, Parquet or JSON lines: Parquet"),
    ],
)
def test_a_bad_file_is_refused_by_row_and_value(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = a_file(tmp_path, text)
    with pytest.raises(TraceError, match=message) as caught:
        read_trace(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1]}, "has columns 'a'; wanted each once"),
        (
            {"arrival_s": [0.0], "input_tokens": [[1]], "output_tokens": [1]},
            "column input_tokens: holds list<.*wanted a num",
        ),
        ({"arrival_s": TIMES[:1], "input_tokens": [1], "output_tokens": [1]}, "column arrival_s: holds timestamp"),
        (
            {"arrival_s": [True], "input_tokens": [1], "output_tokens": [1]},
            "column arrival_s: holds bool; wanted a number",
        ),
        (
            {"TIMESTAMP": [1.0], "ContextTokens": [1], "GeneratedTokens": [1]},
            "TIMESTAMP: holds double; wanted a time like",
        ),
        ({"arrival_s": [0.0, None], "input_tokens": [1, 1], "output_tokens": [1, 1]}, "row 2: arrival_s: blank"),
        (
            {"arrival_s": [0.0, float("nan")], "input_tokens": [1, 1], "output_tokens": [1, 1]},
            "row 2: arrival_s: nan: wanted",
        ),
        (
            {"arrival_s": [0.0], "input_tokens": pa.array([2**63], pa.uint64()), "output_tokens": [1]},
            "wanted at most 100000",
        ),
        (
            {"TIMESTAMP": pa.array([10**15], pa.timestamp("s")), "ContextTokens": [1], "GeneratedTokens": [1]},
            "row 1: TIMESTAMP: .*: wanted a date from 1678 to 2261",
        ),
    ],
    ids=["columns", "list", "date", "bool", "number for a time", "null", "nan", "2**63", "year 31 million"],
)
def test_a_bad_parquet_is_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_trace(a_parquet(tmp_path, **columns))


@pytest.mark.parametrize(("format", "wanted"), [("azure", "TIMESTAMP"), ("plain", "arrival_s")])
def test_a_stated_format_is_held_to(tmp_path: Path, format: TraceFormat, wanted: str) -> None:
    other = PLAIN + "0,1,1\n" if format == "azure" else AZURE
    with pytest.raises(TraceError, match=rf"wanted each once: {wanted}, \w+, \w+ \({format}\)$"):
        read_trace(a_file(tmp_path, other), format)


@pytest.mark.parametrize("name", ["none.csv", "", "a\0b"], ids=["absent", "a folder", "no name at all"])
def test_a_path_without_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TraceError, match=r"no (such|regular) file; wanted a CSV, Parquet or JSON lines trace"):
        read_trace(tmp_path / name)


def test_a_long_value_is_cut_short(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"row 1: arrival_s: 'x{59}\.\.\.: wanted a number"):
        read_trace(a_file(tmp_path, PLAIN + "x" * 10_000 + ",1,1\n"))


def outcome(content: bytes) -> Trace | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return read_trace(a_file(Path(folder), content))
        except TraceError as error:
            message = str(error)
    assert message.isprintable(), repr(message)
    return None


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
@example(b"PAR1")
@example(b"PAR1" + bytes(100) + b"PAR1")
@example(b"\n\n\n")
@example(b'"')
def test_random_bytes_are_refused(content: bytes) -> None:
    assert outcome(content) is None


CELLS = st.one_of(
    st.integers(-3, 30).map(str),
    st.floats().map(str),
    st.sampled_from(["", "NA", "null", "1e400", "0x1", "1_000", '"', "2023-11-16 18:15:46.6805900", "9999-01-01"]),
    st.text(max_size=5),
)
HEADERS = st.sampled_from([PLAIN, "TIMESTAMP,ContextTokens,GeneratedTokens\n"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(HEADERS, st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=6))
def test_random_rows_make_a_sound_trace_or_none(header: str, rows: list[tuple[str, str, str]]) -> None:
    trace = outcome((header + "\n".join(map(",".join, rows))).encode("utf-8", "surrogatepass"))
    if trace is not None:
        assert 1 <= len(trace) <= len(rows) * 5  # a text cell may hold line breaks
        assert_sound(trace)


def assert_sound(trace: Trace) -> None:
    load = assign_classes(trace, [AssignRule(class_name="all")], ("all",), 0)  # a Workload checks itself
    assert len(load) == len(trace)
    assert load.arrival_s[0] == 0.0


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_damaged_parquet_is_refused_or_sound(data: st.DataObject) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"arrival_s": [0.0, 1.0], "input_tokens": [5, 6], "output_tokens": [1, 0]}), sink)
    content = bytearray(sink.getvalue().to_pybytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    trace = outcome(bytes(content[: data.draw(st.integers(4, len(content)))]))
    if trace is not None:
        assert_sound(trace)


@pytest.mark.shared_data
def test_the_azure_trace_has_its_known_figures(shared_data: Path) -> None:
    trace = read_trace(shared_data / "traces" / "azure_llm_2023_conv.parquet")
    assert len(trace) == 19_366
    # Splitwise (ISCA 2024) reports medians of 1 020 prompt and 129 output tokens for this conversation trace.
    assert (np.median(trace.prompt_tokens), np.median(trace.output_tokens)) == (1020, 129)
    assert trace.prompt_tokens.mean() == pytest.approx(1154.7, abs=0.05)
    assert trace.output_tokens.mean() == pytest.approx(211.1, abs=0.05)
    assert trace.arrival_s[-1] == pytest.approx(3501.72, abs=0.01)


@pytest.mark.shared_data
def test_the_mooncake_trace_is_read(shared_data: Path) -> None:
    assert len(read_trace(shared_data / "traces" / "mooncake_conversation.parquet")) == 12_031


def a_trace(prompts: list[int], outputs: list[int]) -> Trace:
    return Trace(np.arange(len(prompts), dtype=np.float64), np.array(prompts), np.array(outputs))


def rule(name: str, **bounds: Any) -> AssignRule:
    return AssignRule(class_name=name, **bounds)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([rule("a")], "aaaa"),
        ([rule("a", min_prompt_tokens=100), rule("b")], "baaa"),
        ([rule("a", max_prompt_tokens=100), rule("b")], "aabb"),
        ([rule("a", min_output_tokens=1), rule("b")], "abaa"),
        ([rule("a", max_output_tokens=0), rule("c", min_prompt_tokens=100, max_prompt_tokens=200), rule("b")], "bacb"),
        ([rule("a", max_prompt_tokens=200), rule("b", max_prompt_tokens=200), rule("c")], "aaac"),
    ],
    ids=["one", "at least", "at most", "output at least", "all bounds of a rule", "the first that fits"],
)
def test_the_first_rule_that_fits_gives_the_class(rules: list[AssignRule], expected: str) -> None:
    load = assign_classes(a_trace([99, 100, 200, 201], [5, 0, 5, 5]), rules, ("a", "b", "c"), 0)
    assert "".join(load.class_names[i] for i in load.class_index) == expected


def test_a_share_is_of_what_is_left_and_drawn_by_seed() -> None:
    n = 40_000
    trace = a_trace([10, 1000] * (n // 2), [1] * n)
    rules = [rule("a", share=0.5, min_prompt_tokens=1000), rule("b", share=0.2), rule("c")]
    load = assign_classes(trace, rules, ("a", "b", "c"), 7)
    counts = np.bincount(load.class_index, minlength=3) / n
    assert counts == pytest.approx([0.25, 0.15, 0.60], abs=0.01)  # four standard errors
    assert set(load.prompt_tokens[load.class_index == 0]) == {1000}
    again, other = (assign_classes(trace, rules, ("a", "b", "c"), seed).class_index for seed in (7, 8))
    assert np.array_equal(again, load.class_index)
    assert not np.array_equal(other, load.class_index)


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(WorkloadError, match="unknown class 'chatt'; classes are chat, code"):
        assign_classes(a_trace([1], [1]), [rule("chatt")], ("chat", "code"), 0)
