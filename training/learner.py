"""The policy that learns: the shipped one, and its variants for the study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from ..agents.ppo.network import SetNetwork
from ..agents.ppo.policy import MaskedSetPolicy
from ..env.codec import WHOLE_OUTPUTS
from ..env.spaces import SpaceLayout
from .config import Acting, Shape
from .networks import FlatNetwork, HistoryNetwork

FLAT_WIDTHS = 4
"""A flat network's layers are so many times as wide: about as many weights as the other has."""


@dataclass(frozen=True)
class StackedLayout(SpaceLayout):
    """Observations of several ticks, one behind the other, the newest last (as stable-baselines3 stacks them)."""

    ticks: int = 1

    def parts(self, flat: Any) -> tuple[Any, Any, Any, Any, Any]:
        """As `SpaceLayout.parts`, with the features of all ticks side by side, the newest first; masks are the newest's."""
        if self.ticks == 1:
            return super().parts(flat)
        by_tick = [super(StackedLayout, self).parts(tick) for tick in flat.chunk(self.ticks, dim=1)][::-1]
        classes, pools, whole = (torch.cat([tick[i] for tick in by_tick], dim=-1) for i in range(3))
        return classes, pools, whole, by_tick[0][3], by_tick[0][4]


class LearnerPolicy(MaskedSetPolicy):
    """`MaskedSetPolicy`, whose actor can be spared for a while, with another network or fewer outputs if asked."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        max_classes: int,
        max_pools: int,
        width: int,
        shape: Shape = "set",
        acting: Acting = "blend",
        history: int = 1,
        **kwargs: Any,
    ) -> None:
        """`shape`, `acting` and `history` as in `TrainConfig`."""
        self.shape, self.acting, self.history = shape, acting, history
        self.critic_only = False
        """While set, the actor learns nothing."""
        super().__init__(observation_space, action_space, lr_schedule, max_classes, max_pools, width, **kwargs)
        self.layout = StackedLayout(max_classes, max_pools, history)

    def make_network(self) -> nn.Module:
        """The network behind the policy."""
        if self.shape == "flat":
            return FlatNetwork(SpaceLayout(self.layout.max_classes, self.layout.max_pools), FLAT_WIDTHS * self.width)
        if self.history > 1:
            return HistoryNetwork(self.history, self.width)
        network = SetNetwork(self.width)
        if self.acting == "residual":
            # Trust that is exactly 0, for ever: what is exported bends the first rule alone.
            nn.init.zeros_(network.whole_head.weight)
            network.whole_head.requires_grad_(False)
        return network

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `MaskedSetPolicy.evaluate_actions`."""
        value, log_prob, entropy = super().evaluate_actions(obs, actions)
        if self.critic_only:
            return value, log_prob.detach(), None if entropy is None else entropy.detach()
        return value, log_prob, entropy

    def answer(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Head-room `[B]`, the mean over the classes, and trust `[B, WHOLE_OUTPUTS]` of observations `[B, N]`."""
        parts = self.layout.parts(obs)
        by_class, _, whole = self.network(*parts)
        class_mask = parts[3]
        return (by_class[..., 0] * class_mask).sum(dim=1) / class_mask.sum(dim=1).clamp(min=1.0), whole

    def _live(self, parts: tuple[Tensor, ...]) -> Tensor:
        live = super()._live(parts)
        if self.acting != "blend":  # there is nobody else to trust
            live = torch.cat([live[:, :-WHOLE_OUTPUTS], torch.zeros_like(live[:, -WHOLE_OUTPUTS:])], dim=1)
        return live
