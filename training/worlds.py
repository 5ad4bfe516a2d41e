"""Worlds to train and evaluate in: clusters drawn at random, and scenarios varied at random, so that one policy learns
from many.

Randomness comes from one seed an episode; the same seed gives the same world for every policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..agents.planner.replan import replanner_of
from ..agents.planner.solving.together import quick
from ..env.batch import Episode
from ..env.beliefs import mean_load, opening_load, peak_load
from ..env.contract import FloatArray
from ..env.scenario import Scenario
from ..env.sim.world import WorldSpec, world_from_scenario
from ..env.workload.requests import Workload
from ..env.workload.spec import GeneratedSpec, MixSpec
from .clusters import TICK_S, random_scenario

MISS_PRICE_LOW, MISS_PRICE_HIGH = 0.03, 2.0
"""Range of the price of a miss in training, in reference bills for a whole allowance (see `env.reward`)."""

FIRST_TRAINING_SEED = 2**32
"""Random clusters of training have seeds from here on: suites name smaller ones, so that none is ever trained on."""


@dataclass(frozen=True)
class Variation:
    """How far training worlds stray from the scenario's own figures: factors are exp(uniform(-x, x))."""

    load: float = 0.4
    price: float = 0.3
    cold_start: float = 0.5
    target: float = 0.2
    drop_pool: float = 0.25
    """Chance that one pool (of at least three) cannot grow at all."""


def first_load(world: WorldSpec) -> FloatArray:
    """`[C]` the load that a first plan expects: that of the first minutes, which a look at yesterday tells."""
    return opening_load(world.workload, world.duration_s)


def episode_of(
    scenario: Scenario, seed: int, miss_price: float, quickly: bool = False, workload: Workload | None = None
) -> Episode:
    """One episode of a scenario as it stands, with `workload` in place of its own requests where that is given.

    `quickly`, its plans are made by compiled code, as cheap within the solver's gap but not always the same ones.
    """
    world = world_from_scenario(scenario, seed, workload)
    planner = replanner_of(scenario, world.workload)
    if quickly:
        planner = quick(planner)
    load, _, _ = mean_load(world.workload, scenario.duration_s)
    # Between what the mean load and the peak would rent lies what a good rule pays.
    mean_usd = float(planner.first(load).usd_per_hr)
    peak_usd = float(planner.first(peak_load(world.workload, scenario.duration_s)).usd_per_hr)
    return Episode(
        world=world,
        planner=planner,
        limits=scenario.limits(),
        first_load_per_s=first_load(world),
        reference_usd=0.5 * (mean_usd + peak_usd) * scenario.tick_s / 3600.0,
        reference_requests=load * scenario.tick_s,
        miss_price=miss_price,
    )


def varied(scenario: Scenario, variation: Variation, rng: np.random.Generator) -> Scenario:
    """A scenario like `scenario` with other loads, prices, delays and targets."""

    def factor(spread: float) -> float:
        return float(np.exp(rng.uniform(-spread, spread)))

    pools = {}
    dropped = rng.choice(list(scenario.pools)) if rng.random() < variation.drop_pool else None
    for name, pool in scenario.pools.items():
        price = pool.price.scaled(factor(variation.price))
        cold = pool.cold_start.scaled(factor(variation.cold_start), scenario.weight_bytes(name))
        replicas = pool.replicas
        if name == dropped and len(scenario.pools) >= 3 and _spared(scenario, name):
            replicas = replicas.model_copy(update={"max": max(1, replicas.min), "start": max(replicas.min, 0)})
        pools[name] = pool.model_copy(update={"price": price, "cold_start": cold, "replicas": replicas})
    classes = {
        name: requests.model_copy(
            update={
                "target": requests.target.model_copy(
                    update={
                        key: value * factor(variation.target)
                        for key in ("ttft_s", "tpot_s", "deadline_s")
                        if (value := getattr(requests.target, key)) is not None
                    }
                )
            }
        )
        for name, requests in scenario.classes.items()
    }
    workload = scenario.workload
    if isinstance(workload, GeneratedSpec | MixSpec):
        workload = workload.scaled({name: factor(variation.load) for name in workload.named_classes})
    return scenario.model_copy(update={"pools": pools, "classes": classes, "workload": workload})


@dataclass(frozen=True)
class TrainingWorlds:
    """Draws episodes: a random cluster (`clusters.random_scenario`), or one of `scenarios` varied at random, with the
    price of a miss at random."""

    scenarios: Sequence[Scenario] = ()
    variation: Variation = Variation()
    bank: int = 0
    """So many worlds, each met again and again with other coin tosses (admission, routing, cold starts, noise of telemetry)
    and another price of a miss; 0: a new world every time. Drawing a world costs as much as a hundred steps."""
    bank_seed: int = 0
    """Which worlds the bank holds."""
    quickly: bool = False
    """Plan by compiled code (see `episode_of`)."""
    random_frac: float = 0.0
    """Share of the episodes whose cluster is drawn at random; all of them where there are no scenarios."""
    difficulty: float = 1.0
    """Of random clusters, 0 to 1: the curriculum (`at`)."""
    tick_s: float = TICK_S
    """Of random clusters."""
    drawn: dict[int, Episode] = field(default_factory=dict, repr=False, compare=False)
    """The bank as far as it is filled."""

    @property
    def ticks_s(self) -> frozenset[float]:
        """The ticks of the worlds: a batch has one."""
        random = frozenset({self.tick_s}) if self._share_of_random > 0.0 else frozenset()
        return random | {scenario.tick_s for scenario in self.scenarios}

    def at(self, difficulty: float) -> TrainingWorlds:
        """The same at another difficulty, with a bank of its own."""
        return replace(self, difficulty=difficulty, drawn={})

    @property
    def _share_of_random(self) -> float:
        return self.random_frac if self.scenarios else 1.0

    def __call__(self, seed: int) -> Episode:
        """The episode of a seed, whatever was drawn before."""
        if not self.bank:
            return self._drawn(seed)
        own = seed % self.bank
        kept = self.drawn.get(own)
        if kept is None:
            mixed = np.random.SeedSequence((self.bank_seed, own)).generate_state(1, np.uint64)
            kept = self.drawn[own] = self._drawn(int(mixed[0]))
        rng = np.random.default_rng(seed)
        world = replace(kept.world, seed=int(rng.integers(2**62)))
        if world.veil is not None:
            world = replace(world, veil=replace(world.veil, seed=world.seed))
        return replace(kept, world=world, miss_price=_miss_price(rng))

    def _drawn(self, seed: int) -> Episode:
        rng = np.random.default_rng(seed)
        if self._share_of_random >= 1.0 or (self.random_frac > 0.0 and rng.random() < self.random_frac):
            scenario = random_scenario(int(rng.integers(FIRST_TRAINING_SEED, 2**62)), self.difficulty)
            scenario = scenario.model_copy(update={"tick_s": self.tick_s})
        else:
            base = self.scenarios[int(rng.integers(len(self.scenarios)))]
            scenario = varied(base, self.variation, rng)
        price = _miss_price(rng)
        return episode_of(scenario, int(rng.integers(2**62)), price, self.quickly)


def _miss_price(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(MISS_PRICE_LOW), np.log(MISS_PRICE_HIGH))))


def _spared(scenario: Scenario, dropped: str) -> bool:
    """Whether every class keeps another pool when `dropped` cannot grow."""
    serves, index = scenario.serves(), scenario.pool_names.index(dropped)
    others = np.delete(serves, index, axis=1)
    return bool(others.any(axis=1).all())
