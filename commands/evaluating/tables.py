"""How an evaluation is told to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.markup import escape

from ...training.criterion import HELD
from ...training.evaluation.entrants import CHECKPOINT
from ...training.static_peak import STATIC_PEAK
from ..printing import percent, table
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
        yield from (escape(f"{name}: {line}") for line in suite_notes(suite))
    for name, reasons in document["suites_skipped"].items():
        yield from (escape(f"{name}: {scenario} was skipped: {why}") for scenario, why in reasons.items())


def _shipped(name: str, suite: Record, reference: str) -> RenderableType:
    savings = {own["policy"]: own for own in suite["as_shipped"]["savings_against_static_peak"]}
    columns = ["policy", "$/h", f"bill / {reference}", "met", "short, points", "lost", "scalings", "above bound"]
    if savings:
        columns.append("saves")
    rows = []
    for own in suite["as_shipped"]["policies"]:
        cells = [
            own["policy"],
            f"{own['usd_per_hr']['mean']:.2f}",
            _ratio(own["bill_ratio"]) if own["policy"] != reference else "-",
            percent(own["attainment"], 2),
            f"{own['shortfall']['mean'] * 100:.2f}{'' if own['held'] else ' !'}",
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
        f" seeds]. Knobs frozen. Short: wanted less attained, mean over classes; ! more than {HELD * 100:g} points."
    )
    if savings:
        caption += f" Saves: of {STATIC_PEAK}'s bill."
    return table(f"{name}: as shipped", columns, rows, caption)


def _scenarios(suite: Record, reference: str) -> Iterator[RenderableType]:
    """Every scenario by itself, and its classes."""
    for scenario in suite["scenarios"]:
        own = [r for r in suite["as_shipped"]["by_scenario"] if r["scenario"] == scenario]
        rows = [
            (
                r["policy"],
                _mean(r["usd_per_hr"], 2),
                _ratio(r["bill_ratio"]) if r["policy"] != reference else "-",
                f"{r['usd_per_1000_met']['mean']:.3f}" if r["usd_per_1000_met"] else "-",
                f"{r['goodput_requests_per_s']['mean']:.2f}",
                _signed(r["above_bound_frac"]),
                percent(r["covered_frac"]["mean"] if r["covered_frac"] else None),
            )
            for r in own
        ]
        columns = ["policy", "$/h", f"bill / {reference}", "$ per 1,000 met", "met/s", "above bound", "calibrated"]
        caption = (
            "Calibrated: share of the tokens served inside the range that the performance model was measured over."
            " Above bound: how much dearer than any policy must be that meets as many requests (docs/bound.md)."
        )
        yield table(scenario, columns, rows, caption)
        yield _classes(scenario, own)


def _classes(scenario: str, records: Sequence[Record]) -> RenderableType:
    """What each class got: the wanted share, and percentiles."""
    rows = [
        (
            r["policy"],
            c["name"],
            f"{percent(c['attainment'], 2)} ({c['wanted'] * 100:g})",
            *(_percentiles(c, label, unit_s) for label, unit_s in (("ttft", 1.0), ("tpot", 1e-3), ("e2e", 1.0))),
        )
        for r in records
        for c in r["classes"]
    ]
    columns = ["policy", "class", "met (wanted)", "TTFT, s", "TPOT, ms", "E2E, s"]
    return table(f"{scenario}: classes", columns, rows, "Latencies: p50 / p95 / p99, mean over seeds.")


def _percentiles(own: Record, label: str, unit_s: float) -> str:
    values = [own[f"{label}_{at}_s"] for at in ("p50", "p95", "p99")]
    return " / ".join("-" if value is None else _three_digits(value / unit_s) for value in values)


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


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


def suite_notes(suite: Record) -> Iterator[str]:
    """What tables do not say of a suite, in lines."""
    shipped = suite["as_shipped"]
    lines = [f"best rule as shipped: {best['policy']} (by {best['chosen_by']})" for best in shipped["best_rules"]]
    lines += [
        f"{own['policy']} as shipped against {own['rule']} ({_chosen(own)}): bill {_ratio(own['bill_ratio'])},"
        f" shortfall {_signed_points(own['shortfall_difference'])} points"
        for own in _once(shipped["against_best_rules"])
    ]
    lines += _peak_notes(suite)
    for at in suite["equal_attainment"]:
        level = f"{at['level'] * 100:g} %"
        for own in _once(at["against_best_rules"]):
            told = _ratio(own["cost_ratio"]) if own["cost_ratio"] else "not known"
            more = f" in {len(own['compared'])} scenarios"
            if len(own["compared_at_most"]) > len(own["compared"]):
                more += f"; at most {_ratio(own['cost_ratio_at_most'])} in {len(own['compared_at_most'])}"
            lines.append(f"{own['policy']} at {level} against {own['rule']} ({_chosen(own)}): cost {told}{more}")
        for gap in _once(at["gaps"]):
            told = _share(gap["share"]) if gap["share"] else "not known"
            if gap["share_at_least"] and gap["share_at_least"] != gap["share"]:
                told += f", at least {_share(gap['share_at_least'])} with its cheapest setting where all hold the level"
            between = f"from {gap['rule']} ({_chosen(gap)}) to {gap['mark']}"
            lines.append(f"of the gap {between} at {level}, {gap['policy']} closes {told}")
        lines += [f"at {level} not known of {line}" for line in _unknown(at["policies"], suite["scenarios"])]
    lines += [f"{scenario} was skipped: {why}" for scenario, why in suite["skipped"].items()]
    yield from lines


def _chosen(own: Record) -> str:
    return f"best by {own['chosen_by']}"


def _once(records: Sequence[Record]) -> list[Record]:
    """Without those that say the same again, because who chooses the best rule makes no difference."""
    found: dict[tuple[str, ...], Record] = {}
    for own in records:
        found.setdefault((own["policy"], own["rule"], own.get("mark", "")), own)
    return list(found.values())


def _unknown(policies: Sequence[Record], scenarios: Sequence[str]) -> Iterator[str]:
    """Whose cost is not known where, and why; figures of single scenarios stand in the summary."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for own in policies:
        by_reason: dict[str, list[str]] = {}
        for scenario, why in own["not_reached"].items():
            by_reason.setdefault(why.split(":")[0], []).append(scenario)
        for why, where in by_reason.items():
            found.setdefault((why, tuple(where)), []).append(own["policy"])
    for (why, places), names in found.items():
        yield f"{', '.join(names)} on {'any' if len(places) == len(scenarios) else ', '.join(places)}: {why}"


def _peak_notes(suite: Record) -> Iterator[str]:
    """How much of what a learned policy saves of a static peak fleet a plain rule saves too."""
    savings = {own["policy"]: own for own in suite["as_shipped"]["savings_against_static_peak"]}
    best = suite["as_shipped"]["best_rules"]
    for own in savings.values():
        if own["kind"] == CHECKPOINT and best and own["mean"] > 0:
            rule = savings[best[0]["policy"]]
            yield (
                f"{own['policy']} saves {own['mean'] * 100:.1f} % of {STATIC_PEAK}'s bill; the rule {rule['policy']}"
                f" saves {rule['mean'] * 100:.1f} %, {rule['mean'] / own['mean'] * 100:.0f} % of that"
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


def _signed_points(interval: Record) -> str:
    return f"{interval['mean'] * 100:+.2f}{_ends(interval, lambda x: f'{x * 100:+.2f}')}"


def _ends(interval: Record, shown: Any) -> str:
    if interval["low"] is None or interval["high"] is None:
        return " [?]"
    return f" [{shown(interval['low'])}, {shown(interval['high'])}]"


def _signed(interval: Record | None) -> str:
    return f"{interval['mean'] * 100:+.0f} %" if interval else "-"
