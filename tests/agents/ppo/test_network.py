"""Pools and classes are sets to the network: their order and their padding mean nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.codec import CLASS_OUTPUTS, POOL_OUTPUTS, WHOLE_OUTPUTS

from .networks import a_network, parts

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 9))


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(0, 2**31), st.booleans())
def test_permuting_pools_permutes_their_outputs_and_changes_nothing_else(
    shape: tuple[int, int, int], seed: int, padding: bool
) -> None:
    network, plain = a_network(seed), parts(*shape, seed, padding)
    classes, pools, whole, class_mask, pool_mask = plain
    order = torch.randperm(shape[2])
    mixed = (classes, pools[:, order], whole, class_mask, pool_mask[:, order])
    by_class, by_pool, of_whole = network(*plain)
    mixed_class, mixed_pool, mixed_whole = network(*mixed)
    torch.testing.assert_close(mixed_pool, by_pool[:, order], **CLOSE)
    torch.testing.assert_close(mixed_class, by_class, **CLOSE)
    torch.testing.assert_close(mixed_whole, of_whole, **CLOSE)
    torch.testing.assert_close(network.value(*mixed), network.value(*plain), **CLOSE)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(0, 2**31), st.booleans())
def test_permuting_classes_permutes_their_outputs_and_changes_nothing_else(
    shape: tuple[int, int, int], seed: int, padding: bool
) -> None:
    network, plain = a_network(seed), parts(*shape, seed, padding)
    classes, pools, whole, class_mask, pool_mask = plain
    order = torch.randperm(shape[1])
    mixed = (classes[:, order], pools, whole, class_mask[:, order], pool_mask)
    by_class, by_pool, of_whole = network(*plain)
    mixed_class, mixed_pool, mixed_whole = network(*mixed)
    torch.testing.assert_close(mixed_class, by_class[:, order], **CLOSE)
    torch.testing.assert_close(mixed_pool, by_pool, **CLOSE)
    torch.testing.assert_close(mixed_whole, of_whole, **CLOSE)
    torch.testing.assert_close(network.value(*mixed), network.value(*plain), **CLOSE)


def test_acting_and_valuing_at_once_is_both() -> None:
    network, seen = a_network(), parts(4, 3, 5, padding=True)
    answers, value = network.act_and_value(*seen)
    for answer, expected in zip(answers, network(*seen), strict=True):
        torch.testing.assert_close(answer, expected, rtol=0.0, atol=0.0)
    torch.testing.assert_close(value, network.value(*seen), rtol=0.0, atol=0.0)


@pytest.mark.parametrize(("extra_classes", "extra_pools"), [(1, 0), (0, 1), (3, 4)])
def test_padding_changes_nothing_and_is_answered_with_zeros(extra_classes: int, extra_pools: int) -> None:
    network, (classes, pools, whole, class_mask, pool_mask) = a_network(), parts(2, 2, 3)

    def padded(values: torch.Tensor, rows: int, fill: float = 0.0) -> torch.Tensor:
        return torch.cat([values, torch.full((2, rows, *values.shape[2:]), fill)], dim=1)

    # What stands in a padded row must not matter, so it is not left at zero.
    larger = (
        padded(classes, extra_classes, 0.3),
        padded(pools, extra_pools, -0.7),
        whole,
        padded(class_mask, extra_classes),
        padded(pool_mask, extra_pools),
    )
    small, large = network(classes, pools, whole, class_mask, pool_mask), network(*larger)
    torch.testing.assert_close(large[2], small[2], **CLOSE)
    for one, other, real in zip(small[:2], large[:2], (2, 3), strict=True):
        torch.testing.assert_close(other[:, :real], one, **CLOSE)
        assert (other[:, real:] == 0).all()
    torch.testing.assert_close(
        network.value(*larger), network.value(classes, pools, whole, class_mask, pool_mask), **CLOSE
    )


def test_outputs_have_their_shapes_and_bounds() -> None:
    answers = a_network()(*parts(5, 2, 3))
    shapes = [(5, 2, CLASS_OUTPUTS), (5, 3, POOL_OUTPUTS), (5, WHOLE_OUTPUTS)]
    assert [answer.shape for answer in answers] == shapes
    for answer in answers:
        assert 0.1 < answer.abs().max() <= 1, "a lively network says something"
    assert a_network().value(*parts(5, 2, 3)).shape == (5, 1)


def test_an_untrained_network_hardly_bends() -> None:
    assert all(answer.abs().max() < 0.15 for answer in a_network(lively=False)(*parts(20, 3, 4)))


def test_a_cluster_of_padding_alone_is_answered_with_zeros() -> None:
    classes, pools, whole, class_mask, pool_mask = parts(1, 2, 2)
    by_class, by_pool, of_whole = a_network()(classes, pools, whole, class_mask * 0, pool_mask * 0)
    assert (by_class == 0).all()
    assert (by_pool == 0).all()
    assert torch.isfinite(of_whole).all()
