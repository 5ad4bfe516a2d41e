"""A trained policy as a checkpoint folder: safetensors, and ONNX with free numbers of classes and pools."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...env.codec import CLASS_FEATURES, POOL_FEATURES, WHOLE_FEATURES
from ..checkpoint import ONNX, WEIGHTS, Checkpoint, CheckpointError, write_card
from .network import SetNetwork

OPSET = 17


class _Acting(nn.Module):
    """The acting half of the network: what the sidecar runs."""

    def __init__(self, network: SetNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        by_class, by_pool = self.network(classes, pools, whole, class_mask, pool_mask)
        return by_class, by_pool


def export_checkpoint(network: SetNetwork, folder: Path, card: dict[str, Any]) -> None:
    """Write `network` to `folder`; the card, with every file's hash, comes last."""
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
    acting = _Acting(network).eval()
    example = (
        torch.zeros(1, 3, len(CLASS_FEATURES)),
        torch.zeros(1, 4, len(POOL_FEATURES)),
        torch.zeros(1, len(WHOLE_FEATURES)),
        torch.ones(1, 3),
        torch.ones(1, 4),
    )
    names = ["classes", "pools", "whole", "class_mask", "pool_mask"]
    axes = {
        "classes": {0: "batch", 1: "n_classes"},
        "pools": {0: "batch", 1: "n_pools"},
        "whole": {0: "batch"},
        "class_mask": {0: "batch", 1: "n_classes"},
        "pool_mask": {0: "batch", 1: "n_pools"},
        "class_output": {0: "batch", 1: "n_classes"},
        "pool_output": {0: "batch", 1: "n_pools"},
    }
    temporary = path.with_suffix(".part")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter for TorchScript is frozen, and needs one package less
        torch.onnx.export(
            acting,
            example,
            str(temporary),
            input_names=names,
            output_names=["class_output", "pool_output"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    temporary.replace(path)
