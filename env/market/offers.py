"""Offers: what a market asks for machines with GPUs, on demand and spot, by provider and region."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

__all__ = ["Offer"]


@dataclass(frozen=True, slots=True)
class Offer:
    """Machines of one kind that can be rented at one price."""

    gpu: str
    """Of the catalogue."""
    usd_per_hr: float
    """Of one unit, host included."""
    gpus: int = 1
    """GPUs of one unit: what is rented at a time. 8 for a `p5.48xlarge`, 1 where GPUs are sold one by one."""
    machine_gpus: int = 1
    """GPUs that stand in one machine, the widest a tensor-parallel group can be; at least `gpus`."""
    kind: Literal["on_demand", "spot"] = "on_demand"
    """Spot machines may be taken away."""
    provider: str = ""
    region: str = ""
    instance: str = ""
    stock: int | None = None
    """Units that can be had; None is no limit."""
    preemptions_per_hr: float = 0.0
    """Of one spot machine."""
    as_of: date | None = None
    """Day of the price."""
    source: str = ""

    @property
    def usd_per_gpu_hr(self) -> float:
        """Dollars per hour of one GPU."""
        return self.usd_per_hr / self.gpus
