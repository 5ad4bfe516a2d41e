"""The first reading: every policy as it is shipped, on worlds that it was not set for. What a user gets.

Symbols: `D` draws, `S` scenarios, `K` seeds, `C` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...env.contract import BILL_LAYERS, FloatArray
from ..criterion import HELD, Outcome, loss, mean_outcome, shortfall_of
from ..rollout import LATENCIES, PERCENTILES
from .bootstrap import Interval, Resamples, bootstrap, geometric, hierarchical, interval, resamples
from .tables import SHIPPED, Runs, SuiteRuns

_MEANS = ("usd_per_1000_met", "goodput_requests_per_s", "goodput_tokens_per_s", "gpu_hours", "energy_kwh")
_MEANS_TOO = ("replica_changes", "covered_frac", "bound_usd_per_hr", "above_bound_frac")
_LAYERS = tuple(f"usd_{layer}" for layer in BILL_LAYERS)


def shipped_records(suite: SuiteRuns, reference: str) -> list[dict[str, Any]]:
    """One record a policy: means over the suite's scenarios, each counting the same, with 95 % intervals."""
    drawn = resamples(len(suite.scenarios), suite.seeds)
    base = suite.shipped(reference)
    return [_suite_record(suite, policy, base, drawn) for policy in suite.policies]


def scenario_records(suite: SuiteRuns, reference: str) -> list[dict[str, Any]]:
    """One record a scenario and policy; intervals over seeds."""
    drawn = resamples(1, suite.seeds)
    records = []
    for scenario in suite.scenarios:
        base = suite.settings[reference, scenario][SHIPPED]
        for policy in suite.policies:
            own = suite.settings[policy, scenario][SHIPPED]
            record = {"scenario": scenario, "policy": policy, **_measures(own, base, drawn)}
            records.append({**record, "classes": _classes(own.rows[0])})
    return records


def outcome(runs: Runs) -> Outcome:
    """What tuning and the choice of checkpoints go by (`training.criterion`)."""
    ratios = (runs.usd_per_hr / np.maximum(runs.reference_usd_per_hr, 1e-9)).mean(axis=1)
    shortfalls = _shortfall(runs.met, runs.done, runs.wanted)
    return mean_outcome([Outcome(*map(float, own)) for own in zip(ratios, shortfalls, strict=True)])


def best_rule(suite: SuiteRuns, rules: Sequence[str]) -> str | None:
    """Of some rules the one with the least loss as shipped; the first of equals; None of none."""
    own = [rule for rule in rules if rule in suite.kinds]
    return min(own, key=lambda rule: loss(outcome(suite.shipped(rule))), default=None)


def against(suite: SuiteRuns, policy: str, other: str) -> dict[str, Any]:
    """How a policy compares with another one, both as shipped: ratio of bills, and how much more it falls short."""
    drawn = resamples(len(suite.scenarios), suite.seeds)
    own, base = suite.shipped(policy), suite.shipped(other)
    return {
        "bill_ratio": geometric(own.usd_per_hr / base.usd_per_hr, drawn).as_json(),
        "shortfall_difference": _shortfall_interval(own, drawn, base).as_json(),
    }


def saving(suite: SuiteRuns, policy: str, against: str) -> Interval:
    """Share of the bill of `against` that `policy` does not pay, both as shipped: one less the mean ratio of the pairs."""
    drawn = resamples(len(suite.scenarios), suite.seeds)
    ratio = geometric(suite.shipped(policy).usd_per_hr / suite.shipped(against).usd_per_hr, drawn)
    return Interval(1.0 - ratio.mean, 1.0 - ratio.high, 1.0 - ratio.low)


def _suite_record(suite: SuiteRuns, policy: str, base: Runs, drawn: Resamples) -> dict[str, Any]:
    own = suite.shipped(policy)
    reached = outcome(own)
    return {
        "policy": policy,
        "kind": suite.kinds[policy],
        **_measures(own, base, drawn),
        "criterion": {"bill_ratio": reached.bill_ratio, "shortfall": reached.shortfall, "loss": loss(reached)},
    }


def _measures(own: Runs, base: Runs, drawn: Resamples) -> dict[str, Any]:
    short = _shortfall_interval(own, drawn)
    record: dict[str, Any] = {
        "usd_per_hr": hierarchical(own.usd_per_hr, drawn).as_json(),
        "bill_ratio": geometric(own.usd_per_hr / base.usd_per_hr, drawn).as_json(),
        "attainment": float(np.nanmean(_attainment(own.met.sum(axis=1), own.done.sum(axis=1)))),
        "shortfall": short.as_json(),
        "held": short.mean <= HELD,
        "shortfall_against_reference": _shortfall_interval(own, drawn, base).as_json(),
        "worst_shortfall": _known(own.numbers("worst_shortfall")),
        "lost": int(own.numbers("lost").sum()),
        "shed": int(own.numbers("shed").sum()),
    }
    for name in (*_MEANS, *_MEANS_TOO):
        record[name] = _known(own.numbers(name))
    hours = own.numbers("duration_s") / 3600.0
    record["usd_per_hr_by_layer"] = {
        name.removeprefix("usd_"): float((own.numbers(name) / hours).mean()) for name in _LAYERS
    }
    return record


def _known(values: FloatArray) -> dict[str, float | None] | None:
    """The interval over the runs that have the figure; None if none has."""
    known = values[~np.isnan(values)]
    return bootstrap(known).as_json() if len(known) else None


def _attainment(met: FloatArray, done: FloatArray) -> FloatArray:
    """NaN where nothing ended."""
    shares: FloatArray = np.divide(met, done, out=np.full(done.shape, np.nan), where=done > 0)
    return shares


def _shortfall(met: FloatArray, done: FloatArray, wanted: FloatArray) -> FloatArray:
    """`[..., S]` of each scenario, its seeds pooled: from `[..., S, K, C]` and `[..., S, C]`."""
    return shortfall_of(_attainment(met.sum(axis=-2), done.sum(axis=-2)), wanted)


def _shortfall_interval(own: Runs, drawn: Resamples, base: Runs | None = None) -> Interval:
    """Mean shortfall over scenarios; with `base`, how much more it is than that one's."""

    def both(runs: Runs) -> tuple[float, FloatArray]:
        point = float(_shortfall(runs.met, runs.done, runs.wanted).mean())
        again = _shortfall(drawn.of(runs.met), drawn.of(runs.done), runs.wanted[drawn.scenario])
        return point, again.mean(axis=-1)

    point, draws = both(own)
    if base is None:
        return interval(point, draws)
    base_point, base_draws = both(base)
    return interval(point - base_point, draws - base_draws)


def _classes(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each class: attainment of all seeds' requests together, and the mean over seeds of its latencies."""
    records = []
    for c, first in enumerate(rows[0]["classes"]):
        every = [row["classes"][c] for row in rows]
        done = sum(own["finished"] + own["lost"] for own in every)
        record: dict[str, Any] = {
            "name": first["name"],
            "wanted": first["wanted"],
            "attainment": sum(own["met"] for own in every) / done if done else None,
        }
        for label in LATENCIES:
            for at in PERCENTILES:
                known = [own[f"{label}_{at}_s"] for own in every if own[f"{label}_{at}_s"] is not None]
                record[f"{label}_{at}_s"] = float(np.mean(known)) if known else None
        records.append(record)
    return records
