"""Networks, observations and checkpoint folders for the tests of the learned policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poolpilot.agents.blend import portfolio_as_json
from poolpilot.agents.portfolio import portfolio_of
from poolpilot.agents.ppo.export import export_checkpoint
from poolpilot.agents.ppo.network import SetNetwork
from poolpilot.env.codec import CLASS_FEATURES, POOL_FEATURES, WHOLE_FEATURES

Parts = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
CARD: dict[str, Any] = {
    "name": "untrained",
    "miss_price": 0.7,
    "summary": "never trained",
    "portfolio": portfolio_as_json(portfolio_of()),
}


def a_network(seed: int = 0, width: int = 8, lively: bool = True) -> SetNetwork:
    """A network drawn from a seed; a lively one has heads that say something, as if it were trained."""
    torch.manual_seed(seed)
    network = SetNetwork(width)
    if lively:
        with torch.no_grad():
            for last in network.last_layers():
                last.weight.normal_(std=1.0)
                last.bias.normal_(std=0.5)
    return network


def a_zero_network(width: int = 8) -> SetNetwork:
    """A network whose outputs are all neutral."""
    network = a_network(lively=False, width=width)
    with torch.no_grad():
        for last in network.last_layers():
            last.weight.zero_()
    return network


def parts(b: int, c: int, p: int, seed: int = 0, padding: bool = False) -> Parts:
    """Random observations; with padding the last class and the last pool of the first row are none."""
    torch.manual_seed(seed)
    class_mask, pool_mask = torch.ones(b, c), torch.ones(b, p)
    if padding:
        class_mask[0, -1] = pool_mask[0, -1] = 0.0
    classes = (torch.rand(b, c, len(CLASS_FEATURES)) * 2 - 1) * class_mask.unsqueeze(-1)
    pools = (torch.rand(b, p, len(POOL_FEATURES)) * 2 - 1) * pool_mask.unsqueeze(-1)
    return classes, pools, torch.rand(b, len(WHOLE_FEATURES)) * 2 - 1, class_mask, pool_mask


def a_folder(folder: Path, network: SetNetwork | None = None, **card: Any) -> Path:
    """A checkpoint folder as training leaves it."""
    export_checkpoint(network or a_zero_network(), folder, {**CARD, **card})
    return folder
