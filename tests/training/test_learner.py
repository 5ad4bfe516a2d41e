"""The policy that learns, and its variants."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from poolpilot.agents.ppo.network import SetNetwork
from poolpilot.env.codec import CLASS_FEATURES, POOL_FEATURES, WHOLE_FEATURES, WHOLE_OUTPUTS, Observation
from poolpilot.env.spaces import SpaceLayout
from poolpilot.training.acting import ActingNetwork
from poolpilot.training.config import TrainConfig
from poolpilot.training.learner import LearnerPolicy, StackedLayout
from poolpilot.training.networks import FlatNetwork, HistoryNetwork
from poolpilot.training.ppo import new_model, policy_of
from poolpilot.training.setting import training_env, training_sources
from poolpilot.training.vec_env import ClusterVecEnv

from .clusters import tiny

torch.set_num_threads(1)


def a_model(folder: Path, **changes: object):  # type: ignore[no-untyped-def]
    config = TrainConfig(
        scenarios=(str(tiny(folder)),), clusters=4, steps_per_update=4, batch_size=16, epochs=1, width=8, bank=4
    )
    config = replace(config, **changes)  # type: ignore[arg-type]
    return new_model(config, ClusterVecEnv(training_env(config, training_sources(config))))


def learned(folder: Path, **changes: object) -> LearnerPolicy:
    model = a_model(folder, **changes)
    model.learn(16)
    return policy_of(model)


def some_observations(policy: LearnerPolicy, n: int = 6) -> torch.Tensor:
    """Random features, with two classes and three pools that are there."""
    rng = np.random.default_rng(0)
    layout = SpaceLayout(policy.layout.max_classes, policy.layout.max_pools)
    frames = []
    for _ in range(policy.history):
        class_mask, pool_mask = np.zeros((n, layout.max_classes)), np.zeros((n, layout.max_pools))
        class_mask[:, :2], pool_mask[:, :3] = 1.0, 1.0
        seen = Observation(
            rng.uniform(-1, 1, (n, layout.max_classes, len(CLASS_FEATURES))) * class_mask[..., None],
            rng.uniform(-1, 1, (n, layout.max_pools, len(POOL_FEATURES))) * pool_mask[..., None],
            rng.uniform(-1, 1, (n, len(WHOLE_FEATURES))),
            class_mask,
            pool_mask,
        )
        frames.append(layout.flatten(seen))
    return torch.as_tensor(np.concatenate(frames, axis=1))


def test_while_the_critic_learns_alone_the_actor_stays_as_it_is(tmp_path: Path) -> None:
    model = a_model(tmp_path)
    policy = policy_of(model)
    seen = some_observations(policy)
    before, value_before = policy.network(*policy.layout.parts(seen)), policy.predict_values(seen)
    policy.critic_only = True
    model.learn(16)
    after, value_after = policy.network(*policy.layout.parts(seen)), policy.predict_values(seen)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not torch.equal(value_before, value_after)
    policy.critic_only = False
    model.learn(16, reset_num_timesteps=False)
    moved = policy.network(*policy.layout.parts(seen))
    assert not all(torch.equal(a, b) for a, b in zip(before, moved, strict=True))


def test_a_residual_policy_never_trusts_another_rule(tmp_path: Path) -> None:
    policy = learned(tmp_path, acting="residual")
    seen = some_observations(policy)
    by_class, by_pool, whole = policy.network(*policy.layout.parts(seen))
    assert torch.equal(whole, torch.zeros_like(whole))
    assert by_class.abs().max() > 0
    assert by_pool.abs().max() > 0
    actions = torch.zeros(len(seen), policy.action_space.shape[0])  # type: ignore[index]
    other = actions.clone()
    other[:, -WHOLE_OUTPUTS:] = 1.0
    log_prob, of_other = (policy.evaluate_actions(seen, some)[1] for some in (actions, other))
    assert torch.equal(log_prob, of_other), "what has no effect must not be learned from"


def test_stacked_observations_come_apart_with_the_newest_first() -> None:
    layout = StackedLayout(ticks=3)
    n = sum(layout.sizes)
    frames = torch.stack([torch.full((2, n), float(k)) for k in range(3)], dim=1).reshape(2, 3 * n)
    classes, pools, whole, class_mask, pool_mask = layout.parts(frames)
    assert classes.shape == (2, layout.max_classes, 3 * len(CLASS_FEATURES))
    for rows in (classes, pools, whole):
        size = rows.shape[-1] // 3
        assert [float(rows[..., k * size : (k + 1) * size].unique()) for k in range(3)] == [2.0, 1.0, 0.0]
    assert float(class_mask.unique()) == float(pool_mask.unique()) == 2.0


def test_an_untrained_network_with_history_is_the_one_without() -> None:
    torch.manual_seed(0)
    network = HistoryNetwork(ticks=4, width=8)
    parts = [
        torch.rand(3, 2, 4 * len(CLASS_FEATURES)),
        torch.rand(3, 5, 4 * len(POOL_FEATURES)),
        torch.rand(3, 4 * len(WHOLE_FEATURES)),
    ]
    masks = (torch.ones(3, 2), torch.ones(3, 5))
    newest = [part[..., : part.shape[-1] // 4] for part in parts]
    inner = network.inner
    assert isinstance(inner, SetNetwork)
    for own, other in zip(network(*parts, *masks), inner(*newest, *masks), strict=True):
        assert torch.equal(own, other)
    assert torch.equal(network.value(*parts, *masks), inner.value(*newest, *masks))


@pytest.mark.parametrize("apart", [1, 2, 6])
def test_what_is_rolled_out_remembers_as_training_stacks(apart: int) -> None:
    """The newest first, a step of training between one and the next, zeros before the first tick."""
    acting = ActingNetwork(
        bending=None,  # type: ignore[arg-type]
        network=torch.nn.Identity(),
        miss_price=np.ones(1),
        history=3,
        apart=apart,
    )
    memory: dict[str, np.ndarray] = {}
    for tick in range(1, 3 * apart + 2):
        value = float(tick)
        seen = Observation(
            np.full((1, 2, 1), value),
            np.full((1, 3, 1), value),
            np.full((1, 1), value),
            np.ones((1, 2)),
            np.ones((1, 3)),
        )
        inputs, memory = acting._stacked(seen, memory)
        wanted = [max(value - k * apart, 0.0) for k in range(3)]
        for rows in inputs[:3]:
            assert rows.reshape(-1, 3).unique(dim=0).tolist() == [wanted]


@pytest.mark.parametrize(("classes", "pools"), [(1, 1), (3, 5), (6, 8)])
def test_a_flat_network_answers_for_clusters_up_to_its_maxima(classes: int, pools: int) -> None:
    network = FlatNetwork(SpaceLayout(), width=16)
    parts = (
        torch.rand(2, classes, len(CLASS_FEATURES)),
        torch.rand(2, pools, len(POOL_FEATURES)),
        torch.rand(2, len(WHOLE_FEATURES)),
        torch.ones(2, classes),
        torch.ones(2, pools),
    )
    by_class, by_pool, whole = network(*parts)
    assert by_class.shape[:2] == (2, classes)
    assert by_pool.shape[:2] == (2, pools)
    assert whole.shape == (2, WHOLE_OUTPUTS)
    padded = SpaceLayout().parts(network._flat(*parts))
    for own, other in zip((by_class, by_pool, whole), network(*padded), strict=True):
        assert torch.equal(own, other[:, : own.shape[1]])


@pytest.mark.parametrize(
    "changes", [{"shape": "flat"}, {"history": 3}, {"acting": "free"}, {"constraint": "multipliers"}]
)
def test_every_variant_learns(tmp_path: Path, changes: dict[str, object]) -> None:
    model = a_model(tmp_path, **changes)
    policy = policy_of(model)
    before = [parameter.detach().clone() for parameter in policy.network.parameters()]
    model.learn(32)
    after = list(policy.network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.isfinite(parameter).all() for parameter in after)
