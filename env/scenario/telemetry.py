"""What a scenario file says under `telemetry:`, validated: how far policies see less than there is to see."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, model_validator

from ..contract import CLASS_COLUMNS, POOL_COLUMNS
from .fields import Name, NonNegativeFloat, PositiveFloat, Share, Strict

MAX_DELAY_S: Final = 300.0

_LENGTHS = ("prompt_tokens_mean", "prompt_tokens_std", "output_tokens_mean", "output_tokens_std")
STACK_LACKS: Final = (
    (*_LENGTHS, "tpot_p50_s", "tpot_p95_s"),
    ("ttft_p50_s", "ttft_p95_s"),
    ("kv_used_frac",),
    ("gpu_util_frac", "gpu_temp_c", "power_w", "throttled"),
    ("tokens_per_s", "coverage_frac"),
)
"""Columns that go missing together, for want of one source: streams without token usage, plain answers, an engine that
tells no cache use, no GPU exporter, an engine without token counters (docs/telemetry.md)."""
LIVE_POOL_COLUMNS: Final = (
    *("running", "waiting", "kv_used_frac", "gpu_util_frac", "gpu_temp_c", "power_w"),
    *("tokens_per_s", "coverage_frac", "throttled"),
)
"""Measured on the replicas. The others come from who starts and stops replicas, from price lists and from priors: they are
known without delay wherever a controller runs."""
MAY_LACK: Final = tuple(column.name for column in CLASS_COLUMNS) + LIVE_POOL_COLUMNS


class Gap(Strict):
    """A time without telemetry, of one pool, of one class, or of everything."""

    at_s: NonNegativeFloat
    """When it begins, from the beginning of the run."""
    duration_s: PositiveFloat
    pool: Name | None = None
    """Whose replicas are not heard of; with no pool and no class, nothing is."""
    class_name: Annotated[Name | None, Field(alias="class")] = None
    """Of whose requests nothing is known."""

    @model_validator(mode="after")
    def _of_one(self) -> Gap:
        if self.pool is not None and self.class_name is not None:
            raise ValueError("wanted a pool or a class, got both; write two gaps")
        return self


class Telemetry(Strict):
    """How far policies see less than there is: what is billed and scored stays as it is. Left out, they see everything.

    It veils what is measured: all figures of classes, and of pools those that come from the replicas. What the controller
    knows itself (replicas by state, caps), prices and priors is always seen.
    """

    delay_s: Annotated[float, Field(ge=0, le=MAX_DELAY_S)] = 0.0
    """Figures are as old as this, in whole ticks; before, nothing is known."""
    noise_frac: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Standard deviation of the error of each figure in each tick, as a share of it."""
    drop_frac: Share = 0.0
    """Share of the figures that are unknown in a tick, each for itself."""
    lacks_frac: Share = 0.0
    """Chance, drawn once a run for each source that a user's stack may lack (token usage, first tokens, cache use, GPU
    exporter, token counters), that its figures are missing throughout."""
    lacks: tuple[str, ...] = ()
    """Figures of a snapshot that are missing throughout, such as `gpu_temp_c` (docs/telemetry.md)."""
    gaps: Annotated[tuple[Gap, ...], Field(max_length=100)] = ()
    """Times in which nothing comes; the age of a pool's telemetry grows meanwhile."""

    @model_validator(mode="after")
    def _known(self) -> Telemetry:
        for name in self.lacks:
            if name not in MAY_LACK:
                known = {column.name for column in CLASS_COLUMNS + POOL_COLUMNS}
                why = "is always known" if name in known else "no such figure"
                raise ValueError(f"lacks: {name!r}: {why}; wanted some of {', '.join(MAY_LACK)}")
        return self
