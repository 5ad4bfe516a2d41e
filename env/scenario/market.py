"""What a scenario file says of a pool's price and of how machines come and go, validated."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .delays import Delay
from .fields import NonNegativeFloat, PositiveFloat, Strict
from .sources import PriceFeed

MAX_STEPS = 10_000
"""Most steps written out in a scenario; longer series belong in a file."""


class Moves(Strict):
    """Steps over time, written out or in a file."""

    path: Path | None = None
    """CSV or Parquet; a relative path starts at the scenario file's folder."""
    offset_s: NonNegativeFloat = 0.0
    """Where in the file's time, counted from its first row, the run begins."""
    speedup: PositiveFloat = 1.0
    """Seconds of the file that pass in a second of the run."""
    scale: PositiveFloat = 1.0
    """What the values are multiplied by."""

    def _check(self, steps: tuple[tuple[float, float], ...] | None) -> None:
        if (self.path is None) == (steps is None):
            raise ValueError("wanted either steps or a path")
        if steps is None:
            return
        if steps[0][0] != 0.0:
            raise ValueError(f"steps: wanted second 0 first, got {steps[0][0]:g}")
        for (before_s, _), (after_s, _) in pairwise(steps):
            if after_s <= before_s:
                raise ValueError(f"steps: wanted each later than the one before, got {after_s:g} after {before_s:g}")


class PriceSeries(Moves):
    """How the price moves: each price holds until the next; they apply from the next tick on."""

    steps: (
        Annotated[tuple[tuple[NonNegativeFloat, PositiveFloat], ...], Field(min_length=1, max_length=MAX_STEPS)] | None
    ) = None
    """Pairs of second and dollars per hour of one replica, second 0 first."""
    region: str | None = None
    """Of a table with columns date, region, instance, usd_hr_ondemand, usd_hr_spot: which rows. `scale` then is the share
    of the instance that a replica takes."""
    instance: str | None = None
    """As `region`."""

    @model_validator(mode="after")
    def _whole(self) -> PriceSeries:
        self._check(self.steps)
        if self.steps is not None and (self.region or self.instance):
            raise ValueError("region, instance: only with a path")
        return self


class Price(Strict):
    """What one replica costs."""

    usd_per_hr: PositiveFloat
    """Dollars per hour of one replica (all its GPUs): what is paid, or, with a series, what policies take for usual."""
    kind: Literal["on_demand", "spot"] = "on_demand"
    """Spot machines may be taken away; of a price list, which column."""
    source: str = ""
    """Where the price was read, and when."""
    series: PriceSeries | None = None
    feed: PriceFeed | None = None
    """Where a live controller reads the price as it is now; until it could, `usd_per_hr` counts."""

    def scaled(self, factor: float) -> Price:
        """So many times as dear, the series too."""
        series = self.series and self.series.model_copy(update={"scale": self.series.scale * factor})
        return self.model_copy(update={"usd_per_hr": self.usd_per_hr * factor, "series": series})


class Availability(Moves):
    """How many machines of this kind can be had at a time. Those beyond are taken away with notice, starts refused."""

    steps: (
        Annotated[
            tuple[tuple[NonNegativeFloat, Annotated[int, Field(ge=0)]], ...], Field(min_length=1, max_length=MAX_STEPS)
        ]
        | None
    ) = None
    """Pairs of second and machines (a replica each), second 0 first."""
    trace: str | None = None
    """Which trace of a file that holds several. `scale` is replicas for each of its nodes."""

    @model_validator(mode="after")
    def _whole(self) -> Availability:
        self._check(self.steps)
        if self.steps is not None and self.trace:
            raise ValueError("trace: only with a path")
        return self


class Spot(Strict):
    """How a spot pool loses machines."""

    preemptions_per_hr: NonNegativeFloat = 0.0
    """Rate per replica. With `availability` none are drawn: it is only what policies believe (left out: the series'
    own rate)."""
    notice_s: NonNegativeFloat = 30.0
    """Warning before the machine goes; the replica drains meanwhile."""
    availability: Availability | None = None


class StockOuts(Strict):
    """Times, drawn at random, in which no machine (or only few more) can be had. Those that are up stay."""

    per_hr: PositiveFloat
    """How often one begins, while none lasts."""
    duration: Delay
    """How long one lasts."""
    left: Annotated[int, Field(ge=0)] = 0
    """How many more replicas can be had meanwhile."""
