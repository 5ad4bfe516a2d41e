"""`poolpilot finetune ranges`: what a checkpoint saw in training, written on its card."""

from __future__ import annotations

import click

from ...agents.checkpoint import load_checkpoint
from ...training.environments import training_worlds
from ...training.seen_ranges import WORLDS, add_ranges
from ..bad_input import one_line_errors
from ..first_run import say_if_it_compiles
from ..printing import console


@click.command()
@click.argument("checkpoint")
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    help="In which it was trained: a shipped scenario's name, a file, or `random`; repeat for several. Default: random clusters.",
)
@click.option("--worlds", type=click.IntRange(1, 1000), default=WORLDS, show_default=True, help="To see in.")
@one_line_errors
def ranges(checkpoint: str, scenarios: tuple[str, ...], worlds: int) -> None:
    """Measure between what a checkpoint's observations lie in worlds such as it was trained in, and write it on its card.

    A sidecar tells from it when the world has moved away. `poolpilot train` writes it by itself; this is for a CHECKPOINT (its
    name or folder) that has none.
    """
    folder = load_checkpoint(checkpoint).folder
    say_if_it_compiles()
    found = add_ranges(folder, training_worlds(scenarios, quickly=True) if scenarios else None, worlds)
    console().print(f"{folder}: ranges of {found.observations} observations in {worlds} worlds are on its card")
