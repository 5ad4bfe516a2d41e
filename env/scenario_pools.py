"""What a scenario file says of one pool under `pools:`, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .scenario_energy import Thermal
from .scenario_fields import NonNegativeFloat, PositiveFloat, Strict


class Price(Strict):
    """What one replica costs."""

    usd_per_hr: PositiveFloat
    """Dollars per hour of one replica (all its GPUs)."""
    kind: Literal["on_demand", "spot"] = "on_demand"
    source: str = ""
    """Where the price was read, and when."""


class Replicas(Strict):
    """How many replicas a pool may have."""

    min: Annotated[int, Field(ge=0)] = 0
    max: Annotated[int, Field(ge=1, le=1000)] = 4
    start: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if not self.min <= self.start <= self.max:
            raise ValueError(f"wanted min <= start <= max, got {self.min}, {self.start}, {self.max}")
        return self


class Engine(Strict):
    """The start flags of one vLLM engine."""

    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] = 128
    max_num_batched_tokens: Annotated[int, Field(ge=16, le=65536)] = 2048
    max_model_len: Annotated[int, Field(ge=16)] = 8192
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9


class ColdStart(Strict):
    """From asking for a replica until it serves."""

    provision_s: NonNegativeFloat = 40.0
    """Time until the machine is there."""
    load_s: NonNegativeFloat = 50.0
    """Time to load the model and warm up."""
    spread_frac: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Standard deviation over mean of the whole delay (log-normal)."""

    @property
    def mean_s(self) -> float:
        """Expected delay in seconds."""
        return self.provision_s + self.load_s


class Spot(Strict):
    """How a spot pool loses machines."""

    preemptions_per_hr: NonNegativeFloat = 0.0
    """Rate per replica."""
    notice_s: NonNegativeFloat = 30.0
    """Warning before the machine goes; the replica drains meanwhile."""


class Pool(Strict):
    """Identical replicas of one model with one price source."""

    gpu: str
    model: str | None = None
    """Overrides the scenario's model."""
    precision: Literal["fp32", "fp16", "bf16", "fp8", "int8", "int4"] = "bf16"
    tensor_parallel: Annotated[int, Field(ge=1, le=8)] = 1
    price: Price
    replicas: Replicas = Replicas()
    engine: Engine = Engine()
    cold_start: ColdStart = ColdStart()
    spot: Spot | None = None
    thermal: Thermal = Thermal()
    law: Path | None = None
    """File with a law measured on such a replica, as `poolpilot profile --out` writes it, in place of the performance
    model's; where it tells the KV cache's size, that too."""
    command: tuple[str, ...] | None = None
    """Starts one live replica; `{host}`, `{port}` and `{cap_file}` are filled in. Left out: an emulated replica."""

    @model_validator(mode="after")
    def _spot_rates(self) -> Pool:
        if self.price.kind == "on_demand" and self.spot is not None:
            raise ValueError("spot: only for a pool whose price.kind is spot")
        return self
