"""Learning from recorded steps: a clipped surrogate over importance weights, with V-trace targets.

The target policy is the learned mean under the noise that was recorded; the behaviour is what was recorded. Weights are
clipped in both places where they enter: in the targets (L. Espeholt et al., IMPALA, 2018, https://arxiv.org/abs/1802.01561,
section 4.1) and in the surrogate, as PPO's. A step whose action is no longer likely has no gradient.

Symbols: `S` steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ...env.contract import BoolArray, FloatArray
from ..vec_env import PRICE_WEIGHT, REWARD_SCALE
from .anchored import AnchoredPolicy, AnchoredPPO
from .live import Transitions

CLIP: Final = 0.2
"""How far a surrogate's weight may be from 1."""
MOST_WEIGHT: Final = 1.0
"""V-trace's rho-bar and c-bar."""
MINIBATCH: Final = 512


@dataclass(frozen=True)
class Importance:
    """How far the recorded steps still speak of the policy."""

    effective: float
    """Sample size of the steps with noise, of what it is at equal weights."""
    clipped_frac: float
    """Of these steps, outside the surrogate's clip."""


def v_trace(
    rewards: FloatArray,
    values: FloatArray,
    after: FloatArray,
    discounts: FloatArray,
    weights: FloatArray,
    follows: BoolArray,
) -> tuple[FloatArray, FloatArray]:
    """Targets of the values and advantages of recorded steps.

    Args:
        rewards: `[S]`
        values: `[S]` as they are believed now.
        after: `[S]` values of what came after each step: of the next row where that follows, else of nothing known.
        discounts: `[S]`
        weights: `[S]` importance weights, unclipped; 1 where there was no choice.
        follows: `[S]` whether the next row is what came after.

    Returns:
        `[S]` targets, and `[S]` what a step was worth beyond what was expected.
    """
    clipped = np.minimum(weights, MOST_WEIGHT)
    targets, advantages = values.copy(), np.zeros_like(values)
    for s in range(len(values) - 1, -1, -1):
        off = clipped[s] * (rewards[s] + discounts[s] * after[s] - values[s])
        later = targets[s + 1] if follows[s] else after[s]
        trace = discounts[s] * clipped[s] * (targets[s + 1] - values[s + 1]) if follows[s] else 0.0
        targets[s] = values[s] + off + trace
        advantages[s] = rewards[s] + discounts[s] * later - values[s]
    return targets, advantages


class RecordedSteps:
    """Takes a gradient step or a few on what was recorded, after each update in the twin."""

    def __init__(self, steps: Transitions, weight: float, hold: int, seed: int, miss_price: float) -> None:
        """`weight` is that of the loss; `hold` the ticks of a step in the twin, to which its discount belongs; `miss_price`
        that of the incumbent, by which rewards are scaled as in the twin."""
        self.steps, self.weight, self.hold = steps, weight, hold
        self._rewards = steps.rewards * REWARD_SCALE / (1.0 + PRICE_WEIGHT * miss_price)
        self._rng = np.random.default_rng(seed)
        self._seen, self._actions = torch.as_tensor(steps.seen), torch.as_tensor(steps.actions)
        self._spread = torch.as_tensor(steps.spread, dtype=torch.float32)
        self.importance = Importance(1.0, 0.0)

    def __call__(self, model: AnchoredPPO) -> None:
        """One pass."""
        policy = model.policy
        assert isinstance(policy, AnchoredPolicy)
        steps = self.steps
        with torch.no_grad():
            log_prob, value, _ = policy.judged(self._seen, self._actions, self._spread)
        values = value.numpy()[:, 0].astype(np.float64)
        weights = np.where(steps.explored, np.exp(np.clip(log_prob.numpy() - steps.log_prob, -20.0, 20.0)), 1.0)
        discounts = model.gamma ** (steps.ticks / self.hold)
        # Of what no row tells, nothing is known but that it goes on: the step's own value.
        after = np.where(steps.follows, np.append(values[1:], 0.0), values)
        targets, advantages = v_trace(self._rewards, values, after, discounts, weights, steps.follows)
        own = weights[steps.explored]
        self.importance = Importance(
            float(own.sum() ** 2 / max((own**2).sum(), 1e-300) / len(own)),
            float((np.abs(own - 1.0) > CLIP).mean()),
        )
        spread = float(advantages[steps.explored].std())
        advantages = (advantages - advantages[steps.explored].mean()) / max(spread, 1e-8)
        order = self._rng.permutation(len(steps))
        for start in range(0, len(order), MINIBATCH):
            self._learn(model, policy, order[start : start + MINIBATCH], targets, advantages)
        model.logger.record("recorded/effective_sample_frac", self.importance.effective)
        model.logger.record("recorded/clipped_frac", self.importance.clipped_frac)

    def _learn(
        self,
        model: AnchoredPPO,
        policy: AnchoredPolicy,
        rows: NDArray[np.int64],
        targets: FloatArray,
        advantages: FloatArray,
    ) -> None:
        steps = self.steps
        log_prob, value, distance = policy.judged(self._seen[rows], self._actions[rows], self._spread[rows])
        explored = torch.as_tensor(steps.explored[rows], dtype=torch.float32)
        worth = torch.as_tensor(advantages[rows], dtype=torch.float32)
        behaved = torch.as_tensor(steps.log_prob[rows], dtype=torch.float32)
        ratio = torch.exp(torch.clamp(log_prob - behaved, -20.0, 20.0))
        surrogate = torch.min(ratio * worth, torch.clamp(ratio, 1.0 - CLIP, 1.0 + CLIP) * worth)
        actor = -(surrogate * explored).sum() / explored.sum().clamp(min=1.0)
        critic = torch.nn.functional.mse_loss(value[:, 0], torch.as_tensor(targets[rows], dtype=torch.float32))
        loss = model.vf_coef * critic
        if not policy.critic_only:
            loss = loss + actor + model.ent_coef * distance.mean()
        policy.optimizer.zero_grad()
        (self.weight * loss).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.parameters(), model.max_grad_norm)
        policy.optimizer.step()
