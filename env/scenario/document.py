"""The scenario file: cluster, classes, targets, workload, prices and faults, as validated YAML.

The same file drives simulation, training, emulation and the live controller. Every problem is reported as one line
that names the file, the field, the value and what would be right.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from ..catalog.models import Model, model
from ..contract import Cluster, Targets
from ..guard import Limits
from ..ledger import Tariff
from ..one_line import first_problem, one_line, shown
from ..perf.coverage import Coverage, pipeline_coverage
from ..perf.law import IterationLaw
from ..perf.law_file import LawFile, LawFileError, LawRanges, read_law_file
from ..perf.roofline import Stage, pipeline_kv_tokens, pipeline_law
from ..plain_yaml import PlainYamlError, plain_yaml
from ..workload.spec import WorkloadSpec
from .classes import RequestClass
from .control import Control
from .energy import Energy
from .fields import Name, NonNegativeFloat, PositiveFloat, Share, Strict
from .fleet import Fleet
from .planning import Planning
from .pools import Pool, StartDelays
from .routing import Routing
from .telemetry import Telemetry

SHIPPED = Path(__file__).parents[1] / "scenarios"
SHOWN_PATH = 400
"""Characters shown of a file's name; the rest of the line says what is wrong."""
SHARES_TOLERANCE = 1e-6
"""Shares in a file are rounded; they may exceed 1 by this much together."""
MAX_FILE_BYTES = 256 << 10
"""A larger file is no scenario: Python reads YAML at some 50 kB/s. Long series of rates belong in a trace."""


MAX_CLASSES = 16
"""Most classes of a scenario."""


class ScenarioError(ValueError):
    """A scenario file cannot be used; the message is one line."""


class GuardLimits(Strict):
    """Hard limits that no policy can cross."""

    budget_usd_per_hr: PositiveFloat | None = None
    """No more rent than this is asked for; left out: no limit."""
    scale_up_step: Annotated[int, Field(ge=1)] = 4
    """Most replicas a pool may gain in one tick."""
    scale_down_step: Annotated[int, Field(ge=1)] = 1
    """Most replicas a pool may lose in one tick."""
    scale_down_cooldown_s: NonNegativeFloat = 60.0
    """No replica goes sooner than this after the pool last changed."""
    stale_after_s: PositiveFloat = 30.0
    """Older telemetry of a pool masks the action on it."""
    hot_gpu_c: PositiveFloat = 88.0
    """A pool with a hotter GPU has its batch cap derated."""
    min_admit_frac: Share = 1.0
    """Least share of a class with a latency target that must be let in."""


class Network(Strict):
    """What bytes cost."""

    egress_usd_per_gb: NonNegativeFloat = 0.0
    """Price of what is sent to clients."""
    bytes_per_token: PositiveFloat = 250.0
    """A streamed token with its JSON and SSE framing; measured on vLLM's chat stream, about 200 to 300 bytes."""


class World(Strict):
    """How the simulated world differs from what policies believe."""

    performance_error_frac: Annotated[float, Field(ge=0, le=0.9)] = 0.15
    """Each pool's true iteration time is the believed one times 1 plus or minus up to this, drawn per episode."""
    cold_start_error_frac: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    """Likewise each pool's true times to provision, load, wake up and fall asleep, by one factor."""
    preemption_error_frac: Annotated[float, Field(ge=0, le=0.9)] = 0.5
    """Likewise each pool's true rate of machine preemptions (of rates, not of availability series)."""
    retry_after_s: PositiveFloat = 20.0
    """What a request turned away is told to wait."""
    give_up_after_s: PositiveFloat = 600.0
    """A client that was turned away for this long stops trying."""


class Fault(Strict):
    """Something that goes wrong at a set time."""

    kind: Literal["preempt", "crash", "stock_out", "capacity"]
    """`preempt`: machines are taken away, with the pool's notice; `crash`: replicas die at once; `stock_out`: no more
    than `left` new machines can be had for `duration_s`; `capacity`: from now on no more than `count` machines can be
    had at a time, and of a spot pool those beyond are taken away with notice."""
    pool: str
    """Which pool it hits."""
    at_s: NonNegativeFloat
    """When, from the beginning of the run."""
    count: Annotated[int, Field(ge=0)] = 1
    """Replicas hit, or the machines of `capacity`."""
    duration_s: NonNegativeFloat = 0.0
    """Of a stock-out."""
    left: Annotated[int, Field(ge=0)] = 0
    """Of a stock-out: how many more replicas can be had meanwhile."""

    @model_validator(mode="after")
    def _meant(self) -> Fault:
        if self.left and self.kind != "stock_out":
            raise ValueError("left: only of a stock_out")
        if self.count == 0 and self.kind in ("preempt", "crash"):
            raise ValueError("count: wanted at least 1 replica hit, got 0")
        return self


class Scenario(Strict):
    """A whole scenario. `load_scenario` reads it from YAML."""

    schema_version: Literal[1] = Field(alias="schema")
    """Version of this format."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Lower case, digits and hyphens."""
    summary: str
    """One line for lists."""
    duration_s: PositiveFloat
    """Length of a run."""
    tick_s: PositiveFloat = 10.0
    """Time between decisions."""
    model: str
    """What pools hold and classes want that name no other; of the catalogue, such as `llama-2-13b`."""
    pools: Annotated[dict[Name, Pool], Field(max_length=32)] = Field(default_factory=dict)
    """At least one; none only beside `planning`, until `poolpilot plan --write` has chosen them."""
    classes: Annotated[dict[Name, RequestClass], Field(min_length=1, max_length=MAX_CLASSES)]
    workload: WorkloadSpec
    guard: GuardLimits = GuardLimits()
    control: Control = Control()
    energy: Energy = Energy()
    network: Network = Network()
    world: World = World()
    routing: Routing = Routing()
    faults: tuple[Fault, ...] = ()
    telemetry: Telemetry | None = None
    """How far policies see less than there is; left out: they see everything."""
    fleet: Fleet | None = None
    """What is asked of all pools together when their replicas are planned, beside the guard's budget; left out: what
    `planning` asks, if it stands there too."""
    planning: Planning | None = None
    """What may be rented: `poolpilot plan` chooses the pools from it, whatever stands under `pools`."""
    base_dir: Path = Field(default=Path(), exclude=True)
    """Folder of the file; relative paths start here."""

    @property
    def asked_of_fleet(self) -> Fleet | None:
        """`fleet`, or what `planning` asks of the pools that were chosen from it; None: nothing."""
        if self.fleet is not None or self.planning is None:
            return self.fleet
        own = self.planning
        return Fleet(**{name: getattr(own, name) for name in Fleet.model_fields})

    @model_validator(mode="after")
    def _joined_up(self) -> Scenario:
        problem = self._first_problem()
        if problem:
            raise ValueError(problem)
        return self

    def _first_problem(self) -> str | None:
        if not self.pools and self.planning is None:
            return "pools: wanted at least 1 pool, or a section `planning` from which `poolpilot plan` chooses them"
        for name in self.pools:
            try:
                self.pool_kv_tokens(name)
                self.pool_law(name)
            except ValueError as error:
                return f"pools.{name}: {error}"
        for name, requests in self.classes.items():
            try:
                model(requests.model or self.model)
            except ValueError as error:
                return f"{f'classes.{name}.' if requests.model else ''}model: {error}"
        known = ", ".join(self.pools) or "not chosen yet"
        for name, requests in self.classes.items():
            for wanted in requests.pools or ():
                if wanted not in self.pools:
                    return f"classes.{name}.pools: unknown pool {wanted!r}; pools are {known}"
        serves = self.serves()
        for i, (name, requests) in enumerate(self.classes.items()):
            problem = self._problem_of_shares(requests, serves[i])
            if problem:
                return f"classes.{name}.shares{problem}"
        for i, name in enumerate(self.classes):
            if self.pools and not serves[i].any():
                return (
                    f"classes.{name}: no pool can serve it; it wants model {self.classes[name].model or self.model}"
                    f", pools hold {', '.join(sorted({p.model or self.model for p in self.pools.values()}))}"
                )
        for j, name in enumerate(self.pools):
            if not serves[:, j].any():
                return f"pools.{name}: no class can use it; remove it, or name it under a class"
        for i, fault in enumerate(self.faults):
            if fault.pool not in self.pools:
                return f"faults[{i}].pool: unknown pool {fault.pool!r}; pools are {known}"
        for i, step in enumerate(self.energy.room_steps):
            for name in step.pools or ():
                if name not in self.pools:
                    return f"energy.room_steps[{i}].pools: unknown pool {name!r}; pools are {known}"
        for i, gap in enumerate(self.telemetry.gaps if self.telemetry else ()):
            for kind, of, names in (("pool", gap.pool, self.pools), ("class", gap.class_name, self.classes)):
                if of is not None and of not in names:
                    return f"telemetry.gaps[{i}].{kind}: unknown {kind} {of!r}; wanted one of {', '.join(names)}"
        for part, named in (("canary", self.control.canary.pools), ("trial", self.control.trial.pools)):
            for pool in named or ():
                if pool not in self.pools:
                    return f"control.{part}.pools: unknown pool {pool!r}; pools are {known}"
        unknown = set(self.workload.named_classes) - set(self.classes)
        if unknown:
            return f"workload: unknown class {min(unknown)!r}; classes are {', '.join(self.classes)}"
        return None

    def quality_floor(self, name: str) -> float:
        """Least share of the 16-bit score that a class asks of the precisions a plan may choose; 0 asks nothing."""
        own = self.classes[name].quality_floor
        if own is not None:
            return own
        return 0.0 if self.planning is None else self.planning.quality_floor

    def _problem_of_shares(self, requests: RequestClass, serves: np.ndarray[Any, np.dtype[np.bool_]]) -> str | None:
        """What is wrong with the shares of a class that the pools marked in `serves` `[P]` can serve."""
        shares = requests.shares or {}
        for pool in shares:
            if pool not in self.pools:
                return f": unknown pool {pool!r}; pools are {', '.join(self.pools)}"
            if not serves[self.pool_names.index(pool)]:
                return f".{pool}: this pool cannot serve the class"
        total = sum(shares.values())
        return f": they sum to {total:g}, wanted at most 1" if total > 1.0 + SHARES_TOLERANCE else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(self.classes)

    @property
    def pool_names(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(self.pools)

    def pool_model(self, pool: str) -> Model:
        """The model a pool holds."""
        return model(self.pools[pool].model or self.model)

    def cold_start(self, pool: str) -> StartDelays:
        """What a start in the pool is believed to take."""
        return self.pools[pool].cold_start.delays(self.weight_bytes(pool))

    def weight_bytes(self, pool: str) -> float:
        """Of one replica, all its GPUs together."""
        return self.pool_model(pool).weight_bytes(self.pools[pool].precision)

    def pool_stages(self, pool: str) -> tuple[Stage, ...]:
        """How a replica of the pool lies over GPUs; one stage where it is no pipeline. ValueError as for `pool_law`."""
        return self.pools[pool].replica_stages(self.pool_model(pool))

    def pool_law(self, pool: str) -> IterationLaw:
        """The iteration law of a pool's replicas, as believed: the measured one if the pool names a file.

        Raises:
            ValueError: the file cannot be used, or the GPU cannot run the model so.
        """
        own = self.pools[pool]
        law = self._pool_law(pool, own)
        return law if own.time_factor == 1.0 else law.scaled(own.time_factor)

    def _pool_law(self, pool: str, own: Pool) -> IterationLaw:
        if own.law is None:
            return pipeline_law(
                self.pool_stages(pool),
                self.pool_model(pool),
                own.precision,
                batch_tokens=own.engine.max_num_batched_tokens,
            )
        try:
            return self._law_file(own.law).law_of(*self._layout(own))
        except LawFileError as error:
            raise ScenarioError(f"law: {own.law}: {error}") from None

    def pool_kv_tokens(self, pool: str) -> int:
        """Tokens that the KV cache of a pool's replica holds; ValueError as for `pool_law`."""
        own = self.pools[pool]
        measured = None if own.law is None else self._law_file(own.law).kv_tokens_of(*self._layout(own))
        if measured is not None:
            return measured
        return pipeline_kv_tokens(
            self.pool_stages(pool), self.pool_model(pool), own.precision, own.engine.gpu_memory_utilization
        )

    def pool_coverage(self, pool: str) -> Coverage:
        """Over which loads the pool's law rests on measurements of its GPU; ValueError as for `pool_law`."""
        own = self.pools[pool]
        known = pipeline_coverage(self.pool_stages(pool), self.pool_model(pool), own.precision)
        if own.law is None:
            return known
        file = self._law_file(own.law)
        if not file.speaks_of(*self._layout(own)):
            return known
        # Measured on the very replica: nothing is borrowed. A file from elsewhere may not tell over which contexts.
        ends = (file.law.tokens[0], file.law.tokens[-1])
        ranges = file.ranges or LawRanges(tokens=ends, sequences=ends, context_tokens=(0.0, math.inf))
        return replace(known, calibrated=True, borrowed=(), errors=(), **dict(ranges))

    def _law_file(self, path: Path) -> LawFile:
        return read_law_file(self.base_dir / path)

    def _layout(self, pool: Pool) -> tuple[str, str, str, int, int]:
        """What a law file is asked for: GPU, model, precision, tensor and pipeline parallel."""
        return pool.gpu, pool.model or self.model, pool.precision, pool.tensor_parallel, pool.pipeline_parallel

    def serves(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """`[C, P]` whether the pool can serve the class."""
        return np.array(
            [
                [
                    model(requests.model or self.model).name == model(pool.model or self.model).name
                    and (requests.pools is None or name in requests.pools)
                    for name, pool in self.pools.items()
                ]
                for requests in self.classes.values()
            ],
            dtype=np.bool_,
        )

    def targets(self) -> Targets:
        """What the user asks for, as the contract has it."""
        wanted = [c.target for c in self.classes.values()]

        def column(name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
            values = [getattr(t, name) for t in wanted]
            return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

        return Targets(
            ttft_s=column("ttft_s"),
            tpot_s=column("tpot_s"),
            e2e_s=column("e2e_s"),
            deadline_s=column("deadline_s"),
            attainment=column("attainment"),
            budget_usd_per_hr=np.array(self.guard.budget_usd_per_hr or np.inf),
        )

    def limits(self) -> Limits:
        """The hard limits, as the guard takes them."""
        own = self.guard
        return Limits(
            budget_usd_per_hr=np.asarray(own.budget_usd_per_hr or np.inf),
            scale_up_step=np.asarray(float(own.scale_up_step)),
            scale_down_step=np.asarray(float(own.scale_down_step)),
            scale_down_cooldown_s=np.asarray(own.scale_down_cooldown_s),
            stale_after_s=np.asarray(own.stale_after_s),
            hot_gpu_c=np.asarray(own.hot_gpu_c),
            min_admit_frac=np.asarray(own.min_admit_frac),
        )

    def tariff(self) -> Tariff:
        """What energy and bytes cost whoever pays the bill."""
        return Tariff(
            usd_per_kwh=np.array(self.energy.usd_per_kwh if self.energy.paid_by_user else 0.0),
            pue=np.array(self.energy.pue),
            egress_usd_per_gb=np.array(self.network.egress_usd_per_gb),
        )

    def cluster(self) -> Cluster:
        """What does not change from tick to tick, as the contract has it."""
        pools = list(self.pools.values())

        def column(values: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
            return np.array(values, dtype=np.float64)

        return Cluster(
            class_names=self.class_names,
            pool_names=self.pool_names,
            class_mask=np.ones(len(self.classes), dtype=np.bool_),
            pool_mask=np.ones(len(pools), dtype=np.bool_),
            serves=self.serves(),
            spot=np.array([p.price.kind == "spot" for p in pools], dtype=np.bool_),
            min_replicas=column([p.replicas.min for p in pools]),
            max_replicas=column([p.replicas.max for p in pools]),
            max_batch_cap=column([p.engine.max_num_seqs for p in pools]),
            max_token_budget=column([p.engine.max_num_batched_tokens for p in pools]),
            usd_per_hr=column([p.price.usd_per_hr for p in pools]),
            cold_start_s=column([self.cold_start(name).mean_s for name in self.pools]),
            targets=self.targets(),
        )


def shipped_scenarios(*, to_plan: bool = False) -> dict[str, Path]:
    """The scenarios that come with the package, by name: those with pools, and with `to_plan` also those whose pools are
    not chosen yet."""
    paths = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    return paths if to_plan else {name: path for name, path in paths.items() if _names_pools(path)}


def _names_pools(path: Path) -> bool:
    """Of a file of our own, without reading its YAML."""
    return any(line.startswith("pools:") for line in path.read_text(encoding="utf-8").splitlines())


def load_scenario(name_or_path: str | Path, *, needs_pools: bool = True) -> Scenario:
    """A shipped scenario by name, or any by path.

    Args:
        needs_pools: False accepts a scenario with a `planning` section and no pools yet.

    Raises:
        ScenarioError: one line naming the file, the field, the value and what would be right.
    """
    shipped = shipped_scenarios(to_plan=True)
    path = shipped.get(str(name_or_path), Path(name_or_path))
    try:
        if not path.is_file():
            known = ", ".join(shipped_scenarios(to_plan=not needs_pools))
            raise _problem(name_or_path, f"no such file and no shipped scenario; shipped are {known}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _problem(path, f"larger than {MAX_FILE_BYTES} bytes, wanted a scenario")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _problem(name_or_path, f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise _problem(path, f"not readable as YAML: {error}") from None
    try:
        return parse_scenario(plain_yaml(text), path, needs_pools=needs_pools)
    except PlainYamlError as error:
        raise _problem(path, str(error)) from None


def parse_scenario(document: Any, path: Path, *, needs_pools: bool = True) -> Scenario:
    """A scenario from an already read document; `path` names it in errors and anchors relative paths."""
    if not isinstance(document, dict):
        raise _problem(path, f"{shown(document)}: wanted a mapping with schema, name, pools, classes, workload")
    if "base_dir" in document:
        raise _problem(path, "base_dir: unknown field; relative paths start at the file's folder")
    try:
        scenario = Scenario.model_validate({**document, "base_dir": path.parent})
    except ValidationError as error:
        raise _problem(path, first_problem(error)) from None
    if needs_pools and not scenario.pools:
        called = path.stem if path.parent == SHIPPED else path
        raise _problem(path, f"has no pools yet; run `poolpilot plan --scenario {called} --write FILE` first")
    return scenario


def _problem(path: str | Path, message: str) -> ScenarioError:
    name = str(path)
    return ScenarioError(one_line(f"{name if len(name) <= SHOWN_PATH else name[:SHOWN_PATH] + '...'}: {message}"))
