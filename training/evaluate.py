"""Compares policies over scenarios and seeds: paired by seed, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..agents.checkpoint import load_checkpoint
from ..agents.portfolio import HELD_PLAN, PLAN_TRACKING, STATIC, THRESHOLD, PolicyFactory, held_setting, policy_factory
from ..env.batch import Episode
from ..env.contract import FloatArray
from ..env.scenario import Scenario
from ..env.window import MET
from .bounding import Clairvoyant
from .clairvoyant_plan import CLAIRVOYANT, replayed
from .rollout import RunResult, rollout
from .tuning import Tuned, tune_static, tune_threshold, tune_tracking
from .worlds import episode_of

TUNING_SEED = 1_000_000
"""Seeds from here on are for tuning; those scored are below."""
TUNING_EPISODES = 3
BOOTSTRAP_DRAWS = 2000
TUNERS = {STATIC: tune_static, THRESHOLD: tune_threshold, PLAN_TRACKING: tune_tracking}
"""How each rule's knobs are chosen."""


@dataclass(frozen=True)
class Contender:
    """A policy that can be run on a scenario's clusters, and how it came by its setting."""

    name: str
    make: PolicyFactory
    tuned: Tuned | None = None

    def run(self, episodes: Sequence[Episode], tick_s: float) -> list[RunResult]:
        """Every episode under the policy."""
        return rollout(episodes, self.make, tick_s)


@dataclass(frozen=True)
class Foreseeing:
    """The mark beside the contenders: each episode's own clairvoyant plan, replayed."""

    name: str = CLAIRVOYANT
    tuned: Tuned | None = None

    def run(self, episodes: Sequence[Episode], tick_s: float) -> list[RunResult]:
        """Every episode under the cheapest of its plans that meets its targets."""
        return [own.result for own in replayed(episodes, tick_s)]


def entrant(
    name: str,
    scenario: Scenario,
    tuning: Sequence[Episode] | None = None,
    on_trial: Callable[[], None] | None = None,
) -> Contender | Foreseeing:
    """A contender by name, or the mark."""
    return Foreseeing() if name == CLAIRVOYANT else contender(name, scenario, tuning=tuning, on_trial=on_trial)


def contender(
    name: str,
    scenario: Scenario,
    miss_price: float | None = None,
    tuning: Sequence[Episode] | None = None,
    on_trial: Callable[[], None] | None = None,
) -> Contender:
    """A policy by name; rules with knobs are tuned on `tuning` (drawn from the scenario when left out)."""
    if name == HELD_PLAN:
        return Contender(name, policy_factory(name, held_setting(scenario)))
    tuner = TUNERS.get(name)
    if tuner is None:
        return Contender(load_checkpoint(name).name, policy_factory(name, miss_price=miss_price))
    tuned = tuner(tuning or tuning_episodes(scenario), scenario.tick_s, on_trial)
    return Contender(name, policy_factory(name, tuned.best.setting), tuned)


def tuning_episodes(scenario: Scenario) -> list[Episode]:
    """Days of the scenario that are never scored."""
    return [episode_of(scenario, TUNING_SEED + i, miss_price=1.0) for i in range(TUNING_EPISODES)]


def scored_episodes(scenario: Scenario, seeds: int) -> list[Episode]:
    """The days that are scored: seeds 0, 1, 2, ..."""
    return [episode_of(scenario, seed, miss_price=1.0) for seed in range(seeds)]


def compare(
    scenario: Scenario,
    contenders: Sequence[Contender | Foreseeing],
    seeds: int,
    on_run: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """One row a policy and seed. The same worlds for every policy."""
    episodes = scored_episodes(scenario, seeds)
    hindsight = [Clairvoyant(episode, scenario.tick_s) for episode in episodes]
    rows = []
    for entry in contenders:
        for seed, result in enumerate(entry.run(episodes, scenario.tick_s)):
            row = {"scenario": scenario.name, "policy": entry.name, "seed": seed, **result.row()}
            rows.append({**row, **distance_to_bound(result, hindsight[seed])})
        if on_run:
            on_run()
    return rows


def distance_to_bound(result: RunResult, hindsight: Clairvoyant) -> dict[str, float | None]:
    """What meeting as many requests of each class must cost, and by which share of it the run's bill is higher."""
    bound = hindsight.bound(result.tally[:, MET].astype(np.int64)).usd_per_hr
    return {"bound_usd_per_hr": bound, "above_bound_frac": result.usd_per_hr / bound - 1.0 if bound > 0.0 else None}


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """For a JSON document."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def bootstrap(values: FloatArray, seed: int = 0) -> Interval:
    """Mean of `[N]` values and the 2.5 and 97.5 percentiles of its bootstrap distribution."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(BOOTSTRAP_DRAWS, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def _known(rows: Sequence[dict[str, Any]], column: str) -> dict[str, float] | None:
    """The interval of a column over the rows that have it; None if none has."""
    values = [row[column] for row in rows if row[column] is not None]
    return bootstrap(np.array(values)).as_json() if values else None


def summary(rows: Sequence[dict[str, Any]], reference: str) -> list[dict[str, Any]]:
    """One record a scenario and policy: means with intervals, and the paired difference to `reference`."""
    records = []
    keys = dict.fromkeys((row["scenario"], row["policy"]) for row in rows)
    for scenario, policy in keys:
        mine = [r for r in rows if r["scenario"] == scenario and r["policy"] == policy]
        base = {r["seed"]: r for r in rows if r["scenario"] == scenario and r["policy"] == reference}
        usd = np.array([r["usd_per_hr"] for r in mine])
        record: dict[str, Any] = {
            "scenario": scenario,
            "policy": policy,
            "seeds": len(mine),
            "usd_per_hr": bootstrap(usd).as_json(),
            "usd_per_1000_met": _known(mine, "usd_per_1000_met"),
            "attainment": {
                key.removeprefix("attainment_"): float(np.mean([r[key] for r in mine if r[key] is not None]))
                for key in mine[0]
                if key.startswith("attainment_") and any(r[key] is not None for r in mine)
            },
            "worst_shortfall": bootstrap(np.array([r["worst_shortfall"] for r in mine])).as_json(),
            "lost": int(sum(r["lost"] for r in mine)),
            "replica_changes": float(np.mean([r["replica_changes"] for r in mine])),
            "covered_frac": _known(mine, "covered_frac"),
            "bound_usd_per_hr": _known(mine, "bound_usd_per_hr"),
            "above_bound_frac": _known(mine, "above_bound_frac"),
        }
        if policy != reference and base:
            relative = np.array([r["usd_per_hr"] / base[r["seed"]]["usd_per_hr"] - 1.0 for r in mine])
            record["bill_against_reference"] = {"reference": reference, **bootstrap(relative).as_json()}
        records.append(record)
    return records
