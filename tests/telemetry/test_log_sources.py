"""One log from several sources: nothing twice, nothing lost, whichever way and in whichever order it comes."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.telemetry.envoy_log import (
    END_FORMAT,
    START_FORMAT,
    LogLineError,
    LogRecord,
    LogTail,
    RequestRecord,
    StartRecord,
    parse_line,
    parse_tags,
)
from poolpilot.telemetry.log_sources import OneLog


def start_line(stream_id: str, host: str = "10.0.0.1:8000", at: str = "1700000000.000001") -> str:
    """A request's start."""
    return json.dumps({"log": "start", "id": stream_id, "at_s": at, "class": "chat", "pool": "A", "host": host})


def end_line(stream_id: str, **changes: object) -> str:
    """A request's end."""
    entry: dict[str, object] = dict.fromkeys(END_FORMAT, None)
    entry |= {"log": "end", "id": stream_id, "at_s": "1700000000.000001", "class": "chat", "pool": "A", "code": 200}
    entry |= {"host": "10.0.0.1:8000", "path": "/v1/x", "flags": "-", "attempts": 1, "rx_bytes": 10, "tx_bytes": 20}
    entry |= {name: 1000 for name in END_FORMAT if name.endswith("_us")}
    return json.dumps({**entry, **changes})


class Brought:
    """A source that holds what it is given."""

    def __init__(self, *lines: str) -> None:
        self.broken_lines, self.last_error = 0, None
        self.waiting = [parse_line(line) for line in lines]

    def read(self) -> tuple[LogRecord, ...]:
        found, self.waiting = tuple(self.waiting), []
        return found


def ends(records: Sequence[LogRecord]) -> list[str]:
    return [r.stream_id for r in records if isinstance(r, RequestRecord)]


def starts(records: Sequence[LogRecord]) -> list[str]:
    return [r.stream_id for r in records if isinstance(r, StartRecord)]


def test_a_log_that_is_written_again_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    lines = [text for n in range(5) for text in (start_line(f"r{n}"), end_line(f"r{n}"))]
    path.write_text("\n".join(lines) + "\n")
    log = OneLog(LogTail(path))
    assert len(log.read()) == 10
    copied = tmp_path / "copied"
    copied.write_text("\n".join([*lines, start_line("r5"), end_line("r5")]) + "\n")
    copied.replace(path)  # a log set aside, and put back with what came meanwhile
    found = log.read()
    assert (starts(found), ends(found), log.repeated) == (["r5"], ["r5"], 10)


def test_an_entry_that_comes_both_ways_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text(start_line("r1") + "\n")
    service = Brought(end_line("r1"))
    log = OneLog(LogTail(path), [service])
    first = log.read()
    assert [type(record) for record in first] == [StartRecord, RequestRecord]  # the start first, though it came second
    with path.open("a") as file:
        file.write(end_line("r1") + "\n")
    service.waiting = [parse_line(start_line("r1"))]
    assert log.read() == ()


def test_a_start_that_comes_after_its_end_does_not_open_the_request_again(tmp_path: Path) -> None:
    service = Brought(end_line("r1"))
    log = OneLog(LogTail(tmp_path / "access.log"), [service])
    assert ends(log.read()) == ["r1"]
    service.waiting = [parse_line(start_line("r1"))]
    assert log.read() == ()


def test_a_retried_request_starts_at_each_replica(tmp_path: Path) -> None:
    one, other = start_line("r1"), start_line("r1", host="10.0.0.2:8000")
    log = OneLog(LogTail(tmp_path / "access.log"), [Brought(one, other, one, end_line("r1"))])
    found = log.read()
    assert (starts(found), ends(found)) == (["r1", "r1"], ["r1"])


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 5))
def test_each_request_ends_once_however_often_it_is_told(told: list[int], sources: int) -> None:
    services = [Brought(*(end_line(f"r{n}") for n in told[k::sources])) for k in range(sources)]
    found = OneLog(LogTail(Path("/nowhere/at/all")), services).read()
    assert sorted(ends(found)) == sorted({f"r{n}" for n in told})


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    service = Brought(*(end_line(f"r{n}") for n in range(50)))
    log = OneLog(LogTail(tmp_path / "access.log"), [service], remembered=10)
    assert len(log.read()) == 50
    service.waiting = [parse_line(end_line("r49")), parse_line(end_line("r0"))]
    assert ends(log.read()) == ["r0"]  # long forgotten; the other is still known


@pytest.mark.parametrize("line", [start_line("r1"), end_line("r1"), end_line("r2", prompt_tokens=5, flags="UF,URX")])
def test_an_entry_by_grpc_is_the_line_of_a_file(line: str) -> None:
    tags = {name: str(value) for name, value in json.loads(line).items() if value is not None}
    assert repr(parse_tags(tags)) == repr(parse_line(line))  # NaN is not equal to itself


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({}, "log: wanted 'start' or 'end'"),
        ({"log": "start"}, "id: wanted text"),
        ({**dict.fromkeys(START_FORMAT, "x"), "log": "start"}, "at_s: wanted Unix seconds"),
        ({**dict.fromkeys(END_FORMAT, "1"), "log": "end", "code": "many"}, "code: wanted a number"),
        ({**dict.fromkeys(END_FORMAT, "1"), "log": "end", "total_us": "-3"}, "total_us: wanted a number of 0 or more"),
    ],
    ids=["nothing", "no id", "no time", "no number", "negative"],
)
def test_tags_that_are_no_entry(tags: dict[str, str], message: str) -> None:
    with pytest.raises(LogLineError, match=message):
        parse_tags(tags)
