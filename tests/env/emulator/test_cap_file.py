"""The cap file changes what an engine may do, and nothing in it can break the engine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from poolpilot.env.emulator.cap_file import CapFile, Caps

START = Caps(0, 64, 2048)


def write(path: Path, text: str | bytes) -> None:
    """Replace the file as a controller does: by a rename."""
    part = path.with_suffix(".part")
    part.write_bytes(text.encode() if isinstance(text, str) else text)
    part.replace(path)


def caps(token: int, cap: int, budget: int) -> str:
    return json.dumps({"fencing_token": token, "batch_cap": cap, "token_budget": budget})


def test_changes_are_taken_up_once(tmp_path: Path) -> None:
    file = CapFile(tmp_path / "caps.json", START)
    assert (file.poll(), file.caps, file.errors) == (False, START, 0)
    write(file.path, caps(1, 16, 512))
    assert [file.poll(), file.poll()] == [True, False]
    assert file.caps == Caps(1, 16, 512)
    file.path.unlink()
    assert (file.poll(), file.caps) == (False, Caps(1, 16, 512))
    write(file.path, caps(2, 16, 512))
    assert (file.poll(), file.caps.fencing_token) == (False, 2)


def test_never_above_the_start_values(tmp_path: Path) -> None:
    file = CapFile(tmp_path / "caps.json", START)
    write(file.path, caps(1, 9999, 10**30))
    assert not file.poll()
    assert file.caps == Caps(1, 64, 2048)


@pytest.mark.parametrize("bad", ["", "{", caps(6, 4, 64), caps(9, 0, 64), " " * 10_000], ids=str.strip)
def test_bad_content_keeps_the_last_good_one_and_is_counted(tmp_path: Path, bad: str) -> None:
    file = CapFile(tmp_path / "caps.json", START)
    write(file.path, caps(7, 16, 512))
    file.poll()
    write(file.path, bad)
    assert [file.poll(), file.poll()] == [False, False]
    assert (file.caps, file.errors) == (Caps(7, 16, 512), 1)
    write(file.path, caps(7, 8, 512))
    assert (file.poll(), file.caps.batch_cap) == (True, 8)


def test_a_pipe_or_a_folder_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        file = CapFile(path, START)
        assert (file.poll(), file.caps, file.errors) == (False, START, 1)
