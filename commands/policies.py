"""`poolpilot policies`: what can decide."""

from __future__ import annotations

import click
from rich.markup import escape

from ..agents.checkpoint import load_checkpoint, shipped_checkpoints
from ..agents.portfolio import HELD_PLAN, INTEGRAL, RULE_SPECS, RULES, STATIC, has_knobs, spec_of, tuned_knobs
from ..agents.rules import RuleSpec
from .bad_input import one_line_errors
from .printing import console, print_json, table


@click.command()
@click.argument("policy", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def policies(policy: str | None, as_json: bool) -> None:
    """List the rules and the shipped checkpoints.

    With POLICY show one: a rule's knobs, or the card of a checkpoint (name or folder), which is checked first.
    """
    if policy is not None and has_knobs(policy):
        _show_rule(spec_of(policy), as_json)
        return
    if policy is not None:
        card = load_checkpoint(policy).card
        if as_json:
            print_json(card)
            return
        console().print_json(data=card)
        return
    shipped = {name: load_checkpoint(path) for name, path in shipped_checkpoints().items()}
    if as_json:
        print_json({"rules": [*RULES, HELD_PLAN], "checkpoints": {name: c.card for name, c in shipped.items()}})
        return
    rows = [(STATIC, "rule", "Fixed counts, requests dealt out evenly")]
    rows += [(spec.name, "rule", spec.summary) for spec in RULE_SPECS.values()]
    rows.append(
        (f"RULE{INTEGRAL}", "rule", "any of these but the first, with a slow integral controller on its head-room")
    )
    rows.append((HELD_PLAN, "rule", "for scenarios that carry a plan: poolpilot plan --write"))
    rows += [
        (name, f"checkpoint {c.policy_hash}", escape(str(c.card.get("summary", "")))) for name, c in shipped.items()
    ]
    console().print(table("Policies", ("name", "kind", "what it does, or its card says"), rows))


def _show_rule(spec: RuleSpec, as_json: bool) -> None:
    shipped = tuned_knobs(spec.name)
    if as_json:
        knobs = [
            {
                "name": knob.name,
                "shipped": shipped[knob.name],
                "default": knob.default,
                "low": knob.low,
                "high": knob.high,
                "what": knob.doc,
            }
            for knob in spec.knobs
        ]
        print_json({"rule": spec.name, "summary": spec.summary, "source": spec.source, "knobs": knobs})
        return
    rows = [
        (knob.name, f"{shipped[knob.name]:g}", f"{knob.default:g}", f"{knob.low:g}", f"{knob.high:g}", knob.doc)
        for knob in spec.knobs
    ]
    caption = f"{spec.summary}. Source: {spec.source}. Shipped: as tuned (docs/tuning.md)."
    columns = ("knob", "shipped", "default", "searched from", "to", "what it is")
    console().print(table(spec.name, columns, rows, caption))
