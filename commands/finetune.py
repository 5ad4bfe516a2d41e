"""`poolpilot finetune`: learn from the record of a live cluster."""

from __future__ import annotations

import click

from .finetuning.refit import refit


@click.group()
def finetune() -> None:
    """Learn from the record of a live cluster; nothing that is learned reaches traffic unproven (docs/finetuning.md)."""


finetune.add_command(refit)
