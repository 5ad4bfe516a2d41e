"""What a registry holds, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from ...agents.registry import CANARY, GATES, Event, Evidence, Registry, State, Verdict, Version, wanting
from ...agents.registry.state import withdrawn
from ...controller.waiting import FIGURE as WAITS
from ..printing import table

_MARKS = {
    Verdict.PASS: "[green]pass[/green]",
    Verdict.FAIL: "[red]FAIL[/red]",
    Verdict.UNKNOWN: "[yellow]cannot tell[/yellow]",
    Verdict.RUNNING: "[cyan]running[/cyan]",
}


def versions_table(registry: Registry) -> Table:
    """All versions, what each is, and how it fared at each gate."""
    state = registry.state()
    rows = [
        (
            own.version,
            escape(own.name) or "-",
            _standing(own, state, registry.history()),
            *(_mark(own.evidence.get(gate), state) for gate in GATES),
        )
        for own in registry.versions()
    ]
    caption = "`policies show VERSION` tells why. (old): measured against another incumbent."
    return table(f"Versions in {registry.folder}", ("version", "card's name", "is", *GATES), rows, caption)


def version_tables(registry: Registry, version: str) -> list[RenderableType]:
    """One version: its evidence, why it may or may not be promoted, and what happened to it."""
    state, own = registry.state(), registry.version(version)
    rows = [
        (gate, _mark(found, state), escape(found.reason), found.incumbent, found.made_at)
        for gate, found in own.evidence.items()
    ]
    events = [event for event in registry.history() if version in (event.version, event.before)]
    lacks = [] if version == state.incumbent else wanting(own.evidence, version, state.incumbent)
    may = "It decides." if version == state.incumbent else "It may be promoted."
    if lacks:
        may = "It may not be promoted: " + "; ".join(lacks)
    if version == state.on_trial:
        may = f"`policies end-trial {version}` ends its trial without a verdict. {may}"
    what = f"{version} {own.name}, {_standing(own, state, registry.history())}"
    shown: list[RenderableType] = [
        table(escape(what), ("gate", "verdict", "why", "against", "at"), rows, escape(own.broken or may))
    ]
    figures = [
        (gate, escape(name), _shown(value))
        for gate, found in own.evidence.items()
        for name, value in _flat(found.figures)
    ]
    if figures:
        shown.append(table("Figures", ("gate", "figure", "value"), figures))
    shown.append(history_table(events))
    return shown


def history_table(events: Sequence[Event]) -> Table:
    """What happened, oldest first."""
    rows = [
        (e.at, e.kind + (" (forced)" if e.forced else ""), e.version, e.before or "-", escape(e.reason), escape(e.by))
        for e in events
    ]
    return table("History", ("at", "what", "version", "instead of", "why", "by"), rows)


def registry_json(registry: Registry) -> dict[str, Any]:
    """Everything, as one document."""
    state = registry.state()
    return {
        "registry": str(registry.folder),
        "generation": state.generation,
        "incumbent": state.incumbent,
        "on_trial": state.on_trial or None,
        "versions": [version_json(registry, own) for own in registry.versions()],
        "history": [event.as_json() for event in registry.history()],
    }


def version_json(registry: Registry, own: Version) -> dict[str, Any]:
    """One version."""
    state = registry.state()
    evidence = {gate: found.document() for gate, found in own.evidence.items()}
    lacks = [] if own.version == state.incumbent else wanting(own.evidence, own.version, state.incumbent)
    return {
        "version": own.version,
        "name": own.name,
        "is": _standing(own, state, registry.history()),
        "broken": own.broken or None,
        "evidence": evidence,
        "lacks": lacks,
    }


def _standing(own: Version, state: State, events: Sequence[Event]) -> str:
    if own.broken:
        return "broken"
    if own.version == state.incumbent:
        return "incumbent"
    if own.version == state.on_trial:
        return "on trial" + _how_far(own.evidence.get(CANARY), state)
    return "rolled back" if own.version in withdrawn(events) else "candidate"


def _how_far(trial: Evidence | None, state: State) -> str:
    """What a trial waits for, if it does: a sidecar that takes it up, or its mode."""
    if trial is None or trial.verdict is not Verdict.RUNNING or trial.incumbent != state.incumbent:
        return ", no sidecar has begun it"
    return ", waits" if trial.figures.get(WAITS) else ""


def _mark(found: Evidence | None, state: State) -> str:
    if found is None:
        return "-"
    mark = _MARKS[found.verdict]
    if found.verdict is Verdict.RUNNING and found.candidate != state.on_trial:
        mark = "[yellow]cut off[/yellow]"
    return mark + ("" if found.incumbent == state.incumbent else " (old)")


def _flat(figures: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Figures by their path; lists are left to the JSON."""
    flat: list[tuple[str, Any]] = []
    for name, value in figures.items():
        if isinstance(value, dict) and set(value) >= {"mean", "low", "high"}:
            flat.append((before + name, value))
        elif isinstance(value, dict):
            flat += _flat(value, f"{before}{name}.")
        elif not isinstance(value, list):
            flat.append((before + name, value))
    return flat


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        low, high = (("?" if value[end] is None else f"{value[end]:.4g}") for end in ("low", "high"))
        mean = "?" if value["mean"] is None else f"{value['mean']:.4g}"
        return f"{mean} (between {low} and {high})"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
