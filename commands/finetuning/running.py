"""`poolpilot finetune run`: refit, learn, and the gates before the trial, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click

from ...agents.registry import BEFORE_TRIAL, Registry, wanting
from ...training.finetuning.bounds import yield_to_others
from ...training.finetuning.settings import GOES_ON
from ..bad_input import one_line_errors, refuse
from ..printing import console, log_console, print_json, table
from ..versions.asked import SUITES
from .asked import bounds_of_learning, registry_option
from .begun import Beginning, Folder
from .refit import DOES_NOT_REPRODUCE
from .stepping import Steps, Stopped, steps_in

NOT_LET_THROUGH: Final = 1
"""Exit code where a gate did not let the candidate through (as of `policies check`)."""


@click.command()
@click.argument("record", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--scenario", required=True, help="What was believed of the cluster: a shipped name, or a file.")
@registry_option
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for all of it.")
@click.option("--access-log", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="As of `refit`.")
@bounds_of_learning
@click.option(
    "--learn-option",
    "learn_options",
    multiple=True,
    help="Any other of `learn`, such as --learn-option=--clusters=16; repeatable.",
)
@click.option("--suite", "suites", multiple=True, help="For its gate; repeatable. Default: steady and stress.")
@click.option(
    "--gate", "gates", multiple=True, type=click.Choice(BEFORE_TRIAL), help="Only this one; repeatable. Default: all."
)
@click.option(
    "--check-option",
    "check_options",
    multiple=True,
    help="Any other of `policies check`, such as --check-option=--suite-seeds=6; repeatable.",
)
@click.option("--workers", type=click.IntRange(1, 512), default=1, show_default=True, help="Processes, for the suites.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--trial", is_flag=True, help="Have a candidate that its gates let through tried beside the incumbent.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout at the end.")
@one_line_errors
def run(
    record: tuple[Path, ...],
    scenario: str,
    registry_folder: Path,
    out: Path,
    access_log: Path | None,
    steps: int,
    cpu_seconds: float,
    memory_mb: float,
    learn_options: tuple[str, ...],
    suites: tuple[str, ...],
    gates: tuple[str, ...],
    check_options: tuple[str, ...],
    workers: int,
    seed: int,
    trial: bool,
    as_json: bool,
) -> None:
    """Refit the twin to RECORD, learn in it, and put what comes out through the gates before the trial.

    Each step is a process of its own, of the lowest priority; the same command again goes on where it was stopped, with the
    refit that it made. Nothing decides because of this command: a candidate that its gates let through is tried on a share
    of the traffic first, once `poolpilot policies trial` (or --trial) says so, and the sidecar promotes it only if the trial
    passes. Exit code 3: the twin does not reproduce the record. 1: a gate did not let the candidate through. 130 or 143: it
    was stopped, by Ctrl-C or SIGTERM.
    """
    registry = Registry(registry_folder)
    if find_spec("torch") is None:
        refuse("learning needs torch: pip install 'poolpilot[train]'")
    yield_to_others()  # and so do all that it starts
    asked = _Asked(
        record=tuple(path.resolve() for path in record),
        registry=registry,
        folder=Folder(out.resolve()),
        learning=(
            *("--steps", str(steps), "--cpu-seconds", str(cpu_seconds), "--memory-mb", str(memory_mb)),
            *("--seed", str(seed), *learn_options),
        ),
        checking=(
            *_repeated("--suite", suites),
            *_repeated("--gate", gates),
            *("--workers", str(workers), *check_options),
        ),
        # Rows are of one candidate and these suites.
        rows="+".join(Path(own).stem for own in suites or SUITES),
        trial=trial,
    )
    beginning = Beginning.of(record, scenario, access_log, seed)
    code = 0
    try:
        with steps_in(asked.folder.path) as running:
            ended = _run(running, asked, beginning, scenario, access_log)
        code = ended.code
    except Stopped as stopped:
        reason = (
            f"stopped by {stopped.by.name} at `{stopped.step}`: the incumbent goes on, and so does the same command"
        )
        ended, code = _Ended(stopped.step, reason), stopped.exit_code
    if as_json:
        print_json({"step": ended.step, "reason": ended.reason, **ended.more})
    else:
        if evidence := ended.more.get("evidence"):
            rows = [(own["gate"], own["verdict"], own["reason"]) for own in evidence]
            console().print(table("Gates", ("gate", "verdict", "why"), rows))
        log_console().print(ended.reason, highlight=False, markup=False, soft_wrap=True)
    if code:
        raise SystemExit(code)


@dataclass(frozen=True)
class _Asked:
    """What the steps are given."""

    record: tuple[Path, ...]
    registry: Registry
    folder: Folder
    learning: tuple[str, ...]
    checking: tuple[str, ...]
    rows: str
    trial: bool


@dataclass(frozen=True)
class _Ended:
    """At which step, and why."""

    step: str
    reason: str
    code: int = 0
    more: dict[str, Any] = field(default_factory=dict)
    """JSON-ready."""


def _run(steps: Steps, asked: _Asked, beginning: Beginning, scenario: str, access_log: Path | None) -> _Ended:
    log, folder, registry = log_console(), asked.folder, asked.registry
    if folder.is_refitted(beginning):
        log.print(f"the twin is refitted already: {folder.refit}", highlight=False, markup=False, soft_wrap=True)
    else:
        log.print("refitting the twin", highlight=False)
        if not _refitted(steps, asked, beginning, scenario, access_log):
            why = f"the refitted twin does not reproduce the record: {folder.refit}/refit.json says how far"
            return _Ended("refit", why, DOES_NOT_REPRODUCE)
    log.print("learning", highlight=False)
    twin = ("--scenario", str(folder.twin), "--registry", str(registry.folder), "--out", str(folder.learned))
    resume = ("--resume",) if folder.learning_began else ()
    said = _told(steps, "learn", ("finetune", "learn", *map(str, asked.record), *twin, *asked.learning, *resume))
    version, reason = said.get("version"), str(said.get("reason"))
    if not version:
        if not said.get("finished"):
            return _Ended("learn", f"{reason.removesuffix(f'; {GOES_ON}')}; the same command goes on")
        return _Ended("learn", f"{reason}; the incumbent stays")
    log.print(f"candidate {version}: {reason}", highlight=False, markup=False, soft_wrap=True)
    looked_at = ("--refit", str(folder.refit), *_repeated("--record", asked.record))
    rows = folder.path / "suites" / f"{version}-{asked.rows}"
    checking = ("policies", "check", version, "--registry", str(registry.folder), *looked_at, "--out", str(rows))
    said = _told(steps, "check", (*checking, *asked.checking), NOT_LET_THROUGH)
    incumbent = registry.incumbent()
    lacks = wanting(registry.evidence(version), version, incumbent, BEFORE_TRIAL)
    more = {"version": version, "evidence": said.get("evidence", []), "lacks": lacks}
    if lacks:
        return _Ended("check", f"{version} is not let through: {'; '.join(lacks)}", NOT_LET_THROUGH, more)
    if asked.trial:
        if registry.state().on_trial != version:
            registry.begin_trial(version, incumbent)
        decides = f"a sidecar with --policy registry:{registry.folder} tries it, and promotes it if it passes"
        return _Ended("trial", f"{version} is on trial: {decides}", 0, more)
    command = f"poolpilot policies trial {version} --registry {registry.folder}"
    reason = f"{version} was let through by its gates; have it tried beside the incumbent: {command}"
    return _Ended("check", reason, 0, more)


def _refitted(steps: Steps, asked: _Asked, beginning: Beginning, scenario: str, access_log: Path | None) -> bool:
    """Refit; whether the twin reproduces the record."""
    folder = asked.folder
    folder.begin_refit()
    more = ("--access-log", str(access_log)) if access_log else ()
    where = ("--scenario", scenario, "--out", str(folder.refit), "--seed", str(beginning.seed), *more)
    code, _ = steps.run("refit", ("finetune", "refit", *map(str, asked.record), *where))
    if code == DOES_NOT_REPRODUCE:
        return False
    _must(code, "refit")
    folder.note_refitted(beginning)
    return True


def _told(steps: Steps, step: str, arguments: Sequence[str], may_be: int = 0) -> dict[str, Any]:
    """A step's JSON; if it fails we end with what it ended with, and it has said why."""
    code, said = steps.run(step, arguments)
    if code not in (0, may_be):
        _must(code, step)
    return said


def _must(code: int, step: str) -> None:
    if code < 0:
        refuse(f"{step}: ended by signal {-code}; the incumbent goes on, and so does the same command")
    if code:
        raise SystemExit(code)


def _repeated(option: str, values: Sequence[object]) -> tuple[str, ...]:
    return tuple(word for value in values for word in (option, str(value)))
