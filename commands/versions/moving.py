"""Moves versions by hand: each says what it found deciding, so that nobody is overtaken unnoticed."""

from __future__ import annotations

from pathlib import Path

import click

from ...agents.registry import Registry
from ..bad_input import one_line_errors
from ..printing import console, print_json
from .asked import opened, registry_option
from .listing import history_table

_force = click.option(
    "--force", metavar="REASON", help="Do it without the evidence; REASON is written down in the registry's history."
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


@click.command()
@click.argument("checkpoint")
@registry_option()
@_json
@one_line_errors
def init(checkpoint: str, registry: Path, as_json: bool) -> None:
    """Begin a registry with CHECKPOINT (a shipped one's name, or a folder): what decides today, and is beaten first.

    `poolpilot control --policy registry:FOLDER` then follows whichever version decides there.
    """
    begun = Registry.found(registry, checkpoint)
    _say(as_json, {"registry": str(begun.folder), "incumbent": begun.incumbent()}, f"{begun.incumbent()} decides")


@click.command()
@click.argument("checkpoint")
@registry_option()
@_json
@one_line_errors
def add(checkpoint: str, registry: Path, as_json: bool) -> None:
    """Take in a copy of CHECKPOINT as a candidate. It is refused if a file is not the one its card names, or its network
    answers with numbers that no policy should."""
    version = Registry(registry).add(checkpoint)
    _say(as_json, {"version": version}, version)


@click.command()
@click.argument("version")
@registry_option()
@_force
@_json
@one_line_errors
def trial(version: str, registry: Path, force: str | None, as_json: bool) -> None:
    """Have VERSION tried by the sidecar beside the incumbent (the canary). The gates before must have let it through."""
    own, full = opened(registry, version)
    state = own.begin_trial(full, own.incumbent(), force)
    told = {"on_trial": state.on_trial, "incumbent": state.incumbent, "generation": state.generation}
    _say(as_json, told, f"{full} is on trial beside {state.incumbent}, as soon as a sidecar in mode active looks")


@click.command("end-trial")
@click.argument("version")
@registry_option()
@click.option("--reason", default="by hand", show_default=True, help="Written down.")
@_json
@one_line_errors
def end_trial(version: str, registry: Path, reason: str, as_json: bool) -> None:
    """Have VERSION tried no more, without promoting it."""
    own, full = opened(registry, version)
    state = own.end_trial(full, reason)
    _say(as_json, {"incumbent": state.incumbent, "generation": state.generation}, f"{full} is not on trial any more")


@click.command()
@click.argument("version")
@registry_option()
@_force
@_json
@one_line_errors
def promote(version: str, registry: Path, force: str | None, as_json: bool) -> None:
    """Have VERSION decide. Refused while a gate has not let it through, with what each says."""
    own, full = opened(registry, version)
    state = own.promote(full, own.incumbent(), force)
    told = {"incumbent": state.incumbent, "instead_of": state.event.before, "generation": state.generation}
    _say(as_json, told, f"{full} decides instead of {state.event.before}")


@click.command()
@registry_option()
@click.option("--reason", required=True, help="Why; written down.")
@click.option("--to", help="Version to go back to. Default: the one that decided before.")
@_json
@one_line_errors
def rollback(registry: Path, reason: str, to: str | None, as_json: bool) -> None:
    """Have the version before decide again. What is rolled back from is promoted again only with --force."""
    own = Registry(registry)
    state = own.rollback(reason, own.incumbent(), own.full_name(to) if to else None)
    told = {"incumbent": state.incumbent, "instead_of": state.event.before, "generation": state.generation}
    _say(as_json, told, f"{state.incumbent} decides again instead of {state.event.before}")


@click.command()
@registry_option()
@_json
@one_line_errors
def history(registry: Path, as_json: bool) -> None:
    """Everything that happened to the versions: promotions and rollbacks with their reasons, by whom."""
    events = Registry(registry).history()
    if as_json:
        print_json([event.as_json() for event in events])
        return
    console().print(history_table(events))


def _say(as_json: bool, document: dict[str, object], words: str) -> None:
    if as_json:
        print_json(document)
    else:
        click.echo(words)
