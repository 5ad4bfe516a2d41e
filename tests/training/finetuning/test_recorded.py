"""Learning from recorded steps: towards what was worth it, no further than the clip, and targets as V-trace has them."""

import numpy as np
import pytest
import torch

from poolpilot.agents.exploring import LOG_STD_START
from poolpilot.agents.ppo.policy import flat_answers
from poolpilot.training.finetuning.anchored import AnchoredPolicy
from poolpilot.training.finetuning.live import Transitions
from poolpilot.training.finetuning.recorded import RecordedSteps, v_trace

from ..test_learner import some_observations
from .test_anchored import a_policy

torch.set_num_threads(1)
STEPS = 400


class Model:
    """As much of a PPO as recorded steps look at."""

    gamma, ent_coef, vf_coef, max_grad_norm = 0.9, 0.0, 0.5, 0.5

    def __init__(self, policy: AnchoredPolicy) -> None:
        self.policy, self.told = policy, {}

        class Logger:
            record = staticmethod(self.told.__setitem__)

        self.logger = Logger


def recorded(policy: AnchoredPolicy, spread: float = 1.0) -> Transitions:
    """Steps that were rewarded for the head-room of the first class."""
    seen = some_observations(policy, STEPS)
    parts = policy.layout.parts(seen)
    with torch.no_grad():
        mean, live = flat_answers(policy.network(*parts)), policy._live(parts)
        std = policy.log_std.exp()[policy._kinds] * spread
        torch.manual_seed(1)
        actions = mean + std * torch.randn_like(mean) * live
        log_prob, _, _ = policy.judged(seen, actions, torch.full((STEPS,), spread))
    return Transitions(
        seen=seen.numpy(),
        actions=actions.numpy(),
        explored=np.ones(STEPS, dtype=np.bool_),
        log_prob=log_prob.numpy().astype(np.float64),
        spread=np.full(STEPS, spread),
        rewards=(actions - mean).numpy()[:, 0].astype(np.float64),
        follows=np.zeros(STEPS, dtype=np.bool_),
        ticks=np.full(STEPS, 6.0),
    )


def headroom(policy: AnchoredPolicy, steps: Transitions) -> float:
    """Mean answer for the head-room of the first class."""
    with torch.no_grad():
        return float(policy.network(*policy.layout.parts(torch.as_tensor(steps.seen)))[0][:, 0, 0].mean())


def test_it_learns_towards_what_was_worth_it_and_no_further_than_the_clip() -> None:
    policy = a_policy()
    steps = recorded(policy)
    before = headroom(policy, steps)
    learning, model = RecordedSteps(steps, 1.0, 6, 0, 0.3), Model(policy)
    for _ in range(30):
        learning(model)  # type: ignore[arg-type]
    moved = headroom(policy, steps) - before
    assert 0.02 < moved < 2.0 * np.exp(LOG_STD_START)
    assert 0.0 < learning.importance.effective < 1.0
    assert learning.importance.clipped_frac > 0.0
    assert model.told["recorded/clipped_frac"] == learning.importance.clipped_frac


def test_steps_are_weighed_by_one_while_the_policy_is_the_one_that_made_them() -> None:
    policy = a_policy()
    policy.critic_only = True
    learning = RecordedSteps(recorded(policy, spread=0.5), 1.0, 6, 0, 0.3)
    learning(Model(policy))  # type: ignore[arg-type]
    assert learning.importance.effective == pytest.approx(1.0, abs=1e-4)
    assert learning.importance.clipped_frac == 0.0


def test_while_only_the_critic_learns_what_is_answered_stays() -> None:
    policy = a_policy()
    policy.critic_only = True
    steps = recorded(policy)
    before = headroom(policy, steps)
    RecordedSteps(steps, 1.0, 6, 0, 0.3)(Model(policy))  # type: ignore[arg-type]
    assert headroom(policy, steps) == before


def test_without_a_choice_targets_are_the_discounted_rewards() -> None:
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=5), rng.normal(size=5)
    follows = np.array([True, True, True, True, False])
    after = np.append(values[1:], 0.7)
    targets, advantages = v_trace(rewards, values, after, np.full(5, 0.9), np.ones(5), follows)
    wanted = 0.7
    for s in range(4, -1, -1):
        wanted = rewards[s] + 0.9 * wanted
        assert targets[s] == pytest.approx(wanted)
        assert advantages[s] == pytest.approx(wanted - values[s])


def test_what_the_policy_would_hardly_do_says_little_and_what_it_would_do_more_often_says_no_more_than_once() -> None:
    rewards, values, after = np.array([1.0, 1.0]), np.zeros(2), np.zeros(2)
    follows = np.zeros(2, dtype=np.bool_)
    targets, _ = v_trace(rewards, values, after, np.full(2, 0.9), np.array([0.1, 50.0]), follows)
    assert targets.tolist() == pytest.approx([0.1, 1.0])
