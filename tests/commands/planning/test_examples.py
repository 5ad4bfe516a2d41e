"""What `poolpilot plan --help` shows as examples works as written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from poolpilot.cli import main
from poolpilot.commands.plan import plan

EXAMPLES = [
    re.split(r"\s{2,}", line.strip())[0] for line in plan.epilog.splitlines() if line.strip().startswith("poolpilot ")
]


def test_there_are_examples() -> None:
    assert len([e for e in EXAMPLES if e.startswith("poolpilot plan ")]) >= 6


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.startswith("poolpilot plan ")])
def test_an_example_of_the_help_plans(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Simulating, and planning again to explain, have tests of their own and take longer than all examples together.
    arguments = [word for word in shlex.split(example)[1:] if word != "--simulate"]
    result = CliRunner().invoke(main, [*arguments, "--no-explain"])
    assert result.exit_code == 0, result.output
