"""A row of a price list, whatever its format: one machine type in one place."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class Machine:
    """What is rented at a time, and what it costs on demand and spot; None where it is not sold so."""

    gpu: str
    """Of the catalogue."""
    gpus: int
    machine_gpus: int | None
    """GPUs that stand in one machine; None: `gpus`."""
    provider: str
    region: str
    instance: str
    usd_per_hr_on_demand: float | None
    usd_per_hr_spot: float | None
    stock: int | None = None
    """Units that can be had of each kind."""
    preemptions_per_hr: float | None = None
    """Of one spot machine; None: the row does not tell."""
    as_of: date | None = None
    source: str = ""
