"""How far a policy is from the one it started from, and what keeps it near."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from poolpilot.agents.ppo.policy import flat_answers
from poolpilot.env.spaces import SpaceLayout
from poolpilot.training.finetuning.anchored import COEFFICIENT_RANGE, AnchoredPolicy, adapted, blended, nearer

from ..test_learner import some_observations
from .incumbents import WIDTH, a_network

torch.set_num_threads(1)


def a_policy() -> AnchoredPolicy:
    layout = SpaceLayout()
    policy = AnchoredPolicy(
        layout.observation_space, layout.action_space, lambda _: 1e-3, layout.max_classes, layout.max_pools, WIDTH
    )
    policy.start_from(a_network(0.3))
    return policy


def test_a_policy_begins_as_its_incumbent_and_at_no_distance() -> None:
    policy = a_policy()
    seen = some_observations(policy)
    parts = policy.layout.parts(seen)
    theirs = a_network(0.3)(*parts)
    assert all(torch.equal(a, b) for a, b in zip(policy.network(*parts), theirs, strict=True))
    assert torch.equal(policy.distance(policy.network, seen), torch.zeros(len(seen)))


def test_the_distance_is_the_divergence_of_the_gaussians_over_what_means_something() -> None:
    policy = a_policy()
    seen = some_observations(policy)
    parts = policy.layout.parts(seen)
    other = a_network(0.7)
    with torch.no_grad():
        std = policy.log_std.exp()[policy._kinds]
        each = kl_divergence(
            Normal(flat_answers(other(*parts)), std), Normal(flat_answers(a_network(0.3)(*parts)), std)
        )
        wanted = (each * policy._live(parts)).sum(dim=-1)
        assert torch.allclose(policy.distance(other, seen), wanted, rtol=1e-4)
    assert wanted.min() > 0.1


def test_the_penalty_pulls_back_and_the_spread_stays_as_it_is() -> None:
    policy = a_policy()
    policy.network.load_state_dict(a_network(0.9).state_dict())
    seen = some_observations(policy)
    before, spread = float(policy.distance(policy.network, seen).detach().mean()), policy.log_std.clone()
    for _ in range(20):
        _, _, minus_distance = policy.evaluate_actions(seen, torch.zeros(len(seen), policy.action_space.shape[0]))
        assert minus_distance is not None
        policy.optimizer.zero_grad()
        (-minus_distance.mean()).backward()
        policy.optimizer.step()
    assert float(policy.distance(policy.network, seen).detach().mean()) < 0.9 * before
    assert torch.equal(policy.log_std, spread)


def test_an_anchor_is_neither_learned_nor_kept_with_the_state() -> None:
    policy = a_policy()
    names = set(policy.state_dict())
    assert not any("anchored" in name for name in names)
    assert not any(p.requires_grad for p in policy.anchored_to[0].parameters())


@pytest.mark.parametrize(("distance", "goes"), [(10.0, 1), (2.0, 0), (0.1, -1)])
def test_the_coefficient_follows_the_distance(distance: float, goes: int) -> None:
    assert np.sign(adapted(0.1, distance, wanted=2.0) - 0.1) == goes


def test_the_coefficient_stays_in_its_range() -> None:
    low, high = COEFFICIENT_RANGE
    assert adapted(high, 100.0, 1.0) == high
    assert adapted(low, 0.0, 1.0) == low


def test_what_is_too_far_is_moved_back_until_it_is_near_enough() -> None:
    policy = a_policy()
    seen = some_observations(policy)
    first, far = a_network(0.3), a_network(3.0)

    def distance(network: torch.nn.Module) -> float:
        with torch.no_grad():
            return float(policy.distance(network, seen).mean())

    limit = 0.25 * distance(far)
    network, share, off = nearer(first, far, distance, limit)
    assert 0.0 < share < 1.0
    assert 0.0 < off <= limit
    assert off == distance(network)
    assert nearer(first, far, distance, 2.0 * distance(far))[1] == 1.0


def test_what_answers_with_no_numbers_is_moved_back_to_the_incumbent_itself() -> None:
    first, broken = a_network(0.3), a_network(0.3)
    torch.nn.init.constant_(broken.class_head.last.bias, float("nan"))
    network, share, off = nearer(first, broken, lambda n: float(n.class_head.last.bias.sum()), 1.0)
    assert network is first
    assert (share, off) == (0.0, 0.0)


def test_half_way_is_half_of_every_weight() -> None:
    first, second = a_network(0.0), a_network(1.0)
    assert torch.allclose(blended(first, second, 0.5).class_head.last.bias, torch.full((2,), 0.5))
