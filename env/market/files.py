"""Reading series from CSV or Parquet files, in the formats that are public, told apart by their columns.

Availability (machines over time):
- `t_s, nodes_available`, with `trace` where there are several: as in the spot traces of Wu et al. (Can't Be Late, NSDI
  2024), run-length coded or not; one kind of machine.
- `t_ms, event, node` with events `add` and `remove`, and `trace`: as in the traces of Thorpe et al. (Bamboo, NSDI 2023).
- `date, time, nodes_running`: samples by wall clock, as in the same traces; small steps back of the clock are ironed out.

Prices:
- `t_s, usd_per_hr`.
- `date, region, instance, usd_hr_ondemand, usd_hr_spot`: a cloud's price list over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..contract import FloatArray
from ..one_line import shown
from .columns import MAX_USD_PER_HR, Columns, bad, numbers, problem, read_columns, rows, some, stamp
from .series import StepSeries

MAX_SPAN_S: Final = 20 * 365 * 86_400.0
"""A series longer than twenty years has its times in another unit."""
MAX_NODES: Final = 1_000_000
CLOCK_STEP_BACK_S: Final = 600.0
"""A wall clock that steps back further than this is no clock."""

AVAILABILITY_FORMATS: Final = (("t_s", "nodes_available"), ("t_ms", "event", "node"), ("date", "time", "nodes_running"))
PRICE_FORMATS: Final = (("t_s", "usd_per_hr"), ("date", "region", "instance", "usd_hr_ondemand", "usd_hr_spot"))


def read_availability(path: Path, trace: str | None = None) -> StepSeries:
    """Machines over time.

    Args:
        trace: which one, of a file that holds several.

    Raises:
        SeriesError: the file cannot be used.
    """
    return _availability(path, stamp(path), trace)


def read_prices(
    path: Path, kind: Literal["on_demand", "spot"], region: str | None = None, instance: str | None = None
) -> StepSeries:
    """Dollars per hour over time; of a price list the column of `kind`, and the rows of a region and an instance.

    Raises:
        SeriesError: the file cannot be used.
    """
    return _prices(path, stamp(path), kind, region, instance)


@lru_cache(maxsize=64)
def _availability(path: Path, as_of: tuple[int, int], trace: str | None) -> StepSeries:
    table, names = read_columns(path, AVAILABILITY_FORMATS, ("trace",))
    table = _only_trace(path, table, trace)
    if names[0] == "t_s":
        times_s, nodes = numbers(path, table, "t_s"), numbers(path, table, "nodes_available", MAX_NODES, whole=True)
    elif names[0] == "t_ms":
        times_s, nodes = _counted_events(path, table)
    else:
        times_s, nodes = _wall_clock_s(path, table), numbers(path, table, "nodes_running", MAX_NODES, whole=True)
    return _series(path, names[0], times_s, nodes, repeats=names[0] != "t_s")


@lru_cache(maxsize=64)
def _prices(path: Path, as_of: tuple[int, int], kind: str, region: str | None, instance: str | None) -> StepSeries:
    table, names = read_columns(path, PRICE_FORMATS)
    if names[0] == "t_s":
        if region or instance:
            raise problem(path, f"has columns {', '.join(names)}, so no region or instance to choose")
        times_s = numbers(path, table, "t_s")
        return _series(path, "t_s", times_s, numbers(path, table, "usd_per_hr", MAX_USD_PER_HR, above_zero=True))
    for column, wanted in (("region", region), ("instance", instance)):
        known = sorted(set(table[column].tolist()))
        if wanted not in known:
            raise problem(path, f"{column} {shown(wanted)}: not in the file; wanted one of {some(known)}")
        table = rows(table, table[column] == wanted)
    column = "usd_hr_spot" if kind == "spot" else "usd_hr_ondemand"
    # A price list leaves out what is not sold: such rows tell nothing.
    table = rows(table, np.array([value not in ("", "nan") for value in table[column]]))
    if not len(table["date"]):
        raise problem(path, f"{column}: no price for {shown(instance)} in {shown(region)}")
    table = rows(table, np.argsort(table["date"], kind="stable"))
    usd = numbers(path, table, column, MAX_USD_PER_HR, above_zero=True)
    return _series(path, "date", _moments_s(path, "date", table["date"]), usd)


def _only_trace(path: Path, table: Columns, trace: str | None) -> Columns:
    known = list(dict.fromkeys(table["trace"].tolist())) if "trace" in table else []
    if trace is None:
        if len(known) > 1:
            raise problem(path, f"holds {len(known)} traces; wanted `trace`, one of {some(known)}")
        return table
    if trace not in known:
        raise problem(path, f"trace {shown(trace)}: not in the file; wanted one of {some(known) or 'none: it has no'}")
    return rows(table, table["trace"] == trace)


def _counted_events(path: Path, table: Columns) -> tuple[FloatArray, FloatArray]:
    """Times and how many nodes there are after each event."""
    nodes: set[str] = set()
    counts = np.empty(len(table["event"]))
    for row, (event, node) in enumerate(zip(table["event"], table["node"], strict=True)):
        if event not in ("add", "remove"):
            raise bad(path, row, "event", event, "add or remove")
        if (node in nodes) == (event == "add"):
            there = "it is there already" if event == "add" else "it is not there"
            raise bad(path, row, "node", node, f"another to {event}: {there}")
        (nodes.add if event == "add" else nodes.remove)(node)
        counts[row] = len(nodes)
    return numbers(path, table, "t_ms") / 1e3, counts


def _wall_clock_s(path: Path, table: Columns) -> FloatArray:
    """Seconds from the first row. What a clock steps back is held until it has caught up."""
    texts = [f"{date} {time}" for date, time in zip(table["date"], table["time"], strict=True)]
    times_s = _moments_s(path, "date, time", texts)
    steady_s = np.maximum.accumulate(times_s)
    behind = steady_s - times_s > CLOCK_STEP_BACK_S
    if behind.any():
        row = int(np.argmax(behind))
        raise bad(path, row, "date, time", texts[row], f"no more than {CLOCK_STEP_BACK_S:g} s before the rows above")
    return steady_s


def _moments_s(path: Path, name: str, texts: Sequence[str] | NDArray[Any]) -> FloatArray:
    seconds = np.empty(len(texts))
    for row, text in enumerate(texts):
        try:
            # Of a time zone only the difference would count, and one series has one.
            moment = datetime.fromisoformat(text.strip()).replace(tzinfo=None)
        except ValueError:
            raise bad(path, row, name, text, "a time such as 2026-01-29 or 2026-01-29 13:07:45") from None
        seconds[row] = (moment - datetime(1970, 1, 1)).total_seconds()
    return seconds


def _series(path: Path, name: str, times_s: FloatArray, values: FloatArray, repeats: bool = False) -> StepSeries:
    """From the first row on. Of rows of one time (where `repeats` are allowed) the last counts."""
    times_s = times_s - times_s[0]
    steps = np.diff(times_s)
    wrong = steps < 0.0 if repeats else steps <= 0.0
    if wrong.any():
        row = int(np.argmax(wrong)) + 1
        wanted = "no earlier than the row above" if repeats else "later than the row above"
        raise problem(path, f"row {row + 1}: {name}: {times_s[row]:g} s after the first row, wanted {wanted}")
    if times_s[-1] > MAX_SPAN_S:
        raise problem(path, f"{name}: spans {times_s[-1]:g} s, wanted at most {MAX_SPAN_S:g}; are these seconds?")
    kept = np.concatenate([steps > 0.0, [True]])
    return StepSeries(times_s[kept], values[kept], float(times_s[-1])).without_repeats()
