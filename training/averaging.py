"""The running mean of a network's weights: what is scored, kept and shipped in place of the latest ones.

Steps of PPO scatter around where they lead; a mean over the last updates is nearer to that than any one of them
(Polyak and Juditsky, 1992, https://doi.org/10.1137/0330046).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

WARM_UP: Final = 10.0
"""After `n` updates the mean forgets as if it were over `n / WARM_UP` of them, so that the start is soon forgotten."""


class Averaged:
    """The exponential mean of a network's weights over its updates."""

    def __init__(self, network: nn.Module, updates: int) -> None:
        """Begins at the network's weights.

        Args:
            updates: over how many the mean goes; 0 or 1: the latest weights, no mean.
        """
        self.updates, self.seen = updates, 0
        self.weights = _copied(network.state_dict())

    def update(self, network: nn.Module) -> None:
        """Take in the weights after another update."""
        self.seen += 1
        kept = min(1.0 - 1.0 / max(self.updates, 1), self.seen / (self.seen + WARM_UP))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                self.weights[name].lerp_(value, 1.0 - kept)

    @contextmanager
    def at_work(self, network: nn.Module) -> Iterator[None]:
        """Within, the network has the mean weights."""
        latest = _copied(network.state_dict())
        network.load_state_dict(self.weights)
        try:
            yield
        finally:
            network.load_state_dict(latest)


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
