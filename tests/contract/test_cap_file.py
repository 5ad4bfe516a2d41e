"""What the sidecar writes as caps is what an engine reads: two sides that may not import each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from poolpilot.controller.actuators.caps import CapFiles, StaleToken
from poolpilot.env.emulator.cap_file import CapFile, Caps

START = Caps(fencing_token=0, batch_cap=64, token_budget=2048)


@pytest.mark.parametrize(
    ("written", "taken"),
    [((8, 512), (8, 512)), ((64, 2048), (64, 2048)), ((900, 9000), (64, 2048)), ((1, 1), (1, 1))],
    ids=["lower", "as started", "never above the start", "least"],
)
def test_an_engine_takes_what_the_sidecar_writes(
    tmp_path: Path, written: tuple[int, int], taken: tuple[int, int]
) -> None:
    writer = CapFiles(tmp_path)
    reader = CapFile(writer.path("l40s"), START)
    assert not reader.poll()
    assert writer.apply("l40s", *written, fencing_token=3)
    reader.poll()
    assert (reader.caps.batch_cap, reader.caps.token_budget) == taken
    assert reader.errors == 0


def test_a_leader_of_the_past_changes_nothing_on_either_side(tmp_path: Path) -> None:
    writer = CapFiles(tmp_path)
    reader = CapFile(writer.path("l40s"), START)
    writer.apply("l40s", 32, 1024, fencing_token=7)
    reader.poll()
    with pytest.raises(StaleToken):
        writer.apply("l40s", 1, 64, fencing_token=6)
    writer.path("l40s").write_text('{"fencing_token": 6, "batch_cap": 1, "token_budget": 64}\n')
    reader.poll()
    assert (reader.caps.fencing_token, reader.caps.batch_cap) == (7, 32)
