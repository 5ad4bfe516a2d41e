"""What a scenario file says of one pool under `pools:`, validated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from ..catalog.cold_starts import FALL_ASLEEP, PROVISION_S, PROVISION_SOURCE, SPREAD_FRAC, WAKE, loading
from ..catalog.gpus import gpu
from ..catalog.links import link
from ..catalog.models import Model
from ..perf.roofline import Stage, stages_of
from .addresses import Address, parse_address
from .delays import Delay, LognormalDelay
from .energy import Thermal
from .fields import NonNegativeFloat, PositiveFloat, Share, Strict
from .market import Price, Spot, StockOuts
from .sources import GpuMetrics


class Replicas(Strict):
    """How many replicas a pool may have."""

    min: Annotated[int, Field(ge=0)] = 0
    """Fewest that may be wanted."""
    max: Annotated[int, Field(ge=1, le=1000)] = 4
    """Most that may be wanted."""
    start: Annotated[int, Field(ge=0)] = 1
    """Serving when a run begins."""

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if not self.min <= self.start <= self.max:
            raise ValueError(f"wanted min <= start <= max, got {self.min}, {self.start}, {self.max}")
        return self


class Engine(Strict):
    """The start flags of one vLLM engine."""

    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] = 128
    """Most sequences in a batch; caps stay below it."""
    max_num_batched_tokens: Annotated[int, Field(ge=16, le=65536)] = 2048
    """Most tokens of one iteration."""
    max_model_len: Annotated[int, Field(ge=16)] = 8192
    """Most tokens of one request, answer included."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of each GPU's memory that the engine takes."""
    scheduling: Literal["fcfs", "priority"] = "fcfs"
    """Who is served first, and kept when KV blocks run out: first come, or by the classes' `priority`."""
    prefix_caching: bool = False
    """Keep KV blocks for requests that begin alike. Needs a workload that says which do, else nothing is ever shared."""


class StartDelays(NamedTuple):
    """What a start takes, apart from getting stuck."""

    provision: Delay
    load: Delay

    @property
    def mean_s(self) -> float:
        """Expected time from asking to serving."""
        return self.provision.mean_s + self.load.mean_s


class ColdStart(Strict):
    """From asking for a replica until it serves: first the machine is provisioned, then the model is loaded.

    Rent is paid from asking. Each part is a distribution (`provision`, `load`) or, in short, a mean (`provision_s`,
    `load_s`). A load time left out follows from the bytes of the weights and a table of measured figures.
    """

    provision_s: NonNegativeFloat | None = None
    """Mean time until the machine is there and its container runs; left out: 40 s, an assumption."""
    load_s: NonNegativeFloat | None = None
    """Mean time to load the model and warm up."""
    spread_frac: Annotated[float, Field(ge=0, le=1)] = SPREAD_FRAC
    """Standard deviation over mean of the whole delay, where both parts are plain means (log-normal); of each such part
    where the other is a distribution."""
    provision: Delay | None = None
    """Time until the machine is there and its container runs, as a distribution."""
    load: Delay | None = None
    """Time to load the model and warm up, as a distribution."""
    storage: Literal["local", "ebs-gp3", "ebs-io2", "s3"] = "local"
    """Where the weights lie, for a load time left out."""
    loader: Literal["safetensors", "runai-streamer", "tensorizer"] = "safetensors"
    """What reads them, for a load time left out."""
    stuck_start_frac: Share = 0.0
    """Share of starts that hang beyond their usual time, rent paid."""
    stuck_s: Delay | None = None
    """How much longer a stuck start takes; left out: it never serves."""
    give_up_s: PositiveFloat = 900.0
    """A start that does not serve this long after it was asked for is given up and replaced, as the controller does."""

    @model_validator(mode="after")
    def _once(self) -> ColdStart:
        for short, whole in (("provision_s", "provision"), ("load_s", "load")):
            if getattr(self, short) is not None and getattr(self, whole) is not None:
                raise ValueError(f"wanted {short} or {whole}, got both")
        loading(self.storage, self.loader)
        return self

    def delays(self, weight_bytes: float) -> StartDelays:
        """Both parts as distributions, for a model of so many bytes."""
        row = loading(self.storage, self.loader).duration
        provision_s = PROVISION_S if self.provision_s is None else self.provision_s
        load_s = row.of(weight_bytes) if self.load_s is None else self.load_s
        spread_frac = self.spread_frac
        if self.provision is None and self.load is None and provision_s + load_s > 0.0:
            # Two independent parts of this spread have together the one that was asked for.
            spread_frac *= (provision_s + load_s) / math.hypot(provision_s, load_s)
        return StartDelays(
            self.provision or LognormalDelay(mean_s=provision_s, spread_frac=spread_frac),
            self.load or LognormalDelay(mean_s=load_s, spread_frac=spread_frac),
        )

    def scaled(self, factor: float, weight_bytes: float) -> ColdStart:
        """The same with both parts so many times as long, for a model of so many bytes."""
        own = self.delays(weight_bytes)
        parts = {"provision": own.provision.scaled(factor), "load": own.load.scaled(factor)}
        return self.model_copy(update={**parts, "provision_s": None, "load_s": None})

    def sources(self) -> tuple[str, str]:
        """Where the figures of provisioning and loading come from: given, measured or assumed, and by whom."""
        given = "given: the scenario file"
        provision = PROVISION_SOURCE if self.provision_s is None and self.provision is None else given
        derived = self.load_s is None and self.load is None
        return provision, loading(self.storage, self.loader).duration.source if derived else given


class Sleep(Strict):
    """Replicas that are not needed are put to sleep (vLLM's sleep mode) instead of stopped, and wake up fast."""

    max: Annotated[int, Field(ge=1, le=1000)] = 1
    """Most replicas asleep; beyond them a scale-down stops replicas. They do not count against `replicas.max`."""
    level: Literal[1, 2] = 1
    """1 keeps the weights in host memory, 2 reads them again; decides the times left out."""
    wake: Delay | None = None
    """Time to wake up; left out: by the weights' bytes, from measured figures."""
    fall_asleep: Delay | None = None
    """Time from the last request's end until it sleeps, full rent paid; left out: as `wake`."""
    rent_frac: Share = 1.0
    """Share of the rent that is paid for one asleep. A rented machine costs the same asleep: below 1 only where the GPU
    is given back meanwhile."""
    keep_s: PositiveFloat | None = None
    """One that slept so long is stopped; left out: it is kept."""

    def delays(self, weight_bytes: float) -> tuple[Delay, Delay]:
        """Of waking up and of falling asleep, for a model of so many bytes."""
        wake_s, fall_asleep_s = WAKE[self.level].of(weight_bytes), FALL_ASLEEP[self.level].of(weight_bytes)
        return (
            self.wake or LognormalDelay(mean_s=wake_s, spread_frac=SPREAD_FRAC),
            self.fall_asleep or LognormalDelay(mean_s=fall_asleep_s, spread_frac=SPREAD_FRAC),
        )

    def source(self) -> str:
        """Where the time to wake up comes from: given or measured, and by whom."""
        return WAKE[self.level].source if self.wake is None else "given: the scenario file"


class PoolStage(Strict):
    """One stage of a pipeline over GPUs that differ."""

    gpu: str
    """Of the catalogue."""
    layers: Annotated[int, Field(ge=1)]
    """Of the model."""
    tensor_parallel: Annotated[int, Field(ge=1, le=8)] = 1
    """GPUs of one machine that share each of them."""
    link_to_next: str | None = None
    """What carries activations to the next stage, such as `InfiniBand-HDR200` or `Ethernet-100G`; left out: the GPUs'
    own link where the next stage has the same type, `InfiniBand-HDR200` where it has another."""


class Pool(Strict):
    """Identical replicas of one model with one price source. Several zones of one machine type are several pools."""

    gpu: str = ""
    """Of the catalogue, such as `H100-SXM-80GB`; left out where `stages` says."""
    model: str | None = None
    """Overrides the scenario's model."""
    precision: Literal["fp32", "fp16", "bf16", "fp8", "int8", "int4"] = "bf16"
    """Of the weights."""
    tensor_parallel: Annotated[int, Field(ge=1, le=8)] = 1
    """GPUs that share each layer of a replica."""
    pipeline_parallel: Annotated[int, Field(ge=1, le=16)] = 1
    """Stages of a replica, each of `tensor_parallel` GPUs. `engine.max_num_batched_tokens` is one batch's; a batch is
    in flight on each stage."""
    stage_layers: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Layers of each stage; left out: an even split, as vLLM makes it."""
    stages: Annotated[tuple[PoolStage, ...], Field(min_length=1, max_length=16)] | None = None
    """A pipeline whose stages run on GPUs that differ, in their order; in place of `gpu`, `tensor_parallel`,
    `pipeline_parallel` and `stage_layers`."""
    price: Price
    replicas: Replicas = Replicas()
    engine: Engine = Engine()
    cold_start: ColdStart = ColdStart()
    sleep: Sleep | None = None
    spot: Spot | None = None
    stock_outs: StockOuts | None = None
    crashes_per_hr: NonNegativeFloat = 0.0
    """Rate at which a replica's engine dies with all its requests; it is started again from nothing."""
    thermal: Thermal = Thermal()
    law: Path | None = None
    """File with a law measured on such a replica, as `poolpilot profile --out` writes it, in place of the performance
    model's; where it tells the KV cache's size, that too."""
    time_factor: Annotated[float, Field(gt=0, le=20, allow_inf_nan=False)] = 1.0
    """Everything takes so many times as long as the law says, the performance model's or a file's: what a refit to live
    traffic found (docs/finetuning.md)."""
    gpu_metrics: GpuMetrics | None = None
    """Who tells a live controller of the pool's GPUs; left out: only what the engines' own pages say of them."""
    command: tuple[str, ...] | None = None
    """Starts one live replica; `{host}`, `{port}` and `{cap_file}` are filled in. Left out: an emulated replica."""
    cap_by: Literal["engine", "proxy"] = "engine"
    """Who keeps live batches within the cap that is decided: engines with the engine plugin, or the proxy, which lets no
    more requests through at a time and answers the rest 429."""
    endpoints: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)] | None = None
    """Servers of your own, as `http://host:port`, in place of replicas that poolpilot starts: it routes to those that
    answer, and tells how many are wanted by its metric `poolpilot_desired_replicas`. Each IPv4 address of a name is a
    replica. `replicas` left out: all of them, from the start."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Of `endpoints`; none where poolpilot starts the replicas."""
        return tuple(parse_address(text) for text in self.endpoints or ())

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        if self.stages is not None:
            return sum(stage.tensor_parallel for stage in self.stages)
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def hardware(self) -> str:
        """GPUs of one replica, for people: `H100-SXM-80GB x2`, `A100-SXM-40GB + L4-24GB x2`."""
        counts: dict[str, int] = {}
        for name, gpus in [(s.gpu, s.tensor_parallel) for s in self.stages or ()] or [(self.gpu, self.gpus)]:
            counts[name] = counts.get(name, 0) + gpus
        return " + ".join(name + (f" x{gpus}" if gpus > 1 else "") for name, gpus in counts.items())

    def replica_stages(self, shape: Model) -> tuple[Stage, ...]:
        """The stages of a replica of this model, as the performance model takes them; one where it is no pipeline.

        Raises:
            CatalogError: an unknown GPU or link.
            LayoutError: more stages than layers.
        """
        if self.stages is None:
            return stages_of(gpu(self.gpu), shape, self.tensor_parallel, self.pipeline_parallel, self.stage_layers)
        return tuple(
            Stage(
                gpu(stage.gpu),
                stage.layers,
                stage.tensor_parallel,
                None if stage.link_to_next is None else link(stage.link_to_next),
            )
            for stage in self.stages
        )

    @property
    def batches_in_flight(self) -> int:
        """Batches at a time, each with a token budget of its own, whose round the law describes. A law measured from
        outside describes whatever it was measured on."""
        stages = self.pipeline_parallel if self.stages is None else len(self.stages)
        return stages if self.law is None else 1

    @model_validator(mode="after")
    def _unlike(self) -> Pool:
        if self.stages is None:
            if not self.gpu:
                raise ValueError("gpu: Field required; or give stages, for a pipeline over GPUs that differ")
            return self
        usual = {"gpu": "", "tensor_parallel": 1, "pipeline_parallel": 1, "stage_layers": None}
        given = [name for name, value in usual.items() if getattr(self, name) != value]
        if given:
            raise ValueError(f"stages: wanted in place of {', '.join(given)}, got both")
        if self.law is not None:
            raise ValueError("law: not with stages; a law file speaks of one GPU type")
        return self

    @model_validator(mode="after")
    def _stages(self) -> Pool:
        if self.stage_layers is not None and len(self.stage_layers) != self.pipeline_parallel:
            raise ValueError(
                f"stage_layers: {list(self.stage_layers)}, wanted one entry for each of {self.pipeline_parallel} stages"
                " (pipeline_parallel)"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _all_of_them(cls, given: Any) -> Any:
        """Servers that nobody starts or stops are all there, unless the file says that something scales them."""
        if isinstance(given, dict) and isinstance(given.get("endpoints"), list | tuple) and "replicas" not in given:
            count = len(given["endpoints"])
            return {**given, "replicas": {"min": 0, "max": max(count, 1), "start": count}}
        return given

    @model_validator(mode="after")
    def _behind_loopback(self) -> Pool:
        if self.sleep is not None and self.command is not None and not any("{host}" in part for part in self.command):
            raise ValueError(
                "command: no {host}; sleep turns on vLLM's dev endpoints, which ask for no password: the server must"
                " listen where it is told to, on loopback"
            )
        return self

    @model_validator(mode="after")
    def _own_servers(self) -> Pool:
        if self.endpoints is None:
            return self
        if self.command is not None:
            raise ValueError("wanted endpoints or command, got both: poolpilot starts the replicas or it does not")
        if self.sleep is not None:
            raise ValueError("sleep: not with endpoints; poolpilot puts to sleep only what it started itself")
        addresses = self.addresses
        twice = next((text for i, text in enumerate(self.endpoints) if addresses[i] in addresses[:i]), None)
        if twice is not None:
            raise ValueError(f"endpoints: {twice!r} is there twice")
        return self

    @model_validator(mode="after")
    def _spot_rates(self) -> Pool:
        if self.price.kind == "on_demand" and self.spot is not None:
            raise ValueError("spot: only for a pool whose price.kind is spot")
        return self
