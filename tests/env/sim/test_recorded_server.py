"""Runs of a real vLLM server, paced to a GPU's law, recorded by tests/vllm: the kernel still serves them alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .served import FOLDER, Recording, Served, figures, read_recording, simulate

RECORDINGS = sorted(FOLDER.glob("*.json"))
TOLERANCE_FRAC = 0.05


def test_there_are_recordings_of_unlike_loads() -> None:
    records = [read_recording(path) for path in RECORDINGS]
    assert len(records) >= 3
    assert any(record.preemptions for record in records)
    assert any(not record.preemptions for record in records)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_kernel_serves_as_the_recorded_server_did(path: Path) -> None:
    record = read_recording(path)
    simulated, preemptions = simulate(record.load, record.served.sent_s, record.law, record.flags)
    off = {figure.name: figure.off_frac for figure in figures(record.served, simulated)}
    assert max(map(abs, off.values())) <= TOLERANCE_FRAC, off
    assert (preemptions > 0) == (record.preemptions > 0)


def test_a_wrong_law_would_not_pass() -> None:
    record = read_recording(RECORDINGS[0])
    slower, _ = simulate(record.load, record.served.sent_s, record.law.scaled(1.1), record.flags)
    off = [figure.off_frac for figure in figures(record.served, slower)]
    assert max(map(abs, off)) > TOLERANCE_FRAC


def test_a_recording_survives_its_file(tmp_path: Path) -> None:
    record = read_recording(RECORDINGS[0])
    record.write(tmp_path / "again.json")
    again = read_recording(tmp_path / "again.json")
    assert isinstance(again, Recording)
    assert (again.name, again.flags, again.preemptions) == (record.name, record.flags, record.preemptions)
    for name in Served.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again.served, name), getattr(record.served, name))
    np.testing.assert_array_equal(again.law.as_row(), record.law.as_row())
