"""One cluster's world, drawn for an episode: what is true, beside what policies believe.

Symbols: `C` classes, `P` pools, `K` price steps, `F` faults, `N` requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..beliefs import believed_ranges
from ..contract import BoolArray, Cluster, FloatArray, IntArray
from ..coverage import CalibratedRanges
from ..ledger import Tariff
from ..market.load import prices
from ..perf.law import LAW_WIDTH
from ..perf.power import Draw, draws_of
from ..scenario import Scenario
from ..veil import Veil, veil_of
from ..workload.fitting import fitted, longest_allowed, tokens_held
from ..workload.load import load_workload
from ..workload.requests import Workload
from .power import Thermal
from .supply import Supply, supply_of


class WorldError(ValueError):
    """A world that cannot be simulated; the message names the field."""


@dataclass(frozen=True, eq=False)
class WorldSpec:
    """Everything that decides how one cluster moves, except the actions."""

    cluster: Cluster
    """What policies know, unbatched."""
    workload: Workload
    """Classes in the order of `cluster.class_names`; no request is longer than any pool that serves it holds."""
    duration_s: float
    """When the episode ends."""
    seed: int
    """Decides admission, routing, cold starts and preemptions: the same for every policy that meets this world."""
    law_rows: FloatArray
    """`[P, LAW_WIDTH]` the true law of each pool's replicas."""
    kv_tokens: FloatArray
    """`[P]` tokens that the KV cache of a replica holds."""
    max_model_len: FloatArray
    """`[P]` tokens."""
    by_priority: BoolArray
    """`[P]` whether its engines schedule by the classes' priorities; else first come first served."""
    prefix_caching: BoolArray
    """`[P]` whether its engines keep the KV blocks of prompts for others that begin alike."""
    class_priority: IntArray
    """`[C]` the lower, the sooner."""
    start_replicas: FloatArray
    """`[P]` replicas that serve from the first second."""
    supply: Supply
    """How machines come and go."""
    price_from_s: FloatArray
    """`[K]` when each price begins, 0 first."""
    price_usd_per_hr: FloatArray
    """`[K, P]` price of one replica."""
    batches_in_flight: FloatArray
    """`[P]` of a replica at a time, each with the token budget: the stages of a pipeline."""
    draws: tuple[tuple[Draw, ...], ...]
    """`[P]` of a replica's GPUs: one where they are alike, one a stage where they are not."""
    thermals: tuple[Thermal, ...]
    """`[P]`"""
    room_from_s: FloatArray
    """`[K]` when each room temperature begins, 0 first."""
    room_c: FloatArray
    """`[K, P]` of the air that each pool's GPUs breathe."""
    tariff: Tariff
    """Scalars."""
    bytes_per_token: float
    retry_after_s: float
    """When a request that was turned away comes back."""
    give_up_after_s: FloatArray
    """`[C]` since first arrival; after that it does not come back."""
    ranges: CalibratedRanges | None = None
    """`[P]` over which loads the laws that policies believe rest on measurements; None if nobody knows."""
    veil: Veil | None = None
    """What policies do not see (`env.veil`); None: nothing is hidden."""

    def __post_init__(self) -> None:
        """Check what compiled code relies on."""
        n_classes, n_pools = len(self.cluster.class_names), len(self.cluster.pool_names)
        steps, rooms = len(self.price_from_s), len(self.room_from_s)
        shapes = {
            "law_rows": (n_pools, LAW_WIDTH),
            "price_usd_per_hr": (steps, n_pools),
            "room_c": (rooms, n_pools),
            "give_up_after_s": (n_classes,),
            "class_priority": (n_classes,),
            **dict.fromkeys(_PER_POOL, (n_pools,)),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise WorldError(f"{name}: shape {getattr(self, name).shape}, wanted {shape}")
        if self.workload.class_names != self.cluster.class_names:
            raise WorldError(f"workload: classes {self.workload.class_names}, wanted {self.cluster.class_names}")
        for name in ("price_from_s", "room_from_s"):
            from_s = getattr(self, name)
            if len(from_s) == 0 or from_s[0] != 0 or (np.diff(from_s) <= 0).any():
                raise WorldError(f"{name}: {from_s}, wanted rising seconds that begin with 0")
        for name, held in (("draws", self.draws), ("thermals", self.thermals)):
            if len(held) != n_pools:
                raise WorldError(f"{name}: {len(held)}, wanted one for each of {n_pools} pools")
        if not all(self.draws):
            raise WorldError("draws: a pool without any, wanted at least one")
        if self.retry_after_s <= 0:
            raise WorldError(f"retry_after_s: {self.retry_after_s}, wanted above 0")
        if len(self.supply.notice_s) != n_pools:
            raise WorldError(f"supply: {len(self.supply.notice_s)} pools, wanted {n_pools}")
        if (self.start_replicas > self.cluster.max_replicas).any():
            raise WorldError(f"start_replicas: {self.start_replicas}, wanted at most {self.cluster.max_replicas}")
        limits = longest_allowed(self.cluster, tokens_held(self.kv_tokens, self.max_model_len))
        tokens = self.workload.prompt_tokens + self.workload.output_tokens
        too_long = tokens > limits[self.workload.class_index]
        if too_long.any():
            row = int(np.argmax(too_long))
            limit = limits[self.workload.class_index[row]]
            raise WorldError(f"workload: row {row}: {tokens[row]} tokens, wanted at most {limit:g}; use `fitted`")


_PER_POOL = (
    "kv_tokens",
    "max_model_len",
    "by_priority",
    "prefix_caching",
    "start_replicas",
    "batches_in_flight",
)


def world_from_scenario(scenario: Scenario, seed: int, workload: Workload | None = None) -> WorldSpec:
    """Draw a world: requests (unless handed in), each pool's true speed and supply, and the seed of everything later.

    Raises:
        ValueError: a file that the scenario names cannot be used; one line says which, and why.
    """
    names = scenario.class_names
    speed_seed, workload_seed, run_seed, supply_seed, veil_seed = (
        int(part.generate_state(1, np.uint64)[0] >> np.uint64(1)) for part in np.random.SeedSequence(seed).spawn(5)
    )
    telemetry = scenario.telemetry
    pools = list(scenario.pools.values())
    cluster = scenario.cluster()
    error = scenario.world.performance_error_frac
    factors = 1.0 + np.random.default_rng(speed_seed).uniform(-error, error, size=len(pools))
    kv_tokens = np.array([float(scenario.pool_kv_tokens(name)) for name in scenario.pool_names])
    max_model_len = np.array([float(p.engine.max_model_len) for p in pools])
    requests = workload or load_workload(
        scenario.workload, names, scenario.duration_s, workload_seed, scenario.base_dir
    )
    give_up_s = np.full(len(names), scenario.world.give_up_after_s)
    deferrable = cluster.targets.deferrable
    # Work that may wait is put off by 429 until its deadline: such a client does not lose patience before.
    give_up_s[deferrable] = np.maximum(give_up_s[deferrable], cluster.targets.deadline_s[deferrable])
    price_from_s, price_usd_per_hr = _prices(scenario)
    room_from_s, room_c = scenario.energy.room(scenario.pool_names)
    return WorldSpec(
        cluster=cluster,
        workload=fitted(requests, cluster, tokens_held(kv_tokens, max_model_len)),
        duration_s=scenario.duration_s,
        seed=run_seed,
        law_rows=np.stack(
            [scenario.pool_law(name).scaled(f).as_row() for name, f in zip(scenario.pool_names, factors, strict=True)]
        ),
        kv_tokens=kv_tokens,
        max_model_len=max_model_len,
        by_priority=np.array([p.engine.scheduling == "priority" for p in pools]),
        prefix_caching=np.array([p.engine.prefix_caching for p in pools]),
        class_priority=np.array([c.priority for c in scenario.classes.values()], dtype=np.int64),
        start_replicas=np.array([float(p.replicas.start) for p in pools]),
        supply=supply_of(scenario, supply_seed),
        price_from_s=price_from_s,
        price_usd_per_hr=price_usd_per_hr,
        batches_in_flight=np.array([float(p.batches_in_flight) for p in pools]),
        draws=tuple(
            draws_of(scenario.pool_stages(name), scenario.pool_model(name), pool.precision)
            for name, pool in scenario.pools.items()
        ),
        thermals=tuple(Thermal(**p.thermal.model_dump()) for p in pools),
        room_from_s=room_from_s,
        room_c=room_c,
        tariff=scenario.tariff(),
        bytes_per_token=scenario.network.bytes_per_token,
        retry_after_s=scenario.world.retry_after_s,
        give_up_after_s=give_up_s,
        ranges=believed_ranges(scenario),
        veil=None if telemetry is None else veil_of(telemetry, names, scenario.pool_names, veil_seed),
    )


def _prices(scenario: Scenario) -> tuple[FloatArray, FloatArray]:
    """`[K]` every time at which some pool's price moves, and `[K, P]` the prices from then on."""
    series = [prices(name, pool.price, scenario.duration_s, scenario.base_dir) for name, pool in scenario.pools.items()]
    from_s: FloatArray = np.unique(np.concatenate([own.from_s for own in series]))
    columns = [own.values[np.searchsorted(own.from_s, from_s, side="right") - 1] for own in series]
    return from_s, np.stack(columns, axis=1)
