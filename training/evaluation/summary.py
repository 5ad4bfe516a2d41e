"""Both readings of a run's rows as one document. docs/evaluation.md lists its fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..static_peak import STATIC_PEAK
from .entrants import CHECKPOINT, MARK, RULE
from .equal_attainment import (
    Costs,
    best_by_cost,
    both_known,
    costs_of,
    equal_records,
    frontier_means,
    frontier_points,
    gap_closed,
    ratio_of,
    scenario_costs,
)
from .frontier import LEVELS
from .rows import Row
from .shipped import against, best_rule, saving, scenario_records, shipped_records
from .tables import SuiteRuns, TableError, suites_of

FORMAT = 1
CHOOSING_SUITE = "train"
"""The suite that rules are tuned on: which of them is the best may be chosen there without a look at the others."""
HINDSIGHT = "this suite, in hindsight"


def summary_of(
    rows: Sequence[Row], reference: str, skipped: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, Any]:
    """The document, JSON-ready.

    Args:
        rows: whole: every policy on every scenario of its suite, with the same seeds.
        reference: the policy that bills are compared with.
        skipped: by suite, scenarios that were not run, and why.

    Raises:
        TableError: rows are missing, or `reference` is.
    """
    suites = suites_of(rows)
    for suite in suites.values():
        if reference not in suite.kinds:
            raise TableError(f"reference {reference}: not in suite {suite.name}; there are {', '.join(suite.policies)}")
    chosen = _chosen(suites)
    return {
        "format": FORMAT,
        "reference": reference,
        "levels": list(LEVELS),
        "suites_skipped": {name: dict(why) for name, why in (skipped or {}).items() if name not in suites},
        "suites": {
            name: {
                "scenarios": list(suite.scenarios),
                "skipped": dict((skipped or {}).get(name, {})),
                "seeds": suite.seeds,
                **_readings(suite, reference, chosen),
            }
            for name, suite in suites.items()
        },
    }


def _chosen(suites: Mapping[str, SuiteRuns]) -> str | None:
    """The best rule by the suite that rules are tuned on, if that was run."""
    suite = suites.get(CHOOSING_SUITE)
    return best_rule(suite, _of_kind(suite, RULE)) if suite else None


def _readings(suite: SuiteRuns, reference: str, chosen: str | None) -> dict[str, Any]:
    rules = _of_kind(suite, RULE)
    best = _best_rules(best_rule(suite, rules), chosen, suite)
    shipped: dict[str, Any] = {
        "policies": shipped_records(suite, reference),
        "by_scenario": scenario_records(suite, reference),
        "best_rules": best,
        "against_best_rules": [
            {
                "policy": agent,
                "rule": rule["policy"],
                "chosen_by": rule["chosen_by"],
                **against(suite, agent, rule["policy"]),
            }
            for rule in best
            for agent in _of_kind(suite, CHECKPOINT)
        ],
        "savings_against_static_peak": _savings(suite),
    }
    document: dict[str, Any] = {"as_shipped": shipped, "equal_attainment": [], "frontier": []}
    if suite.swept():
        document["equal_attainment"] = [_at_level(suite, reference, level, chosen) for level in LEVELS]
    document["frontier"] = frontier_points(suite, LEVELS[0])
    document["frontier_means"] = frontier_means(suite, reference, LEVELS[0])
    return document


def _at_level(suite: SuiteRuns, reference: str, level: float, chosen: str | None) -> dict[str, Any]:
    costs, at_most = costs_of(suite, level), costs_of(suite, level, at_most=True)
    records = equal_records(suite, costs, reference)
    best = _best_rules(best_by_cost(records, _of_kind(suite, RULE)), chosen, suite)
    return {
        "level": level,
        "policies": records,
        "by_scenario": scenario_costs(suite, costs),
        "best_rules": best,
        "against_best_rules": _against(suite, costs, at_most, best),
        "gaps": _gaps(suite, costs, at_most, best),
    }


def _best_rules(here: str | None, chosen: str | None, suite: SuiteRuns) -> list[dict[str, str]]:
    """Which rule is taken for the best, and who says so; in hindsight is the harder test."""
    found = []
    if chosen is not None and chosen in suite.kinds:
        found.append({"policy": chosen, "chosen_by": f"suite {CHOOSING_SUITE}"})
    if here is not None and suite.name != CHOOSING_SUITE:
        found.append({"policy": here, "chosen_by": HINDSIGHT})
    return found


def _against(
    suite: SuiteRuns, costs: Mapping[str, Costs], at_most: Mapping[str, Costs], best: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    """What every checkpoint costs, over what the best rules do: exactly, and at most.

    A checkpoint that holds the level at all its settings costs no more than the cheapest of them: counted at that, it is
    compared in more scenarios, to its own disadvantage.
    """
    records = []
    for rule in best:
        base = costs[rule["policy"]]
        for agent in _of_kind(suite, CHECKPOINT):
            exact, bounded = ratio_of(costs[agent], base), ratio_of(at_most[agent], base)
            records.append(
                {
                    "policy": agent,
                    "rule": rule["policy"],
                    "chosen_by": rule["chosen_by"],
                    "cost_ratio": exact.as_json() if exact else None,
                    "compared": both_known(suite, costs[agent], base),
                    "cost_ratio_at_most": bounded.as_json() if bounded else None,
                    "compared_at_most": both_known(suite, at_most[agent], base),
                }
            )
    return records


def _gaps(
    suite: SuiteRuns, costs: Mapping[str, Costs], at_most: Mapping[str, Costs], best: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    """What every checkpoint gets of the way from a rule to every mark that has a frontier: exactly, and at least."""
    records = []
    for rule in best:
        base = costs[rule["policy"]]
        for mark in (name for name in _of_kind(suite, MARK) if len(suite.headrooms(name)) > 1):
            for agent in _of_kind(suite, CHECKPOINT):
                exact = gap_closed(costs[agent], base, costs[mark])
                bounded = gap_closed(at_most[agent], base, costs[mark])
                records.append(
                    {
                        "policy": agent,
                        "rule": rule["policy"],
                        "chosen_by": rule["chosen_by"],
                        "mark": mark,
                        "share": exact.as_json() if exact else None,
                        "share_at_least": bounded.as_json() if bounded else None,
                    }
                )
    return records


def _savings(suite: SuiteRuns) -> list[dict[str, Any]]:
    """What every policy saves of the usual practice's bill."""
    if STATIC_PEAK not in suite.kinds:
        return []
    return [
        {"policy": policy, "kind": kind, **saving(suite, policy, STATIC_PEAK).as_json()}
        for policy, kind in suite.kinds.items()
        if policy != STATIC_PEAK
    ]


def _of_kind(suite: SuiteRuns, kind: str) -> list[str]:
    return [policy for policy, own in suite.kinds.items() if own == kind]
