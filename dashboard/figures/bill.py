"""Where the dollars go: a bar for each policy, pool or class, in the layers of the bill.

Pure: plain rows in, a Plotly figure out. Layers are told apart by colour and pattern (`palette`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict

import plotly.graph_objects as go

from ...env.contract import BILL_LAYERS, IDLE_PARTS
from .palette import PATTERNS, THEMES, ThemeName, dressed, plain

_BAR_PX: Final = 34
_HEAD_PX: Final = 130
LAYERS: Final = (
    "compute",
    "software",
    *(f"idle: {part.replace('_', ' ')}" for part in IDLE_PARTS),
    "energy",
    "network",
)
"""As figures show them, from the foot of the bar: the idle layer in its parts."""
_SAID: Final = {
    "compute": "rent for useful work",
    "software": "rent while busy below what the hardware could do",
    "idle": "rent while nothing runs",
    "idle: cold start": "rent from asking for a replica until it serves",
    "idle: waiting": "rent of replicas that are ready and have nothing to do",
    "idle: drain": "rent of replicas that were told to go and have nothing to do any more",
    "idle: asleep": "rent of replicas that are asleep",
    "energy": "energy and cooling",
    "network": "egress",
}


class BillRow(TypedDict):
    """One layer of one bar."""

    series: str
    """A policy, a pool or a class."""
    layer: str
    """One of `LAYERS`, or "idle" where its parts are not known."""
    usd_per_hr: float


def bill_figure(rows: Sequence[BillRow], theme: ThemeName = "light", title: str = "") -> go.Figure:
    """Bars that lie, the first series on top; layers that are nowhere more than nothing are left out."""
    names = list(dict.fromkeys(row["series"] for row in rows))
    known = [*LAYERS[:2], "idle", *LAYERS[2:]]
    every = sorted(
        dict.fromkeys(row["layer"] for row in rows), key=lambda layer: (layer not in known, _order(known, layer))
    )
    figure = go.Figure()
    own = THEMES[theme]
    totals = {name: sum(row["usd_per_hr"] for row in rows if row["series"] == name) for name in names}
    for i, layer in enumerate(every):
        usd = {row["series"]: row["usd_per_hr"] for row in rows if row["layer"] == layer}
        if not any(usd.values()):
            continue
        figure.add_trace(
            go.Bar(
                y=[plain(name) for name in names],
                x=[usd.get(name, 0.0) for name in names],
                customdata=[usd.get(name, 0.0) / totals[name] * 100 if totals[name] else 0.0 for name in names],
                name=plain(layer),
                orientation="h",
                marker={
                    "color": own.colours[i % len(own.colours)],
                    "line": {"width": 0},
                    "pattern": {
                        "shape": PATTERNS[i % len(PATTERNS)],
                        "bgcolor": own.colours[i % len(own.colours)],
                        "fgcolor": own.paper,
                        "fgopacity": 0.55,
                        "size": 8,
                        "solidity": 0.16,
                    },
                },
                hovertemplate=(
                    f"%{{x:.2f}} $/h, %{{customdata:.1f}} % of the bill<br>{plain(_SAID.get(layer, ''))}"
                    "<extra>%{y}: %{fullData.name}</extra>"
                ),
            )
        )
    figure.update_layout(
        barmode="stack", bargap=0.35, legend={"traceorder": "normal"}, height=_HEAD_PX + _BAR_PX * max(len(names), 1)
    )
    figure.update_xaxes(title={"text": "Bill ($/h)"}, rangemode="tozero")
    figure.update_yaxes(autorange="reversed", type="category")
    return dressed(figure, theme, title)


def layers_of(series: str, usd_per_hr: Mapping[str, Any]) -> list[BillRow]:
    """The rows of one bar from dollars an hour by name: a layer of `BILL_LAYERS`, or `idle_<part>` of `IDLE_PARTS`.

    Where the parts of the idle layer are known, it is shown in them.
    """
    parts = {part: usd_per_hr.get(f"idle_{part}") for part in IDLE_PARTS}
    whole = all(value is not None for value in parts.values())
    rows: list[BillRow] = []
    for layer in BILL_LAYERS:
        if layer == "idle" and whole:
            rows += [
                {"series": series, "layer": f"idle: {part.replace('_', ' ')}", "usd_per_hr": float(parts[part] or 0.0)}
                for part in IDLE_PARTS
            ]
        elif layer in usd_per_hr:
            rows.append({"series": series, "layer": layer, "usd_per_hr": float(usd_per_hr[layer])})
    return rows


def _order(known: Sequence[str], layer: str) -> int:
    return known.index(layer) if layer in known else 0
