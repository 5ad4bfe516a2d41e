"""Hindsight imitation: start PPO from "the right rule and head-room for this kind of cluster" instead of from zero.

In each of many worlds every rule was tried at every head-room (`hindsight`). The network is fitted so that what it
answers, held for the whole episode, costs least on average over worlds and prices. The table is interpolated between
its entries, so this is plain gradient descent on the expected objective itself. Regression on each world's own best
entry would be something else: which entry was best in hindsight is mostly luck, and misses cost far more than
head-room, so the mean of the best is worse than the best of the means.

Symbols: `B` a minibatch, `R` rules, `H` head-rooms, `N` size of an observation; others as in `hindsight`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..env.contract import FloatArray
from .hindsight import Hindsight
from .worlds import MISS_PRICE_HIGH, MISS_PRICE_LOW

HELD_OUT_PRICES: Final = (0.05, 0.2, 0.8)
"""Prices that the held-out worlds are judged at."""
HELD_OUT_SHARE: Final = 0.25
EPOCHS: Final = 60
PATIENCE: Final = 8
"""Epochs without a better held-out objective after which the fit stops."""
BATCH: Final = 256
BATCHES: Final = 60
"""Minibatches of an epoch."""
LEARNING_RATE: Final = 1e-3
PULL: Final = 2e-3
"""Weight of the squared outputs: among what costs the same, the neutral output is preferred."""
LEAK: Final = 0.1
"""Slope of a trust below 0 in the fit: without one a rule that is not trusted at all could never be."""

Answer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Observations `[B, N]` to head-room `[B]` (mean over the classes) and trust `[B, R - 1]`."""
Pricing = Callable[[NDArray[np.float32], FloatArray], NDArray[np.float32]]
"""The same observations `[B, N]`, as they would be at these prices of a miss `[B]`."""


@dataclass(frozen=True)
class Imitated:
    """How well the fit does on worlds that it was not made on."""

    worlds: int
    epochs: int
    train_loss: float
    held_out_loss: float
    """Mean objective over held-out worlds and prices, by the table."""
    neutral_loss: float
    """Of the first rule as it is, on the same."""
    constant_loss: float
    """Of the one rule and head-room that is best on the training worlds at each price, on the same."""
    hindsight_loss: float
    """Of each held-out world's own best: no policy that cannot see ahead gets there."""

    def as_json(self) -> dict[str, float]:
        """For a card."""
        return dict(self.__dict__)


def cost_of(table: Tensor, headrooms: Tensor, headroom: Tensor, trust: Tensor, leak: float = 0.0) -> Tensor:
    """`[B]` the objective of outputs, between the entries of the table.

    Args:
        table: `[B, R, H]` objective of each rule at each head-room.
        headrooms: `[H]` rising.
        headroom: `[B]`
        trust: `[B, R - 1]` as the codec reads it: the first rule gets what the others leave.
        leak: slope of a trust below 0.
    """
    at = headroom.clamp(float(headrooms[0]), float(headrooms[-1]))
    above = torch.searchsorted(headrooms, at.detach().contiguous()).clamp(1, len(headrooms) - 1)
    low, high = headrooms[above - 1], headrooms[above]
    share = (at - low) / (high - low)
    index = above[:, None, None].expand(-1, table.shape[1], 1)
    below_cost = table.gather(2, index - 1).squeeze(2)
    above_cost = table.gather(2, index).squeeze(2)
    by_rule = below_cost + share[:, None] * (above_cost - below_cost)
    wanted = torch.where(trust > 0, trust, leak * trust).clamp(max=1.0)
    weights = wanted / wanted.clamp(min=0.0).sum(dim=1, keepdim=True).clamp(min=1.0)
    rest = 1.0 - weights.sum(dim=1)
    return rest * by_rule[:, 0] + (weights * by_rule[:, 1:]).sum(dim=1)


def imitate(
    network: nn.Module,
    answer: Answer,
    priced: Pricing,
    hindsight: Hindsight,
    seed: int = 0,
    epochs: int = EPOCHS,
    on_epoch: Callable[[int, float, float], None] | None = None,
) -> Imitated:
    """Fit the network that `answer` asks; it is left as it was at its best on held-out worlds.

    Raises:
        ValueError: fewer than four worlds.
    """
    n_worlds = len(hindsight.bill)
    if n_worlds < 4:
        raise ValueError(f"{n_worlds} worlds to imitate, wanted at least 4: some are held out")
    held_out = max(1, round(HELD_OUT_SHARE * n_worlds))
    fitted_on, judged_on = hindsight.of(slice(0, n_worlds - held_out)), hindsight.of(slice(n_worlds - held_out, None))
    judge = _Judge(judged_on, priced)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=LEARNING_RATE)
    best, best_state, best_epoch, train_loss = judge(answer), _copied(network), 0, float("nan")
    epoch = 0
    for epoch in range(1, epochs + 1):
        train_loss = _epoch(network, optimizer, answer, priced, fitted_on, rng)
        loss = judge(answer)
        if on_epoch:
            on_epoch(epoch, train_loss, loss)
        if loss < best - 1e-6:
            best, best_state, best_epoch = loss, _copied(network), epoch
        elif epoch - best_epoch >= PATIENCE:
            break
    network.load_state_dict(best_state)
    return replace(
        _beside(fitted_on, judged_on), worlds=n_worlds, epochs=best_epoch, train_loss=train_loss, held_out_loss=best
    )


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    answer: Answer,
    priced: Pricing,
    on: Hindsight,
    rng: np.random.Generator,
) -> float:
    """`BATCHES` minibatches, each observation at a price drawn for it; the mean weighted regret beside each world's
    own best."""
    n_worlds, n_seen = on.seen.shape[:2]
    spread = [float(part.std(axis=(1, 2)).mean()) + 1e-6 for part in (on.bill, on.missed)]
    headrooms = torch.as_tensor(on.headrooms, dtype=torch.float32)
    losses = []
    for _ in range(BATCHES):
        chosen = rng.integers(n_worlds * n_seen, size=BATCH)
        worlds, moments = np.divmod(chosen, n_seen)
        prices = np.exp(rng.uniform(np.log(MISS_PRICE_LOW), np.log(MISS_PRICE_HIGH), len(chosen)))
        table = on.bill[worlds] + prices[:, None, None] * on.missed[worlds]
        regret = torch.as_tensor(table - table.min(axis=(1, 2), keepdims=True), dtype=torch.float32)
        headroom, trust = answer(torch.as_tensor(priced(on.seen[worlds, moments], prices)))
        # Weighted by what the network is told, the price, its best answer stays the best; without, high prices drown
        # what matters at low ones.
        weight = torch.as_tensor(1.0 / (spread[0] + prices * spread[1]), dtype=torch.float32)
        loss = (weight * cost_of(regret, headrooms, headroom, trust, LEAK)).mean()
        pulled = loss + PULL * (headroom.square() + trust.square().sum(dim=1)).mean()
        optimizer.zero_grad()
        pulled.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses))


class _Judge:
    """The mean objective over some worlds, all that was seen of them, and `HELD_OUT_PRICES`."""

    def __init__(self, on: Hindsight, priced: Pricing) -> None:
        n_worlds, n_seen, n = on.seen.shape
        flat = on.seen.reshape(n_worlds * n_seen, n)
        self.headrooms = torch.as_tensor(on.headrooms, dtype=torch.float32)
        self.cases = []
        for price in HELD_OUT_PRICES:
            table = np.repeat(on.bill + price * on.missed, n_seen, axis=0)
            seen = priced(flat, np.full(len(flat), price))
            self.cases.append((torch.as_tensor(seen), torch.as_tensor(table, dtype=torch.float32)))

    def __call__(self, answer: Answer) -> float:
        with torch.no_grad():
            costs = [cost_of(table, self.headrooms, *answer(seen)).mean() for seen, table in self.cases]
        return float(np.mean([float(cost) for cost in costs]))


def _beside(fitted_on: Hindsight, judged_on: Hindsight) -> Imitated:
    """What the fit is compared with, on the held-out worlds."""
    prices = np.array(HELD_OUT_PRICES)
    table = judged_on.objective(prices)
    neutral = int(np.argmin(np.abs(judged_on.headrooms)))
    constants = [fitted_on.best_constant(price) for price in HELD_OUT_PRICES]
    return Imitated(
        worlds=0,
        epochs=0,
        train_loss=float("nan"),
        held_out_loss=float("nan"),
        neutral_loss=float(table[:, 0, neutral].mean()),
        constant_loss=float(np.mean([table[:, r, h, m].mean() for m, (r, h) in enumerate(constants)])),
        hindsight_loss=float(table.min(axis=(1, 2)).mean()),
    )


def _copied(network: nn.Module) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
