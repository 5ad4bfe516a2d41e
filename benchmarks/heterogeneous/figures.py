"""The figures of the planning page (matplotlib is of the `docs` extra)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import case_study, paper
from .fleets import GREEDY, PLAN

DPI = 110
_STEPS = {
    case_study.MIXING: "mixing alone",
    case_study.QUANTISING: "quantising alone",
    case_study.AFTER: "both",
}


def draw_fleets(cells: Sequence[paper.Cell], path: Path) -> None:
    """Throughput of every fleet over the plan's, each cell a dot and the mean a bar."""
    figure, axes = _panels(len(paper.MODELS), len(paper.KINDS), (11, 6))
    fleets = [*paper.GPUS, GREEDY]
    for panel, (kind, model) in zip(
        axes.flat, ((kind, model) for kind in paper.KINDS for model in paper.MODELS), strict=True
    ):
        own = [c for c in cells if (c.kind, c.model) == (kind, model)]
        shares = np.array([[c.throughput.per_s(name) / c.throughput.per_s(PLAN) for name in fleets] for c in own])
        if len(shares):
            panel.bar(range(len(fleets)), shares.mean(axis=0), color="tab:blue", alpha=0.5)
            for x, column in enumerate(shares.T):
                panel.plot(np.full(len(column), x), column, ".", color="black", markersize=3, alpha=0.5)
        panel.axhline(1.0, color="tab:red", linewidth=0.8)
        names = [name.split("-")[0] for name in fleets]
        panel.set(title=f"{model}, {kind}", ylabel="throughput / the plan's", ylim=(0, 1.1))
        panel.set_xticks(range(len(fleets)), names, fontsize=8)
    _save(figure, path)


def draw_prices(saved: dict[str, list[float]], path: Path) -> None:
    """Rent saved in the case study against the ratio of prices."""
    figure, axes = _panels(1, 1, (6, 3.6))
    panel = axes.flat[0]
    for name, label in _STEPS.items():
        panel.plot(case_study.RATIOS, 100.0 * np.array(saved[name]), "o-", markersize=3, label=label)
    panel.axhline(100.0 * case_study.CLAIMED_COST, color="black", linewidth=0.8, linestyle="--", label="claimed")
    panel.set(xlabel="price of A100 / price of L40S", ylabel="rent saved, %", ylim=(0, None))
    panel.legend(fontsize=8)
    _save(figure, path)


def _panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
