"""The second reading: what each policy costs where all hold the same, its one head-room knob swept in hindsight.

Costs are read off each policy's own frontier (`frontier`), scenario by scenario; a scenario where one of two policies does
not reach the level says nothing about their difference, and is listed.

Symbols: `D` draws, `S` scenarios, `K` seeds, `H` head-rooms, `C` classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...env.contract import BoolArray, FloatArray, IntArray
from .bootstrap import Interval, Resamples, exponential, interval, resamples
from .frontier import budget_used, cost_at, undominated, why_unknown
from .tables import Runs, SuiteRuns

ONE_SETTING = "it has no head-room that was swept"
LEAST_DRAWS_FRAC = 0.5
"""Where fewer of the draws tell anything, no interval is given."""


@dataclass(frozen=True, eq=False)
class Costs:
    """What a policy costs at a level."""

    usd_per_hr: FloatArray
    """`[S]`; NaN where it is not known."""
    why_not: tuple[str, ...]
    """`[S]` why, or nothing."""
    draws: FloatArray
    """`[D, S]` the same of the resampled runs (of the resampled scenarios)."""
    at_most: bool = False
    """Whether a cost may be an upper bound of it: that of the cheapest setting, where all hold the level."""


def costs_at(suite: SuiteRuns, policy: str, level: float, drawn: Resamples, at_most: bool = False) -> Costs:
    """The frontier's reading for every scenario, and for every draw of it (`at_most` as for `cost_at`)."""
    count = len(suite.scenarios)
    usd, why_not, draws = np.full(count, np.nan), [ONE_SETTING] * count, np.full(drawn.scenario.shape, np.nan)
    for s, scenario in enumerate(suite.scenarios):
        settings = list(suite.settings[policy, scenario].values())
        if len(settings) < 2:
            continue
        used, bills = _points(settings, level, np.arange(suite.seeds)[None])
        usd[s], why_not[s] = cost_at(used, bills, at_most)[0], why_unknown(used[0])
        taken = drawn.scenario == s
        draws[taken] = cost_at(*_points(settings, level, drawn.seed[taken]), at_most)
    return Costs(usd, tuple(why_not), draws, at_most)


def _points(settings: Sequence[Runs], level: float, seeds: IntArray) -> tuple[FloatArray, FloatArray]:
    """`[N, H]` budgets used and bills of one scenario's settings, over the seeds at places `[N, K]`."""
    used, bills = [], []
    for runs in settings:
        met, done = runs.met[0][seeds].sum(axis=1), runs.done[0][seeds].sum(axis=1)
        used.append(budget_used(met, done, runs.wanted[0], level))
        bills.append(runs.usd_per_hr[0][seeds].mean(axis=1))
    return np.stack(used, axis=-1), np.stack(bills, axis=-1)


def ratio_of(own: Costs, other: Costs) -> Interval | None:
    """Geometric mean over scenarios of the ratio of two costs, where both are known; None if they nowhere are."""
    logs = _mean_over_scenarios(np.log(own.usd_per_hr / other.usd_per_hr), np.log(own.draws / other.draws))
    return exponential(logs) if logs else None


def gap_closed(agent: Costs, rule: Costs, mark: Costs) -> Interval | None:
    """Of what lies between a rule and a mark that foresees, the share that the agent gets: 1 is the mark, 0 the rule.

    What the agent's mean ratio to the rule saves over what the mark's saves, both (geometric) over the scenarios where
    all three costs are known; None if nowhere, or if the mark saves nothing.
    """
    known = ~np.isnan(agent.usd_per_hr + rule.usd_per_hr + mark.usd_per_hr)
    if not known.any():
        return None
    whole = _saved(mark.usd_per_hr, rule.usd_per_hr, known)
    if whole <= 0.0:
        return None
    all_known = ~np.isnan(agent.draws + rule.draws + mark.draws)
    gained, there = (_saved(own.draws, rule.draws, all_known) for own in (agent, mark))
    # A draw in which the mark saves nothing has no share to tell.
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = np.where(there > 0.0, gained / there, np.nan)
    return _told(float(_saved(agent.usd_per_hr, rule.usd_per_hr, known) / whole), draws)


def _saved(own: FloatArray, other: FloatArray, counted: BoolArray) -> FloatArray:
    """`[...]` share saved by the mean over `[..., S]` of the ratios that count."""
    saved: FloatArray = 1.0 - np.exp(_nanmean(np.where(counted, np.log(own / other), np.nan)))
    return saved


def costs_of(suite: SuiteRuns, level: float, at_most: bool = False) -> dict[str, Costs]:
    """The costs of every policy, by the same draws."""
    drawn = resamples(len(suite.scenarios), suite.seeds)
    return {policy: costs_at(suite, policy, level, drawn, at_most) for policy in suite.policies}


def both_known(suite: SuiteRuns, own: Costs, other: Costs) -> list[str]:
    """The scenarios where two costs are known."""
    known = ~np.isnan(own.usd_per_hr + other.usd_per_hr)
    return [scenario for scenario, told in zip(suite.scenarios, known, strict=True) if told]


def equal_records(suite: SuiteRuns, costs: dict[str, Costs], reference: str) -> list[dict[str, Any]]:
    """One record a policy."""
    base = costs[reference]
    records = []
    for policy, own in costs.items():
        known = [s for s in range(len(suite.scenarios)) if not np.isnan(own.usd_per_hr[s])]
        both = [s for s in known if not np.isnan(base.usd_per_hr[s])]
        usd, ratio = _mean_over_scenarios(own.usd_per_hr, own.draws), ratio_of(own, base)
        records.append(
            {
                "policy": policy,
                "kind": suite.kinds[policy],
                "usd_per_hr": usd.as_json() if usd else None,
                "cost_ratio": ratio.as_json() if ratio else None,
                "reached": [suite.scenarios[s] for s in known],
                "compared": [suite.scenarios[s] for s in both],
                "not_reached": {suite.scenarios[s]: why for s, why in enumerate(own.why_not) if why},
            }
        )
    return records


def frontier_points(suite: SuiteRuns, level: float) -> list[dict[str, Any]]:
    """Every swept setting: what it costs, how much of the budget of `level` it uses, and whether it is on the envelope."""
    points = []
    for policy in suite.policies:
        for scenario in suite.scenarios:
            settings = suite.settings[policy, scenario]
            used, usd = (own[0] for own in _points(list(settings.values()), level, np.arange(suite.seeds)[None]))
            kept = set(undominated(used, usd))
            points += [
                {
                    "scenario": scenario,
                    "policy": policy,
                    "headroom": headroom,
                    "usd_per_hr": float(usd[h]),
                    "bound_usd_per_hr": _mean_or_none(runs.numbers("bound_usd_per_hr")[0]),
                    "budget_used": float(used[h]),
                    "on_envelope": h in kept,
                }
                for h, (headroom, runs) in enumerate(settings.items())
            ]
    return points


def frontier_means(suite: SuiteRuns, reference: str, level: float) -> list[dict[str, Any]]:
    """Every setting that all scenarios were run at, over all of them: for figures.

    `attainment` is that of the worst class, as if each wanted `level`: one minus the budget used times what `level` leaves
    to miss, its mean over scenarios. Bills and bounds are over the bill of `reference` as shipped, mean over scenarios.
    """
    base = suite.shipped(reference).usd_per_hr.mean(axis=1)
    means = []
    for policy in suite.policies:
        for headroom in suite.headrooms(policy):
            runs = suite.at(policy, headroom)
            used = budget_used(runs.met.sum(axis=1), runs.done.sum(axis=1), runs.wanted, level)
            means.append(
                {
                    "policy": policy,
                    "kind": suite.kinds[policy],
                    "headroom": headroom,
                    "attainment": 1.0 - float(used.mean()) * (1.0 - level),
                    "bill_ratio": float((runs.usd_per_hr.mean(axis=1) / base).mean()),
                    "bound_ratio": _mean_or_none(runs.numbers("bound_usd_per_hr").mean(axis=1) / base),
                }
            )
    return means


def scenario_costs(suite: SuiteRuns, costs: dict[str, Costs]) -> list[dict[str, Any]]:
    """One record a scenario and policy."""
    return [
        {
            "scenario": scenario,
            "policy": policy,
            "usd_per_hr": None if np.isnan(own.usd_per_hr[s]) else float(own.usd_per_hr[s]),
            "why_not": own.why_not[s],
        }
        for s, scenario in enumerate(suite.scenarios)
        for policy, own in costs.items()
    ]


def best_by_cost(records: Sequence[dict[str, Any]], rules: Sequence[str]) -> str | None:
    """Of some rules the cheapest at the level: of those that reach it in most scenarios, the least ratio of costs."""
    own = [r for r in records if r["policy"] in rules and r["cost_ratio"]]
    if not own:
        return None
    most = max(len(r["compared"]) for r in own)
    return str(min((r for r in own if len(r["compared"]) == most), key=lambda r: r["cost_ratio"]["mean"])["policy"])


def _mean_over_scenarios(values: FloatArray, draws: FloatArray) -> Interval | None:
    known = values[~np.isnan(values)]
    return _told(float(known.mean()), _nanmean(draws)) if len(known) else None


def _told(point: float, draws: FloatArray) -> Interval:
    """Without ends if most draws tell nothing."""
    if np.isnan(draws).mean() > 1.0 - LEAST_DRAWS_FRAC:
        return Interval(point, float("nan"), float("nan"))
    return interval(point, draws)


def _nanmean(values: FloatArray) -> FloatArray:
    """`[D]` over the last axis; NaN where all are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        means: FloatArray = np.nanmean(values, axis=-1)
    return means


def _mean_or_none(values: FloatArray) -> float | None:
    return None if np.isnan(values).any() else float(values.mean())
