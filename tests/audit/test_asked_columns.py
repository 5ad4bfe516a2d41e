"""Columns of logs are found by their usual names, told by the user, or asked for; never guessed where two fit."""

from __future__ import annotations

import pytest

from poolpilot.audit.asked_columns import bare, columns_of
from poolpilot.audit.measured import AuditError


@pytest.mark.parametrize(
    "found",
    [
        ["arrival_s", "prompt_tokens", "output_tokens"],
        ["timestamp", "InputTokens", "OutputTokens", "other"],
        ["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
        ["started_at", "num_prompt_tokens", "completion_tokens"],
        ["start_time_ms", "input_length", "output_length"],
    ],
)
def test_usual_names_are_known(found: list[str]) -> None:
    columns = columns_of(found, {}, "log.csv")
    assert [columns[field] for field in ("arrival", "prompt_tokens", "output_tokens")] == found[:3]


def test_what_is_told_counts_and_the_rest_is_found() -> None:
    found = ["t", "in", "out", "ttft_ms", "status_code", "backend"]
    told = {"arrival": "t", "prompt_tokens": "in", "output_tokens": "out"}
    columns = columns_of(found, told, "log.csv")
    assert columns == {**told, "ttft": "ttft_ms", "status": "status_code", "pool": "backend"}


@pytest.mark.parametrize(
    ("found", "told", "said"),
    [
        (["a", "b"], {}, "no column for arrival"),
        (["time", "timestamp", "prompt_tokens", "output_tokens"], {}, "may be any of 'time', 'timestamp'"),
        (["time"], {"arrival": "when"}, "no column 'when'"),
        (["time"], {"colour": "time"}, "no such field"),
    ],
)
def test_what_is_not_clear_is_asked_for(found: list[str], told: dict[str, str], said: str) -> None:
    with pytest.raises(AuditError, match=said):
        columns_of(found, told, "log.csv")


@pytest.mark.parametrize(
    ("column", "name", "unit"),
    [
        ("ttft_ms", "ttft", 1e-3),
        ("TTFT", "ttft", 0.0),
        ("firstTokenLatencyUs", "firsttokenlatency", 1e-6),
        ("duration s", "duration", 1.0),
        ("ms", "ms", 0.0),
    ],
)
def test_a_unit_at_the_end_of_a_name_is_read(column: str, name: str, unit: float) -> None:
    assert bare(column) == (name, unit)
