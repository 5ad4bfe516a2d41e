"""The mean of the last updates' weights: what is scored and shipped."""

import pytest
import torch
from torch import nn

from poolpilot.training.averaging import Averaged


def a_network(value: float) -> nn.Linear:
    network = nn.Linear(2, 1, bias=False)
    set_to(network, value)
    return network


def set_to(network: nn.Linear, value: float) -> None:
    with torch.no_grad():
        network.weight.fill_(value)


@pytest.mark.parametrize("updates", [0, 1])
def test_over_one_update_or_none_the_mean_is_the_latest_weights(updates: int) -> None:
    network = a_network(1.0)
    averaged = Averaged(network, updates)
    set_to(network, 5.0)
    averaged.update(network)
    assert averaged.weights["weight"].tolist() == [[5.0, 5.0]]


def test_the_mean_scatters_less_than_the_weights_and_follows_where_they_go() -> None:
    network = a_network(0.0)
    averaged = Averaged(network, 20)
    seen = []
    for step in range(300):
        set_to(network, 3.0 + (1.0 if step % 2 else -1.0))
        averaged.update(network)
        seen.append(float(averaged.weights["weight"][0, 0]))
    assert max(seen[-20:]) - min(seen[-20:]) < 0.2  # the weights themselves jump by 2
    assert sum(seen[-20:]) / 20 == pytest.approx(3.0, abs=0.05)


def test_the_start_is_soon_forgotten() -> None:
    network = a_network(100.0)
    averaged = Averaged(network, 1000)
    set_to(network, 0.0)
    for _ in range(40):
        averaged.update(network)
    assert abs(float(averaged.weights["weight"][0, 0])) < 0.1


def test_at_work_the_network_has_the_mean_and_afterwards_its_own_weights_even_after_a_failure() -> None:
    network = a_network(1.0)
    averaged = Averaged(network, 4)
    set_to(network, 3.0)

    def fail() -> None:
        with averaged.at_work(network):
            assert network.weight.tolist() == [[1.0, 1.0]]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert network.weight.tolist() == [[3.0, 3.0]]
