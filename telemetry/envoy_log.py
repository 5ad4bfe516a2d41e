"""Envoy's access log: the source of every per-class figure, since model servers know no classes.

One line of JSON when a request has its replica (`StartRecord`), one when it is over (`RequestRecord`). The formats
below are what Envoy is configured with, and the parser beside them reads nothing else. `LogTail` follows the file.

A response's headers leave before its first token, so the time that counts is that of the first *body* byte.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

USAGE_NAMESPACE: Final = "poolpilot.usage"
"""Where Envoy's filters put the token counts they find in an answer."""
STREAM_HEADER: Final = "x-poolpilot-stream"
"""Request header that carries Envoy's id of the request: only so do its first and last entry hold the same id."""

START_FORMAT: Final[Mapping[str, str]] = {
    "log": "start",
    "id": f"%REQ({STREAM_HEADER})%",
    "at_s": "%START_TIME(%s.%6f)%",
    "class": "%METADATA(ROUTE:poolpilot:class)%",
    "pool": "%METADATA(UPSTREAM_HOST:poolpilot:pool)%",
    "host": "%UPSTREAM_HOST%",
}
"""Envoy's operators for a start. The pool is the replica's own label: `%UPSTREAM_CLUSTER%` would name the chain."""

END_FORMAT: Final[Mapping[str, str]] = {
    "log": "end",
    "id": "%STREAM_ID%",
    "at_s": "%START_TIME(%s.%6f)%",
    "class": "%METADATA(ROUTE:poolpilot:class)%",
    "asked": "%REQ(x-slo-class)%",
    "pool": "%METADATA(UPSTREAM_HOST:poolpilot:pool)%",
    "host": "%UPSTREAM_HOST%",
    "path": "%PATH(NQ)%",
    "code": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "content": "%RESP(content-type)%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "rx_bytes": "%BYTES_RECEIVED%",
    "tx_bytes": "%BYTES_SENT%",
    "read_us": "%COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)%",
    "sent_on_us": "%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:us)%",
    "first_body_us": "%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:us)%",
    "total_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    "header_delay_us": "%COMMON_DURATION(US_RX_BEG:DS_TX_BEG:us)%",
    "tail_delay_us": "%COMMON_DURATION(US_RX_END:DS_TX_END:us)%",
    "prompt_tokens": f"%DYNAMIC_METADATA({USAGE_NAMESPACE}:prompt_tokens)%",
    "completion_tokens": f"%DYNAMIC_METADATA({USAGE_NAMESPACE}:completion_tokens)%",
}
"""Envoy's operators for an end; `DS` is the client's side, `US` the replica's."""

LOG_NAME: Final = "poolpilot"
"""What the log is called where it goes over gRPC."""
_NUMBERS: Final = frozenset(
    name for name in END_FORMAT if name in ("code", "attempts") or name.endswith(("_us", "_bytes", "_tokens"))
)

_LONGEST_LINE_BYTES: Final = 1 << 20


class LogLineError(ValueError):
    """A line that Envoy cannot have written with the formats above; the message names the field."""


@dataclass(frozen=True, slots=True)
class StartRecord:
    """A request was handed to a replica; a retried one is, each time."""

    stream_id: str
    started_at_s: float
    """Unix time at which the replica was chosen."""
    class_name: str
    pool: str
    host: str


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request is over: answered, turned away, failed or left by its client. What is not known is NaN or None."""

    stream_id: str
    started_at_s: float
    """Unix time of its first byte."""
    class_name: str | None
    """None if no route matched."""
    asked_class: str | None
    """The client's own `x-slo-class`, known to us or not."""
    pool: str | None
    """The pool that answered, or that was tried last."""
    host: str | None
    path: str
    code: int
    """HTTP status; 0 if the client left before there was one."""
    details: str
    """Envoy's word on where the status came from."""
    flags: str
    """Envoy's response flags; empty if nothing went wrong."""
    streamed: bool
    """The answer was a stream of server-sent events."""
    attempts: int
    """Replicas tried; 0 if it was never sent on."""
    request_bytes: int
    response_bytes: int
    first_body_s: float
    """From the request's first byte to the answer's first body byte."""
    total_s: float
    """From the request's first byte to the answer's last."""
    prompt_tokens: float
    completion_tokens: float
    request_delay_s: float
    """From having read the whole request to sending it on: the proxy's own share, connecting and retries included."""
    response_delay_s: float
    """From the replica's first byte to sending it to the client."""
    tail_delay_s: float
    """From the replica's last byte to sending it to the client."""

    @property
    def shed(self) -> bool:
        """Turned away by the proxy itself: by admission (429), or because no replica is ready anywhere (503)."""
        return self.code in (429, 503) and self.details == "direct_response"

    @property
    def succeeded(self) -> bool:
        """Answered in full with a 2xx status."""
        return 200 <= self.code < 300 and not self.flags


LogRecord: TypeAlias = StartRecord | RequestRecord


def ttft_s(record: RequestRecord) -> float:
    """Time to first token; NaN unless streamed, because a plain answer comes whole and does not tell."""
    return record.first_body_s if record.streamed else math.nan


def tpot_s(record: RequestRecord) -> float:
    """Mean time per output token after the first; NaN unless streamed with known usage and two tokens or more."""
    if not record.streamed or not record.completion_tokens > 1:
        return math.nan
    return (record.total_s - record.first_body_s) / (record.completion_tokens - 1)


def added_s(record: RequestRecord) -> float:
    """The proxy's own latency on the way to the first byte, both directions; NaN if retried or never sent on."""
    if record.attempts != 1:
        return math.nan
    return record.request_delay_s + record.response_delay_s


def still_open(known: Mapping[str, StartRecord], records: Iterable[LogRecord]) -> dict[str, StartRecord]:
    """The requests in flight by stream id, after `records` on top of those `known` to be open before."""
    open_now = dict(known)
    for record in records:
        if isinstance(record, StartRecord):
            open_now[record.stream_id] = record
        else:
            open_now.pop(record.stream_id, None)
    return open_now


def parse_tags(tags: Mapping[str, str]) -> LogRecord:
    """Read one entry that came over gRPC: the fields of a line, each as text; Envoy leaves out those without a value.

    Raises:
        LogLineError: naming what was wrong.
    """
    fields = {"start": START_FORMAT, "end": END_FORMAT}.get(tags.get("log", ""), {"log": ""})
    entry: dict[str, Any] = {name: tags.get(name) for name in fields}
    for name in fields:
        if entry[name] == "-" and name != "flags":  # Envoy's word for nothing
            entry[name] = None
        if name in _NUMBERS and entry[name] is not None:
            entry[name] = _parsed(name, entry[name])
    return _record_of(entry)


def _parsed(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise LogLineError(f"{name}: wanted a number, got {text!r}") from error


def parse_line(line: str) -> LogRecord:
    """Read one line of the log.

    Raises:
        LogLineError: naming what was wrong.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LogLineError(f"not JSON: {error}: {line[:200]!r}") from error
    if not isinstance(entry, dict):
        raise LogLineError(f"wanted a JSON object, got {line[:200]!r}")
    return _record_of(entry)


def _record_of(entry: dict[str, Any]) -> LogRecord:
    kind = entry.get("log")
    if kind == "start":
        return _start(entry)
    if kind == "end":
        return _end(entry)
    raise LogLineError(f"log: wanted 'start' or 'end', got {kind!r}")


def _start(entry: dict[str, Any]) -> StartRecord:
    return StartRecord(
        stream_id=_text(entry, "id"),
        started_at_s=_seconds(entry, "at_s"),
        class_name=_text(entry, "class"),
        pool=_text(entry, "pool"),
        host=_text(entry, "host"),
    )


def _end(entry: dict[str, Any]) -> RequestRecord:
    flags = _text(entry, "flags")
    return RequestRecord(
        stream_id=_text(entry, "id"),
        started_at_s=_seconds(entry, "at_s"),
        class_name=_text_or_none(entry, "class"),
        asked_class=_text_or_none(entry, "asked"),
        pool=_text_or_none(entry, "pool"),
        host=_text_or_none(entry, "host"),
        path=_text_or_none(entry, "path") or "",
        code=_count(entry, "code"),
        details=_text_or_none(entry, "details") or "",
        flags="" if flags == "-" else flags,
        streamed=(_text_or_none(entry, "content") or "").startswith("text/event-stream"),
        attempts=_count(entry, "attempts"),
        request_bytes=_count(entry, "rx_bytes"),
        response_bytes=_count(entry, "tx_bytes"),
        first_body_s=_micros(entry, "first_body_us"),
        total_s=_micros(entry, "total_us"),
        prompt_tokens=_number(entry, "prompt_tokens"),
        completion_tokens=_number(entry, "completion_tokens"),
        # Sent on before it was read whole: nothing was held back.
        request_delay_s=max(_micros(entry, "sent_on_us") - _micros(entry, "read_us"), 0.0),
        response_delay_s=_micros(entry, "header_delay_us"),
        tail_delay_s=_micros(entry, "tail_delay_us"),
    )


def _value(entry: dict[str, Any], name: str) -> Any:
    if name not in entry:
        raise LogLineError(f"{name}: missing; was this log written with another format?")
    return entry[name]


def _text_or_none(entry: dict[str, Any], name: str) -> str | None:
    value = _value(entry, name)
    if value is None or isinstance(value, str):
        return value
    raise LogLineError(f"{name}: wanted text, got {value!r}")


def _text(entry: dict[str, Any], name: str) -> str:
    value = _text_or_none(entry, name)
    if not value:
        raise LogLineError(f"{name}: wanted text, got {value!r}")
    return value


def _number(entry: dict[str, Any], name: str) -> float:
    """A number of 0 or more; NaN for null."""
    value = _value(entry, name)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e18:
        raise LogLineError(f"{name}: wanted a number of 0 or more, got {value!r}")
    return float(value)


def _micros(entry: dict[str, Any], name: str) -> float:
    return _number(entry, name) / 1e6


def _count(entry: dict[str, Any], name: str) -> int:
    value = _number(entry, name)
    return 0 if math.isnan(value) else int(value)


def _seconds(entry: dict[str, Any], name: str) -> float:
    text = _text(entry, name)
    try:
        value = float(text)
    except ValueError as error:
        raise LogLineError(f"{name}: wanted Unix seconds, got {text!r}") from error
    if not 0 <= value < 1e12:
        raise LogLineError(f"{name}: wanted Unix seconds, got {text!r}")
    return value


class LogTail:
    """Reads what was added to a log since the last call; never a line twice.

    Follows the path when the file is replaced (what was left in the old one is read first) and starts again when it
    is cut to a smaller size. A cut file that has regrown past the old end before the next call looks like growth.
    """

    def __init__(self, path: Path, *, from_start: bool = True) -> None:
        """Follow `path`, which need not exist yet; `from_start=False` leaves out what it holds now."""
        self.path = path
        self.broken_lines = 0
        """Lines that were no log entry, so far."""
        self.last_error: str | None = None
        """What was wrong with the latest of them."""
        self._file: IO[bytes] | None = None
        self._half = b""
        if not from_start and self._open():
            assert self._file is not None
            self._file.seek(0, 2)

    def read(self) -> tuple[LogRecord, ...]:
        """The records of all lines completed since the last call; none while there is no file.

        Raises:
            OSError: the file is there and cannot be read.
        """
        if self._file is None and not self._open():
            return ()
        records = self._rest()
        while self._replaced():
            self._lose_half("the log was replaced in the middle of a line")
            self.close()
            if not self._open():
                break
            records += self._rest()
        return tuple(records)

    def absent(self) -> str:
        """What is looked for and where, while there is no log; else nothing."""
        return "" if self.path.exists() else f"{self.path}: no such file; wanted Envoy's log of requests, lines of JSON"

    def close(self) -> None:
        """Let go of the file; the next `read` opens it anew from its start."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> bool:
        try:
            self._file = self.path.open("rb")
        except FileNotFoundError:
            return False
        return True

    def _rest(self) -> list[LogRecord]:
        assert self._file is not None
        if self._file.seek(0, 1) > self._size():
            self._lose_half("the log was cut in the middle of a line")
            self._file.seek(0)
        *lines, self._half = (self._half + self._file.read()).split(b"\n")
        if len(self._half) > _LONGEST_LINE_BYTES:
            self._lose_half(f"a line longer than {_LONGEST_LINE_BYTES} bytes")
        return [record for line in lines if (record := self._record(line)) is not None]

    def _record(self, line: bytes) -> LogRecord | None:
        try:
            return parse_line(line.decode())
        except (LogLineError, UnicodeDecodeError) as error:
            self._count_broken(str(error))
            return None

    def _lose_half(self, why: str) -> None:
        if self._half:
            self._count_broken(why)
            self._half = b""

    def _count_broken(self, why: str) -> None:
        self.broken_lines += 1
        self.last_error = why

    def _size(self) -> int:
        assert self._file is not None
        return os.fstat(self._file.fileno()).st_size

    def _replaced(self) -> bool:
        """Another file stands at the path; while none does, the old one may still grow."""
        if self._file is None:
            return False
        try:
            at_path = self.path.stat()
        except FileNotFoundError:
            return False
        held = os.fstat(self._file.fileno())
        return (held.st_dev, held.st_ino) != (at_path.st_dev, at_path.st_ino)
