"""`python -m poolpilot.benchmarks.forecasting`: forecasts of arrivals compared on real traces."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from poolpilot.env import forecast
from poolpilot.env.workload.traces import TraceError

from ..report import markdown, print_sections, put
from ..timing import cpu_s, machine
from .page import sections
from .scoring import Score, score_all
from .series import TICK_S, all_series

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "forecasting.md"
COMMAND = "python -m poolpilot.benchmarks.forecasting --write"
BATCHES = {"8 classes": (8,), "512 clusters of 6 classes": (512, 6)}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=ROOT.parent / "shared" / "data" / "traces",
    help="Folder of the traces: azure_llm_2023_conv, mooncake_conversation and servegen_*_clients, as Parquet.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--write", "rewrite", is_flag=True, help=f"Rewrite the tables in {PAGE.relative_to(ROOT)}.")
def main(data: Path, as_json: bool, rewrite: bool) -> None:
    """Score the shipped forecast of arrivals beside the usual ones; takes a minute or two."""
    console = Console(stderr=True)
    try:
        console.print("[dim]reading the traces[/dim]")
        every = all_series(data)
    except TraceError as error:
        raise click.ClickException(str(error)) from None
    console.print("[dim]forecasting[/dim]")
    scores = score_all(every)
    cost_ms = {name: tick_ms(shape) for name, shape in BATCHES.items()}
    tables = list(sections(every, scores))
    if as_json:
        names = [series.name for series in every]
        click.echo(
            json.dumps({"series": names, "cost_ms": cost_ms, "methods": [_document(s) for s in scores]}, indent=2)
        )
    else:
        print_sections(tables, Console())
    if rewrite:
        costs = " and ".join(f"{ms:.2f} ms for {name}" for name, ms in cost_ms.items())
        about = machine()
        made = (
            f"Made by `{COMMAND}`; Python {about['python']}, numpy {about['versions']['numpy']}. A tick of the shipped "
            f"forecast, seen and forecast, takes {costs} (median CPU time, {about['cpu']})."
        )
        put(PAGE, "tables", f"{made}\n\n{markdown(tables)}")
        console.print(f"wrote {PAGE.relative_to(ROOT)}")


def tick_ms(shape: tuple[int, ...], ticks: int = 200) -> float:
    """CPU milliseconds of a tick for so many classes, the median of many."""
    rates = np.random.default_rng(0).poisson(20.0, (ticks, *shape)) / TICK_S
    state, spent = forecast.start(*shape), []

    def tick(rate: np.ndarray) -> None:
        nonlocal state
        state = forecast.observe(state, rate, TICK_S)
        forecast.predict(state)

    for rate in rates:
        spent.append(cpu_s(partial(tick, rate)))
    return 1000.0 * float(np.median(spent))


def _document(score: Score) -> dict[str, Any]:
    return {
        "name": score.name,
        "setting": score.setting,
        "mase": score.mase.tolist(),
        "rush_error": None if np.isnan(score.rush_error) else score.rush_error,
    }


if __name__ == "__main__":
    main()
