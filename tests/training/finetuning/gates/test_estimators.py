"""The estimate is right where the truth is known, its interval holds, and it says when it cannot tell."""

from __future__ import annotations

import numpy as np
import pytest

from poolpilot.env.contract import FloatArray
from poolpilot.training.finetuning.gates.estimators import Steps, blocks_of, estimate, returns_of


def logged(
    seed: int, n: int, shift: float, std: float = 0.3, *, bent: bool = False, alike: bool = False
) -> tuple[Steps, float]:
    """Steps of a policy with noise, whose return is known; and what a candidate with another mean gains by a step.

    `bent`: the return is not linear, so that no model that is fitted is right. `alike`: noise of a block is one draw.
    """
    rng = np.random.default_rng(seed)
    state = rng.normal(0.0, 1.0, (n, 3))
    block = np.arange(n) // 8
    noise = rng.normal(0.0, std, (n, 1))

    def worth(action: FloatArray) -> FloatArray:
        """Best at 0.5."""
        linear = state @ [1.0, -0.5, 0.0] + action[:, 0]
        curved: FloatArray = linear - (action[:, 0] ** 2 if bent else 0.0)
        return curved

    returns = worth(noise) + rng.normal(0.0, 0.5, n)
    if alike:
        returns = returns + np.repeat(rng.normal(0.0, 0.5, n // 8 + 1), 8)[:n]
    log_ratio = ((noise[:, 0] ** 2) - (noise[:, 0] - shift) ** 2) / (2.0 * std**2)
    steps = Steps(returns, state, noise, np.full((n, 1), shift), log_ratio, block)
    gain = shift - (shift**2 if bent else 0.0)
    return steps, gain


@pytest.mark.parametrize("bent", [False, True], ids=["the model is right", "the model is wrong"])
@pytest.mark.parametrize("shift", [-0.2, 0.0, 0.2])
def test_the_gain_is_found_whether_or_not_the_model_is_right(shift: float, bent: bool) -> None:
    off = []
    for seed in range(12):
        steps, gain = logged(seed, 1500, shift, bent=bent)
        off.append(estimate(steps).gain.mean - gain)
    assert abs(np.mean(off)) < 3.0 * np.std(off) / np.sqrt(len(off)) + 0.005


@pytest.mark.parametrize("alike", [False, True], ids=["independent", "blocks hang together"])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(alike: bool) -> None:
    held = 0
    for seed in range(80):
        steps, gain = logged(seed, 400, 0.15, alike=alike)
        found = estimate(steps, seed).gain
        held += found.low <= gain <= found.high
    assert held >= 0.85 * 80


def test_the_model_makes_the_interval_narrower_than_weights_alone() -> None:
    steps, _ = logged(0, 1000, 0.2)
    found = estimate(steps)
    assert found.gain.high - found.gain.low < 0.7 * (found.weighted.high - found.weighted.low)


def test_the_effective_sample_size_falls_as_the_candidate_moves_away() -> None:
    sizes = [estimate(logged(0, 1000, shift)[0]).effective for shift in (0.0, 0.15, 0.3, 0.9)]
    assert sizes[0] == pytest.approx(1000.0)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 50.0


def test_steps_without_noise_tell_nothing() -> None:
    steps, _ = logged(0, 100, 0.2)
    silent = Steps(steps.returns, steps.features, steps.noise, steps.shift, np.full(100, np.nan), steps.block)
    found = estimate(silent)
    assert (found.steps, found.deterministic, found.effective) == (0, 100, 0.0)
    assert np.isnan(found.gain.mean)


def test_returns_are_known_only_where_all_that_followed_is() -> None:
    rewards = np.array([1.0, 2.0, 4.0, 8.0, np.nan, 16.0, 32.0])
    follows = np.array([True, True, True, True, True, True, False])
    assert returns_of(rewards, follows, 1).tolist()[:4] == [1.0, 2.0, 4.0, 8.0]
    whole = returns_of(rewards, follows, 3)
    assert whole[:2].tolist() == [7.0, 14.0]
    assert np.isnan(whole[2:]).all()
    cut = returns_of(rewards, np.array([True, False, True, True, True, True, False]), 2)
    assert cut[0] == 3.0
    assert np.isnan(cut[1])
    assert cut[2] == 12.0


def test_blocks_break_where_steps_do_not_follow() -> None:
    follows = np.array([True, True, True, False, True, True, False])
    assert blocks_of(follows, 3).tolist() == [0, 0, 0, 1, 2, 2, 2]


def test_who_does_the_same_gains_nothing_whatever_the_draws_were() -> None:
    steps, _ = logged(0, 400, 0.0)
    lopsided = Steps(steps.returns, steps.features, steps.noise + 0.1, steps.shift, steps.log_ratio, steps.block)
    found = estimate(lopsided).gain
    assert [found.mean, found.low, found.high] == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
