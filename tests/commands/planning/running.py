"""`poolpilot plan` run in tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

from poolpilot.cli import main
from poolpilot.env.scenario import shipped_scenarios


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


def document(*arguments: str) -> dict[str, Any]:
    """What is planned, as JSON."""
    result = run(*arguments, "--no-explain", "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def said(result: Result) -> str:
    """What people read, without line breaks."""
    return " ".join(result.stdout.split())


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], None], name: str = "mixed-chat") -> str:
    """A copy of a shipped scenario with a change."""
    scenario = yaml.safe_load(shipped_scenarios()[name].read_text())
    change(scenario)
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(scenario, sort_keys=False))
    return str(path)


def gpus(found: dict[str, Any]) -> set[str]:
    return {gpu for pool in found["pools"] for gpu in pool["gpus"]}
