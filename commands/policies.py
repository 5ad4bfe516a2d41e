"""`poolpilot policies`: what can decide."""

from __future__ import annotations

import click
from rich.markup import escape

from ..agents.checkpoint import load_checkpoint, shipped_checkpoints
from ..agents.portfolio import HELD_PLAN, RULES
from .bad_input import one_line_errors
from .printing import console, print_json, table


@click.command()
@click.argument("checkpoint", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def policies(checkpoint: str | None, as_json: bool) -> None:
    """List the rules and the shipped checkpoints; with CHECKPOINT (name or folder), check it and show its card."""
    if checkpoint is not None:
        card = load_checkpoint(checkpoint).card
        if as_json:
            print_json(card)
            return
        console().print_json(data=card)
        return
    shipped = {name: load_checkpoint(path) for name, path in shipped_checkpoints().items()}
    if as_json:
        print_json({"rules": [*RULES, HELD_PLAN], "checkpoints": {name: c.card for name, c in shipped.items()}})
        return
    rows = [(name, "rule", "") for name in RULES]
    rows.append((HELD_PLAN, "rule", "for scenarios that carry a plan: poolpilot plan --write"))
    rows += [
        (name, f"checkpoint {c.policy_hash}", escape(str(c.card.get("summary", "")))) for name, c in shipped.items()
    ]
    console().print(table("Policies", ("name", "kind", "what its card says"), rows))
