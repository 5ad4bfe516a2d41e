"""docs/tutorial.md as a newcomer follows it: every command in its order, as it is written."""

import json
import re
from pathlib import Path

import pytest

from poolpilot.controller.actuators.child import free_port

from .written import commands, follow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
PORTS = (8001, 8002, 8080, 8790)

pytestmark = pytest.mark.e2e


def test_every_command_of_the_tutorial_works_as_written(tmp_path: Path) -> None:
    for step in ("audit", "simulate", "control", "emulate"):
        assert f"poolpilot {step}" in commands(PAGE), step
    ports = {port: free_port("127.0.0.1", keep_free=True) for port in PORTS}
    status, out, err = follow(PAGE, ports, tmp_path)
    log = (tmp_path / "run" / "err.log").read_text() if (tmp_path / "run").exists() else ""
    assert status == 0, (out[-1500:], err[-2500:], log[-2500:])
    assert re.findall(r"mode: (\w+)", out) == ["advise", "active"]
    assert len(re.findall(r"\d+ requests answered", out)) == 3
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert found, "the audit kept nothing"
    assert (tmp_path / "audit" / "audit.html").exists()
