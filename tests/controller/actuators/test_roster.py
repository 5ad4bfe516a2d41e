import os
import subprocess
import sys
from pathlib import Path

import pytest

from poolpilot.controller.actuators.roster import Listed, RosterError, read_roster, started_ticks, write_roster


def listed(pid: int, ticks: int) -> Listed:
    return Listed("a-1", "a", pid, ticks, "127.0.0.1", 8000, stopping=False)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    replicas = (listed(4, 5), listed(6, 7))
    write_roster(tmp_path / "r.json", replicas)
    assert read_roster(tmp_path / "r.json") == replicas
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_no_file_is_no_replicas(tmp_path: Path) -> None:
    assert read_roster(tmp_path / "none.json") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{}", "wanted a list"),
        ("[1]", r"\[0\]: wanted exactly the fields name, pool"),
        ('[{"name": "a"}]', "wanted exactly"),
        (
            '[{"name":"a","pool":"a","pid":true,"started_ticks":1,"host":"h","port":1,"stopping":false}]',
            r"\[0\].pid: True, wanted int",
        ),
        (
            '[{"name":"a","pool":"a","pid":-1,"started_ticks":1,"host":"h","port":1,"stopping":false}]',
            "pid -1",
        ),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_roster_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(RosterError, match=message) as raised:
        read_roster(path)
    assert str(path) in str(raised.value)


def test_a_process_is_told_from_another_that_got_its_pid() -> None:
    ticks = started_ticks(os.getpid())
    assert ticks is not None
    assert listed(os.getpid(), ticks).runs
    assert not listed(os.getpid(), ticks + 1).runs


def test_a_dead_process_does_not_run_even_unreaped() -> None:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        ticks = started_ticks(process.pid)
        assert ticks is not None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not listed(process.pid, ticks).runs
    assert not listed(process.pid, ticks).runs
