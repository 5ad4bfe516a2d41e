"""One replica's metrics page (`/metrics` of a model server or of an emulated replica) as plain numbers.

Pure: text in, `EnginePage` or `PageError` out. Whose page it is follows from its names (`engine_dialects`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client.samples import Sample

from .engine_dialects import DIALECTS, SLEEP_NAME, Dialect, dialect_of
from .metrics_page import PageError, number, read_samples

__all__ = ["EnginePage", "PageError", "SleepState", "parse_engine_page"]


class SleepState(StrEnum):
    """What `vllm:engine_sleep_state` says."""

    AWAKE = "awake"
    PAUSED = "paused"
    """Asleep at level 0: nothing is given up."""
    WEIGHTS_OFFLOADED = "weights_offloaded"
    """Asleep at level 1."""
    DISCARD_ALL = "discard_all"
    """Asleep at level 2."""


@dataclass(frozen=True, slots=True)
class EnginePage:
    """What one page says, summed over the engines behind it (data parallel). NaN or None: the page lacks it."""

    running: float
    """Sequences in the running batch."""
    waiting: float
    """Requests queued in the engine."""
    kv_used_frac: float
    """0..1, mean over engines."""
    prompt_tokens_total: float
    generation_tokens_total: float
    preemptions_total: float = math.nan
    """Sequences thrown out of the KV cache."""
    token_gap_s_total: float = math.nan
    """Sum of the times between one output token and the next."""
    token_gaps_total: float = math.nan
    """How many such gaps."""
    sleep: SleepState | None = None
    process_started_s: float = math.nan
    """Unix seconds; a new value means that all totals began anew."""
    batch_cap: float = math.nan
    """Sequences, the tightest engine."""
    token_budget: float = math.nan
    """Tokens in one iteration, the tightest engine."""
    busy_s_total: float = math.nan
    """Seconds with an iteration under way."""
    useful_s_total: float = math.nan
    """Seconds that the finished work needs at the hardware's best."""
    gpu_util_frac: float = math.nan
    """0..1, mean over GPUs."""
    gpu_temp_c: float = math.nan
    """Hottest GPU."""
    gpu_power_w: float = math.nan
    """All GPUs."""


def parse_engine_page(text: str, source: str) -> EnginePage:
    """The page's numbers; `source` (its address) goes into errors.

    Raises:
        PageError: the page is no model server's, is cut off, lacks a required metric, or has a value that cannot be.
    """
    dialect = dialect_of(text) or DIALECTS[0]
    samples = dialect.by_engine(read_samples(text, dialect.lines, source))
    values: dict[str, float] = {}
    for figure in dialect.figures:
        values[figure.field] = figure.value(samples, source)
        if figure.required and math.isnan(values[figure.field]):
            raise PageError(_absent(dialect, figure.field, text, source))
    active = values.pop("active", math.nan)
    if math.isnan(values["waiting"]):
        values["waiting"] = max(active - values["running"], 0.0)
    return EnginePage(**values, sleep=_sleep(samples.get(SLEEP_NAME, ()), source))


def _absent(dialect: Dialect, field: str, text: str, source: str) -> str:
    (figure,) = (figure for figure in dialect.figures if figure.field == field)
    looked_for = " or ".join(str(place) for place in figure.places)
    known = ", ".join(other.name for other in DIALECTS)
    return (
        f"{source}: no {figure.places[0]}; looked for {looked_for} in {text.count(chr(10))} lines; "
        f"is this the /metrics page of one of {known}, or of an emulated replica?"
    )


def _sleep(samples: Sequence[Sample], source: str) -> SleepState | None:
    """The deepest sleep of any engine on the page."""
    if not samples:
        return None
    awake = [number(s, 1.0, source) for s in samples if s.labels.get("sleep_state") == "awake"]
    if not awake:
        raise PageError(f'{source}: {SLEEP_NAME}: looked for a sample with sleep_state="awake", found none')
    if min(awake) == 1.0:
        return SleepState.AWAKE
    said = {s.labels.get("sleep_state") for s in samples if number(s, 1.0, source) == 1.0}
    for deep in (SleepState.DISCARD_ALL, SleepState.WEIGHTS_OFFLOADED):
        if deep.value in said:
            return deep
    return SleepState.PAUSED
