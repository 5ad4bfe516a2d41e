"""What figures of an evaluation are drawn from: the summary and the rows of `poolpilot evaluate`, as plain rows.

docs/evaluation.md lists the fields of both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ...env.contract import BILL_LAYERS, IDLE_PARTS
from .attainment_rows import BOUND, AttainmentRow, rows_of_summary
from .bill import BillRow, layers_of
from .differences import DifferenceRow

Link = Callable[[str, str, str, float], str]
"""Where a page leads from a suite's scenario (or none: all of them), policy and head-room."""
AS_SHIPPED: Final = "as shipped"
ALL: Final = ""
"""In place of a scenario: all of a suite."""


def frontier_rows(document: Mapping[str, Any], suite: str, scenario: str, link: Link) -> list[AttainmentRow]:
    """Every setting of every policy, over a suite (bills as ratios) or on one scenario (in $/h)."""
    if scenario == ALL:
        own = {**document, "suites": {suite: document["suites"][suite]}}
        rows = rows_of_summary(own)
    else:
        rows = _on_scenario(document, suite, scenario)
    for row in rows:
        row["panel"] = ""
        if row["series"] != BOUND:
            row["link"] = link(suite, scenario, row["series"], row["headroom"])
    return rows


def _on_scenario(document: Mapping[str, Any], suite: str, scenario: str) -> list[AttainmentRow]:
    level = document["levels"][0]
    rows: list[AttainmentRow] = []
    for point in document["suites"][suite]["frontier"]:
        if point["scenario"] != scenario:
            continue
        own: AttainmentRow = {
            "panel": "",
            "series": point["policy"],
            "headroom": point["headroom"],
            # Of the worst class, as if each wanted the level: as over a whole suite.
            "attainment": 1.0 - point["budget_used"] * (1.0 - level),
            "bill": point["usd_per_hr"],
            "dominated": not point["on_envelope"],
        }
        rows.append(own)
        if point["policy"] == document["reference"] and point["bound_usd_per_hr"] is not None:
            rows.append({**own, "series": BOUND, "bill": point["bound_usd_per_hr"], "dominated": False})
    return rows


def readings(document: Mapping[str, Any], suite: str) -> list[str]:
    """Those that differences are told in: as shipped, and at each level of attainment."""
    return [AS_SHIPPED, *(_at(equal) for equal in document["suites"][suite]["equal_attainment"])]


def difference_rows(document: Mapping[str, Any], suite: str, reading: str) -> list[DifferenceRow]:
    """How every policy's bill differs from the reference's, pair by pair, and as shipped how its shortfall does too."""
    reference, own = document["reference"], document["suites"][suite]
    if reading == AS_SHIPPED:
        policies = [record for record in own["as_shipped"]["policies"] if record["policy"] != reference]
        bills = [_ratio("Bill", record["policy"], reference, record["bill_ratio"]) for record in policies]
        return bills + [
            _interval(
                "Shortfall of attainment",
                "points",
                record["policy"],
                reference,
                record["shortfall_against_reference"],
                100.0,
            )
            for record in policies
        ]
    (at,) = (equal for equal in own["equal_attainment"] if _at(equal) == reading)
    return [
        _ratio(f"Cost {reading}", record["policy"], reference, record["cost_ratio"])
        for record in at["policies"]
        if record["policy"] != reference and record["cost_ratio"]
    ]


def bill_rows(rows: Sequence[Mapping[str, Any]], suite: str, scenario: str = ALL) -> list[BillRow]:
    """Dollars an hour by layer of every policy as shipped, from an evaluation's rows: mean over runs."""
    names = {**{layer: f"usd_{layer}" for layer in BILL_LAYERS}, **{f"idle_{p}": f"usd_idle_{p}" for p in IDLE_PARTS}}
    sums: dict[str, dict[str, float]] = {}
    runs: dict[str, int] = defaultdict(int)
    for row in rows:
        if row["suite"] == suite and row["headroom"] == 1.0 and scenario in (ALL, row["scenario"]):
            own = sums.setdefault(row["policy"], dict.fromkeys(names, 0.0))
            runs[row["policy"]] += 1
            for layer, column in names.items():
                own[layer] += row[column] * 3600.0 / row["duration_s"]
    return [
        line
        for policy, own in sums.items()
        for line in layers_of(policy, {layer: usd / runs[policy] for layer, usd in own.items()})
    ]


def _at(equal: Mapping[str, Any]) -> str:
    return f"at {equal['level'] * 100:g} % attainment"


def _ratio(measure: str, series: str, against: str, ratio: Mapping[str, Any]) -> DifferenceRow:
    """A ratio as a difference in percent."""
    less_one = {end: None if ratio[end] is None else ratio[end] - 1.0 for end in ("mean", "low", "high")}
    return _interval(measure, "%", series, against, less_one, 100.0)


def _interval(
    measure: str, unit: str, series: str, against: str, own: Mapping[str, Any], factor: float
) -> DifferenceRow:
    low, high = (None if own[end] is None else own[end] * factor for end in ("low", "high"))
    return {
        "measure": measure,
        "unit": unit,
        "series": series,
        "against": against,
        "mean": own["mean"] * factor,
        "low": low,
        "high": high,
    }
