"""Networks beside the one that ships (`agents.ppo.network`): for the study a flat one and one that sees the last few
ticks, and the one that chooses in hindsight.

The first two answer like `SetNetwork`, so that policy and imitation take any of them.

Symbols: `B` batch, `C`/`P` classes and pools, at most `MC`/`MP`, `FC`/`FP`/`FG` features, `A` size of an action,
`T` ticks seen at once.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..agents.ppo.network import Answers, SetNetwork
from ..env.codec import CLASS_FEATURES, POOL_FEATURES, WHOLE_FEATURES, miss_price_feature
from ..env.spaces import SpaceLayout
from .worlds import MISS_PRICE_HIGH, MISS_PRICE_LOW

PRICE: Final = WHOLE_FEATURES.index("miss_price")
PRICE_KNOTS: Final = 8
PRICE_GAIN: Final = 4.0
"""The part of a chooser that sees the price alone learns so much faster."""


class FlatNetwork(nn.Module):
    """Two plain layers over everything at once, rows of classes and pools in their order: not equivariant.

    Serves clusters up to the maxima of its layout only.
    """

    def __init__(self, layout: SpaceLayout, width: int = 128) -> None:
        """`width` is that of the hidden layers."""
        super().__init__()
        self.width, self.layout = width, layout
        n = sum(layout.sizes)
        self.acting = _two_layers(n, width, sum(layout.action_sizes))
        self.valuing = _two_layers(n, width, 1)
        last = self.acting[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)

    def forward(self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor) -> Answers:
        """The outputs, in (-1, 1), zero for padding."""
        answer = torch.tanh(self.acting(self._flat(classes, pools, whole, class_mask, pool_mask)))
        by_class, by_pool, of_whole = torch.split(answer, list(self.layout.action_sizes), dim=1)
        c, p = classes.shape[1], pools.shape[1]
        return (
            by_class.reshape(len(answer), self.layout.max_classes, -1)[:, :c] * class_mask.unsqueeze(-1),
            by_pool.reshape(len(answer), self.layout.max_pools, -1)[:, :p] * pool_mask.unsqueeze(-1),
            of_whole,
        )

    def value(self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """`[B, 1]` expected discounted reward."""
        value: Tensor = self.valuing(self._flat(classes, pools, whole, class_mask, pool_mask))
        return value

    def act_and_value(
        self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor
    ) -> tuple[Answers, Tensor]:
        """What `forward` and `value` give."""
        parts = (classes, pools, whole, class_mask, pool_mask)
        return self(*parts), self.value(*parts)

    def _flat(self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """`[B, N]` padded to the maxima."""
        more_classes = self.layout.max_classes - classes.shape[1]
        more_pools = self.layout.max_pools - pools.shape[1]
        return torch.cat(
            [
                pad(classes, (0, 0, 0, more_classes)).flatten(1),
                pad(pools, (0, 0, 0, more_pools)).flatten(1),
                whole,
                pad(class_mask, (0, more_classes)),
                pad(pool_mask, (0, more_pools)),
            ],
            dim=1,
        )


class HistoryNetwork(nn.Module):
    """The shipped network behind a layer that mixes each row's features of the last `T` ticks.

    Features come with the newest tick first (`StackedLayout`). The mix begins as the newest tick alone, so that the
    untrained network is the one without history.
    """

    def __init__(self, ticks: int, width: int) -> None:
        """`ticks` is `T`, `width` that of the network behind."""
        super().__init__()
        self.width, self.ticks = width, ticks
        self.inner = SetNetwork(width)
        sizes = (len(CLASS_FEATURES), len(POOL_FEATURES), len(WHOLE_FEATURES))
        self.mixing = nn.ModuleList(nn.Linear(ticks * size, size, bias=False) for size in sizes)
        for mix in self.mixing:
            assert isinstance(mix, nn.Linear)
            nn.init.zeros_(mix.weight)

    def forward(self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor) -> Answers:
        """As `SetNetwork`; features `[B, C, T * FC]`, `[B, P, T * FP]`, `[B, T * FG]`."""
        answers: Answers = self.inner(*self._mixed(classes, pools, whole), class_mask, pool_mask)
        return answers

    def value(self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """`[B, 1]` expected discounted reward."""
        return self.inner.value(*self._mixed(classes, pools, whole), class_mask, pool_mask)

    def act_and_value(
        self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor
    ) -> tuple[Answers, Tensor]:
        """What `forward` and `value` give."""
        return self.inner.act_and_value(*self._mixed(classes, pools, whole), class_mask, pool_mask)

    def _mixed(self, *parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mixed = []
        for rows, mix in zip(parts, self.mixing, strict=True):
            newest = rows[..., : rows.shape[-1] // self.ticks]
            mixed.append(newest + mix(rows))
        return mixed[0], mixed[1], mixed[2]


class Chooser(nn.Module):
    """Chooses among so many entries by a flat observation: the shipped network's view of it, and the price of a miss.

    The price has a way of its own, piecewise linear: it moves the choice most, and would be learned last through layers
    in which it is one feature of many.
    """

    def __init__(self, layout: SpaceLayout, entries: int, width: int = 32) -> None:
        """`width` is that of the network behind."""
        super().__init__()
        self.layout = layout
        self.inner = SetNetwork(width)
        self.inner.whole_head = nn.Identity()  # type: ignore[assignment]  # what the shipped network would answer from
        self.head, self.by_price = nn.Linear(width, entries), nn.Linear(PRICE_KNOTS, entries, bias=False)
        for zero in (self.head.weight, self.head.bias, self.by_price.weight):
            nn.init.zeros_(zero)
        ends = miss_price_feature(np.array([MISS_PRICE_LOW, MISS_PRICE_HIGH]))
        self.knots = torch.linspace(float(ends[0]), float(ends[1]), PRICE_KNOTS)

    def forward(self, seen: Tensor) -> Tensor:
        """`[B, entries]` logits for observations `[B, N]`; zeros at first."""
        parts = self.layout.parts(seen)
        price = parts[2][:, PRICE : PRICE + 1]
        near = torch.relu(1.0 - torch.abs(price - self.knots) / (self.knots[1] - self.knots[0]))
        logits: Tensor = self.head(self.inner(*parts)[2]) + PRICE_GAIN * self.by_price(near)
        return logits


def _two_layers(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)
    )
