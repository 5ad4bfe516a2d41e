"""Pools and classes are sets to the network: their order and their padding mean nothing."""

from __future__ import annotations

import pytest
import torch

from poolpilot.env.codec import CLASS_OUTPUTS, POOL_OUTPUTS

from .networks import a_network, parts

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("seed", range(4))
def test_permuting_pools_permutes_their_outputs_and_changes_nothing_else(seed: int) -> None:
    network, (classes, pools, whole, class_mask, pool_mask) = a_network(seed), parts(3, 3, 5, seed)
    order = torch.randperm(5)
    by_class, by_pool = network(classes, pools, whole, class_mask, pool_mask)
    mixed_class, mixed_pool = network(classes, pools[:, order], whole, class_mask, pool_mask[:, order])
    torch.testing.assert_close(mixed_pool, by_pool[:, order], **CLOSE)
    torch.testing.assert_close(mixed_class, by_class, **CLOSE)
    value = network.value(classes, pools, whole, class_mask, pool_mask)
    torch.testing.assert_close(network.value(classes, pools[:, order], whole, class_mask, pool_mask), value, **CLOSE)


@pytest.mark.parametrize("seed", range(4))
def test_permuting_classes_permutes_their_outputs_and_changes_nothing_else(seed: int) -> None:
    network, (classes, pools, whole, class_mask, pool_mask) = a_network(seed), parts(3, 4, 2, seed)
    order = torch.randperm(4)
    by_class, by_pool = network(classes, pools, whole, class_mask, pool_mask)
    mixed_class, mixed_pool = network(classes[:, order], pools, whole, class_mask[:, order], pool_mask)
    torch.testing.assert_close(mixed_class, by_class[:, order], **CLOSE)
    torch.testing.assert_close(mixed_pool, by_pool, **CLOSE)


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
    for one, other, real in zip(small, large, (2, 3), strict=True):
        torch.testing.assert_close(other[:, :real], one, **CLOSE)
        assert (other[:, real:] == 0).all()
    torch.testing.assert_close(
        network.value(*larger), network.value(classes, pools, whole, class_mask, pool_mask), **CLOSE
    )


def test_outputs_have_their_shapes_and_bounds() -> None:
    by_class, by_pool = a_network()(*parts(5, 2, 3))
    assert by_class.shape == (5, 2, CLASS_OUTPUTS)
    assert by_pool.shape == (5, 3, POOL_OUTPUTS)
    assert by_class.abs().max() <= 1
    assert by_pool.abs().max() <= 1
    assert by_pool.abs().max() > 0.1, "a lively network says something"
    assert a_network().value(*parts(5, 2, 3)).shape == (5, 1)


def test_an_untrained_network_hardly_bends() -> None:
    by_class, by_pool = a_network(lively=False)(*parts(20, 3, 4))
    assert by_class.abs().max() < 0.15
    assert by_pool.abs().max() < 0.15


def test_a_cluster_of_padding_alone_is_answered_with_zeros() -> None:
    classes, pools, whole, class_mask, pool_mask = parts(1, 2, 2)
    by_class, by_pool = a_network()(classes, pools, whole, class_mask * 0, pool_mask * 0)
    assert (by_class == 0).all()
    assert (by_pool == 0).all()
