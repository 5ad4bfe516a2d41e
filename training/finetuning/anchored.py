"""PPO that stays near the policy it starts from: the distance is a penalty that adapts, and a bound in the end.

Both policies are taken as Gaussians of the same spread, that of training, around what their networks answer; the distance
is `KL(learned || incumbent)`, in nats, summed over the dimensions that mean something and averaged over observations. The
spread stays as it is while the mean is learned: the penalty could otherwise be met by exploring more. The coefficient
follows the distance as in J. Schulman et al., Proximal Policy Optimization Algorithms (2017), section 4
(https://arxiv.org/abs/1707.06347), there for the distance from the policy before an update.

Symbols: `B` observations of `N` numbers, actions of `A`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import torch
from stable_baselines3 import PPO
from torch import Tensor, nn

from ...agents.ppo.network import SetNetwork
from ...agents.ppo.policy import flat_answers, log_prob_of
from ..learner import LearnerPolicy

COEFFICIENT_START: Final = 0.02
COEFFICIENT_RANGE: Final = (1e-4, 20.0)
TOLERATED: Final = 1.5
"""The coefficient moves when the distance is so many times the wanted one, or its inverse ..."""
STEP: Final = 1.5
"""... by this factor."""


class AnchoredPolicy(LearnerPolicy):
    """`LearnerPolicy` whose "entropy" is minus its distance from an anchor: PPO's entropy bonus becomes the penalty.

    (An entropy bonus is, but for a constant, minus the distance from a uniform policy.)
    """

    anchored_to: tuple[SetNetwork, ...] = ()
    """One network, hidden from torch: it is neither learned nor saved with the state."""

    def start_from(self, incumbent: SetNetwork) -> None:
        """Take an incumbent's weights, and stay near them."""
        self.network.load_state_dict(incumbent.state_dict())
        self.anchor(incumbent)

    def anchor(self, incumbent: SetNetwork) -> None:
        """Stay near an incumbent, whatever the weights are now."""
        still = copy.deepcopy(incumbent).eval().requires_grad_(False)
        self.anchored_to = (still,)
        self.log_std.requires_grad_(False)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values `[B, 1]`, log-probabilities `[B]`, and minus the distance `[B]`."""
        log_prob, value, distance = self.judged(obs, actions)
        if self.critic_only:
            return value, log_prob.detach(), -distance.detach()
        return value, log_prob, -distance

    def judged(self, obs: Tensor, actions: Tensor, spread: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities `[B]` of actions `[B, A]`, values `[B, 1]` and distances `[B]`.

        `spread` `[B]`: how many times that of training the exploration of the actions was; left out: once.
        """
        parts = self.layout.parts(obs)
        answers, value = self.network.act_and_value(*parts)
        mean, live = flat_answers(answers), self._live(parts)
        log_std = self.log_std[self._kinds]
        wide = log_std if spread is None else log_std + torch.log(spread)[:, None]
        return log_prob_of(actions, mean, wide, live), value, self._nats(mean, parts, live)

    def distance(self, network: nn.Module, obs: Tensor, seen_by_anchor: Tensor | None = None) -> Tensor:
        """`[B]` nats between what a network answers at observations `[B, N]` and what the anchor does.

        `seen_by_anchor` `[B, N]`: what the anchor sees in their place (another price of a miss).
        """
        parts = self.layout.parts(obs)
        theirs = parts if seen_by_anchor is None else self.layout.parts(seen_by_anchor)
        return self._nats(flat_answers(network(*parts)), theirs, self._live(parts))

    def _nats(self, mean: Tensor, seen_by_anchor: Any, live: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = flat_answers(self.anchored_to[0](*seen_by_anchor))
        off = (mean - wanted) * torch.exp(-self.log_std[self._kinds])
        return (0.5 * off * off * live).sum(dim=-1)


class AnchoredPPO(PPO):
    """PPO with more to learn from after each update in the twin."""

    learn_more: Callable[[AnchoredPPO], None] | None = None
    """Called after each update."""

    def train(self) -> None:
        """One update."""
        super().train()
        if self.learn_more is not None:
            self.learn_more(self)


def adapted(coefficient: float, distance: float, wanted: float) -> float:
    """The penalty's coefficient after a distance was measured."""
    if distance > TOLERATED * wanted:
        coefficient *= STEP
    elif distance < wanted / TOLERATED:
        coefficient /= STEP
    low, high = COEFFICIENT_RANGE
    return min(max(coefficient, low), high)


def nearer(
    incumbent: SetNetwork, learned: SetNetwork, distance: Callable[[SetNetwork], float], limit: float, halvings: int = 6
) -> tuple[SetNetwork, float, float]:
    """What was learned, moved back towards the incumbent until it is within `limit` nats: weights between the two.

    Returns:
        The network, how much of the way it goes (1: all of it; 0: the incumbent), and its distance.
    """
    whole = distance(learned)
    if whole <= limit:
        return learned, 1.0, whole
    best: tuple[SetNetwork, float, float] = (incumbent, 0.0, 0.0)
    low, high = 0.0, 1.0
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        between = blended(incumbent, learned, middle)
        off = distance(between)
        if off <= limit:  # NaN is not
            best, low = (between, middle, off), middle
        else:
            high = middle
    return best


def blended(first: SetNetwork, second: SetNetwork, share: float) -> SetNetwork:
    """A network whose weights are `share` of the way from the first's to the second's."""
    between = copy.deepcopy(first)
    other = second.state_dict()
    between.load_state_dict({name: own.lerp(other[name], share) for name, own in first.state_dict().items()})
    return between
