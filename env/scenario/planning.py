"""What a scenario file says under `planning:`, validated: what may be rented, and what is asked of the whole fleet.

`poolpilot plan` chooses the pools from it. How its prices become offers: `poolpilot.env.market.rentable`.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from ..catalog.gpus import gpu, gpus_called
from .fields import NonNegativeFloat, PositiveFloat, Share, Strict
from .pools import ColdStart, Engine

MAX_GPUS = 100_000
"""Most GPUs of one type that a stock may name."""
MAX_OFFERS = 1000
"""Most offers written out in a scenario; longer lists belong in a price file."""
SPOT_PREEMPTIONS_PER_HR = 0.5
"""Of a machine that was had. Six public traces of machines that were kept running, V100 and T4 on AWS, 2021 to 2023: 0.06
to 0.74, median 0.56 (Wu et al., Can't Be Late, NSDI 2024: the `preemption` traces; Thorpe et al., Bamboo, NSDI 2023).
It differs tenfold between zones, and the clouds publish no rate per hour."""


def _one_gpu(name: str) -> str:
    return gpu(name).name


def _some_gpu(name: str) -> str:
    gpus_called(name)
    return name


GpuFamily = Annotated[str, AfterValidator(_some_gpu)]
"""Any name of one or more GPUs of the catalogue: `A100` stands for all of them, `A100-80GB` for two, a full name for one."""
GpuCount = Annotated[int, Field(ge=0, le=MAX_GPUS)]


class PriceFile(Strict):
    """A file of prices, and what it does not say itself."""

    path: Path
    """CSV or Parquet; a relative path starts at the scenario file's folder."""
    provider: str | None = None
    """Of rows that name none; left out: of a SkyPilot catalogue the file's folder or name (`aws/vms.csv`)."""
    as_of: date | None = None
    """Day of the prices that carry no date of their own, as those of a SkyPilot catalogue."""


class InlineOffer(Strict):
    """Machines of one kind at one price, written out in the scenario."""

    gpu: Annotated[str, AfterValidator(_one_gpu)]
    """One type of the catalogue, such as `H100-SXM-80GB`."""
    usd_per_hr: PositiveFloat
    """Dollars per hour of one unit, host included."""
    gpus: Annotated[int, Field(ge=1, le=1024)] = 1
    """GPUs of one unit, which is what is rented at a time: 8 for a `p5.48xlarge`."""
    machine_gpus: Annotated[int, Field(ge=1, le=1024)] | None = None
    """GPUs that stand in one machine, the widest a tensor-parallel group can be; left out: `gpus`. More than `gpus`
    where GPUs are sold one by one and those rented together share a machine."""
    kind: Literal["on_demand", "spot"] = "on_demand"
    """Spot machines may be taken away."""
    provider: str = ""
    """Who rents it out."""
    region: str = ""
    """Where it stands."""
    instance: str = ""
    """What the provider calls the machine type."""
    stock: Annotated[int, Field(ge=0, le=MAX_GPUS)] | None = None
    """Units that can be had; left out: no limit of its own."""
    preemptions_per_hr: NonNegativeFloat | None = None
    """Rate at which one spot machine is taken away; left out: `planning.spot_preemptions_per_hr`."""
    as_of: date | None = None
    """Day of the price."""
    source: str = ""
    """Where the price was read."""

    @model_validator(mode="after")
    def _whole(self) -> InlineOffer:
        if self.machine_gpus is not None and self.machine_gpus < self.gpus:
            raise ValueError(f"machine_gpus: {self.machine_gpus}: wanted at least the {self.gpus} GPUs of one unit")
        if self.kind == "on_demand" and self.preemptions_per_hr:
            raise ValueError("preemptions_per_hr: only of a spot offer")
        return self


def _kind_of_price(given: Any) -> str:
    if isinstance(given, str | Path):
        return "path"
    is_file = isinstance(given, PriceFile) or (isinstance(given, dict) and "path" in given)
    return "file" if is_file else "offer"


def _as_list(given: Any) -> str:
    return "list" if isinstance(given, list | tuple) else "one"


PriceSource = Annotated[
    Annotated[Path, Tag("path")] | Annotated[PriceFile, Tag("file")] | Annotated[InlineOffer, Tag("offer")],
    Discriminator(_kind_of_price),
]
"""A path, a file with what it does not say itself, or an offer written out."""


class Planning(Strict):
    """What may be rented, and what is asked of the whole fleet: `poolpilot plan` chooses the pools from it."""

    gpus: Annotated[tuple[GpuFamily, ...], Field(min_length=1)] | None = None
    """GPUs that may be rented, by full names or families (`A100` is every A100); left out: all that have an offer."""
    prices: (
        Annotated[
            Annotated[PriceSource, Tag("one")]
            | Annotated[
                Annotated[tuple[PriceSource, ...], Field(min_length=1, max_length=MAX_OFFERS)],
                Tag("list"),
            ],
            Discriminator(_as_list),
        ]
        | None
    ) = None
    """Price files, offers written out, or a list of both. Left out: the prices that come with poolpilot, which age."""
    providers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Only these providers' offers; left out: all."""
    regions: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Only offers in these regions; left out: all."""
    stock: dict[GpuFamily, GpuCount | dict[str, GpuCount]] = Field(default_factory=dict)
    """GPUs (not machines) that can be had at most, on demand and spot together, by type or family; a number for all
    regions together, or a mapping of region to number (regions that it leaves out have none). Types left out: no limit
    beyond their offers' own."""
    precisions: Annotated[tuple[Literal["bf16", "fp16", "fp8", "int8", "int4"], ...], Field(min_length=1)] = (
        "bf16",
        "fp16",
        "fp8",
        "int8",
        "int4",
    )
    """Of the weights that a replica may have, each where the GPU can run it and no class's quality floor forbids it."""
    quality_floor: Share = 0.98
    """Least share of the 16-bit model's score that a precision must keep to serve a class that names no floor of its
    own. 0: any precision will do."""
    max_tensor_parallel: Annotated[int, Field(ge=1, le=8)] = 8
    """Most GPUs that share each layer of a replica, all in one machine."""
    max_pipeline_stages: Annotated[int, Field(ge=1, le=16)] = 1
    """Most stages of a replica."""
    mixed_pipelines: bool = False
    """Whether the stages of one replica may lie on unlike GPUs."""
    engine: Engine = Engine()
    """The flags that every replica starts with."""
    cold_start: ColdStart = ColdStart()
    """How replicas start."""
    budget_usd_per_hr: PositiveFloat | None = None
    """No more rent than this; left out: the guard's budget, if it has one."""
    max_spot_share: Share = 0.0
    """Most of any class's requests that spot machines may serve. 0: nothing is rented on the spot market."""
    min_on_demand_replicas: Annotated[int, Field(ge=0, le=1000)] = 0
    """Replicas of each model that must stand on machines that nobody takes away."""
    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 0
    """Replicas of each model: with 2, one may fail."""
    spot_preemptions_per_hr: NonNegativeFloat = SPOT_PREEMPTIONS_PER_HR
    """Rate at which one spot machine is taken away, where its offer names none. The default is near the median of public
    traces, which differ tenfold by zone."""
    max_price_age_days: Annotated[int, Field(ge=0, le=36_500)] = 60
    """Older prices, and those without a date, are warned of."""
    headroom: Annotated[float, Field(ge=1, le=5)] = 1.1
    """The load is planned for times this."""
    route_by_length: bool = False
    """Whether requests of one class may be routed by the lengths of their prompts and answers. False: a class is routed
    as a whole, which is what the proxy and the simulator do, so that what is planned is what is applied."""

    def price_sources(self) -> tuple[Path | PriceFile | InlineOffer, ...]:
        """Where the offers come from, in the order of the file; none: what comes with poolpilot."""
        if self.prices is None:
            return ()
        return self.prices if isinstance(self.prices, tuple) else (self.prices,)
