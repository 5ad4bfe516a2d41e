"""Event files are read as TensorBoard reads them, and spoilt ones are refused."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.dashboard.reading.event_files import EventFileError, scalars

torch = pytest.importorskip("torch.utils.tensorboard", reason="the extra train is not installed")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of TensorBoard's own writer: scalars of both kinds, and things that are none."""
    folder = tmp_path_factory.mktemp("events")
    with torch.SummaryWriter(str(folder)) as writer:
        for step in range(5):
            writer.add_scalar("rollout/reward", step * 0.5 - 1.0, global_step=step * 1000, walltime=1000.0 + step)
            writer.add_scalar("train/loss", 1e-3 / (step + 1), global_step=step * 1000, new_style=True)
        writer.add_text("hyperparameters", "|a|b|")
        writer.add_histogram("weights", torch.summary.np.arange(9.0), global_step=3)
        writer.add_scalar("rollout/reward", 7.0, global_step=2**40)
    (path,) = folder.glob("events.out.tfevents.*")
    return path


def test_every_scalar_is_read(written: Path) -> None:
    found = list(scalars(written))
    reward = [(s.step, s.value) for s in found if s.tag == "rollout/reward"]
    assert reward == [*((step * 1000, step * 0.5 - 1.0) for step in range(5)), (2**40, 7.0)]
    assert [s.wall_s for s in found if s.tag == "rollout/reward"][:5] == [1000.0 + step for step in range(5)]
    loss = [s.value for s in found if s.tag == "train/loss"]
    assert loss == [pytest.approx(1e-3 / (step + 1)) for step in range(5)]
    assert {s.tag for s in found} == {"rollout/reward", "train/loss"}


def test_tensorboards_own_reader_agrees(written: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    theirs = [
        (value.tag, event.step, value.simple_value)
        for event in LegacyEventFileLoader(str(written)).Load()
        for value in event.summary.value
        if value.HasField("simple_value")
    ]
    ours = [(s.tag, s.step, pytest.approx(s.value)) for s in scalars(written)]
    assert [own for own in ours if own[0] == "rollout/reward"] == [own for own in theirs if own[0] == "rollout/reward"]


@given(st.data())
def test_a_file_that_is_cut_off_gives_what_was_whole(
    written: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = written.read_bytes()
    every = list(scalars(written))
    cut = tmp_path_factory.mktemp("cut") / "events"
    cut.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    some = list(scalars(cut))
    assert some == every[: len(some)]


@given(st.data())
def test_a_changed_byte_is_noticed_or_changes_nothing(
    written: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(written.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    spoilt = tmp_path_factory.mktemp("spoilt") / "events"
    spoilt.write_bytes(whole)
    with pytest.raises(EventFileError, match=r"byte \d+"):
        list(scalars(spoilt))


@pytest.mark.parametrize(
    "content", [b"x" * 100, struct.pack("<QI", 5, 0) + b"hello" + b"0000"], ids=["text", "no checksum"]
)
def test_what_is_no_event_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "events").write_bytes(content)
    with pytest.raises(EventFileError, match="events: byte 0"):
        list(scalars(tmp_path / "events"))
