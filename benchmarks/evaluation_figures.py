"""`python -m poolpilot.benchmarks.evaluation_figures`: pictures for the docs from what `poolpilot evaluate --out` kept.

Cost against attainment, a panel for each suite, every policy's frontier and the bound.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..commands.bad_input import one_line_errors
from ..dashboard.figures.attainment_rows import BOUND, TICKS, AttainmentRow, rows_of_summary
from ..dashboard.figures.palette import COLOURS, missed, style_of

NAME = "frontiers"
FORMATS = ("svg", "png")
_MARKERS = ("o", "s", "D", "^", "X", "v", "P")
"""As `palette.MARKERS`, in matplotlib's words."""
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (8, 3)), (0, (8, 3, 1, 3)), (0, (3, 3)))
_PANEL_INCHES = (4.2, 3.6)
_ACROSS = 3
_LEAST_SHOWN = 0.5
"""Settings that hold less are beyond the figure's edge."""


class FiguresError(ValueError):
    """The pictures cannot be drawn; the message is one line."""


def draw(rows: Sequence[AttainmentRow], folder: Path) -> list[Path]:
    """Write the picture as SVG and PNG, the same bytes for the same rows and matplotlib.

    Raises:
        FiguresError: matplotlib is not installed, or there is nothing to draw.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise FiguresError("the pictures need matplotlib: pip install 'poolpilot[docs]'") from None
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    if not panels:
        raise FiguresError("no rows to draw; wanted a summary.json with a frontier")
    names = [name for name in dict.fromkeys(row["series"] for row in rows) if name != BOUND]
    folder.mkdir(parents=True, exist_ok=True)
    settings: Any = {"font.family": "DejaVu Sans", "font.size": 9.0, "axes.grid": True, "grid.alpha": 0.3}
    with matplotlib.rc_context({**settings, "svg.hashsalt": NAME}):
        across = min(len(panels), _ACROSS)
        down = -(-len(panels) // across)
        figure = Figure(figsize=(_PANEL_INCHES[0] * across, _PANEL_INCHES[1] * down + 0.5), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            _fill(axis, [row for row in rows if row["panel"] == panel], names, panel)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        handles = {label: handle for axis in axes for handle, label in zip(*_legend_of(axis), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
        written = []
        for kind in FORMATS:
            path = folder / f"{NAME}.{kind}"
            nothing: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(path, dpi=110, metadata=nothing)
            written.append(path)
    return written


def _legend_of(axis: Any) -> tuple[list[Any], list[str]]:
    handles, labels = axis.get_legend_handles_labels()
    return handles, labels


def _fill(axis: Any, rows: Sequence[AttainmentRow], names: Sequence[str], title: str) -> None:
    for place, series in enumerate([*names, BOUND]):
        own = sorted((row for row in rows if row["series"] == series), key=lambda row: row["headroom"])
        if not own:
            continue
        x, y = [missed(row["attainment"]) for row in own], [row["bill"] for row in own]
        if series == BOUND:
            axis.plot(x, y, color="0.45", linewidth=1.0, label=BOUND)
            continue
        colour, marker, dash = style_of(place)
        axis.plot(
            x,
            y,
            color=COLOURS[colour],
            linestyle=_DASHES[dash],
            marker=_MARKERS[marker],
            markersize=4,
            linewidth=1.4,
            label=series,
        )
        shipped = [(a, b) for a, b, row in zip(x, y, own, strict=True) if row["headroom"] == 1.0]
        axis.plot(
            *zip(*shipped, strict=True), color=COLOURS[colour], marker=_MARKERS[marker], markersize=9, linestyle=""
        )
    axis.set_xscale("log")
    axis.set_xlim(missed(_LEAST_SHOWN), 0.8 * min(missed(row["attainment"]) for row in rows))
    shown = [at for at in TICKS if missed(at) >= axis.get_xlim()[1]]
    axis.set_xticks([missed(at) for at in shown], [f"{at * 100:g}" for at in shown])
    axis.minorticks_off()
    axis.set_ylim(bottom=0.0)
    axis.set(title=title, xlabel="worst class within its targets, %", ylabel="bill / reference's bill as shipped")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("summaries", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the pictures.")
@click.option("--policies", help="Only these, with commas between them.")
@one_line_errors
def main(summaries: tuple[Path, ...], out: Path, policies: str | None) -> None:
    """Draw cost against attainment from SUMMARIES (summary.json of `poolpilot evaluate --out`)."""
    rows: list[AttainmentRow] = []
    for path in summaries:
        try:
            rows += rows_of_summary(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise FiguresError(f"{path}: wanted summary.json of `poolpilot evaluate --out`") from None
    if policies is not None:
        wanted = {name.strip() for name in policies.split(",")} | {BOUND}
        rows = [row for row in rows if row["series"] in wanted]
    for path in draw(rows, out):
        click.echo(str(path))


if __name__ == "__main__":
    main()
