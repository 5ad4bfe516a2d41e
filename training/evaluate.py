"""Compares policies over scenarios and seeds: paired by seed, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..env.contract import FloatArray
from ..env.scenario import Scenario
from ..env.window import MET
from .bounding import Clairvoyant
from .contenders import Contender
from .days import scored_episodes
from .rollout import RunResult

BOOTSTRAP_DRAWS = 2000


def compare(
    scenario: Scenario,
    contenders: Sequence[Contender],
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
