"""Every published format is read as its makers describe it, packed or not."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from poolpilot.env.workload.assign import assign_classes
from poolpilot.env.workload.requests import Workload
from poolpilot.env.workload.spec import AssignRule
from poolpilot.env.workload.traces import Selection, Trace, TraceError, read_trace
from poolpilot.tests.env.workload.trace_files import (
    AZURE_2023,
    AZURE_2024,
    BURSTGPT_1,
    BURSTGPT_2,
    MOONCAKE,
    PACK,
    PLAIN,
    PLAIN_HASHES,
    VALID,
    a_file,
)


def names(trace: Trace, label: str) -> list[str]:
    labels = trace.labels[label]
    return [labels.names[code] for code in labels.codes]


def one_class(trace: Trace) -> Workload:
    return assign_classes(trace, [AssignRule(class_name="all")], ("all",), 0)


def test_azure_of_2023_has_ten_millionths_and_no_zone(tmp_path: Path) -> None:
    trace = read_trace(a_file(tmp_path, AZURE_2023))
    assert trace.arrival_s == pytest.approx([0.0, 4.314579, 4.541877], abs=1e-9)
    assert trace.clock_s == pytest.approx(18 * 3600 + 15 * 60 + 46.68059)


def test_azure_of_2024_has_a_zone_and_may_leave_out_fractions(tmp_path: Path) -> None:
    trace = read_trace(a_file(tmp_path, AZURE_2024))
    assert trace.arrival_s == pytest.approx([0.0, 0.007405, 0.99007], abs=1e-9)
    assert trace.clock_s == pytest.approx(0.00993)
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([2162, 2399, 76], [5, 6, 15])


def test_burstgpt_leaves_out_failed_requests_unless_asked(tmp_path: Path) -> None:
    path = a_file(tmp_path, BURSTGPT_1)
    trace, whole = read_trace(path), read_trace(path, selection=Selection(keep_failed=True))
    assert trace.arrival_s.tolist() == [0.0, 113.0]
    assert trace.row.tolist() == [0, 2]
    assert (names(trace, "model"), names(trace, "log_type")) == (["ChatGPT", "GPT-4"], ["Conversation log", "API log"])
    assert whole.output_tokens.tolist() == [18, 0, 276]


def test_burstgpt_of_the_second_release_has_more_columns_and_begins_late(tmp_path: Path) -> None:
    trace = read_trace(a_file(tmp_path, BURSTGPT_2))
    assert trace.arrival_s.tolist() == [0.0, 51.0]
    assert trace.clock_s == 110.0  # 225 days after the first midnight
    assert trace.prompt_tokens.tolist() == [906, 36]


def test_a_failed_request_may_have_no_prompt_but_a_served_one_has(tmp_path: Path) -> None:
    rows = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n1,a,5,1,6,x\n"
    assert len(read_trace(a_file(tmp_path, rows + "2,a,0,0,0,x\n"))) == 1
    with pytest.raises(TraceError, match="row 2: Request tokens: '0': wanted 1 or more tokens"):
        read_trace(a_file(tmp_path, rows + "2,a,0,3,3,x\n"))


def test_mooncake_says_in_blocks_what_prompts_share(tmp_path: Path) -> None:
    load = one_class(read_trace(a_file(tmp_path, MOONCAKE)))
    assert load.arrival_s.tolist() == [0.0, 0.0, 3.0]
    # All begin with block 0; the first and third go on with block 1.
    assert load.prefixes.seen_before(load.prefix_index).tolist() == [0, 512, 1024]


def test_the_length_of_a_block_is_the_reader_s_to_say(tmp_path: Path) -> None:
    text = '{"timestamp": 0, "input_length": 33, "output_length": 1, "hash_ids": [7, 8, 9]}\n'
    with pytest.raises(TraceError, match=r"row 1: hash_ids: \[7, 8, 9\]: wanted no more blocks of 512 tokens than the"):
        read_trace(a_file(tmp_path, text))
    load = one_class(read_trace(a_file(tmp_path, text * 2), selection=Selection(block_tokens=16)))
    assert load.prefixes.seen_before(load.prefix_index).tolist() == [0, 33]


def test_plain_may_name_class_model_and_prefix(tmp_path: Path) -> None:
    trace = read_trace(a_file(tmp_path, PLAIN))
    assert (names(trace, "class"), names(trace, "model")) == (["chat", "batch", "chat"], ["small", "large", "small"])
    load = assign_classes(trace, None, ("batch", "chat"), 0)
    assert load.class_index.tolist() == [1, 0, 1]
    assert load.prefixes.seen_before(load.prefix_index).tolist() == [0, 0, 60]


def test_plain_may_write_block_ids_into_a_cell(tmp_path: Path) -> None:
    load = one_class(read_trace(a_file(tmp_path, PLAIN_HASHES)))
    assert load.prefixes.seen_before(load.prefix_index).tolist() == [0, 600, 0]


@pytest.mark.parametrize("name", [name for name in VALID if not name.endswith(".parquet")])
@pytest.mark.parametrize("codec", PACK)
def test_a_packed_trace_is_the_same_trace(tmp_path: Path, name: str, codec: str) -> None:
    plain = read_trace(a_file(tmp_path, VALID[name]))
    packed = read_trace(a_file(tmp_path, PACK[codec](VALID[name]), "packed"))
    assert np.array_equal(plain.arrival_s, packed.arrival_s)
    assert np.array_equal(plain.prompt_tokens, packed.prompt_tokens)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"timestamp": 1, "input_length": 5}', "row 2: output_length: blank: wanted a value in every row"),
        ('{"timestamp": "1", "input_length": 5, "output_length": 1}', 'row 2: timestamp: "1": wanted a number'),
        ('{"timestamp": 1, "input_length": true, "output_length": 1}', "row 2: input_length: true: wanted a number"),
        (
            '{"timestamp": 1, "input_length": 5.5, "output_length": 1}',
            "row 2: input_length: 5.5: wanted a whole number",
        ),
        (
            '{"timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": ["a"]}',
            "row 2: hash_ids: .*wanted a li",
        ),
        (
            '{"timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": [1.5]}',
            "row 2: hash_ids: .*wanted a li",
        ),
        (
            '{"timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": [1, null]}',
            "row 2: hash_ids: .*wanted a",
        ),
        (
            '{"timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": [99999999999999999999]}',
            "row 2: hash_ids",
        ),
        (
            '{"timestamp": -1, "input_length": 5, "output_length": 1}',
            "row 2: timestamp: -1.0: wanted no earlier than row",
        ),
        ("[1, 2]", "row 2: holds a list; wanted an object"),
        ('{"timestamp": 1,', "row 2: not JSON: .*; wanted an object"),
        ('{"a": ' + "[" * 100_000, "row 2: not JSON"),
        ("\x00", "row 2: not JSON"),
    ],
)
def test_a_bad_line_of_json_is_refused_by_row_and_value(tmp_path: Path, line: str, message: str) -> None:
    good = '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}\n'
    with pytest.raises(TraceError, match=message) as caught:
        read_trace(a_file(tmp_path, good + line + "\n"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"timestamp": 0}]', "holds a JSON array; wanted JSON lines: one object a line"),
        ('{"a": 1}\n', "has columns 'a'; wanted each once"),
        (
            "arrival_s,input_tokens,output_tokens,prefix_id\n0,1,1,a\n",
            "has one of the columns prefix_id and prefix_tokens",
        ),
        (
            PLAIN.replace("help,60", "help,", 1),
            "row 1: prefix_tokens: blank: wanted 1 or more tokens where there is a pre",
        ),
        (
            PLAIN.replace("help,60", "help,101", 1),
            "row 1: prefix_tokens: '101': wanted no more tokens than the prompt has",
        ),
        (PLAIN.replace("class,model", "class,class"), "column class: there 2 times; wanted it once at most"),
        (PLAIN_HASHES.replace("0 1", "0 one"), "row 2: hash_ids: '0 one': wanted a list of whole numbers"),
        (PLAIN.replace("chat,small", "c" * 300 + ",small", 1), "row 1: class: 'c+.*wanted a name of at most 200"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_trace(a_file(tmp_path, text))


def test_a_damaged_pack_is_refused(tmp_path: Path) -> None:
    packed = PACK["gzip"]((AZURE_2023 * 1).encode())
    with pytest.raises(TraceError, match="not readable as CSV, Parquet or JSON lines"):
        read_trace(a_file(tmp_path, packed[:40]))


@pytest.mark.shared_data
def test_the_mooncake_trace_shares_what_its_publisher_counted(shared_data: Path) -> None:
    path = shared_data / "traces" / "mooncake_conversation.parquet"
    load = one_class(read_trace(path))
    table: Any = pq.read_table(path, columns=["prefix_blocks_seen_before"])
    counted = np.minimum(table.column(0).to_numpy() * 512, load.prompt_tokens)
    seen = load.prefixes.seen_before(load.prefix_index)
    # A last block that is cut short may be shared by a longer prompt: less than a block is in dispute.
    assert (np.abs(seen - counted) < 512).all()
    assert (seen == counted).mean() > 0.99
    assert load.prefix_hit_share() == pytest.approx(counted.sum() / load.prompt_tokens.sum(), rel=1e-3)
