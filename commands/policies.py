"""`poolpilot policies`: what can decide, and the versions of a registry."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from ..agents.checkpoint import load_checkpoint, shipped_checkpoints
from ..agents.portfolio import HELD_PLAN, INTEGRAL, RULE_SPECS, RULES, STATIC, has_knobs, spec_of, tuned_knobs
from ..agents.registry import Registry
from ..agents.rules import RuleSpec
from .bad_input import one_line_errors
from .printing import console, print_json, table
from .versions.asked import registry_option
from .versions.checking import check
from .versions.listing import registry_json, version_json, version_tables, versions_table
from .versions.moving import add, end_trial, history, init, promote, rollback, trial


class _NamesToo(click.Group):
    """A group in which whatever is no command is shown: `policies steady-hand` is `policies show steady-hand`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """With `show` before what is no command."""
        if not args or args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_NamesToo)
def policies() -> None:
    """List rules and checkpoints, or the versions of a registry; move versions by hand.

    `policies NAME` is `policies show NAME`, and `policies` alone lists them all.
    """


@policies.command()
@click.argument("policy", required=False)
@registry_option(required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def show(policy: str | None, registry: Path | None, as_json: bool) -> None:
    """List the rules and the shipped checkpoints; with --registry the versions there and how each fared at its gates.

    With POLICY show one: a rule's knobs, the card of a checkpoint (name or folder), which is checked first, or with
    --registry a version with its evidence (the first digits will do).
    """
    if registry is not None:
        _show_versions(registry, policy, as_json)
        return
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


def _show_versions(folder: Path, version: str | None, as_json: bool) -> None:
    registry = Registry(folder)
    if version is None:
        if as_json:
            print_json(registry_json(registry))
            return
        console().print(versions_table(registry))
        return
    full = registry.full_name(version)
    if as_json:
        print_json(version_json(registry, registry.version(full)))
        return
    for part in version_tables(registry, full):
        console().print(part)


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


for _command in (init, add, check, trial, end_trial, promote, rollback, history):
    policies.add_command(_command)
