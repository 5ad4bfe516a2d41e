"""Where a live controller reads what a pool's engines do not tell, validated: GPU exporters and price feeds.

A simulation has no use for either: they change no result.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from .fields import PositiveFloat, Strict

PageUrl = Annotated[str, Field(pattern=r"^https?://[^\s/?#]+(/[^\s]*)?$", max_length=500)]
"""Of a metrics page."""
GpuName = Annotated[int, Field(ge=0, le=1023)] | Annotated[str, Field(pattern=r"^(GPU|MIG)-[0-9A-Za-z/-]{1,80}$")]
"""An index or a UUID, as `nvidia-smi -L` shows them."""


class GpuMetrics(Strict):
    """Who tells of a pool's GPUs: utilisation, memory, temperature, power and throttling."""

    dcgm: Annotated[tuple[PageUrl, ...], Field(max_length=1000)] = ()
    """Metrics pages of NVIDIA's DCGM exporter, one a host, such as `http://gpu-1:9400/metrics`."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Of these pages only GPUs whose labels fit, by shell patterns: `{pod: "vllm-l4-*"}`, `{Hostname: gpu-1, gpu: "[01]"}`.
    Left out: all of them."""
    nvml: tuple[GpuName, ...] | None = None
    """GPUs of the controller's own host, read through NVML, by index or UUID; `[]` is all of them."""

    @model_validator(mode="after")
    def _some(self) -> GpuMetrics:
        if not self.dcgm and self.nvml is None:
            raise ValueError("wanted dcgm pages, nvml GPUs or both")
        if self.labels and not self.dcgm:
            raise ValueError("labels: only with dcgm pages")
        return self


class PriceFeed(Strict):
    """A file of prices that somebody keeps up to date: our own format or a SkyPilot catalogue (docs/prices.md).

    The cheapest offer of the pool's GPU type that fits counts, by its share of the machine.
    """

    path: Path
    """CSV or Parquet; a relative path starts at the scenario file's folder. Read again whenever it changes."""
    provider: str | None = None
    """Only its offers; of a SkyPilot catalogue also what its rows are taken for."""
    region: str | None = None
    """Only offers there."""
    instance: str | None = None
    """Only this machine type."""
    as_of: date | None = None
    """Day of the prices that carry no date of their own; left out: the file's own time counts."""
    max_age_s: PositiveFloat = 86400.0
    """An older price is named as a trouble, and kept."""
