"""docs/operating.md as a reader follows it: every command in its order, as it is written."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from poolpilot.controller.actuators.child import free_port

from .written import commands, follow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operating.md"
SERVERS = {8001: "A100-SXM-80GB", 8002: "L40S-48GB"}
PROXY, API = 8080, 8790

pytestmark = pytest.mark.e2e


@pytest.fixture
def ports() -> Iterator[dict[int, int]]:
    """Free ones in the place of those on the page; emulated servers of the page's kind serve on theirs."""
    free = {port: free_port("127.0.0.1", keep_free=True) for port in (*SERVERS, PROXY, API)}
    with ExitStack() as stack:
        for port, gpu in SERVERS.items():
            serve = [sys.executable, "-m", "poolpilot", "emulate", "--gpu", gpu, "--model", "llama-3-8b"]
            server = subprocess.Popen([*serve, "--port", str(free[port])], stdout=subprocess.PIPE)
            stack.callback(server.wait)
            stack.callback(server.kill)
            assert server.stdout is not None
            assert b"serving" in server.stdout.readline()
        yield free


def test_every_command_of_the_page_works_as_written(ports: dict[int, int], tmp_path: Path) -> None:
    assert commands(PAGE).count("curl") >= 10
    status, out, err = follow(PAGE, ports, tmp_path)
    control = (tmp_path / "poolpilot" / "control.log").read_text() if (tmp_path / "poolpilot").exists() else ""
    assert status == 0, (out[-1500:], err[-2500:], control[-2500:])
    assert re.findall(r"mode: (\w+)", out) == ["canary", "active", "advise"]
    decisions = (tmp_path / "poolpilot" / "decisions.jsonl").read_text()
    for mode in ("advise", "canary", "active"):
        assert f'"mode":"{mode}"' in decisions, mode
