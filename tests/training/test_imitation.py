"""Hindsight imitation on made-up tables: the network learns which constant output costs least for which kind of world."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from poolpilot.training.hindsight import Hindsight
from poolpilot.training.imitation import cost_of, imitate

torch.set_num_threads(1)
HEADROOMS = np.array([-1.0, 0.0, 1.0])
N_RULES = 4


class Toy(nn.Module):
    """Sees which kind of world it is in, and the price of a miss."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, N_RULES), nn.Tanh())
        nn.init.normal_(self.layers[2].weight, std=0.01)
        nn.init.zeros_(self.layers[2].bias)

    def answer(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        out = self.layers(seen)
        return out[:, 0], out[:, 1:]


def priced(seen: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """The second of the two features is the price."""
    changed = seen.copy()
    changed[:, 1] = np.log10(prices) / 2.0
    return changed


def worlds(n: int, seed: int = 0) -> Hindsight:
    """Two kinds of world, told by the first feature: in one the third rule is cheap, in the other the first with more
    head-room keeps requests from being missed."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(2, size=n)
    bill = np.full((n, N_RULES, len(HEADROOMS)), 1.2) + 0.1 * HEADROOMS
    missed = np.full(bill.shape, 0.2)
    bill[kind == 0, 2] -= 0.5
    missed[kind == 1] = np.array([0.8, 0.4, 0.0])
    missed[kind == 1, 1:] += 3.0
    bill += rng.normal(0.0, 0.05, bill.shape)
    seen = np.zeros((n, 10, 2), dtype=np.float32)
    seen[..., 0] = np.where(kind == 0, -1.0, 1.0)[:, None]
    return Hindsight(HEADROOMS, bill, missed, seen)


def chooser(entries: int) -> nn.Module:
    last = nn.Linear(16, entries)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), last)


def blurred(seen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return seen + rng.normal(0.0, 0.2, seen.shape).astype(np.float32)


def fitted(table: Hindsight, epochs: int = 30):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    toy = Toy()
    return toy, imitate(toy, toy.answer, chooser, priced, blurred, table, epochs=epochs)


def asked(toy: Toy, kind: float, price: float) -> tuple[float, list[float]]:
    seen = priced(np.array([[kind, 0.0]], dtype=np.float32), np.array([price]))
    with torch.no_grad():
        headroom, trust = toy.answer(torch.as_tensor(seen))
    return float(headroom[0]), trust[0].tolist()


def test_the_known_best_constant_is_found_for_each_kind_of_world() -> None:
    toy, result = fitted(worlds(200))
    cheap_headroom, cheap_trust = asked(toy, -1.0, 0.4)
    assert int(np.argmax(cheap_trust)) == 1  # the third rule
    assert cheap_trust[1] > 0.8
    assert max(cheap_trust[0], cheap_trust[2]) < 0.1
    assert cheap_headroom < -0.3
    risky_headroom, risky_trust = asked(toy, 1.0, 1.6)
    assert max(risky_trust) < 0.1
    assert risky_headroom > 0.6
    assert result.held_out_loss < result.constant_loss - 0.1
    assert result.held_out_loss < result.neutral_loss - 0.1
    assert result.hindsight_loss <= result.held_out_loss


def test_head_room_falls_with_the_price_of_a_miss() -> None:
    toy, _ = fitted(worlds(200))
    assert asked(toy, 1.0, 0.03)[0] < asked(toy, 1.0, 1.6)[0] - 0.5


def test_where_nothing_matters_the_neutral_output_stays() -> None:
    table = worlds(60)
    same = replace(table, bill=np.ones_like(table.bill), missed=np.zeros_like(table.missed))
    toy, result = fitted(same)
    headroom, trust = asked(toy, 1.0, 0.4)
    assert abs(headroom) < 0.05
    assert max(map(abs, trust)) < 0.05
    assert result.held_out_loss == pytest.approx(result.neutral_loss)


def test_luck_on_the_training_worlds_does_not_reach_the_result() -> None:
    """Pure noise: what the held-out worlds do not confirm is not kept."""
    table, rng = worlds(80), np.random.default_rng(1)
    noise = replace(
        table,
        bill=1.0 + rng.normal(0.0, 0.2, table.bill.shape),
        missed=np.zeros_like(table.missed),
        seen=rng.normal(size=table.seen.shape).astype(np.float32),
    )
    _, result = fitted(noise)
    assert result.held_out_loss <= result.neutral_loss + 0.02


def test_it_is_the_same_again() -> None:
    first, second = (fitted(worlds(40), epochs=2)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_too_few_worlds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        fitted(worlds(3))


@pytest.mark.parametrize(
    ("headroom", "trust", "expected"),
    [
        (0.0, (0.0, 0.0, 0.0), 11.0),
        (0.5, (0.0, 0.0, 0.0), 11.5),
        (0.0, (0.0, 1.0, 0.0), 31.0),
        (-1.0, (0.6, 0.0, 0.0), 0.5 * 10.0 + 0.5 * 20.0),
        (1.0, (1.0, 1.0, 0.0), 0.5 * 22.0 + 0.5 * 32.0),
        (0.0, (-1.0, -1.0, -1.0), 11.0),
        (5.0, (0.0, 0.0, 0.0), 12.0),
    ],
    ids=["an entry", "between two", "another rule", "half trusted", "two rules", "distrusted", "beyond the last"],
)
def test_costs_lie_between_the_entries_of_the_table(headroom: float, trust: tuple[float, ...], expected: float) -> None:
    table = torch.tensor([[[10.0, 11.0, 12.0], [20.0, 21.0, 22.0], [30.0, 31.0, 32.0], [40.0, 41.0, 42.0]]])
    cost = cost_of(table, torch.tensor(HEADROOMS, dtype=torch.float32), torch.tensor([headroom]), torch.tensor([trust]))
    assert float(cost[0]) == pytest.approx(expected)
