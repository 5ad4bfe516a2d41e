"""What a demo's run started is found at its end, and nobody else's processes with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from poolpilot.commands.demonstration.stack import MARK, left_behind


def test_only_what_inherited_the_mark_is_ended(tmp_path: Path) -> None:
    """A dashboard that follows the run's log names the run's folder too, and goes on."""
    sleep = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)", str(tmp_path / "log")]
    own, other = (
        subprocess.Popen(sleep, stdout=subprocess.PIPE, env={**os.environ, **more}, start_new_session=True)
        for more in ({MARK: "this-run"}, {MARK: "another-run"})
    )
    try:
        for process in (own, other):
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
        assert left_behind(f"{MARK}=this-run") == [own.pid]
    finally:
        for process in (own, other):
            process.kill()
            process.communicate()
