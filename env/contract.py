"""What everybody passes around: the one contract of simulator, live controller and every policy.

Symbols: `C` classes, `P` pools, `H` forecast steps, `L` layers of the bill, `K` parts of its idle layer; `...` an optional leading batch axis
(64 training clusters in one call). Everything is frozen and plain: NumPy arrays, strings, numbers. JSON both ways is
in `wire`.

A value that cannot be known is NaN and its mask is False: marked, never invented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION: Final = 3
"""Version of everything in this module; a stored Snapshot, Decision or checkpoint names the one it was made with."""

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]

FORECAST_HORIZON_S: Final = (60.0, 180.0, 300.0, 600.0, 900.0)
"""How far ahead each of the `H` forecast steps looks, in seconds."""
FORECAST_SPAN_S: Final = 60.0
"""A forecast step is the mean rate over this long, up to its horizon."""


class SchemaError(ValueError):
    """Data does not have the shape, names, units or version that the contract asks for."""


class Column:
    """One named column of a Snapshot block: read from a snapshot it is the array, from the class it is itself."""

    def __init__(self, block: str, unit: str, high: float, doc: str) -> None:
        """`high` is a generous upper end of plausible values in `unit`; telemetry above it is impossible."""
        self.block, self.unit, self.high, self.doc = block, unit, high, doc
        self.name = ""
        self.index = -1

    def __set_name__(self, owner: type, name: str) -> None:
        """Take a place in the block, in the order of definition."""
        self.name = name
        self.index = [n for n, c in vars(owner).items() if isinstance(c, Column) and c.block == self.block].index(name)

    @overload
    def __get__(self, snapshot: None, owner: type) -> Column: ...
    @overload
    def __get__(self, snapshot: Snapshot, owner: type) -> FloatArray: ...
    def __get__(self, snapshot: Snapshot | None, owner: type) -> Column | FloatArray:
        """The `[..., C]` or `[..., P]` view of this column."""
        if snapshot is None:
            return self
        block: FloatArray = getattr(snapshot, self.block)
        return block[..., self.index]


@dataclass(frozen=True)
class Snapshot:
    """What is known of the cluster at one moment, live or simulated.

    Read a column by its name (`snapshot.waiting`), its mask by `snapshot.known("waiting")`.
    """

    time_s: FloatArray
    """`[...]` seconds on the decider's clock."""
    classes: FloatArray
    """`[..., C, len(CLASS_COLUMNS)]`, NaN where unknown."""
    pools: FloatArray
    """`[..., P, len(POOL_COLUMNS)]`, NaN where unknown."""
    forecast_per_s: FloatArray
    """`[..., C, H]` expected arrival rate over the minute that ends at each of `FORECAST_HORIZON_S`, NaN where unknown."""

    # Per class, over the last window
    arrival_rate_per_s = Column("classes", "requests/s", 1e7, "requests that arrived per second, retries included")
    prompt_tokens_mean = Column("classes", "tokens", 1e7, "mean prompt length")
    prompt_tokens_std = Column("classes", "tokens", 1e7, "spread of the prompt length")
    output_tokens_mean = Column("classes", "tokens", 1e7, "mean output length")
    output_tokens_std = Column("classes", "tokens", 1e7, "spread of the output length")
    in_flight = Column("classes", "requests", 1e7, "sent to a replica and not finished")
    ttft_p50_s = Column("classes", "s", 1e5, "median time to first token")
    ttft_p95_s = Column("classes", "s", 1e5, "95th percentile of the time to first token")
    tpot_p50_s = Column("classes", "s", 1e3, "median time per output token after the first")
    tpot_p95_s = Column("classes", "s", 1e3, "95th percentile of the time per output token")
    attainment = Column("classes", "share", 1.0, "share of finished requests that met their target")
    shed_per_s = Column("classes", "requests/s", 1e7, "requests turned away with 429 per second")

    # Per pool
    ready = Column("pools", "replicas", 1e5, "replicas that serve")
    starting = Column("pools", "replicas", 1e5, "replicas being provisioned or loading the model")
    draining = Column("pools", "replicas", 1e5, "replicas that finish what they have and then stop")
    asleep = Column("pools", "replicas", 1e5, "replicas put to sleep, weights kept")
    target = Column("pools", "replicas", 1e5, "replicas last asked for")
    batch_cap = Column("pools", "sequences", 1e5, "most sequences an engine may run at once")
    token_budget = Column("pools", "tokens", 1e7, "most tokens an engine may process in one iteration")
    running = Column("pools", "sequences", 1e7, "sequences in the running batch, all replicas")
    waiting = Column("pools", "requests", 1e7, "requests queued in the engines, all replicas")
    kv_used_frac = Column("pools", "share", 1.0, "KV cache in use, mean over ready replicas")
    gpu_util_frac = Column("pools", "share", 1.0, "time the GPU was busy, mean over ready replicas")
    gpu_temp_c = Column("pools", "deg C", 150.0, "hottest GPU of the pool")
    power_w = Column("pools", "W", 1e7, "power drawn by the pool's GPUs")
    usd_per_hr = Column("pools", "$/h", 1e4, "price of one replica now")
    preemptions_per_hr = Column("pools", "1/h", 1e4, "machine preemptions per replica and hour, estimated")
    cold_start_s = Column("pools", "s", 1e5, "from asking for a replica until it serves, estimated")
    tokens_per_s = Column("pools", "tokens/s", 1e8, "prompt and output tokens processed per second")
    coverage_frac = Column(
        "pools", "share", 1.0, "share of the tokens processed that lie inside the calibrated range of the pool's law"
    )
    throttled = Column("pools", "share", 1.0, "share of the pool's GPUs that are slowed by heat or power")
    telemetry_age_s = Column("pools", "s", 1e9, "age of the newest telemetry of the pool")

    def known(self, column: str) -> BoolArray:
        """The validity mask of a column (`[..., C]` or `[..., P]`)."""
        described: Any = vars(Snapshot)[column]
        block: FloatArray = getattr(self, described.block)
        return ~np.isnan(block[..., described.index])

    def plausible(self, column: str, instead: FloatArray | float) -> FloatArray:
        """A column (`[..., C]` or `[..., P]`), with `instead` where it is unknown or cannot be."""
        described: Any = vars(Snapshot)[column]
        block: FloatArray = getattr(self, described.block)
        values = block[..., described.index]
        return np.where((values >= 0.0) & (values <= described.high), values, instead)

    def check(self, cluster: Cluster) -> Snapshot:
        """The same snapshot, or SchemaError naming the first field whose shape or value cannot be."""
        n_classes, n_pools = len(cluster.class_names), len(cluster.pool_names)
        expected = {
            "classes": (n_classes, len(CLASS_COLUMNS)),
            "pools": (n_pools, len(POOL_COLUMNS)),
            "forecast_per_s": (n_classes, len(FORECAST_HORIZON_S)),
        }
        for block, shape in expected.items():
            seen = getattr(self, block).shape[-2:]
            if seen != shape:
                raise SchemaError(f"snapshot.{block}: shape {seen}, wanted {shape} for this cluster")
        ranges = [(c.name, getattr(self, c.name), c) for c in CLASS_COLUMNS + POOL_COLUMNS]
        ranges.append(("forecast_per_s", self.forecast_per_s, Snapshot.arrival_rate_per_s))
        for name, values, column in ranges:
            bad = (values < 0) | (values > column.high)  # comparisons with NaN are False: unknown is allowed
            if bad.any():
                raise SchemaError(f"snapshot.{name}: {values[bad].flat[0]} {column.unit}, wanted 0 to {column.high:g}")
        return self


def _columns(block: str) -> tuple[Column, ...]:
    return tuple(c for c in vars(Snapshot).values() if isinstance(c, Column) and c.block == block)


CLASS_COLUMNS: Final = _columns("classes")
POOL_COLUMNS: Final = _columns("pools")


def blank_snapshot(time_s: float, n_classes: int, n_pools: int) -> Snapshot:
    """A snapshot in which nothing is known."""
    return Snapshot(
        time_s=np.array(time_s, dtype=np.float64),
        classes=np.full((n_classes, len(CLASS_COLUMNS)), np.nan),
        pools=np.full((n_pools, len(POOL_COLUMNS)), np.nan),
        forecast_per_s=np.full((n_classes, len(FORECAST_HORIZON_S)), np.nan),
    )


@dataclass(frozen=True)
class Targets:
    """What the user asks for: the whole interface of the user. NaN means no such target."""

    ttft_s: FloatArray
    """`[..., C]` time to first token."""
    tpot_s: FloatArray
    """`[..., C]` mean time per output token after the first."""
    e2e_s: FloatArray
    """`[..., C]` from arrival to the last token."""
    deadline_s: FloatArray
    """`[..., C]` from first arrival (retries included) to the last token; a class with one is deferrable."""
    attainment: FloatArray
    """`[..., C]` wanted share of requests that meet all their targets, 0..1."""
    budget_usd_per_hr: FloatArray
    """`[...]` never spend more; inf means no limit."""

    @property
    def deferrable(self) -> BoolArray:
        """`[..., C]` whether the class may be put off."""
        return ~np.isnan(self.deadline_s)


@dataclass(frozen=True)
class Cluster:
    """What does not change from tick to tick. Rows that only pad a batch have their mask False."""

    class_names: tuple[str, ...]
    pool_names: tuple[str, ...]
    class_mask: BoolArray
    """`[..., C]` False for padding."""
    pool_mask: BoolArray
    """`[..., P]` False for padding."""
    serves: BoolArray
    """`[..., C, P]` whether the pool can serve the class (model, memory, the user's wish)."""
    spot: BoolArray
    """`[..., P]` whether the machines may be taken away."""
    min_replicas: FloatArray
    """`[..., P]`"""
    max_replicas: FloatArray
    """`[..., P]`"""
    max_batch_cap: FloatArray
    """`[..., P]` the engine's start value of max_num_seqs; a cap never goes above."""
    max_token_budget: FloatArray
    """`[..., P]` the engine's start value of max_num_batched_tokens."""
    usd_per_hr: FloatArray
    """`[..., P]` base price of one replica."""
    cold_start_s: FloatArray
    """`[..., P]` believed time from asking to serving."""
    targets: Targets


@dataclass(frozen=True)
class Plan:
    """The planner's answer: counts, routing and caps for a load, and what it believes they cost and reach."""

    replicas: FloatArray
    """`[..., P]` whole numbers."""
    route: FloatArray
    """`[..., C, P]` rows sum to 1 over pools that serve the class."""
    batch_cap: FloatArray
    """`[..., P]`"""
    capacity_per_s: FloatArray
    """`[..., C, P]` requests/s of the class that one replica serves within target, if it serves nothing else."""
    load_per_s: FloatArray
    """`[..., C]` the arrival rate that was planned for."""
    usd_per_hr: FloatArray
    """`[...]` expected rent."""
    attainment: FloatArray
    """`[..., C]` expected share that meets its target."""


@dataclass(frozen=True)
class Action:
    """What to do until the next tick."""

    route: FloatArray
    """`[..., C, P]` rows sum to 1 over pools that can serve the class, zero elsewhere."""
    admit: FloatArray
    """`[..., C]` share let in; the rest gets 429 with Retry-After."""
    batch_cap: FloatArray
    """`[..., P]` sequences."""
    token_budget: FloatArray
    """`[..., P]` tokens an iteration."""
    replicas: FloatArray
    """`[..., P]` replicas wanted."""


MemoryValue: TypeAlias = FloatArray
Memory: TypeAlias = Mapping[str, MemoryValue]
"""What a policy remembers: plain arrays by name, so that a logged decision can be computed again."""


@dataclass(frozen=True)
class Answer:
    """What a network answered at one tick, raw: what its action follows from, given the rules' proposals."""

    classes: FloatArray
    """`[..., C, outputs of a class]` as it was acted on, exploration included (`env.codec.Outputs`)."""
    pools: FloatArray
    """`[..., P, outputs of a pool]`"""
    whole: FloatArray
    """`[..., outputs of the whole]`"""
    log_probability: float = float("nan")
    """Natural logarithm of the density at which the policy gave this answer; NaN where it is deterministic."""
    outside_frac: float = float("nan")
    """Share of what the network saw that lies outside the range that it was trained on; NaN where nobody knows that range."""
    outside: tuple[str, ...] = ()
    """The features that lie outside most."""


class Policy(Protocol):
    """Who decides. Structural: any object with these members."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """What to do now, and what to remember. An empty memory means the first decision."""
        ...


class Mode(StrEnum):
    """How far the sidecar's decisions reach."""

    ADVISE = "advise"
    CANARY = "canary"
    ACTIVE = "active"


class ReasonCode(StrEnum):
    """Why an applied action differs from the proposed one, or who decided instead."""

    MIN_REPLICAS = "min_replicas"
    MAX_REPLICAS = "max_replicas"
    SCALE_STEP = "scale_step"
    SCALE_DOWN_COOLDOWN = "scale_down_cooldown"
    PENDING_STARTS = "pending_starts"
    BUDGET = "budget"
    PLAN_FLOOR = "plan_floor"
    LAST_REPLICA = "last_replica"
    HOT_GPU = "hot_gpu"
    DRAIN_FIRST = "drain_first"
    """Those of the pool that were told to go have not gone yet."""
    STALE_TELEMETRY = "stale_telemetry"
    IMPOSSIBLE_TELEMETRY = "impossible_telemetry"
    """The pool's telemetry says what cannot be."""
    NOT_FINITE = "not_finite"
    ROUTE_UNSERVABLE = "route_unservable"
    CAP_RANGE = "cap_range"
    ADMIT_RANGE = "admit_range"
    ADMIT_INTERACTIVE = "admit_interactive"
    POLICY_ERROR = "policy_error"
    POLICY_TIMEOUT = "policy_timeout"
    MISSING_TELEMETRY = "missing_telemetry"
    """What decisions rest on did not arrive: the weights stay, the fallback decides the rest."""
    RESUMING = "resuming"
    """A sidecar that found its cluster running has seen nothing of the traffic yet: everything stays as it is."""
    STORE_GONE = "store_gone"
    """The tick before could not be recorded: the fallback decides until it can."""
    DRIFT = "drift"
    """The policy is trusted less, and the fallback rule has a share of what it wanted."""
    CANARY = "canary"
    """Beyond what the canary may touch."""
    PROMOTED = "promoted"
    """The mode rose by one, its gate passed; `wanted` and `applied` are the rungs before and after."""
    STEPPED_BACK = "stepped_back"
    """The mode fell by one, a breach; `wanted` and `applied` are the rungs before and after."""
    EXPLORING = "exploring"
    """The policy's answer has noise on it, as far as the canary reaches; `wanted` and `applied` are dollars spent and allowed."""
    VERSION = "version"
    """Of a registry's versions: another one decides, or the trial of one began or ended."""


@dataclass(frozen=True)
class Reason:
    """One change the guard made: `wanted` became `applied` for the named pool or class."""

    code: ReasonCode
    subject: str
    wanted: float
    applied: float
    detail: str = ""


@dataclass(frozen=True)
class Decision:
    """The record of one tick's outcome."""

    tick: int
    time_s: float
    proposed: Action
    applied: Action
    reasons: tuple[Reason, ...]
    expected_usd_per_hr: float
    expected_attainment: FloatArray
    """`[C]`"""
    policy_name: str
    policy_hash: str
    mode: Mode
    fencing_token: int = 0
    schema: int = SCHEMA_VERSION


BILL_LAYERS: Final = ("compute", "software", "idle", "energy", "network")
"""The five layers, each computed on its own: rent for useful work; rent while busy but below what the hardware could
do; rent while nothing runs; energy and cooling; network."""


IDLE_PARTS: Final = ("cold_start", "waiting", "drain", "asleep")
"""What rent of the idle layer was for: from asking (or waking) until it serves; ready with nothing to do; told to go
with nothing to do any more; kept asleep."""

SCALING_PARTS: Final = ("cold_start", "drain", "asleep")
"""Those of `IDLE_PARTS` that come of scaling."""

NO_DECISION: Final = -1
"""Instead of a tick: what the first second or the world brought, and no decision."""


@dataclass(frozen=True)
class Bill:
    """All dollars of a span of time."""

    usd: FloatArray
    """`[..., P, C, L]` by pool, class and layer of `BILL_LAYERS`."""
    idle_usd: FloatArray
    """`[..., P, C, K]` the idle layer by `IDLE_PARTS`, which sum to it."""

    @property
    def total_usd(self) -> FloatArray:
        """`[...]`"""
        total: FloatArray = self.usd.sum(axis=(-3, -2, -1))
        return total

    def layer_usd(self, layer: str) -> FloatArray:
        """`[...]` dollars of one layer."""
        dollars: FloatArray = self.usd[..., BILL_LAYERS.index(layer)].sum(axis=(-2, -1))
        return dollars

    def idle_part_usd(self, part: str) -> FloatArray:
        """`[...]` dollars of one of `IDLE_PARTS`."""
        dollars: FloatArray = self.idle_usd[..., IDLE_PARTS.index(part)].sum(axis=(-2, -1))
        return dollars


@dataclass(frozen=True, slots=True)
class ScalingCost:
    """Rent that came of scaling, charged to the decision that caused it."""

    tick: int
    """Of the decision (`Decision.tick`) that started or woke the replica (cold start), or drained it (drain, asleep);
    `NO_DECISION` if none did."""
    pool: str
    part: str
    """One of `SCALING_PARTS`."""
    usd: float
