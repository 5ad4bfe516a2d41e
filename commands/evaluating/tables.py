"""How an evaluation is told to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.markup import escape

from ...training.criterion import HELD
from ...training.evaluation.entrants import CHECKPOINT, STATIC_PEAK
from ..printing import percent, seconds, table
from .asked import OWN_SUITE

Record = Mapping[str, Any]


def evaluation_tables(document: Record) -> Iterator[RenderableType]:
    """Suite by suite: as shipped, at equal attainment, and what was left out."""
    for name, suite in document["suites"].items():
        yield _shipped(name, suite, document["reference"])
        if name == OWN_SUITE:
            yield from _scenarios(suite, document["reference"])
        for at in suite["equal_attainment"]:
            yield _equal(name, suite, at, document["reference"])
        yield from _notes(name, suite)


def _shipped(name: str, suite: Record, reference: str) -> RenderableType:
    savings = {own["policy"]: own for own in suite["as_shipped"]["savings_against_static_peak"]}
    columns = ["policy", "$/h", f"bill / {reference}", "met", "shortfall, points", "lost", "scalings", "above bound"]
    if savings:
        columns.append(f"less than {STATIC_PEAK}")
    rows = []
    for own in suite["as_shipped"]["policies"]:
        cells = [
            own["policy"],
            f"{own['usd_per_hr']['mean']:.2f}",
            _ratio(own["bill_ratio"]) if own["policy"] != reference else "-",
            percent(own["attainment"], 2),
            f"{_points(own['shortfall'])}{'' if own['held'] else ' !'}",
            str(own["lost"]),
            f"{own['replica_changes']['mean']:.0f}",
            _signed(own["above_bound_frac"]),
        ]
        if savings:
            saved = savings.get(own["policy"])
            cells.append(f"{saved['mean'] * 100:.1f} %" if saved else "-")
        rows.append(cells)
    caption = (
        f"{len(suite['scenarios'])} scenarios x {suite['seeds']} seeds, paired; mean [95 % interval over scenarios and"
        f" seeds]. Knobs frozen. Shortfall: wanted less attained, mean over classes; ! more than {HELD * 100:g} points."
    )
    return table(f"{name}: as shipped", columns, rows, caption)


def _scenarios(suite: Record, reference: str) -> Iterator[RenderableType]:
    """Every scenario by itself, class by class."""
    for scenario in suite["scenarios"]:
        own = [r for r in suite["as_shipped"]["by_scenario"] if r["scenario"] == scenario]
        classes = own[0]["classes"]
        rows = [
            (
                r["policy"],
                _mean(r["usd_per_hr"], 2),
                _ratio(r["bill_ratio"]) if r["policy"] != reference else "-",
                f"{r['usd_per_1000_met']['mean']:.3f}" if r["usd_per_1000_met"] else "-",
                *(percent(c["attainment"], 2) for c in r["classes"]),
                str(r["lost"]),
                _signed(r["above_bound_frac"]),
                percent(r["covered_frac"]["mean"] if r["covered_frac"] else None),
            )
            for r in own
        ]
        columns = ["policy", "$/h", f"bill / {reference}", "$ per 1,000 met"]
        columns += [f"{c['name']} met ({c['wanted'] * 100:g} %)" for c in classes]
        caption = (
            "Calibrated: share of the tokens served inside the range that the performance model was measured over."
            " Above bound: how much dearer than any policy must be that meets as many requests (docs/bound.md)."
        )
        yield table(scenario, [*columns, "lost", "above bound", "calibrated"], rows, caption)
        yield _latencies(scenario, own)


def _latencies(scenario: str, records: Sequence[Record]) -> RenderableType:
    shown = [(label, at) for label in ("ttft", "tpot", "e2e") for at in ("p50", "p95", "p99")]
    rows = [
        (r["policy"], c["name"], *(seconds(c[f"{label}_{at}_s"]) for label, at in shown))
        for r in records
        for c in r["classes"]
    ]
    columns = ["policy", "class", *(f"{label.upper()} {at}" for label, at in shown)]
    return table(f"{scenario}: latency", columns, rows, "Mean over seeds.")


def _equal(name: str, suite: Record, at: Record, reference: str) -> RenderableType:
    of = len(suite["scenarios"])
    rows = [
        (
            own["policy"],
            _mean(own["usd_per_hr"], 2),
            _ratio(own["cost_ratio"]) if own["policy"] != reference else "-",
            f"{len(own['reached'])} of {of}",
            f"{len(own['compared'])} of {of}",
        )
        for own in at["policies"]
    ]
    caption = (
        "Every policy's head-room swept in hindsight, its bill read off where the worst class holds the lower of"
        f" {at['level'] * 100:g} % and what it wants. Means over the scenarios where that is known; ratios where it is"
        " known of both."
    )
    columns = ("policy", "$/h", f"cost / {reference}", "known in", "compared in")
    return table(f"{name}: cost at {at['level'] * 100:g} % attainment", columns, rows, caption)


def _notes(name: str, suite: Record) -> Iterator[RenderableType]:
    for best in suite["as_shipped"]["best_rules"]:
        yield escape(f"{name}: best rule as shipped: {best['policy']} (by {best['chosen_by']})")
    for own in suite["as_shipped"]["against_best_rules"]:
        yield escape(
            f"{name}: {own['policy']} as shipped against {own['rule']} (best by {own['chosen_by']}): bill"
            f" {_ratio(own['bill_ratio'])}, shortfall {_signed_points(own['shortfall_difference'])} points"
        )
    yield from _peak_notes(name, suite)
    for at in suite["equal_attainment"]:
        level = f"{at['level'] * 100:g} %"
        for own in at["against_best_rules"]:
            told = _ratio(own["cost_ratio"]) if own["cost_ratio"] else "not known"
            yield escape(
                f"{name}: {own['policy']} at {level} against {own['rule']} (best by {own['chosen_by']}): cost {told}"
            )
        for gap in at["gaps"]:
            told = _share(gap["share"]) if gap["share"] else "not known"
            yield escape(
                f"{name}: of the gap from {gap['rule']} (best by {gap['chosen_by']}) to {gap['mark']} at {level},"
                f" {gap['policy']} closes {told}"
            )
        for own in at["policies"]:
            yield from _unknown(name, level, own)
    for scenario, why in suite["skipped"].items():
        yield escape(f"{name}: {scenario} was skipped: {why}")


def _unknown(name: str, level: str, own: Record) -> Iterator[str]:
    """Where a policy's cost is not known, by reason; figures of single scenarios stand in the summary."""
    by_reason: dict[str, list[str]] = {}
    for scenario, why in own["not_reached"].items():
        by_reason.setdefault(why.split(":")[0], []).append(scenario)
    for why, scenarios in by_reason.items():
        yield escape(f"{name}: {own['policy']} at {level} not known on {', '.join(scenarios)}: {why}")


def _peak_notes(name: str, suite: Record) -> Iterator[str]:
    """How much of what a learned policy saves of a static peak fleet a plain rule saves too."""
    savings = {own["policy"]: own for own in suite["as_shipped"]["savings_against_static_peak"]}
    best = suite["as_shipped"]["best_rules"]
    for own in savings.values():
        if own["kind"] == CHECKPOINT and best and own["mean"] > 0:
            rule = savings[best[0]["policy"]]
            yield escape(
                f"{name}: {own['policy']} saves {own['mean'] * 100:.1f} % of {STATIC_PEAK}'s bill; the rule"
                f" {rule['policy']} saves {rule['mean'] * 100:.1f} %, {rule['mean'] / own['mean'] * 100:.0f} % of that"
            )


def _mean(interval: Record | None, digits: int) -> str:
    if interval is None:
        return "-"
    return f"{interval['mean']:.{digits}f}{_ends(interval, lambda x: f'{x:.{digits}f}')}"


def _ratio(interval: Record | None) -> str:
    """A ratio as a difference in percent."""
    if interval is None:
        return "-"
    return f"{(interval['mean'] - 1) * 100:+.1f} %{_ends(interval, lambda x: f'{(x - 1) * 100:+.1f}')}"


def _share(interval: Record) -> str:
    return f"{interval['mean'] * 100:.0f} %{_ends(interval, lambda x: f'{x * 100:.0f}')}"


def _points(interval: Record) -> str:
    return f"{interval['mean'] * 100:.2f}{_ends(interval, lambda x: f'{x * 100:.2f}')}"


def _signed_points(interval: Record) -> str:
    return f"{interval['mean'] * 100:+.2f}{_ends(interval, lambda x: f'{x * 100:+.2f}')}"


def _ends(interval: Record, shown: Any) -> str:
    if interval["low"] is None or interval["high"] is None:
        return " [?]"
    return f" [{shown(interval['low'])}, {shown(interval['high'])}]"


def _signed(interval: Record | None) -> str:
    return f"{interval['mean'] * 100:+.0f} %" if interval else "-"
