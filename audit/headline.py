"""The audit in a few sentences. Pure: from its JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_VERDICTS = {
    "good": "The simulation matches what was measured.",
    "rough": "The simulation matches what was measured only roughly: take the comparison for its direction and size, not its"
    " last digits.",
    "bad": "The simulation does not match what was measured, so nothing is said of what other policies would have spent.",
}


def headlines(document: Mapping[str, Any]) -> list[str]:
    """What was spent, what was held, what the best would have spent, how far that can be relied on."""
    spent = document["spent"]
    idle = (
        f", of which ${spent['idle_usd']:.2f} ({_share(spent['idle_usd'], spent['usd'])}) idle" if spent["usd"] else ""
    )
    lines = [
        f"In {lasting(document['duration_s'])} you spent ${spent['usd']:.2f}{idle}: ${spent['usd_per_hr']:.2f} an hour."
    ]
    lines.append(f"Attainment: {'; '.join(_held(name, own) for name, own in document['classes'].items())}.")
    instead = document["instead"]
    if instead is not None:
        lines.append(_best(instead, document))
    verdict = document["match"]["verdict"]
    lines.append(
        _VERDICTS[verdict] + (f" Most off: {document['match']['reasons'][0]}." if document["match"]["reasons"] else "")
    )
    return lines


def _held(name: str, own: dict[str, Any]) -> str:
    low, high = own["attainment_between"]
    share = f"{low * 100:.1f} %" if high - low < 1e-4 else f"between {low * 100:.1f} and {high * 100:.1f} %"
    if low <= 0.0 and high >= 1.0:
        replayed = own["attainment_replayed"]
        share = "not measured" + ("" if replayed is None else f", {replayed * 100:.1f} % in the replay")
    return f"{name} {share} (wanted {own['wanted'] * 100:g} %)"


def _best(instead: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    best = next(option for option in instead["options"] if option["name"] == instead["best"])
    reached = ", ".join(
        f"{name} {own['mean'] * 100:.1f} %" for name, own in best["attainment"].items() if own["mean"] is not None
    )
    doubt = _interval(best["usd"])
    if not best["holds_targets"]:
        return (
            f"No policy tried holds every target on this load with these pools; nearest comes {best['name']}, at"
            f" ${best['usd']['mean']:.2f}{doubt} and attainment {reached}."
        )
    if not instead["cheaper_beyond_doubt"]:
        return (
            f"No policy that holds every target is cheaper beyond doubt: {best['name']}, the cheapest of them, would have spent"
            f" ${best['usd']['mean']:.2f}{doubt} at attainment {reached}."
        )
    saved = instead["saves_usd_per_hr"]["mean"]
    return (
        f"{best['name']} would have spent ${best['usd']['mean']:.2f}{doubt} at attainment {reached}:"
        f" {_share(saved * document['duration_s'] / 3600.0, document['spent']['usd'])} less, ${instead['saves_usd_per_month']:.0f}"
        " a month at this load."
    )


def _interval(ends: dict[str, float | None]) -> str:
    low, high = ends["low"], ends["high"]
    return "" if low is None or high is None else f" (${low:.2f} to ${high:.2f})"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def lasting(duration_s: float) -> str:
    """A length of time for people."""
    for unit, size in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if duration_s >= 2.0 * size:
            return f"{duration_s / size:.3g} {unit}"
    return f"{duration_s:.0f} seconds"
