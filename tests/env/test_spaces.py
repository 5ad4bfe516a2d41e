"""The flat vectors: everything has its place, for NumPy and torch alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.codec import (
    CLASS_FEATURES,
    CLASS_OUTPUTS,
    POOL_FEATURES,
    POOL_OUTPUTS,
    WHOLE_FEATURES,
    WHOLE_OUTPUTS,
    Observation,
)
from poolpilot.env.spaces import SpaceError, SpaceLayout

COUNT = st.integers(1, 5)


def an_observation(b: int, c: int, p: int) -> Observation:
    rng = np.random.default_rng(b * 100 + c * 10 + p)
    return Observation(
        classes=rng.uniform(-1, 1, (b, c, len(CLASS_FEATURES))),
        pools=rng.uniform(-1, 1, (b, p, len(POOL_FEATURES))),
        whole=rng.uniform(-1, 1, (b, len(WHOLE_FEATURES))),
        class_mask=rng.integers(0, 2, (b, c)).astype(float),
        pool_mask=rng.integers(0, 2, (b, p)).astype(float),
    )


@settings(deadline=None)
@given(COUNT, COUNT, COUNT)
def test_the_parts_of_a_flat_observation_are_those_it_was_made_of(b: int, c: int, p: int) -> None:
    layout, seen = SpaceLayout(c, p), an_observation(b, c, p)
    flat = layout.flatten(seen)
    assert flat.dtype == np.float32
    assert all(layout.observation_space.contains(row) for row in flat)
    whole = (seen.classes, seen.pools, seen.whole, seen.class_mask, seen.pool_mask)
    for part, back, tensor in zip(whole, layout.parts(flat), layout.parts(torch.from_numpy(flat)), strict=True):
        assert np.array_equal(part.astype(np.float32), back)
        assert np.array_equal(back, tensor.numpy())


@settings(deadline=None)
@given(COUNT, COUNT, COUNT)
def test_actions_are_outputs_of_classes_then_pools_then_the_whole(b: int, c: int, p: int) -> None:
    layout, rng = SpaceLayout(c, p), np.random.default_rng(0)
    by_class, by_pool = rng.uniform(-1, 1, (b, c, CLASS_OUTPUTS)), rng.uniform(-1, 1, (b, p, POOL_OUTPUTS))
    whole = rng.uniform(-1, 1, (b, WHOLE_OUTPUTS))
    actions = np.concatenate([by_class.reshape(b, -1), by_pool.reshape(b, -1), whole], axis=1)
    assert actions.shape[1:] == layout.action_space.shape
    seen = layout.outputs(actions)
    assert np.array_equal(seen.classes, by_class)
    assert np.array_equal(seen.pools, by_pool)
    assert np.array_equal(seen.whole, whole)


def test_an_observation_of_another_size_is_not_taken_for_ours() -> None:
    flat = SpaceLayout(2, 3).flatten(an_observation(1, 2, 3))
    with pytest.raises(ValueError, match="reshape"):
        SpaceLayout(3, 3).parts(flat)


def test_a_cluster_too_large_to_train_on_is_refused_in_one_line() -> None:
    SpaceLayout(2, 3).check("mine", 2, 3)
    with pytest.raises(SpaceError, match=r"^mine: 9 classes, wanted at most 6 to train on$"):
        SpaceLayout().check("mine", 9, 3)
    with pytest.raises(SpaceError, match=r"^mine: 12 pools, wanted at most 8 to train on$"):
        SpaceLayout().check("mine", 2, 12)
