"""Hindsight imitation: start PPO from "the right rule and head-room for this kind of cluster" instead of from zero.

In each of many worlds every rule was tried at every head-room (`hindsight`). First a chooser is fitted: from an
observation and a price of a miss, a distribution over those entries whose expected cost is least on average over worlds
and prices. Then the policy's network is fitted to what the chooser means: the expected head-room, and how far each rule is
to be trusted.

Why not at once: between rules and head-rooms the cost has local minima (little head-room makes a lean rule bad, which
then is not trusted any more); over distributions it is linear. And why not each world's own best entry: which entry was
best in hindsight is mostly luck, and misses cost far more than head-room, so the mean of the best is worse than the best
of the means. Worlds are few beside features, so the chooser sees its observations through noise.

Symbols: `B` a minibatch, `R` rules, `H` head-rooms, `N` size of an observation; others as in `hindsight`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..env.codec.outputs import DOUBT
from ..env.contract import FloatArray
from .hindsight import Hindsight
from .worlds import MISS_PRICE_HIGH, MISS_PRICE_LOW

HELD_OUT_PRICES: Final = (0.05, 0.2, 0.8)
"""Prices that the held-out worlds are judged at."""
HELD_OUT_SHARE: Final = 0.25
EPOCHS: Final = 40
PATIENCE: Final = 8
"""Epochs without a better held-out objective after which the fit stops."""
BATCH: Final = 256
BATCHES: Final = 50
"""Minibatches of an epoch."""
LEARNING_RATE: Final = 3e-3
NOISE: Final = 0.5
"""Of the features that a chooser sees while it is fitted; they lie in [-1, 1]."""
EASE: Final = 0.01
"""Every entry but the neutral one costs this much more, in usual spreads of the cost: what does not matter stays."""
NEUTRAL_START: Final = 4.0
"""Logit of the neutral entry before the fit; the others begin at 0."""
LEAST_TRUST: Final = 0.02
"""Less is none."""
COPY_STEPS: Final = 1500
"""Minibatches in which the policy's network learns what the chooser means."""

Answer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Observations `[B, N]` to head-room `[B]` (mean over the classes) and trust `[B, R - 1]`."""
Pricing = Callable[[NDArray[np.float32], FloatArray], NDArray[np.float32]]
"""The same observations `[B, N]`, as they would be at these prices of a miss `[B]`."""
Blurring = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]
"""Observations `[B, N]` with noise where it makes sense."""


@dataclass(frozen=True)
class Imitated:
    """How well the fit does on worlds that it was not made on."""

    worlds: int
    epochs: int
    held_out_loss: float
    """Mean objective of the policy's answers over held-out worlds and prices, by the table."""
    neutral_loss: float
    """Of the first rule as it is, on the same."""
    constant_loss: float
    """Of the one rule and head-room that is best on the training worlds at each price, on the same."""
    hindsight_loss: float
    """Of each held-out world's own best: no policy that cannot see ahead gets there."""

    def as_json(self) -> dict[str, float]:
        """For a card."""
        return dict(self.__dict__)


def cost_of(table: Tensor, headrooms: Tensor, headroom: Tensor, trust: Tensor) -> Tensor:
    """`[B]` the objective of outputs, between the entries of the table.

    Args:
        table: `[B, R, H]` objective of each rule at each head-room.
        headrooms: `[H]` rising.
        headroom: `[B]`
        trust: `[B, R - 1]` as the codec reads it: the first rule gets what the others leave.
    """
    at = headroom.clamp(float(headrooms[0]), float(headrooms[-1]))
    above = torch.searchsorted(headrooms, at.contiguous()).clamp(1, len(headrooms) - 1)
    low, high = headrooms[above - 1], headrooms[above]
    index = above[:, None, None].expand(-1, table.shape[1], 1)
    below_cost, above_cost = table.gather(2, index - 1).squeeze(2), table.gather(2, index).squeeze(2)
    by_rule = below_cost + ((at - low) / (high - low))[:, None] * (above_cost - below_cost)
    wanted = ((trust - DOUBT) / (1.0 - DOUBT)).clamp(0.0, 1.0)
    weights = wanted / wanted.sum(dim=1, keepdim=True).clamp(min=1.0)
    return (1.0 - weights.sum(dim=1)) * by_rule[:, 0] + (weights * by_rule[:, 1:]).sum(dim=1)


class Fitting:
    """A chooser and the worlds that it is fitted to."""

    def __init__(
        self, chooser: nn.Module, on: Hindsight, priced: Pricing, blurred: Blurring, rng: np.random.Generator
    ) -> None:
        """`chooser` maps observations `[B, N]` to logits `[B, R * H]`, all zero at first."""
        self.chooser, self.on, self.priced, self.blurred, self.rng = chooser, on, priced, blurred, rng
        n_rules = on.bill.shape[1]
        self.neutral = int(np.argmin(np.abs(on.headrooms)))
        self.spread = [float(part.std(axis=(1, 2)).mean()) + 1e-6 for part in (on.bill, on.missed)]
        headrooms = torch.as_tensor(on.headrooms, dtype=torch.float32)
        self.headroom_of = headrooms.repeat(n_rules)
        self.trust_of = torch.eye(n_rules).repeat_interleave(len(headrooms), dim=0)[:, 1:]
        self.start = torch.zeros(len(self.headroom_of))
        self.start[self.neutral] = NEUTRAL_START
        self.optimizer = torch.optim.AdamW(chooser.parameters(), lr=LEARNING_RATE, weight_decay=0.01)

    def shares(self, seen: Tensor) -> Tensor:
        """`[B, R * H]` how likely each entry is chosen."""
        shares: Tensor = torch.softmax(self.chooser(seen) + self.start, dim=1)
        return shares

    def meant(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Expected head-room `[B]` and, as outputs that mean the expected trust, `[B, R - 1]`."""
        shares = self.shares(seen)
        trust = shares @ self.trust_of
        return shares @ self.headroom_of, torch.where(trust > LEAST_TRUST, DOUBT + (1.0 - DOUBT) * trust, 0.0)

    def epoch(self) -> None:
        """`BATCHES` steps down the expected regret."""
        n_worlds, n_seen = self.on.seen.shape[:2]
        for _ in range(BATCHES):
            worlds, moments = np.divmod(self.rng.integers(n_worlds * n_seen, size=BATCH), n_seen)
            prices = drawn_prices(self.rng, BATCH)
            table = (self.on.bill[worlds] + prices[:, None, None] * self.on.missed[worlds]).reshape(BATCH, -1)
            # Weighted by what is seen, the price, the best choice stays the best; without, high prices drown the low.
            regret = (table - table.min(axis=1, keepdims=True)) / self.weight(prices)[:, None] + EASE
            regret[:, self.neutral] -= EASE
            seen = self.priced(self.blurred(self.on.seen[worlds, moments], self.rng), prices)
            loss = (self.shares(torch.as_tensor(seen)) * torch.as_tensor(regret, dtype=torch.float32)).sum(1).mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.chooser.parameters(), 1.0)
            self.optimizer.step()

    def weight(self, prices: FloatArray) -> FloatArray:
        """What the cost at these prices usually spreads by."""
        return self.spread[0] + prices * self.spread[1]


def imitate(
    network: nn.Module,
    answer: Answer,
    make_chooser: Callable[[int], nn.Module],
    priced: Pricing,
    blurred: Blurring,
    hindsight: Hindsight,
    seed: int = 0,
    epochs: int = EPOCHS,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Imitated:
    """Fit the network that `answer` asks.

    Args:
        make_chooser: makes a module that maps observations to so many logits, zeros at first.
        priced: as `Pricing`.
        blurred: as `Blurring`.
        on_epoch: told the chooser's epoch and its loss on held-out worlds.

    Raises:
        ValueError: fewer than four worlds.
    """
    n_worlds = len(hindsight.bill)
    if n_worlds < 4:
        raise ValueError(f"{n_worlds} worlds to imitate, wanted at least 4: some are held out")
    held_out = max(1, round(HELD_OUT_SHARE * n_worlds))
    fitted_on, judged_on = hindsight.of(slice(0, n_worlds - held_out)), hindsight.of(slice(n_worlds - held_out, None))
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the same chooser, whatever was drawn before
        chooser = make_chooser(hindsight.bill[0].size)
    fitting = Fitting(chooser, fitted_on, priced, blurred, rng)
    judge = _Judge(judged_on, priced, fitting.weight(np.array(HELD_OUT_PRICES)))
    best, best_state, best_epoch = judge(fitting.meant), _copied(chooser), 0
    for epoch in range(1, epochs + 1):
        fitting.epoch()
        loss = judge(fitting.meant)
        if on_epoch:
            on_epoch(epoch, loss)
        if loss < best - 1e-6:
            best, best_state, best_epoch = loss, _copied(chooser), epoch
        elif epoch - best_epoch >= PATIENCE:
            break
    chooser.load_state_dict(best_state)
    if best_epoch:
        _copy(network, answer, fitting, hindsight, rng)
    neutral, constant, luck = _beside(fitted_on, judged_on)
    return Imitated(n_worlds, best_epoch, float(judge.costs(answer).mean()), neutral, constant, luck)


def drawn_prices(rng: np.random.Generator, n: int) -> FloatArray:
    """`[n]` prices of a miss as training draws them."""
    return np.exp(rng.uniform(np.log(MISS_PRICE_LOW), np.log(MISS_PRICE_HIGH), n))


def _copy(network: nn.Module, answer: Answer, fitting: Fitting, on: Hindsight, rng: np.random.Generator) -> None:
    """Fit the policy's network to what the chooser means, on everything that was seen."""
    flat = on.seen.reshape(-1, on.seen.shape[-1])
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=LEARNING_RATE)
    for step in range(COPY_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1.0 - step / COPY_STEPS)
        seen = torch.as_tensor(fitting.priced(flat[rng.integers(len(flat), size=BATCH)], drawn_prices(rng, BATCH)))
        with torch.no_grad():
            headroom, trust = fitting.meant(seen)
        own_headroom, own_trust = answer(seen)
        loss = (own_headroom - headroom).square().mean() + (own_trust - trust).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


class _Judge:
    """The objective over some worlds, all that was seen of them, and `HELD_OUT_PRICES`."""

    def __init__(self, on: Hindsight, priced: Pricing, weights: FloatArray) -> None:
        n_worlds, n_seen, n = on.seen.shape
        flat = on.seen.reshape(n_worlds * n_seen, n)
        self.headrooms = torch.as_tensor(on.headrooms, dtype=torch.float32)
        self.weights = weights
        self.cases = []
        for price in HELD_OUT_PRICES:
            table = np.repeat(on.bill + price * on.missed, n_seen, axis=0)
            seen = priced(flat, np.full(len(flat), price))
            self.cases.append((torch.as_tensor(seen), torch.as_tensor(table, dtype=torch.float32)))

    def __call__(self, answer: Answer) -> float:
        """Mean over the prices, each in its usual spread."""
        return float((self.costs(answer) / self.weights).mean())

    def costs(self, answer: Answer) -> FloatArray:
        """By price."""
        with torch.no_grad():
            return np.array([float(cost_of(table, self.headrooms, *answer(seen)).mean()) for seen, table in self.cases])


def _beside(fitted_on: Hindsight, judged_on: Hindsight) -> tuple[float, float, float]:
    """On the held-out worlds: the neutral output, the best constant of the others, and each world's own best."""
    table = judged_on.objective(np.array(HELD_OUT_PRICES))
    neutral = int(np.argmin(np.abs(judged_on.headrooms)))
    constants = [fitted_on.best_constant(price) for price in HELD_OUT_PRICES]
    return (
        float(table[:, 0, neutral].mean()),
        float(np.mean([table[:, r, h, m].mean() for m, (r, h) in enumerate(constants)])),
        float(table.min(axis=(1, 2)).mean()),
    )


def _copied(network: nn.Module) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
