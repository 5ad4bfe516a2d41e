"""The few samples of a Prometheus page that somebody needs, as plain numbers. Pure: text in, numbers or `PageError` out.

A page has hundreds of lines, a tick has hundreds of pages: only lines whose sample has an exact wanted name reach the
parser. `vllm:num_requests_waiting` is also the beginning of `vllm:num_requests_waiting_by_reason`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

MAX_LINE_CHARS: Final = 4096
"""No wanted sample needs a longer line; a longer one is garbage."""
MAX_SAMPLES: Final = 20_000
"""Of the wanted names together; no page of one server has as many."""
Samples = Mapping[str, Sequence[Sample]]
"""The samples that were found, by name."""


class PageError(ValueError):
    """A metrics page cannot be used; the message names its source, the metric and what was looked for."""


def lines_of(names: Iterable[str]) -> re.Pattern[str]:
    """What finds the lines of these samples."""
    return re.compile(rf"^(?:{'|'.join(map(re.escape, names))})(?=[{{ \t]).*$", re.MULTILINE)


def read_samples(text: str, lines: re.Pattern[str], source: str) -> Samples:
    """The samples of the lines that `lines` (`lines_of`) finds; `source`, the page's address, goes into errors.

    Raises:
        PageError: the page is cut off, a wanted line is none of a metrics page, or a sample stands there twice.
    """
    if not text.endswith("\n"):
        raise PageError(f"{source}: cut off: the page ends in {text[-40:]!r}, wanted a line end after the last metric")
    found: dict[str, list[Sample]] = {}
    for count, line in enumerate(lines.findall(text)):
        if count >= MAX_SAMPLES:
            raise PageError(f"{source}: more than {MAX_SAMPLES} wanted samples; is this the page of one server?")
        for sample in _parsed(line, source):
            found.setdefault(sample.name, []).append(sample)
    for name, samples in found.items():
        _refuse_duplicates(name, samples, source)
    return found


def _parsed(line: str, source: str) -> list[Sample]:
    if len(line) > MAX_LINE_CHARS:
        raise PageError(f"{source}: {line[:60]}...: a line of {len(line)} characters, wanted {MAX_LINE_CHARS}")
    try:
        return [sample for family in text_string_to_metric_families(line) for sample in family.samples]
    except (ValueError, IndexError, KeyError) as error:
        raise PageError(f"{source}: {line[:120]!r}: not a metric line ({error})") from None


def _refuse_duplicates(name: str, samples: Sequence[Sample], source: str) -> None:
    counted = Counter(frozenset(sample.labels.items()) for sample in samples)
    if len(counted) < len(samples):
        twice = counted.most_common(1)[0][0]
        raise PageError(f"{source}: {name}: two values for the labels {dict(sorted(twice))}, wanted one")


def number(sample: Sample, high: float, source: str, scale: float = 1.0) -> float:
    """The sample's value times `scale`.

    Raises:
        PageError: it is not a number from 0 to `high`.
    """
    try:
        value = float(sample.value) * scale
    except OverflowError:
        value = math.inf
    if not 0.0 <= value <= high:
        raise PageError(f"{source}: {sample.name}: {value:g}, wanted 0 to {high:g}")
    return value


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return math.fsum(values) / len(values)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a figure stands on a page."""

    name: str
    """Of the sample."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Which it must carry with these values."""

    def of(self, found: Samples) -> list[Sample]:
        """The samples there."""
        wanted = self.labels.items()
        return [s for s in found.get(self.name, ()) if all(s.labels.get(key) == value for key, value in wanted)]

    def __str__(self) -> str:
        labels = ",".join(f'{key}="{value}"' for key, value in self.labels.items())
        return f"{self.name}{{{labels}}}" if labels else self.name


@dataclass(frozen=True, slots=True)
class Wanted:
    """One figure of a page: where it may stand, and what becomes of several samples."""

    field: str
    """What it is called here."""
    places: tuple[Place, ...]
    """The newest name first; the first place that has samples counts."""
    together: Callable[[Sequence[float]], float] = math.fsum
    """Makes one figure of several samples (engines, GPUs)."""
    high: float = 1e18
    required: bool = False
    scale: float = 1.0
    """What the page's unit is multiplied by; `high` is of the product."""

    def value(self, found: Samples, source: str) -> float:
        """The figure; NaN where no place has it.

        Raises:
            PageError: a value that cannot be.
        """
        samples = next((samples for place in self.places if (samples := place.of(found))), [])
        return self.together([number(s, self.high, source, self.scale) for s in samples]) if samples else math.nan


def wanted(field: str, *names: str | Place, required: bool = False, **more: object) -> Wanted:
    """A `Wanted` with its places written as names."""
    places = tuple(Place(name) if isinstance(name, str) else name for name in names)
    return Wanted(field, places, required=required, **more)  # type: ignore[arg-type]
