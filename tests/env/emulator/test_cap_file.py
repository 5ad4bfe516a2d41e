"""The cap file changes what an engine may do, and nothing in it can break the engine."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.emulator.cap_file import CapFile, Caps, CapsError, parse_caps

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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "exactly the fields"),
        ('{"batch_cap": 3}', "exactly the fields"),
        (caps(1, 0, 64), "batch_cap: 0"),
        (caps(1, 4, -1), "token_budget: -1"),
        ('{"fencing_token": 1, "batch_cap": true, "token_budget": 2}', "batch_cap: True"),
        ('{"fencing_token": 1, "batch_cap": 3.0, "token_budget": 2}', "batch_cap: 3.0"),
    ],
)
def test_what_cannot_be_used_is_named(text: str | bytes, words: str) -> None:
    with pytest.raises(CapsError, match=words):
        parse_caps(text.encode() if isinstance(text, str) else text)


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


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_anything_is_caps_or_a_caps_error(text: bytes) -> None:
    with suppress(CapsError):
        assert parse_caps(text).batch_cap >= 1
