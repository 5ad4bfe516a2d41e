"""Incumbents to learn from: one that wastes, in a registry of its own."""

from pathlib import Path

import torch

from poolpilot.agents.blend import portfolio_as_json
from poolpilot.agents.portfolio import portfolio_of
from poolpilot.agents.ppo.export import export_checkpoint
from poolpilot.agents.ppo.network import SetNetwork
from poolpilot.agents.registry import Registry

WIDTH = 8
MISS_PRICE = 0.3
QUICK = (
    *("--steps", "768", "--clusters", "16", "--steps-per-update", "8", "--bank", "4", "--days", "1"),
    *("--evaluate-every", "100000", "--learning-rate", "0.02", "--critic-first", "0", "--rehearsal", "0", "--json"),
)
"""Options of `finetune learn` by which it learns something in seconds; the twin alone teaches."""


def a_network(headroom: float) -> SetNetwork:
    """The first rule, with so much of an output of head-room for every class."""
    torch.manual_seed(0)
    network = SetNetwork(WIDTH)
    torch.nn.init.constant_(network.class_head.last.bias, headroom)
    return network


def an_incumbent(folder: Path, headroom: float = 0.8) -> Path:
    """A checkpoint; with this head-room it holds about 1.8 times what it needs."""
    card = {"name": "first", "miss_price": MISS_PRICE, "portfolio": portfolio_as_json(portfolio_of())}
    export_checkpoint(a_network(headroom), folder, card)
    return folder


def a_registry(folder: Path, headroom: float = 0.8) -> Registry:
    """A registry in which `an_incumbent` decides."""
    return Registry.found(folder / "registry", an_incumbent(folder / "first", headroom))
