"""The network as a stable-baselines3 policy: a diagonal Gaussian in which padded dimensions do not count."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from ...env.codec import CLASS_FEATURES, CLASS_OUTPUTS, POOL_OUTPUTS, WHOLE_OUTPUTS
from ...env.spaces import SpaceLayout
from ..exploring import LOG_STD_START, POOL_LOG_STD_START
from .network import Answers, SetNetwork

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
        width: int = 32,
        **kwargs: Any,
    ) -> None:
        """`max_classes`, `max_pools` and `width` size the layout and the network; the rest is stable-baselines3's."""
        self.layout = SpaceLayout(max_classes, max_pools)
        self.width = width
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        self.network = self.make_network()
        kinds = CLASS_OUTPUTS + POOL_OUTPUTS + WHOLE_OUTPUTS
        starts = torch.full((kinds,), LOG_STD_START)
        starts[CLASS_OUTPUTS : CLASS_OUTPUTS + POOL_OUTPUTS] = POOL_LOG_STD_START
        self.log_std = nn.Parameter(starts)
        """One for each kind of output, in the order classes, pools, whole: rows of a kind share theirs."""
        c, p = self.layout.max_classes, self.layout.max_pools
        of_class = torch.arange(CLASS_OUTPUTS).repeat(c)
        of_pool = CLASS_OUTPUTS + torch.arange(POOL_OUTPUTS).repeat(p)
        of_whole = CLASS_OUTPUTS + POOL_OUTPUTS + torch.arange(WHOLE_OUTPUTS)
        self._kinds = torch.cat([of_class, of_pool, of_whole])
        # One kernel for all weights: there are many and all are small.
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1), eps=1e-5, fused=True)

    def make_network(self) -> Any:
        """The network behind the policy: one that answers like `SetNetwork`."""
        return SetNetwork(self.width)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions `[B, A]`, values `[B, 1]`, log-probabilities `[B]`."""
        parts = self.layout.parts(obs)
        answers, value = self.network.act_and_value(*parts)
        mean, log_std, mask = flat_answers(answers), self.log_std[self._kinds], self._live(parts)
        actions = mean if deterministic else mean + log_std.exp() * torch.randn_like(mean) * mask
        return actions, value, log_prob_of(actions, mean, log_std, mask)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values `[B, 1]`, log-probabilities `[B]` and entropy `[B]` of given actions."""
        parts = self.layout.parts(obs)
        answers, value = self.network.act_and_value(*parts)
        log_std, mask = self.log_std[self._kinds], self._live(parts)
        entropy = mask @ (log_std + 1.4189385)  # 0.5 * log(2 * pi * e) a dimension
        return value, log_prob_of(actions, flat_answers(answers), log_std, mask), entropy

    def predict_values(self, obs: Any) -> Tensor:
        """Values `[B, 1]`."""
        value: Tensor = self.network.value(*self.layout.parts(obs))
        return value

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self.forward(observation, deterministic)[0]

    def _live(self, parts: tuple[Tensor, ...]) -> Tensor:
        """`[B, A]` 1 where a dimension means something: no padding, and admission for deferrable classes only."""
        classes, _, whole, class_mask, pool_mask = parts
        admission = class_mask * (classes[..., DEFERRABLE] > 0.5)
        of_class = torch.stack([class_mask, admission], dim=-1).flatten(1)
        of_pool = pool_mask.repeat_interleave(POOL_OUTPUTS, dim=1)
        return torch.cat([of_class, of_pool, whole.new_ones(len(whole), WHOLE_OUTPUTS)], dim=-1)


def flat_answers(answers: Answers) -> Tensor:
    """`[B, A]` as the layout of actions has them."""
    by_class, by_pool, whole = answers
    return torch.cat([by_class.flatten(1), by_pool.flatten(1), whole], dim=-1)


def log_prob_of(actions: Tensor, mean: Tensor, log_std: Tensor, mask: Tensor) -> Tensor:
    """`[B]` of the dimensions that are live."""
    off = (actions - mean) * torch.exp(-log_std)
    each = (-0.5 * off * off - (log_std + 0.9189385)) * mask  # 0.5 * log(2 * pi)
    return each.sum(dim=-1)
