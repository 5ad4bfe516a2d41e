"""A record that was tampered with ends in no candidate, and the reason is said."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from poolpilot.agents.registry import Registry
from poolpilot.commands.finetune import finetune
from poolpilot.telemetry.record import line_of, sitting_text

from ..clusters import tiny
from .incumbents import a_registry
from .living import Lived, an_hour, exploration, live

TICKS = 40


pytestmark = pytest.mark.usefixtures("as_any_process")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Registry, Path, Lived]:
    folder = tmp_path_factory.mktemp("poisoned")
    registry, scenario = a_registry(folder, headroom=0.2), an_hour(folder)
    return folder, registry, scenario, live(folder, registry, scenario, TICKS, exploration())


def refused(
    world: tuple[Path, Registry, Path, Lived], out: Path, field: str, change: Callable[[dict[str, Any]], None]
) -> str:
    """What `learn` says of a record of which a field of every tick was changed; there is no candidate."""
    _, registry, scenario, lived = world
    log = out / "decisions.jsonl"
    lines = [sitting_text(lived.records[0].sitting)]
    for _, entry in lived.entries:
        document = json.loads(entry.fields[field])
        if document is not None:
            change(document)
        lines.append(line_of(replace(entry, fields={**entry.fields, field: json.dumps(document)})))
    log.write_text("\n".join(lines) + "\n")
    options = ["--scenario", str(scenario), "--registry", str(registry.folder), "--out", str(out / "learned")]
    done = CliRunner().invoke(finetune, ["learn", str(log), *options])
    assert done.exit_code == 2, done.output
    assert len(registry.versions()) == 1
    return " ".join(done.output.split())


def test_rewards_that_are_flipped(world: tuple[Path, Registry, Path, Lived], tmp_path: Path) -> None:
    def change(since: dict[str, Any]) -> None:
        since["usd"] = [[-usd for usd in row] for row in since["usd"]]

    said = refused(world, tmp_path, "since", change)
    assert f"{TICKS} of {TICKS} recorded ticks are not to be learned from" in said
    assert "ticks have a bill below 0" in said


def test_a_pool_whose_metrics_are_frozen(world: tuple[Path, Registry, Path, Lived], tmp_path: Path) -> None:
    first = json.loads(world[3].entries[10][1].fields["snapshot"])

    def change(snapshot: dict[str, Any]) -> None:
        for name, column in first["pools"].items():
            if name not in ("ready", "starting", "draining", "target", "telemetry_age_s"):
                snapshot["pools"][name] = column

    said = refused(world, tmp_path, "snapshot", change)
    assert "frozen_telemetry" in said
    assert "stay the same to the last digit" in said


def test_a_trace_of_absurd_lengths(world: tuple[Path, Registry, Path, Lived], tmp_path: Path) -> None:
    def change(since: dict[str, Any]) -> None:
        for columns, values in since["tally"]:
            for k, column in enumerate(columns):
                if column in (5, 7):  # sums of prompt and output tokens
                    values[k] *= 1000.0

    said = refused(world, tmp_path, "since", change)
    assert "tokens in the mean were served, and no pool takes more than" in said


def test_an_honest_record_is_learned_from(world: tuple[Path, Registry, Path, Lived], tmp_path: Path) -> None:
    _, registry, _, lived = world
    scenario = tiny(tmp_path)
    log = tmp_path / "decisions.jsonl"
    lines = [sitting_text(lived.records[0].sitting), *(line_of(entry) for _, entry in lived.entries)]
    log.write_text("\n".join(lines) + "\n")
    quick = [
        "--steps",
        "64",
        "--clusters",
        "4",
        "--steps-per-update",
        "8",
        "--bank",
        "4",
        "--days",
        "1",
        "--rehearsal",
        "0",
        "--json",
    ]
    options = ["--scenario", str(scenario), "--registry", str(registry.folder), "--out", str(tmp_path / "learned")]
    done = CliRunner().invoke(finetune, ["learn", str(log), *options, *quick, "--critic-first", "0"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["finished"] is True
