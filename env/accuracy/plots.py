"""The page's plots. matplotlib is imported when they are drawn: only who writes the page needs it (the `docs` extra)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .points import QUANTITIES
from .protocols import DATA_SHEET, FEW_SHOT, ZERO_SHOT
from .report import LogScore, Report
from .request_logs import METRICS, TTFT, second_half

_UNITS = {"iteration time": "s", "TPOT": "s", "throughput": "tokens/s", "power": "share of TDP"}
_DPI = 80


class PlotsError(ValueError):
    """The plots cannot be drawn."""


def draw(report: Report, folder: Path) -> list[Path]:
    """Write the plots into `folder`, the same bytes for the same report and matplotlib.

    Raises:
        PlotsError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise PlotsError("the plots need matplotlib: pip install 'poolpilot[docs]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9.0, "axes.grid": True, "grid.alpha": 0.3}):
        for name, width, columns, fill in (
            ("zero_shot", 3.6, len(_quantities(report)), _fill_zero_shot),
            ("errors", 3.6, len(_quantities(report)), _fill_errors),
            ("requests", 4.4, len(METRICS), _fill_requests),
        ):
            figure = Figure(figsize=(width * columns, 3.6), layout="constrained")
            fill(figure.subplots(1, columns, squeeze=False)[0], report)
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=_DPI, metadata={"Software": None})
            written.append(path)
    return written


def _quantities(report: Report) -> list[str]:
    return [quantity for quantity in QUANTITIES if any(one.quantity == quantity for one in report.scored)]


def _fill_zero_shot(panels: Any, report: Report) -> None:
    for panel, quantity in zip(panels, _quantities(report), strict=True):
        of = [one for one in report.scored if one.protocol == ZERO_SHOT and one.quantity == quantity]
        for gpu in sorted({one.gpu for one in of}):
            own = [one for one in of if one.gpu == gpu]
            panel.plot([o.measured for o in own], [o.predicted for o in own], ".", markersize=2.5, alpha=0.5, label=gpu)
        ends = [min(one.measured for one in of), max(one.measured for one in of)]
        panel.plot(ends, ends, color="black", linewidth=0.8)
        panel.set(xscale="log", yscale="log", title=quantity)
        panel.set(xlabel=f"measured, {_UNITS[quantity]}", ylabel=f"predicted, {_UNITS[quantity]}")
        panel.legend(fontsize=6, markerscale=3, loc="upper left")


def _fill_errors(panels: Any, report: Report) -> None:
    for panel, quantity in zip(panels, _quantities(report), strict=True):
        for protocol in (ZERO_SHOT, DATA_SHEET, FEW_SHOT):
            of = [one for one in report.scored if one.protocol == protocol and one.quantity == quantity]
            if of:
                off = np.sort(np.abs([one.off_frac for one in of])) * 100.0
                panel.plot(off, np.arange(1, len(off) + 1) / len(off), label=protocol)
        panel.set(xscale="symlog", xlim=(0, 200), ylim=(0, 1), title=quantity)
        panel.set(xlabel="absolute error, %", ylabel="share of points within it")
        panel.legend(fontsize=7, loc="lower right")


def _fill_requests(panels: Any, report: Report) -> None:
    for panel, metric in zip(panels, METRICS, strict=True):
        ends: list[float] = []
        for one in report.logs:
            real, made = _second(one, metric)
            panel.plot(real, made, ".", markersize=4, alpha=0.6, label=one.log.run)
            ends += [float(real.min()), float(real.max())]
        panel.plot([min(ends), max(ends)], [min(ends), max(ends)], color="black", linewidth=0.8)
        scale = "log" if metric == TTFT else "linear"
        panel.set(xscale=scale, yscale=scale, title=metric, xlabel="measured, s", ylabel="replayed, s")
        panel.legend(fontsize=7, loc="upper left")


def _second(one: LogScore, metric: str) -> tuple[Any, Any]:
    scored = second_half(one.log)
    return one.real.of(metric)[scored], one.made.of(metric)[scored]
