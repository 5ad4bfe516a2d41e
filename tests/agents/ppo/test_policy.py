"""The Gaussian over the network's outputs: what is padded, and what means nothing, does not count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from poolpilot.agents.ppo.policy import DEFERRABLE, LOG_STD_START, POOL_LOG_STD_START, MaskedSetPolicy
from poolpilot.env.codec import CLASS_OUTPUTS, POOL_OUTPUTS, WHOLE_OUTPUTS, Observation
from poolpilot.env.spaces import SpaceLayout

from .networks import Parts, parts

C, P = 2, 3
LAYOUT = SpaceLayout(C, P)
SIZE = C * CLASS_OUTPUTS + P * POOL_OUTPUTS + WHOLE_OUTPUTS


def a_policy() -> MaskedSetPolicy:
    torch.manual_seed(0)
    return MaskedSetPolicy(LAYOUT.observation_space, LAYOUT.action_space, lambda _: 1e-3, C, P, width=8)


def flat(pieces: Parts) -> torch.Tensor:
    return torch.from_numpy(LAYOUT.flatten(Observation(*(piece.numpy().astype(np.float64) for piece in pieces))))


def with_deferrable(pieces: Parts, *deferrable: float) -> Parts:
    pieces[0][..., DEFERRABLE] = torch.tensor(deferrable) * pieces[3]
    return pieces


def live_dimensions(pieces: Parts) -> torch.Tensor:
    """`[B, A]` by the meaning of the outputs, written out."""
    classes, _, _, class_mask, pool_mask = pieces
    rows = []
    for b in range(len(classes)):
        row = []
        for c in range(C):
            there = bool(class_mask[b, c])
            row += [there, there and bool(classes[b, c, DEFERRABLE] > 0.5)]
        for p in range(P):
            row += [bool(pool_mask[b, p])] * POOL_OUTPUTS
        row += [True] * WHOLE_OUTPUTS
        rows.append(row)
    return torch.tensor(rows)


PIECES = {
    "all there": with_deferrable(parts(4, C, P), 1.0, 1.0),
    "one interactive class": with_deferrable(parts(4, C, P), 0.0, 1.0),
    "padding": with_deferrable(parts(4, C, P, padding=True), 0.0, 1.0),
}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
def test_only_live_dimensions_count_in_log_probability_and_entropy(pieces: Parts) -> None:
    policy, live = a_policy(), live_dimensions(pieces)
    actions = torch.rand(4, SIZE) * 2 - 1
    mean = policy.forward(flat(pieces), deterministic=True)[0]
    starts = (
        [LOG_STD_START] * C * CLASS_OUTPUTS + [POOL_LOG_STD_START] * P * POOL_OUTPUTS + [LOG_STD_START] * WHOLE_OUTPUTS
    )
    each = Normal(mean, torch.tensor(starts).exp().expand_as(mean))
    values, log_prob, entropy = policy.evaluate_actions(flat(pieces), actions)
    torch.testing.assert_close(log_prob, (each.log_prob(actions) * live).sum(dim=-1))
    torch.testing.assert_close(entropy, (each.entropy() * live).sum(dim=-1))
    assert values.shape == (4, 1)

    elsewhere = torch.where(live, actions, actions + 0.37)
    torch.testing.assert_close(policy.evaluate_actions(flat(pieces), elsewhere)[1], log_prob)


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
def test_masked_dimensions_have_no_gradient_and_no_exploration(pieces: Parts) -> None:
    policy, live = a_policy(), live_dimensions(pieces)
    actions, values, log_prob = policy.forward(flat(pieces))
    mean = policy.forward(flat(pieces), deterministic=True)[0]
    assert torch.equal(actions[~live], mean[~live])
    assert (actions[live] != mean[live]).all()
    torch.testing.assert_close(policy.evaluate_actions(flat(pieces), actions)[1], log_prob)
    torch.testing.assert_close(policy.predict_values(flat(pieces)), values)


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        *((kind, C) for kind in range(CLASS_OUTPUTS)),
        *((kind, P) for kind in range(CLASS_OUTPUTS, CLASS_OUTPUTS + POOL_OUTPUTS)),
        *((CLASS_OUTPUTS + POOL_OUTPUTS + k, 1) for k in range(WHOLE_OUTPUTS)),
    ],
)
def test_each_kind_of_output_has_a_spread_of_its_own_that_its_rows_share(kind: int, rows: int) -> None:
    policy = a_policy()
    assert policy.log_std.shape == (CLASS_OUTPUTS + POOL_OUTPUTS + WHOLE_OUTPUTS,)
    with torch.no_grad():
        start = float(policy.log_std[kind])
        policy.log_std[kind] = 1.0
    _, _, before = a_policy().evaluate_actions(flat(PIECES["all there"]), torch.zeros(4, SIZE))
    _, _, after = policy.evaluate_actions(flat(PIECES["all there"]), torch.zeros(4, SIZE))
    torch.testing.assert_close(after - before, torch.full((4,), rows * (1.0 - start)))


def test_predict_gives_the_network_without_noise() -> None:
    policy, pieces = a_policy(), PIECES["padding"]
    actions, _ = policy.predict(flat(pieces).numpy(), deterministic=True)
    expected = torch.cat([answer.flatten(1) for answer in policy.network(*pieces)], dim=1).detach().numpy()
    assert np.allclose(actions, expected, atol=1e-6)
