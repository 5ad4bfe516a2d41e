"""The formats: which columns say what.

Sources
- azure: Azure/AzurePublicDataset, `AzureLLMInferenceTrace_{code,conv}.csv` (2023; times without a zone, to 100 ns) and
  `AzureLLMInferenceTrace_{code,conv}_1week.csv` (2024; times with a zone, fractions left out where they are 0).
- burstgpt: HPMLL/BurstGPT, `BurstGPT_*.csv` of releases 1 (6 columns) and 2 (with Session ID and Elapsed time); seconds
  from midnight of the first day; 0 response tokens mark a failed request.
- mooncake: kvcache-ai/Mooncake, `*_trace.jsonl`; milliseconds; `hash_ids` name the prompt's blocks of 512 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..spec import TraceFormat
from .problems import bad_file, short


@dataclass(frozen=True, slots=True)
class Format:
    """Which columns a format has, and what they hold."""

    name: TraceFormat
    time: str
    prompt: str
    output: str
    unit: Literal["timestamp", "s", "ms"] = "s"
    clock: bool = False
    """Whether times tell the time of the day."""
    failed_are_empty: bool = False
    """Whether a request without output is one that failed."""
    labels: dict[str, str] = field(default_factory=dict)
    """What rules may ask for, and its column; columns may be missing."""
    blocks: str | None = None
    """Column of a prompt's blocks; may be missing."""
    prefix: tuple[str, str] | None = None
    """Columns of the name and length of what a prompt begins with; both may be missing."""

    @property
    def required(self) -> tuple[str, str, str]:
        """Columns that must be there."""
        return self.time, self.prompt, self.output

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        more = (*self.labels.values(), *((self.blocks,) if self.blocks else ()), *(self.prefix or ()))
        return (*self.required, *more)


FORMATS: tuple[Format, ...] = (
    Format("azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", unit="timestamp", clock=True),
    Format(
        "burstgpt",
        "Timestamp",
        "Request tokens",
        "Response tokens",
        clock=True,
        failed_are_empty=True,
        labels={"model": "Model", "log_type": "Log Type"},
    ),
    Format("mooncake", "timestamp", "input_length", "output_length", unit="ms", blocks="hash_ids"),
    Format(
        "plain",
        "arrival_s",
        "input_tokens",
        "output_tokens",
        labels={"class": "class", "model": "model"},
        blocks="hash_ids",
        prefix=("prefix_id", "prefix_tokens"),
    ),
)


def format_of(path: Path, found: Sequence[str], stated: TraceFormat | None) -> Format:
    """The stated format, or the first whose columns are all there.

    Raises:
        TraceError: columns are missing, or there twice.
    """
    candidates = [kind for kind in FORMATS if stated in (None, kind.name)]
    for kind in candidates:
        if all(found.count(name) == 1 for name in kind.required):
            _check_optional(path, kind, found)
            return kind
    wanted = ", or ".join(f"{', '.join(kind.required)} ({kind.name})" for kind in candidates)
    raise bad_file(path, f"has columns {short(', '.join(map(repr, found)))}; wanted each once: {wanted}")


def _check_optional(path: Path, kind: Format, found: Sequence[str]) -> None:
    twice = [name for name in kind.columns if found.count(name) > 1]
    if twice:
        raise bad_file(path, f"column {twice[0]}: there {found.count(twice[0])} times; wanted it once at most")
    if kind.prefix and (kind.prefix[0] in found) != (kind.prefix[1] in found):
        raise bad_file(path, f"has one of the columns {' and '.join(kind.prefix)}; wanted both or neither")
