"""`poolpilot finetune run`: refit, learn, and the gates before the trial, one after another."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from ...agents.registry import BEFORE_TRIAL, Registry, wanting
from ...training.finetuning.bounds import yield_to_others
from ...training.finetuning.gates.checking import fingerprint
from ...training.finetuning.writing import SCENARIO
from ...training.run_folder import STATE_COUNTERS
from ..bad_input import one_line_errors, refuse
from ..printing import console, log_console, print_json, table

DOES_NOT_REPRODUCE: Final = 3
"""Exit code where the refitted twin does not do the recorded days again (as of `finetune refit`)."""
NOT_LET_THROUGH: Final = 1
"""Exit code where a gate did not let the candidate through (as of `policies check`)."""
REFITTED: Final = "refitted.json"
"""What the refit in the folder was made of, once it is whole."""


@click.command()
@click.argument("record", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--scenario", required=True, help="What was believed of the cluster: a shipped name, or a file.")
@click.option(
    "--registry",
    "registry_folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Whose incumbent to start from, and where to register a candidate.",
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for all of it.")
@click.option("--access-log", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="As of `refit`.")
@click.option("--steps", type=click.IntRange(min=1), default=60_000, show_default=True, help="As of `learn`.")
@click.option("--cpu-seconds", type=click.FloatRange(min=1.0), default=3600.0, show_default=True, help="As of `learn`.")
@click.option("--memory-mb", type=click.FloatRange(min=1.0), default=2048.0, show_default=True, help="As of `learn`.")
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
    workers: int,
    seed: int,
    trial: bool,
    as_json: bool,
) -> None:
    """Refit the twin to RECORD, learn in it, and put what comes out through the gates before the trial.

    Each step is a process of its own, of the lowest priority; the same command again goes on where it was stopped. Nothing
    decides because of this command: a candidate that its gates let through is tried on a share of the traffic first, once
    `poolpilot policies trial` (or --trial) says so, and the sidecar promotes it only if the trial passes. Exit code 3: the
    twin does not reproduce the record. 1: a gate did not let the candidate through.
    """
    registry = Registry(registry_folder)
    yield_to_others()  # and so do all that it starts
    out.mkdir(parents=True, exist_ok=True)
    log = log_console()
    refit = out / "refit"
    logs = [str(path) for path in record]
    if not _refitted(refit, record, scenario, access_log, seed):
        log.print("refitting the twin", highlight=False)
        more = ["--access-log", str(access_log)] if access_log else []
        code, _ = _step(
            ["finetune", "refit", *logs, "--scenario", scenario, "--out", str(refit), "--seed", str(seed), *more]
        )
        if code == DOES_NOT_REPRODUCE:
            _end(
                as_json,
                {"step": "refit", "reason": f"the refitted twin does not reproduce the record: {refit}/refit.json"},
            )
            raise SystemExit(DOES_NOT_REPRODUCE)
        _must(code, "refit")
        _note_refitted(refit, record, scenario, access_log, seed)
    learned = out / "learned"
    resume = ["--resume"] if (learned / STATE_COUNTERS).is_file() else []
    log.print("learning", highlight=False)
    bounds = ["--cpu-seconds", str(cpu_seconds), "--memory-mb", str(memory_mb), "--steps", str(steps)]
    twin = ["--scenario", str(refit / SCENARIO), "--registry", str(registry_folder), "--out", str(learned)]
    code, said = _step(["finetune", "learn", *logs, *twin, *bounds, "--seed", str(seed), *learn_options, *resume])
    _must(code, "learn")
    version = said.get("version")
    if not version:
        unfinished = not said.get("finished")
        after = "the same command goes on" if unfinished else "the incumbent stays"
        _end(as_json, {"step": "learn", "reason": f"{said.get('reason')}; {after}"})
        return
    log.print(f"candidate {version}: {said.get('reason')}", highlight=False)
    asked = ["--refit", str(refit), *(word for path in logs for word in ("--record", path))]
    asked += [word for name in suites for word in ("--suite", name)] + [word for g in gates for word in ("--gate", g)]
    asked += ["--workers", str(workers), "--out", str(out / "suites")]
    code, said = _step(["policies", "check", str(version), "--registry", str(registry_folder), *asked])
    if code not in (0, NOT_LET_THROUGH):
        _must(code, "check")
    evidence: list[dict[str, Any]] = said.get("evidence", [])
    lacks = wanting(registry.evidence(version), version, registry.incumbent(), BEFORE_TRIAL)
    told = {"step": "check", "version": version, "evidence": evidence, "lacks": lacks}
    if lacks:
        _end(as_json, {**told, "reason": f"{version} is not let through: {'; '.join(lacks)}"}, evidence)
        raise SystemExit(NOT_LET_THROUGH)
    if trial:
        registry.begin_trial(version, registry.incumbent())
        reason = f"{version} is on trial: a sidecar with --policy registry:{registry_folder} tries it, and promotes it if it passes"
    else:
        reason = (
            f"{version} was let through by its gates; have it tried beside the incumbent:"
            f" poolpilot policies trial {version} --registry {registry_folder}"
        )
    _end(as_json, {**told, "reason": reason}, evidence)


def _step(arguments: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """Exit code of one of our commands in a process of its own, and its JSON; what it says goes to our stderr."""
    done = subprocess.run(
        [sys.executable, "-m", __package__.split(".")[0], *arguments, "--json"], stdout=subprocess.PIPE, check=False
    )
    try:
        document: Any = json.loads(done.stdout)
    except ValueError:
        document = {}
    return done.returncode, document if isinstance(document, dict) else {}


def _must(code: int, step: str) -> None:
    """End with what a step ended with; it has said why."""
    if code < 0:
        refuse(
            f"{step}: ended by signal {-code}; the incumbent goes on, and the same command goes on with the learning"
        )
    if code:
        raise SystemExit(code)


def _made_of(record: Sequence[Path], scenario: str, access_log: Path | None, seed: int) -> dict[str, Any]:
    path = Path(scenario)
    return {
        "record": [fingerprint(own) for own in record],
        "scenario": fingerprint(path) if path.is_file() else scenario,
        "access_log": fingerprint(access_log) if access_log else None,
        "seed": seed,
    }


def _refitted(refit: Path, record: Sequence[Path], scenario: str, access_log: Path | None, seed: int) -> bool:
    """Whether the folder holds the refit that is wanted."""
    try:
        kept = json.loads((refit / REFITTED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(kept == _made_of(record, scenario, access_log, seed)) and (refit / SCENARIO).is_file()


def _note_refitted(refit: Path, record: Sequence[Path], scenario: str, access_log: Path | None, seed: int) -> None:
    made_of = _made_of(record, scenario, access_log, seed)
    (refit / REFITTED).write_text(json.dumps(made_of) + "\n", encoding="utf-8")


def _end(as_json: bool, told: dict[str, Any], evidence: Sequence[dict[str, Any]] = ()) -> None:
    """Say what came of it."""
    if as_json:
        print_json(told)
        return
    if evidence:
        rows = [(own["gate"], own["verdict"], own["reason"]) for own in evidence]
        console().print(table("Gates", ("gate", "verdict", "why"), rows))
    log_console().print(str(told["reason"]), highlight=False, markup=False, soft_wrap=True)
