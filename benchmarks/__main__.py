"""`python -m poolpilot.benchmarks`: everything that is timed, in one go."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from .measuring import SCALES, Scale, measure
from .report import PARTS, show, write

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--scale", type=click.Choice(list(SCALES)), default="full", show_default=True, help="How much is run.")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only this part; may be repeated.")
@click.option(
    "--rival",
    type=click.Path(path_type=Path),
    default=ROOT / ".venv-bench" / "bin" / "python",
    help="A Python that has vllm-sr-sim; without one the rival's column stays empty. `make bench` makes it.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--write", "rewrite", is_flag=True, help=f"Rewrite what was run in {PAGE.relative_to(ROOT)}.")
def main(scale: str, parts: tuple[str, ...], rival: Path, as_json: bool, rewrite: bool) -> None:
    """Time the simulator beside vllm-sr-sim, how its cost grows, PPO training, decisions, metrics pages, and start-up."""
    if rewrite and scale != "full":
        raise click.UsageError("--write: the page holds runs at full scale; leave --scale out")
    console = Console(stderr=True)
    figures = run(SCALES[scale], parts or PARTS, rival, lambda step: console.print(f"[dim]{step}[/dim]"))
    if as_json:
        click.echo(json.dumps(figures, indent=2))
    else:
        show(figures, Console())
    if rewrite:
        write(figures, PAGE, _command(parts))
        console.print(f"wrote {PAGE.relative_to(ROOT)}")


def _command(parts: tuple[str, ...]) -> str:
    return f"make bench ARGS='{' '.join(['--write', *(f'--part {part}' for part in parts)])}'"


def run(scale: Scale, parts: tuple[str, ...], rival: Path, on_step: Callable[[str], None]) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="poolpilot-bench-") as folder:
        return measure(scale, parts, rival if rival.is_file() else None, Path(folder), os.getloadavg()[0], on_step)


if __name__ == "__main__":
    main()
