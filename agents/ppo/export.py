"""A trained policy as a checkpoint folder: safetensors, and ONNX with free numbers of classes and pools."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...env.codec import CLASS_FEATURES, POOL_FEATURES, WHOLE_FEATURES
from ..checkpoint import ONNX, WEIGHTS, Checkpoint, CheckpointError, write_card
from ..learned import INPUTS, OUTPUTS
from .network import SetNetwork

OPSET = 17


def export_checkpoint(network: SetNetwork, folder: Path, card: dict[str, Any]) -> None:
    """Write `network` to `folder`; the card, with every file's hash, comes last.

    `card` must name what the network blends (`blend.portfolio_as_json`) and the price of a miss it is to act by: nobody
    loads a checkpoint that does not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().clone().contiguous() for k, v in network.state_dict().items()}, folder / WEIGHTS)
    _export_onnx(network, folder / ONNX)
    write_card(folder, {**card, "width": network.width})


def load_network(checkpoint: Checkpoint) -> SetNetwork:
    """The network of a checkpoint, to train on.

    Raises:
        CheckpointError: the weights do not fit the network that the card describes.
    """
    try:
        if WEIGHTS not in checkpoint.card["files"]:
            raise ValueError("not among the files of the card; train on a checkpoint that has its weights")
        network = SetNetwork(int(checkpoint.card["width"]))
        network.load_state_dict(load_file(checkpoint.folder / WEIGHTS))
    except (KeyError, TypeError, RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{checkpoint.folder / WEIGHTS}: {' '.join(str(error).split())[:200]}") from None
    return network


def _export_onnx(network: SetNetwork, path: Path) -> None:
    example = (
        torch.zeros(1, 3, len(CLASS_FEATURES)),
        torch.zeros(1, 4, len(POOL_FEATURES)),
        torch.zeros(1, len(WHOLE_FEATURES)),
        torch.ones(1, 3),
        torch.ones(1, 4),
    )
    rows = {"class": {1: "n_classes"}, "pool": {1: "n_pools"}, "whole": {}}
    axes = {
        name: {0: "batch", **next(own for kind, own in rows.items() if name.startswith(kind))}
        for name in (*INPUTS, *OUTPUTS)
    }
    temporary = path.with_suffix(".part")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter for TorchScript is frozen, and needs one package less
        torch.onnx.export(
            network.eval(),
            example,
            str(temporary),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    temporary.replace(path)
