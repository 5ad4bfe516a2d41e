"""The demo's live display: load, replicas, weights, dollars, as the store has them. Rendering is pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ...env.contract import Decision, Snapshot
from ...env.emulator.replay import ClientRecord
from ...env.scenario import Scenario
from ..printing import percent, seconds

BAR_WIDTH = 24


def render(
    scenario: Scenario,
    policy: str,
    time_s: float,
    records: Sequence[ClientRecord],
    in_flight: int,
    snapshot: Snapshot | None,
    decision: Decision | None,
) -> RenderableType:
    """One picture of a run at scenario time `time_s`."""
    done = min(time_s / scenario.duration_s, 1.0)
    lost = sum(r.outcome == "lost" for r in records)
    served = sum(r.outcome == "served" for r in records)
    head = Text.assemble(
        ("policy ", "dim"),
        (policy, "bold cyan"),
        (f"   minute {time_s / 60:4.1f} of {scenario.duration_s / 60:.0f}  ", ""),
        ("█" * round(done * BAR_WIDTH) + "░" * (BAR_WIDTH - round(done * BAR_WIDTH)), "cyan"),
        (f"   sent {len(records)}  served {served}  in flight {in_flight}  ", ""),
        (f"lost {lost}", "bold red" if lost else "green"),
    )
    parts: list[RenderableType] = [head]
    if snapshot is not None and decision is not None:
        parts += [_pools(scenario, snapshot, decision), _classes(scenario, snapshot)]
        if decision.reasons:
            codes = ", ".join(dict.fromkeys(f"{r.code.value} ({r.subject})" for r in decision.reasons))
            parts.append(Text(f"the guard changed: {codes}", style="yellow"))
    return Panel(Group(*parts), title="poolpilot demo", title_align="left")


def _pools(scenario: Scenario, snapshot: Snapshot, decision: Decision) -> Table:
    rent = np.nan_to_num(snapshot.usd_per_hr * (snapshot.ready + snapshot.starting + snapshot.draining))
    table = Table(title_justify="left", title=f"{rent.sum():.2f} $/h now", expand=False)
    for column in ("pool", "GPU", "replicas", "wanted", *(f"{c} →" for c in scenario.class_names)):
        table.add_column(column)
    for column in ("running", "waiting", "KV", "cap", "$/h"):
        table.add_column(column, justify="right")
    for p, (name, pool) in enumerate(scenario.pools.items()):
        ready, starting, draining = (
            int(np.nan_to_num(v[p])) for v in (snapshot.ready, snapshot.starting, snapshot.draining)
        )
        replicas = (
            Text("●" * ready, style="green") + Text("◌" * starting, style="yellow") + Text("○" * draining, style="dim")
        )
        weights = [Text(percent(float(decision.applied.route[c, p]), 0)) for c in range(len(scenario.class_names))]
        table.add_row(
            name,
            f"{pool.hardware} {pool.precision}" + (" spot" if pool.price.kind == "spot" else ""),
            replicas,
            f"{decision.applied.replicas[p]:.0f}",
            *weights,
            _count(snapshot.running[p]),
            _count(snapshot.waiting[p]),
            percent(float(snapshot.kv_used_frac[p]), 0),
            f"{decision.applied.batch_cap[p]:.0f}",
            f"{rent[p]:.2f}",
        )
    return table


def _classes(scenario: Scenario, snapshot: Snapshot) -> Table:
    table = Table(expand=False)
    for column in ("class", "requests/s", "expected in 3 min", "TTFT p95", "TPOT p95", "met, last minute", "wanted"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for c, (name, requests) in enumerate(scenario.classes.items()):
        attainment = float(snapshot.attainment[c])
        short = attainment < requests.target.attainment
        table.add_row(
            name,
            _rate(snapshot.arrival_rate_per_s[c]),
            _rate(snapshot.forecast_per_s[c, 1]),
            seconds(float(snapshot.ttft_p95_s[c])),
            seconds(float(snapshot.tpot_p95_s[c])),
            Text(percent(attainment), style="red" if short else "green"),
            percent(requests.target.attainment, 0),
        )
    return table


def _count(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.0f}"


def _rate(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"
