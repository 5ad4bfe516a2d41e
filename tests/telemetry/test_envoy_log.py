"""Envoy's log, line by line and as a file that grows, turns over and breaks."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.telemetry.envoy_log import (
    END_FORMAT,
    START_FORMAT,
    LogLineError,
    LogTail,
    RequestRecord,
    StartRecord,
    added_s,
    parse_line,
    still_open,
    tpot_s,
    ttft_s,
)

START: dict[str, Any] = {
    "log": "start",
    "id": "s1",
    "at_s": "1795487993.075953",
    "class": "chat",
    "pool": "A",
    "host": "10.0.0.1:8000",
}
# As Envoy 1.40 wrote it, ids and sizes shortened.
END: dict[str, Any] = {
    "log": "end",
    "id": "s1",
    "at_s": "1795487993.075687",
    "class": "chat",
    "asked": None,
    "pool": "A",
    "host": "10.0.0.1:8000",
    "path": "/v1/chat/completions",
    "code": 200,
    "details": "via_upstream",
    "flags": "-",
    "content": "text/event-stream; charset=utf-8",
    "attempts": 1,
    "rx_bytes": 16,
    "tx_bytes": 322,
    "read_us": 131,
    "sent_on_us": 899,
    "first_body_us": 200_000,
    "total_us": 260_000,
    "header_delay_us": 92,
    "tail_delay_us": 101,
    "prompt_tokens": 12,
    "completion_tokens": 5,
}
UNSENT = {"pool": None, "host": None, "attempts": None, "first_body_us": None, "sent_on_us": None, "read_us": None}
SHED = {**END, **UNSENT, "code": 429, "details": "direct_response", "content": "application/json"}


def ended(**other: Any) -> RequestRecord:
    record = parse_line(json.dumps({**END, **other}))
    assert isinstance(record, RequestRecord)
    return record


def test_the_samples_have_the_fields_of_the_formats() -> None:
    assert START.keys() == START_FORMAT.keys()
    assert END.keys() == END_FORMAT.keys()


def test_a_start() -> None:
    assert parse_line(json.dumps(START)) == StartRecord("s1", 1795487993.075953, "chat", "A", "10.0.0.1:8000")


def test_an_end() -> None:
    record = ended()
    assert (record.class_name, record.pool, record.code, record.flags) == ("chat", "A", 200, "")
    assert record.succeeded
    assert not record.shed
    assert ttft_s(record) == pytest.approx(0.2)
    assert tpot_s(record) == pytest.approx(0.06 / 4)
    assert added_s(record) == pytest.approx((899 - 131 + 92) / 1e6)


def test_one_turned_away() -> None:
    record = ended(**SHED)
    assert record.shed
    assert not record.succeeded
    assert (record.pool, record.attempts) == (None, 0)
    assert math.isnan(record.first_body_s)
    assert math.isnan(added_s(record))


@pytest.mark.parametrize(
    "other",
    [
        {"completion_tokens": None},
        {"completion_tokens": 1},
        {"completion_tokens": 0},
        {"content": "application/json"},
        {"total_us": None},
        {"first_body_us": None},
    ],
    ids=["usage unknown", "one token", "no token", "not streamed", "cut off", "no body"],
)
def test_no_time_per_token(other: dict[str, Any]) -> None:
    assert math.isnan(tpot_s(ended(**other)))


def test_a_plain_answer_tells_no_time_to_first_token() -> None:
    assert math.isnan(ttft_s(ended(content="application/json")))


def test_a_retried_request_tells_nothing_of_the_proxy() -> None:
    assert math.isnan(added_s(ended(attempts=2)))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"log": "middle"}, "log: wanted 'start' or 'end', got 'middle'"),
        ({"id": None}, "id: wanted text"),
        ({"class": 7}, "class: wanted text, got 7"),
        ({"code": "200"}, "code: wanted a number"),
        ({"code": True}, "code: wanted a number"),
        ({"first_body_us": -1}, "first_body_us: wanted a number of 0 or more, got -1"),
        ({"at_s": "noon"}, "at_s: wanted Unix seconds, got 'noon'"),
        ({"at_s": "inf"}, "at_s: wanted Unix seconds, got 'inf'"),
    ],
)
def test_a_wrong_field_is_named(other: dict[str, Any], message: str) -> None:
    with pytest.raises(LogLineError, match=message):
        ended(**other)


@pytest.mark.parametrize("name", sorted(END.keys() - {"log"}))
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(LogLineError, match=f"^{name}: missing"):
        parse_line(json.dumps({key: value for key, value in END.items() if key != name}))


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"log": "start"', "[" * 100_000])
def test_what_is_no_entry(line: str) -> None:
    with pytest.raises(LogLineError):
        parse_line(line)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=2)
)
ENTRIES = st.builds(
    lambda base, changes: {**base, **changes},
    st.sampled_from([START, END]),
    st.dictionaries(st.sampled_from(sorted(END)), VALUES, max_size=4),
)


@given(st.text() | ENTRIES.map(json.dumps) | ENTRIES.map(json.dumps).map(lambda line: line[:-3]))
def test_no_line_does_worse_than_a_log_line_error(line: str) -> None:
    try:
        record = parse_line(line)
    except LogLineError:
        return
    if isinstance(record, RequestRecord):
        assert not ttft_s(record) < 0
        assert record.code >= 0


def test_what_is_still_open() -> None:
    first, second = (StartRecord(i, 0.0, "chat", "A", "h") for i in ("s1", "s2"))
    retried = StartRecord("s2", 1.0, "chat", "B", "h")
    assert still_open({"s1": first}, [second, retried, ended()]) == {"s2": retried}


def line(name: str) -> str:
    return json.dumps({**START, "id": name}) + "\n"


def ids(tail: LogTail) -> list[str]:
    return [record.stream_id for record in tail.read()]


def append(path: Path, text: str) -> None:
    with path.open("a") as log:
        log.write(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def test_each_line_is_read_once(path: Path) -> None:
    tail = LogTail(path)
    assert ids(tail) == []  # there is no file yet
    append(path, line("a") + line("b"))
    assert ids(tail) == ["a", "b"]
    assert ids(tail) == []
    append(path, line("c"))
    assert ids(tail) == ["c"]


def test_half_a_line_waits_for_its_end(path: Path) -> None:
    tail = LogTail(path)
    append(path, line("a") + line("b")[:20])
    assert ids(tail) == ["a"]
    append(path, line("b")[20:])
    assert ids(tail) == ["b"]
    assert tail.broken_lines == 0


def test_a_tail_can_leave_out_what_is_there(path: Path) -> None:
    append(path, line("old"))
    tail = LogTail(path, from_start=False)
    append(path, line("new"))
    assert ids(tail) == ["new"]


def test_what_came_before_a_rotation_is_not_lost(path: Path) -> None:
    tail = LogTail(path)
    append(path, line("a"))
    assert ids(tail) == ["a"]
    append(path, line("b"))
    path.rename(path.with_suffix(".1"))
    append(path.with_suffix(".1"), line("c"))  # Envoy writes there until it is told to reopen
    assert ids(tail) == ["b", "c"]
    append(path, line("d"))
    assert ids(tail) == ["d"]


def cut(path: Path) -> None:
    path.write_text("")


def replaced(path: Path) -> None:
    path.rename(path.with_suffix(".1"))
    path.write_text("")


@pytest.mark.parametrize("how", [cut, replaced])
def test_half_a_line_lost_to_a_new_file_is_counted(path: Path, how: Callable[[Path], None]) -> None:
    tail = LogTail(path)
    append(path, line("a") + line("b")[:20])
    assert ids(tail) == ["a"]
    how(path)
    assert ids(tail) == []
    append(path, line("c"))
    assert ids(tail) == ["c"]
    assert tail.broken_lines == 1
    assert tail.last_error is not None
    assert "in the middle of a line" in tail.last_error


def test_broken_lines_are_counted_and_passed_over(path: Path) -> None:
    tail = LogTail(path)
    path.write_bytes(b"\xff\xfe\n" + line("a").encode() + b"{}\n")
    assert ids(tail) == ["a"]
    assert tail.broken_lines == 2
    assert tail.last_error == "log: wanted 'start' or 'end', got None"


def test_a_line_without_end_does_not_fill_the_memory(path: Path) -> None:
    tail = LogTail(path)
    append(path, "x" * 1_100_000)
    assert ids(tail) == []
    append(path, "\n" + line("a"))
    assert ids(tail) == ["a"]
    assert tail.broken_lines >= 1


@given(st.lists(st.integers(1, 200), max_size=20))
def test_however_it_is_written_all_is_read_once(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    path = tmp_path_factory.mktemp("log") / "access.log"
    text = "".join(line(str(n)) for n in range(10))
    tail, found = LogTail(path), []
    for size in [*cuts, len(text)]:
        append(path, text[:size])
        text = text[size:]
        found += ids(tail)
    tail.close()
    assert found == [str(n) for n in range(10)]
