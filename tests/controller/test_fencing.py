"""A leader of the past changes nothing, whenever it was stopped: before a write, between two, in the middle of one."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.controller.fencing import (
    FENCE_FILE,
    NO_LEADER,
    UNFENCED,
    Fence,
    Fenced,
    FenceError,
    highest_token,
    write_fenced,
)


def test_a_newer_leader_shuts_an_older_one_out_of_files_that_it_never_wrote_itself(tmp_path: Path) -> None:
    old, new = Fence(tmp_path, 3), Fence(tmp_path, 4)
    old.claim()
    old.write(tmp_path / "a.json", b"old")
    new.claim()
    (tmp_path / "deeper").mkdir()
    for path in (tmp_path / "a.json", tmp_path / "b.json", tmp_path / "deeper" / "c.json"):
        with pytest.raises(Fenced, match="fencing token 4 leads now, this writer has 3") as seen:
            old.write(path, b"too late")
        assert (seen.value.token, seen.value.newer) == (3, 4)
    with pytest.raises(Fenced):
        old.remove(tmp_path / "a.json")
    with pytest.raises(Fenced):
        old.check()
    assert old.passed
    assert not new.passed
    assert (tmp_path / "a.json").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [FENCE_FILE, "a.json", "deeper"]
    new.write(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"new"


def test_the_fence_outlives_its_leaders(tmp_path: Path) -> None:
    assert highest_token(tmp_path) == NO_LEADER
    Fence(tmp_path, 7).claim()
    assert highest_token(tmp_path) == 7
    with pytest.raises(Fenced):
        Fence(tmp_path, 6).claim()
    Fence(tmp_path, 7).claim()


@given(tokens=st.lists(st.integers(0, 2**63), min_size=1, max_size=8))
def test_only_the_highest_token_so_far_ever_gets_through(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("fence")
    highest, content = NO_LEADER, None
    for token in tokens:
        path = folder / "file"
        if token < highest:
            with pytest.raises(Fenced):
                write_fenced(path, str(token).encode(), token)
        else:
            write_fenced(path, str(token).encode(), token)
            highest, content = token, str(token).encode()
        assert path.read_bytes() == content
        assert highest_token(folder) == highest


def test_what_is_done_under_the_lock_cannot_be_overtaken(tmp_path: Path) -> None:
    old, new = Fence(tmp_path, 1, patience_s=0.05), Fence(tmp_path, 2, patience_s=0.05)
    with old.held():
        with pytest.raises(FenceError, match="does it hang"):
            new.check()
        with old.held():  # nested: the same lock
            old.write(tmp_path / "file", b"in time")
        with pytest.raises(FenceError):
            new.check()
    new.check()
    with pytest.raises(Fenced), old.held():
        pytest.fail("an old leader went on")


def test_where_nobody_competes_nothing_is_compared(tmp_path: Path) -> None:
    UNFENCED.claim()
    with UNFENCED.held():
        UNFENCED.write(tmp_path / "file", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    fence = Fence(tmp_path, 1)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "kept").write_text("kept")
    with pytest.raises(OSError):  # noqa: PT011  # which one is the system's choice
        fence.write(tmp_path / "there", b"a folder cannot be replaced by a file")
    assert (tmp_path / "there" / "kept").read_text() == "kept"
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("text", ["seven", "-1", "9" * 30, "1.5"])
def test_a_fence_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / FENCE_FILE).write_text(text)
    for use in (Fence(tmp_path, 9).claim, Fence(tmp_path, 9).check, lambda: highest_token(tmp_path)):
        with pytest.raises(FenceError, match=rf"{FENCE_FILE}: .*wanted the number of the newest leader"):
            use()


_STOPS_IN_A_WRITE = """
import os, signal, sys
from pathlib import Path
from poolpilot.controller.fencing import Fence
folder = Path(sys.argv[1])
fence = Fence(folder, 1)
fence.claim()
with fence.held():
    print("inside", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    (folder / "file").write_text("too late")
"""


def test_a_leader_stopped_in_the_middle_of_a_write_is_ended_rather_than_waited_for(tmp_path: Path) -> None:
    stopped = subprocess.Popen([sys.executable, "-c", _STOPS_IN_A_WRITE, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == b"inside\n"
        _until_stopped(stopped.pid)
        new = Fence(tmp_path, 2, patience_s=0.1)
        new.claim()
        new.write(tmp_path / "file", b"new")
        assert stopped.wait(30) == -signal.SIGKILL
    finally:
        stopped.kill()
        stopped.wait()
    assert (tmp_path / "file").read_bytes() == b"new"


def _writes_often(folder: Path, token: int, began: "multiprocessing.synchronize.Event") -> None:
    """Write its own token until it is shut out."""
    fence = Fence(folder, token)
    fence.claim()
    began.set()
    try:
        while True:
            fence.write(folder / "file", str(token).encode())
            time.sleep(0.001)
    except Fenced:
        os._exit(0)


def test_leaders_that_write_at_the_same_time_never_go_back(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = []
    for token in (1, 2, 3):
        began = context.Event()
        writers.append(context.Process(target=_writes_often, args=(tmp_path, token, began)))
        writers[-1].start()
        assert began.wait(30)
        seen = [int((tmp_path / "file").read_text()) for _ in range(50) if (tmp_path / "file").exists()]
        assert seen == sorted(seen)
    last = Fence(tmp_path, 4)
    last.claim()
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    before = (tmp_path / "file").read_text()
    assert int(before) <= 3
    assert highest_token(tmp_path) == 4


def _until_stopped(pid: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.01)
