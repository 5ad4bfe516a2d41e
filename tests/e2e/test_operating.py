"""docs/operating.md as a reader follows it: every command in its order, as it is written."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from poolpilot.controller.actuators.child import free_port

from .miniature import end_processes_naming

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operating.md"
SERVERS = {8001: "A100-SXM-80GB", 8002: "L40S-48GB"}
PROXY, API = 8080, 8790
PATIENCE_S = 300.0

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


def commands() -> str:
    """All blocks of the page that are marked as commands to run, one after the other."""
    return "\n".join(re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))


def run(script: str, folder: Path) -> tuple[int | None, str, str]:
    """Exit status (None: it took too long), output and errors; nothing that it started is left."""
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = shell.communicate(timeout=PATIENCE_S)
        return shell.returncode, out, err
    except subprocess.TimeoutExpired as error:
        return None, str(error.stdout), str(error.stderr)
    finally:
        end_processes_naming(folder)
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)


def test_every_command_of_the_page_works_as_written(ports: dict[int, int], tmp_path: Path) -> None:
    written = commands()
    assert written.count("curl") >= 10
    for port, free in ports.items():
        assert f":{port}" in written or f" {port} " in written, port
        written = re.sub(rf"\b{port}\b", str(free), written)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "poolpilot"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m poolpilot "$@"\n')
    command.chmod(0o755)
    script = f"set -euo pipefail\nPATH='{command.parent}':$PATH\ntrap 'kill -9 $(jobs -p) 2>/dev/null' ERR\nset -x\n{written}"
    returncode, out, err = run(script, tmp_path)
    control = (tmp_path / "poolpilot" / "control.log").read_text() if (tmp_path / "poolpilot").exists() else ""
    assert returncode == 0, (out[-1500:], err[-2500:], control[-2500:])
    assert re.findall(r"mode: (\w+)", out) == ["canary", "active", "advise"]
    decisions = (tmp_path / "poolpilot" / "decisions.jsonl").read_text()
    for mode in ("advise", "canary", "active"):
        assert f'"mode":"{mode}"' in decisions, mode
