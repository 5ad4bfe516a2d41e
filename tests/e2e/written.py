"""Pages as a reader follows them: every command in its order, as it is written."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .miniature import end_processes_naming

PATIENCE_S = 300.0


class Outcome(NamedTuple):
    """What became of a page's commands."""

    status: int | None
    """None: they took too long."""
    out: str
    err: str


def commands(page: Path) -> str:
    """All blocks of the page that are marked as commands to run, one after the other."""
    return "\n".join(re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))


def follow(page: Path, ports: Mapping[int, int], folder: Path) -> Outcome:
    """Run a page's commands in an empty folder, until one fails; nothing that they started is left.

    Args:
        page: the document.
        ports: free ones in the place of those on the page.
        folder: where a reader would begin.
    """
    script = commands(page)
    for port, free in ports.items():
        assert f":{port}" in script or f" {port}" in script, port
        script = re.sub(rf"\b{port}\b", str(free), script)
    (folder / "bin").mkdir()
    for name, run in (("poolpilot", "-m poolpilot "), ("python3", "")):
        command = folder / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {run}"$@"\n')
        command.chmod(0o755)
    # Whatever fails, what was begun before is ended, or nobody would ever see the end of the output.
    before = f"set -euo pipefail\nPATH='{folder / 'bin'}':$PATH\ntrap 'kill -9 $(jobs -p) 2>/dev/null' ERR\nset -x\n"
    shell = subprocess.Popen(
        ["bash", "-c", before + script],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = shell.communicate(timeout=PATIENCE_S)
        return Outcome(shell.returncode, out, err)
    except subprocess.TimeoutExpired as error:
        return Outcome(None, str(error.stdout), str(error.stderr))
    finally:
        end_processes_naming(folder)
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
