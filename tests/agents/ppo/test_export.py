"""What is exported is what was trained: ONNX answers as torch does, and the weights come back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from poolpilot.agents.checkpoint import CARD, ONNX, WEIGHTS, Checkpoint, CheckpointError, load_checkpoint, write_card
from poolpilot.agents.learned import INPUTS, OUTPUTS
from poolpilot.agents.ppo.export import load_network

from . import networks
from .networks import a_folder, a_network, parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_folder(tmp_path_factory.mktemp("checkpoint"), a_network(width=8))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 4), (1, 6, 8), (5, 2, 3), (2, 8, 32)], ids=str)
def test_onnx_answers_as_torch_for_any_number_of_classes_and_pools(folder: Path, shape: tuple[int, int, int]) -> None:
    session = onnxruntime.InferenceSession(str(folder / ONNX), providers=["CPUExecutionProvider"])
    pieces = parts(*shape, padding=shape[1] > 1)
    answers = session.run(None, {name: piece.numpy() for name, piece in zip(INPUTS, pieces, strict=True)})
    with torch.no_grad():
        expected = a_network(width=8)(*pieces)
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    for answer, exact in zip(answers, expected, strict=True):
        assert answer.shape == exact.shape
        assert np.allclose(answer, exact.numpy(), atol=1e-5)


def test_the_weights_come_back(folder: Path) -> None:
    network, back = a_network(width=8), load_network(load_checkpoint(folder))
    assert back.width == 8
    for name, weights in network.state_dict().items():
        assert torch.equal(back.state_dict()[name], weights), name


def test_the_folder_holds_no_pickle_and_nothing_half_written(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {CARD, ONNX, WEIGHTS}
    assert set(load_checkpoint(folder).card["files"]) == {ONNX, WEIGHTS}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 9}, "size mismatch"),
        ({"width": "wide"}, "invalid literal"),
        ({"width": None}, "int"),
        ({}, "width"),
    ],
)
def test_a_card_of_another_network_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    write_card(copy, {**networks.CARD, **change})
    with pytest.raises(CheckpointError, match=said) as caught:
        load_network(load_checkpoint(copy))
    assert str(copy / WEIGHTS) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"x" * 100], ids=["empty", "a pickle", "noise"])
def test_weights_that_are_none_are_refused(folder: Path, tmp_path: Path, content: bytes) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / WEIGHTS).write_bytes(content)
    write_card(copy, {**networks.CARD, "width": 8})
    with pytest.raises(CheckpointError, match=WEIGHTS):
        load_network(load_checkpoint(copy))


def test_weights_that_the_card_does_not_vouch_for_are_refused(folder: Path) -> None:
    card = load_checkpoint(folder).card
    unnamed = Checkpoint(folder, {**card, "files": {ONNX: card["files"][ONNX]}})
    with pytest.raises(CheckpointError, match="not among the files"):
        load_network(unnamed)
