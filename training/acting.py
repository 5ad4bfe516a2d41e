"""A network in training as a policy that can be rolled out, without the way through a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ..env.bending import Bending
from ..env.codec import Observation, Outputs
from ..env.contract import Action, FloatArray, Memory, Plan, Snapshot

PARTS: Final = ("classes", "pools", "whole", "class_mask", "pool_mask")
"""Of an `Observation`, in the order of the network's inputs."""
FEATURES: Final = PARTS[:3]
SEEN: Final = "seen."
"""Observations of earlier ticks are remembered under names that begin so."""


@dataclass(frozen=True)
class ActingNetwork:
    """A network at work on a batch of clusters; its exploration is off."""

    bending: Bending
    network: nn.Module
    miss_price: FloatArray
    """`[...]` what each cluster acts by."""
    history: int = 1
    """Observations that the network sees at once."""
    apart: int = 1
    """Ticks between one of them and the next: those of a step while it learned."""
    follows_plan: bool = True
    """Whether new plans matter."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The network's mean output, as an action."""
        own: Memory = {name: value for name, value in memory.items() if not name.startswith(SEEN)}
        look, own = self.bending.look(snapshot, plan, own, self.miss_price)
        stacked, seen = self._stacked(look.seen, memory)
        with torch.no_grad():
            answers = self.network(*stacked)
        outputs = Outputs(*(np.asarray(answer, dtype=np.float64) for answer in answers))
        return self.bending.act(outputs, look), {**own, **seen}

    def _stacked(self, now: Observation, memory: Memory) -> tuple[list[Tensor], Memory]:
        """The network's inputs, features of the newest tick first, and what to remember of them."""
        parts = {name: np.asarray(getattr(now, name), dtype=np.float32) for name in PARTS}
        kept: dict[str, Any] = {}
        ticks = (self.history - 1) * self.apart
        if ticks:
            for name in FEATURES:
                rows = parts[name]
                # Before the first tick there was nothing: zeros, as in training.
                before = memory.get(SEEN + name, np.zeros((*rows.shape[:-1], ticks, rows.shape[-1]), dtype=np.float32))
                since = np.concatenate([rows[..., None, :], before], axis=-2)
                parts[name] = since[..., :: self.apart, :].reshape(*rows.shape[:-1], -1)
                kept[SEEN + name] = since[..., :ticks, :]
        return [torch.as_tensor(parts[name]) for name in PARTS], kept
