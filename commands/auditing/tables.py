"""An audit on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console

from ...audit.headline import headlines
from ...audit.wording import figure_name, figure_value
from ...env.contract import BILL_LAYERS
from ..printing import console, percent, seconds, table


def print_audit(document: dict[str, Any]) -> None:
    """What it found, the most important first."""
    to = console()
    for line in headlines(document):
        to.print(line, markup=False, highlight=False)
    to.print()
    _spent(to, document)
    _latencies(to, document)
    if document["instead"]:
        _instead(to, document)
    _match(to, document)
    to.print("What to do first", style="bold")
    for i, own in enumerate(document["first"], 1):
        at_stake = f" (${abs(own['usd']):.2f} {'less' if own['usd'] > 0 else 'more'})" if own["usd"] else ""
        to.print(f"  {i}. {own['do']}{at_stake}", markup=False, highlight=False)
    to.print("\nAssumed", style="bold")
    for line in document["assumptions"]:
        to.print(f"  - {line}", markup=False, highlight=False)


def _spent(to: Console, document: dict[str, Any]) -> None:
    spent = document["spent"]
    per_hr = 3600.0 / document["duration_s"]
    rows = [
        (
            name,
            pool["hardware"],
            f"{pool['mean_replicas']:.2f}",
            f"{pool['usd']:.2f}",
            f"{pool['usd'] * per_hr:.2f}",
            percent(pool["idle_usd"] / pool["usd"] if pool["usd"] else None),
        )
        for name, pool in document["pools"].items()
    ]
    rows.append(
        (
            "all",
            "",
            "",
            f"{spent['usd']:.2f}",
            f"{spent['usd_per_hr']:.2f}",
            percent(spent["idle_usd"] / spent["usd"] if spent["usd"] else None),
        )
    )
    layers = ", ".join(f"{layer} ${spent['usd_by_layer'][layer]:.2f}" for layer in BILL_LAYERS)
    note = f"By layer: {layers}."
    if spent["layers_from_replay"]:
        note += f" Split into {', '.join(spent['layers_from_replay'])} by the replay."
    to.print(table("Spent", ("pool", "hardware", "replicas", "$", "$/h", "idle"), rows, note))


def _latencies(to: Console, document: dict[str, Any]) -> None:
    rows = [
        (
            name,
            f"{own['requests']:.0f}" if own["requests"] is not None else "-",
            between(own["attainment_between"]),
            percent(own["wanted"], 2),
            *(seconds(own[key]) for key in ("ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "tpot_p95_s")),
        )
        for name, own in document["classes"].items()
    ]
    columns = ("class", "requests", "met", "wanted", "TTFT p50", "TTFT p95", "TPOT p50", "TPOT p95")
    to.print(table("Held", columns, rows, "As measured; of histograms the percentiles are within a bucket."))


def between(ends: Iterable[float]) -> str:
    """A share that is known, or known to lie between two values."""
    low, high = ends
    if low <= 0.0 and high >= 1.0:
        return "-"
    return percent(low, 2) if high - low < 1e-4 else f"{low * 100:.1f} to {high * 100:.1f} %"


def _instead(to: Console, document: dict[str, Any]) -> None:
    instead = document["instead"]
    classes = list(document["classes"])
    rows = [
        (
            option["name"] + (" *" if option["name"] == instead["best"] else ""),
            f"{option['usd']['mean']:.2f}",
            _range(option["usd"]),
            percent(1.0 - option["ratio"]["mean"]),
            *(percent(option["attainment"][name]["mean"], 2) for name in classes),
            "yes" if option["holds_targets"] else "no",
            *(f"{value:.1f}" for value in option["mean_replicas"].values()),
        )
        for option in (instead["as_it_was"], *instead["options"])
    ]
    pools = list(document["pools"])
    columns = ("policy", "$", "95 % interval", "saves", *(f"{name} met" for name in classes), "holds", *pools)
    note = (
        f"Simulated on {instead['seeds']} draws, each beside the fleet's own steps; dollars are the measured bill times the"
        " ratio of the two. Last columns: replicas on the mean. * the best."
    )
    to.print(table("The same load under others", columns, rows, note))


def _range(ends: dict[str, float | None]) -> str:
    if ends["low"] is None or ends["high"] is None:
        return "?"
    return f"{ends['low']:.2f} to {ends['high']:.2f}"


def _match(to: Console, document: dict[str, Any]) -> None:
    match = document["match"]
    rows = [
        (
            figure_name(own["figure"]),
            own["class"] or "all",
            figure_value(own["figure"], own["measured"]),
            figure_value(own["figure"], own["simulated"]),
            f"{own['error'] * 100:+.1f} {'points' if own['error_is'] == 'points' else '%'}"
            if own["error"] is not None
            else "-",
            own["verdict"],
        )
        for own in match["figures"]
    ]
    note = f"Verdict: {match['verdict']}. Calibrated for {percent(document['covered_frac'])} of the tokens."
    to.print(table("How the replay matches", ("figure", "class", "measured", "simulated", "off", ""), rows, note))
