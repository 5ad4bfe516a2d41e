"""Which column of a request log holds what: as told, else by the names that logs usually have. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from .measured import AuditError

REQUIRED: Final = ("arrival", "prompt_tokens", "output_tokens")
FIELDS: Final[Mapping[str, str]] = {
    "arrival": "when the request came: seconds, milliseconds, microseconds or nanoseconds since 1970 or any origin, or a date"
    " with time",
    "prompt_tokens": "tokens of the prompt",
    "output_tokens": "tokens of the answer",
    "class": "the request's class",
    "pool": "which pool served it",
    "ttft": "seconds from the arrival to the first token",
    "first_token": "when the first token came, as `arrival`",
    "end": "when the last token came, as `arrival`",
    "duration": "seconds from the arrival to the last token",
    "status": "its HTTP status; 200 to 399 is served",
}
"""What may be told of a request."""
_USUAL: Final[Mapping[str, tuple[str, ...]]] = {
    "arrival": (
        *(
            "arrival",
            "arrivals",
            "arrivaltime",
            "arrivedat",
            "timestamp",
            "time",
            "ts",
            "starttime",
            "start",
            "startedat",
        ),
        *("requesttime", "requeststart", "createdat", "created", "date", "datetime"),
    ),
    "prompt_tokens": (
        *("prompttokens", "inputtokens", "prompttokencount", "inputtokencount", "contexttokens", "requesttokens"),
        *("inputlength", "promptlength", "promptlen", "inputlen", "numprompttokens", "numinputtokens", "ntokensin"),
    ),
    "output_tokens": (
        *("outputtokens", "completiontokens", "generatedtokens", "generationtokens", "responsetokens"),
        *("outputlength", "outputlen", "outputtokencount", "completiontokencount", "numoutputtokens", "ntokensout"),
    ),
    "class": ("class", "requestclass", "sloclass", "servicelevel", "tier", "priorityclass", "workload"),
    "pool": ("pool", "backend", "upstream", "upstreamcluster", "cluster", "deployment"),
    "ttft": ("ttft", "timetofirsttoken", "firsttokenlatency"),
    "first_token": ("firsttokenat", "firsttokentime", "firsttokentimestamp"),
    "end": ("end", "endtime", "endedat", "finishtime", "finishedat", "completedat", "finished", "lasttokenat"),
    "duration": ("duration", "latency", "e2e", "e2elatency", "totaltime", "elapsed", "elapsedtime", "requestlatency"),
    "status": ("status", "statuscode", "httpstatus", "responsecode", "code"),
}
"""Names that stand for a field, without case, signs and units."""
_UNITS: Final = {"ns": 1e-9, "nanoseconds": 1e-9, "us": 1e-6, "microseconds": 1e-6, "ms": 1e-3, "milliseconds": 1e-3}
_SECONDS: Final = ("s", "sec", "secs", "seconds")


def columns_of(found: Sequence[str], told: Mapping[str, str], where: str) -> dict[str, str]:
    """The column of each field that the log has.

    Args:
        found: the log's columns.
        told: by field, as the user said.
        where: the log, for errors.

    Raises:
        AuditError: an unknown field, no such column, a required field without a column, or several that it may be.
    """
    for field, column in told.items():
        if field not in FIELDS:
            raise AuditError(f"--column {field}=...: no such field; wanted one of {', '.join(FIELDS)}")
        if column not in found:
            raise AuditError(f"{where}: has no column {column!r}; it has {_listed(found)}")
    columns = dict(told)
    for field, names in _USUAL.items():
        if field in columns:
            continue
        taken = set(columns.values())
        own = [column for column in found if column not in taken and bare(column)[0] in names]
        if len(own) > 1 and field in REQUIRED:
            raise AuditError(f"{where}: {field} may be any of {_listed(own)}; say which: --column {field}={own[0]}")
        if own:
            columns[field] = own[0]
    for field in REQUIRED:
        if field not in columns:
            raise AuditError(
                f"{where}: no column for {field} ({FIELDS[field]}); it has {_listed(found)}: say which: --column {field}=NAME"
            )
    return columns


def bare(column: str) -> tuple[str, float]:
    """A column's name without case, signs and a unit at its end, and seconds in that unit; 0 where it names none."""
    words = [word for word in re.split(r"[^a-z0-9]+", _split_camel(column).lower()) if word]
    if len(words) > 1 and words[-1] in _UNITS:
        return "".join(words[:-1]), _UNITS[words[-1]]
    if len(words) > 1 and words[-1] in _SECONDS:
        return "".join(words[:-1]), 1.0
    return "".join(words), 0.0


def _split_camel(column: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column)


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(repr(column)[:60] for column in columns[:12])
    return f"{shown} and {len(columns) - 12} more" if len(columns) > 12 else shown or "no columns"
