"""What `poolpilot audit` is asked on the command line: times, headers, columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from ...audit.asked_columns import FIELDS
from ...audit.prometheus.client import Window
from ...audit.request_rows import UNITS
from ..bad_input import refuse

TOKEN_VARIABLE: Final = "POOLPILOT_PROMETHEUS_TOKEN"
_SPAN = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*(s|m|h|d|w)?\s*$")
_SPAN_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
MOMENTS: Final = 1440
"""Of a range, unless --step says otherwise; Prometheus gives at most 11,000."""
MOST_MOMENTS: Final = 10_000
LEAST_STEP_S: Final = 15.0
"""As often as Prometheus scrapes by habit."""
STRETCHES: Final = 24
LEAST_STRETCH_STEPS: Final = 10


class Span(click.ParamType[float]):
    """A length of time, such as 90s, 15m, 24h, 7d; a bare number is seconds."""

    name = "span"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        found = _SPAN.match(str(value))
        if found is None or float(found[1]) <= 0:
            self.fail(f"{value!r}, wanted a length of time such as 90s, 15m, 24h or 7d", param, ctx)
        return float(found[1]) * _SPAN_S[found[2] or "s"]


class Moment(click.ParamType[float]):
    """A moment: an ISO date with time (UTC unless it says), or seconds since 1970."""

    name = "moment"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Unix seconds, or seconds of a log's own time."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            return float(text)
        except ValueError:
            pass
        try:
            told = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r}, wanted a moment such as 2026-11-27T08:00:00Z, or seconds since 1970", param, ctx)
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()


def headers_of(given: Sequence[str], token_file: Path | None, token: str | None) -> dict[str, str]:
    """HTTP headers, from `Name: value` and a bearer token."""
    headers = {}
    for line in given:
        name, colon, value = line.partition(":")
        if (
            not colon
            or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name.strip())
            or "\n" in value
            or "\r" in value
        ):
            raise click.BadParameter("wanted 'Name: value'", param_hint="--header")  # not shown: it may be a secret
        headers[name.strip()] = value.strip()
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            refuse(f"{token_file}: not UTF-8 text; wanted a token")
    if token:
        if any(ord(sign) < 33 or ord(sign) > 126 for sign in token):
            refuse(f"{token_file or TOKEN_VARIABLE}: wanted one token in one line of plain text")
        headers["Authorization"] = f"Bearer {token}"
    return headers


def pairs_of(given: Sequence[str], option: str, values: Sequence[str] | None = None) -> dict[str, str]:
    """`FIELD=VALUE` by field."""
    found = {}
    for text in given:
        field, equals, value = text.partition("=")
        if not equals or not value or field not in FIELDS:
            raise click.BadParameter(f"{text!r}, wanted FIELD=NAME with one of {', '.join(FIELDS)}", param_hint=option)
        if values is not None and value not in values:
            raise click.BadParameter(f"{text!r}, wanted one of {', '.join(values)} after =", param_hint=option)
        found[field] = value
    return found


def units_of(given: Sequence[str]) -> dict[str, str]:
    """By field, a unit of time."""
    return pairs_of(given, "--unit", tuple(UNITS))


def window_of(span_s: float, until_s: float, step_s: float | None) -> tuple[Window, int]:
    """The moments that are asked for, in whole stretches, and the steps of a stretch.

    For whole stretches the range loses steps at its beginning, fewer than it has stretches: of the counts of stretches from the
    most to half of that, the one that loses fewest.
    """
    step = step_s or max(LEAST_STEP_S, span_s / MOMENTS)
    steps = int(span_s / step)
    if steps < 2 or steps > MOST_MOMENTS:
        refuse(f"--step {step:g}: makes {steps} steps of {span_s:g} s; wanted 2 to {MOST_MOMENTS}")
    most = max(min(STRETCHES, steps // LEAST_STRETCH_STEPS), 1)
    stretches = min(range(most, most // 2, -1), key=lambda count: steps % count)
    stretch = steps // stretches
    steps = stretches * stretch
    return Window(until_s - steps * step, until_s, step), stretch
