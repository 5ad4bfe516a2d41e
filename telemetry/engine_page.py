"""One replica's metrics page (`/metrics` of vLLM or of an emulated replica) as plain numbers.

Pure: text in, `EnginePage` or `PageError` out. vLLM of today (0.32) and older names are understood. Of the hundreds of
lines only those with an exact wanted name reach the parser: `vllm:num_requests_waiting` is also the beginning of
`vllm:num_requests_waiting_by_reason`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

MAX_LINE_CHARS: Final = 4096
"""No wanted sample needs a longer line; a longer one is garbage."""


class PageError(ValueError):
    """A metrics page cannot be used; the message names its source, the metric and what was looked for."""


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


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Where one field of the page comes from."""

    field: str
    names: tuple[str, ...]
    """Sample names, the newest first; the first one on the page counts."""
    over_engines: Callable[[Sequence[float]], float] = math.fsum
    high: float = 1e18
    required: bool = False


_SLEEP_NAME = "vllm:engine_sleep_state"
_WANTED: Final = (
    _Wanted("running", ("vllm:num_requests_running",), required=True),
    _Wanted("waiting", ("vllm:num_requests_waiting",), required=True),
    _Wanted("kv_used_frac", ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), _mean, 1.0, required=True),
    _Wanted("prompt_tokens_total", ("vllm:prompt_tokens_total",), required=True),
    _Wanted("generation_tokens_total", ("vllm:generation_tokens_total",), required=True),
    _Wanted("preemptions_total", ("vllm:num_preemptions_total",)),
    # The same histogram before and after it was renamed; both time each gap between two tokens.
    _Wanted("token_gap_s_total", ("vllm:inter_token_latency_seconds_sum", "vllm:time_per_output_token_seconds_sum")),
    _Wanted("token_gaps_total", ("vllm:inter_token_latency_seconds_count", "vllm:time_per_output_token_seconds_count")),
    _Wanted("process_started_s", ("process_start_time_seconds",), max),
    _Wanted("batch_cap", ("poolpilot_batch_cap",), min),
    _Wanted("token_budget", ("poolpilot_token_budget",), min),
    _Wanted("busy_s_total", ("poolpilot_busy_seconds_total",)),
    _Wanted("useful_s_total", ("poolpilot_useful_seconds_total",)),
    _Wanted("gpu_util_frac", ("poolpilot_gpu_utilization_ratio",), _mean, 1.0),
    _Wanted("gpu_temp_c", ("poolpilot_gpu_temperature_celsius",), max, 150.0),
    _Wanted("gpu_power_w", ("poolpilot_gpu_power_watts",)),
)
_NAMES: Final = (_SLEEP_NAME, *(name for wanted in _WANTED for name in wanted.names))
_LINES: Final = re.compile(rf"^(?:{'|'.join(map(re.escape, _NAMES))})(?=[{{ \t]).*$", re.MULTILINE)


def parse_engine_page(text: str, source: str) -> EnginePage:
    """The page's numbers; `source` (its address) goes into errors.

    Raises:
        PageError: the page is no metrics page, is cut off, lacks a required metric, or has a value that cannot be.
    """
    if not text.endswith("\n"):
        raise PageError(f"{source}: cut off: the page ends in {text[-40:]!r}, wanted a line end after the last metric")
    found: dict[str, list[Sample]] = {}
    for sample in _samples(text, source):
        found.setdefault(sample.name, []).append(sample)
    for name, samples in found.items():
        _refuse_duplicates(name, samples, source)
    values = {wanted.field: _value(wanted, found, source, text) for wanted in _WANTED}
    return EnginePage(**values, sleep=_sleep(found.get(_SLEEP_NAME, []), source))


def _samples(text: str, source: str) -> list[Sample]:
    samples: list[Sample] = []
    for line in _LINES.findall(text):
        if len(line) > MAX_LINE_CHARS:
            raise PageError(f"{source}: {line[:60]}...: a line of {len(line)} characters, wanted {MAX_LINE_CHARS}")
        try:
            samples += [sample for family in text_string_to_metric_families(line) for sample in family.samples]
        except (ValueError, IndexError, KeyError) as error:
            raise PageError(f"{source}: {line[:120]!r}: not a metric line ({error})") from None
    return samples


def _refuse_duplicates(name: str, samples: Sequence[Sample], source: str) -> None:
    labels = [frozenset(sample.labels.items()) for sample in samples]
    if len(set(labels)) < len(labels):
        twice = next(seen for seen in labels if labels.count(seen) > 1)
        raise PageError(f"{source}: {name}: two values for the labels {dict(sorted(twice))}, wanted one")


def _value(wanted: _Wanted, found: dict[str, list[Sample]], source: str, text: str) -> float:
    name = next((name for name in wanted.names if name in found), None)
    if name is None and wanted.required:
        raise PageError(
            f"{source}: no {wanted.names[0]}; looked for {' or '.join(wanted.names)} in {text.count(chr(10))} lines; "
            "is this the /metrics page of a vLLM or an emulated replica?"
        )
    if name is None:
        return math.nan
    return wanted.over_engines([_number(sample, wanted.high, source) for sample in found[name]])


def _number(sample: Sample, high: float, source: str) -> float:
    try:
        value = float(sample.value)
    except OverflowError:
        value = math.inf
    if not 0.0 <= value <= high:
        raise PageError(f"{source}: {sample.name}: {value:g}, wanted 0 to {high:g}")
    return value


def _sleep(samples: Sequence[Sample], source: str) -> SleepState | None:
    """The deepest sleep of any engine on the page."""
    if not samples:
        return None
    awake = [_number(s, 1.0, source) for s in samples if s.labels.get("sleep_state") == "awake"]
    if not awake:
        raise PageError(f'{source}: {_SLEEP_NAME}: looked for a sample with sleep_state="awake", found none')
    if min(awake) == 1.0:
        return SleepState.AWAKE
    said = {s.labels.get("sleep_state") for s in samples if _number(s, 1.0, source) == 1.0}
    for deep in (SleepState.DISCARD_ALL, SleepState.WEIGHTS_OFFLOADED):
        if deep.value in said:
            return deep
    return SleepState.PAUSED
