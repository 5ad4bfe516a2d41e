"""The network as a stable-baselines3 policy: a diagonal Gaussian in which padded dimensions do not count."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from ...env.codec import CLASS_FEATURES, CLASS_OUTPUTS, POOL_OUTPUTS
from ...env.spaces import SpaceLayout
from .network import SetNetwork

LOG_STD_START = -1.3
"""Exploration of exp(-1.3) = 0.27 of a full bend at the start."""
DEFERRABLE = CLASS_FEATURES.index("deferrable")


class MaskedSetPolicy(ActorCriticPolicy):
    """Actor and critic over the flat observation that `SpaceLayout` describes."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        max_classes: int,
        max_pools: int,
        width: int = 48,
        **kwargs: Any,
    ) -> None:
        """`max_classes`, `max_pools` and `width` size the layout and the network; the rest is stable-baselines3's."""
        self.layout = SpaceLayout(max_classes, max_pools)
        self.width = width
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        self.network = SetNetwork(self.width)
        self.log_std = nn.Parameter(torch.full((CLASS_OUTPUTS + POOL_OUTPUTS,), LOG_STD_START))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1), eps=1e-5)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions `[B, A]`, values `[B, 1]`, log-probabilities `[B]`."""
        mean, std, mask, parts = self._distribution(obs)
        actions = mean if deterministic else mean + std * torch.randn_like(mean) * mask
        return actions, self.network.value(*parts), _log_prob(actions, mean, std, mask)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values `[B, 1]`, log-probabilities `[B]` and entropy `[B]` of given actions."""
        mean, std, mask, parts = self._distribution(obs)
        entropy = ((std.log() + 1.4189385) * mask).sum(dim=-1)  # 0.5 * log(2 * pi * e) a dimension
        return self.network.value(*parts), _log_prob(actions, mean, std, mask), entropy

    def predict_values(self, obs: Any) -> Tensor:
        """Values `[B, 1]`."""
        return self.network.value(*self.layout.parts(obs))

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self.forward(observation, deterministic)[0]

    def _distribution(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Mean, standard deviation and mask of each action dimension, `[B, A]`, and the observation's parts."""
        parts = self.layout.parts(obs)
        classes, _, _, class_mask, pool_mask = parts
        by_class, by_pool = self.network(*parts)
        mean = torch.cat([by_class.flatten(1), by_pool.flatten(1)], dim=-1)
        # Admission means something for deferrable classes only.
        admission = class_mask * (classes[..., DEFERRABLE] > 0.5)
        class_dims = torch.stack([class_mask, admission], dim=-1).flatten(1)
        mask = torch.cat([class_dims, pool_mask.repeat_interleave(POOL_OUTPUTS, dim=1)], dim=-1)
        log_std = torch.cat(
            [
                self.log_std[:CLASS_OUTPUTS].repeat(self.layout.max_classes),
                self.log_std[CLASS_OUTPUTS:].repeat(self.layout.max_pools),
            ]
        )
        return mean, log_std.exp().expand_as(mean), mask, parts


def _log_prob(actions: Tensor, mean: Tensor, std: Tensor, mask: Tensor) -> Tensor:
    each = -0.5 * ((actions - mean) / std) ** 2 - std.log() - 0.9189385  # 0.5 * log(2 * pi)
    return (each * mask).sum(dim=-1)
