"""The network: shared weights over pools and over classes, set pooling between them.

Permuting pools permutes their outputs and changes nothing else; padding rows change nothing at all. Set pooling
instead of attention because attention costs about twenty times more on a CPU.

It is laid out for speed in training, which on a CPU is bound by passes over memory, not by products: rows are embedded
without biases, so that padding, which is all zeros, stays so and needs no mask (a row that is there has its feature
"there" for a bias); maxima are taken of a few numbers a row only, since they cost as much as two layers do; and what is
the same for all rows enters a head once a cluster, not once a row.

Symbols: `B` batch, `C` classes, `P` pools, `N` either, `FC`/`FP`/`FG` features (see `env.codec`), `E` width of an
embedding.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

from ...env.codec import CLASS_FEATURES, CLASS_OUTPUTS, POOL_FEATURES, POOL_OUTPUTS, WHOLE_FEATURES, WHOLE_OUTPUTS

Answers: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""`[B, C, CLASS_OUTPUTS]`, `[B, P, POOL_OUTPUTS]`, `[B, WHOLE_OUTPUTS]`"""


class SetNetwork(nn.Module):
    """Outputs for each class, each pool and the whole, and the value of the whole."""

    def __init__(self, width: int = 32) -> None:
        """`width` is `E`."""
        super().__init__()
        self.width = width
        self.of_class, self.of_pool = _Encoder(len(CLASS_FEATURES), width), _Encoder(len(POOL_FEATURES), width)
        pooled = self.of_class.pooled + self.of_pool.pooled + len(WHOLE_FEATURES)
        self.of_whole = nn.Sequential(nn.Linear(pooled, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.class_head, self.pool_head = _RowHead(width, CLASS_OUTPUTS), _RowHead(width, POOL_OUTPUTS)
        self.whole_head = nn.Linear(width, WHOLE_OUTPUTS)
        # Past all layers: what is linear in the features is learned first.
        self.class_straight = nn.Linear(len(CLASS_FEATURES), CLASS_OUTPUTS, bias=False)
        self.pool_straight = nn.Linear(len(POOL_FEATURES), POOL_OUTPUTS, bias=False)
        self.value_of_class = nn.Linear(len(CLASS_FEATURES), width, bias=False)
        self.value_of_pool = nn.Linear(len(POOL_FEATURES), width, bias=False)
        valued = 2 * width + len(WHOLE_FEATURES)
        self.value_of_whole = nn.Sequential(
            nn.Linear(valued, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )
        for last in self.last_layers():
            # Near zero: the untrained policy is the rule it bends.
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
        for straight in (self.class_straight, self.pool_straight):
            nn.init.zeros_(straight.weight)

    def last_layers(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        """The layers that make the outputs of classes, pools and the whole."""
        return self.class_head.last, self.pool_head.last, self.whole_head

    def forward(self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor) -> Answers:
        """The outputs, in (-1, 1), zero for padding."""
        class_mask, pool_mask = class_mask.unsqueeze(-1), pool_mask.unsqueeze(-1)
        return self._answers(classes * class_mask, pools * pool_mask, whole, class_mask, pool_mask)

    def value(self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """`[B, 1]` expected discounted reward."""
        pool_mask = pool_mask.unsqueeze(-1)
        return self._value(classes * class_mask.unsqueeze(-1), pools * pool_mask, whole, pool_mask)

    def act_and_value(
        self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor
    ) -> tuple[Answers, Tensor]:
        """What `forward` and `value` give, at less than the price of both."""
        class_mask, pool_mask = class_mask.unsqueeze(-1), pool_mask.unsqueeze(-1)
        classes, pools = classes * class_mask, pools * pool_mask
        answers = self._answers(classes, pools, whole, class_mask, pool_mask)
        return answers, self._value(classes, pools, whole, pool_mask)

    def _answers(self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor) -> Answers:
        class_part, pool_part = self.of_class(classes), self.of_pool(pools)
        of_classes, of_pools = self.of_class.pool(class_part, class_mask), self.of_pool.pool(pool_part, pool_mask)
        core = self.of_whole(torch.cat([*of_classes, *of_pools, whole], dim=-1))
        return (
            torch.tanh(self.class_head(class_part, core) + self.class_straight(classes)) * class_mask,
            torch.tanh(self.pool_head(pool_part, core) + self.pool_straight(pools)) * pool_mask,
            torch.tanh(self.whole_head(core)),
        )

    def _value(self, classes: Tensor, pools: Tensor, whole: Tensor, pool_mask: Tensor) -> Tensor:
        # Misses are a sum over classes; pools are a mean of many or few.
        of_classes = torch.relu(self.value_of_class(classes)).sum(dim=1) / 4.0
        of_pools = _mean(torch.relu(self.value_of_pool(pools)), pool_mask)
        value: Tensor = self.value_of_whole(torch.cat([of_classes, of_pools, whole], dim=-1))
        return value


class _Encoder(nn.Module):
    """Embeds the rows of a set, and pools them by their mean and by the largest of a few numbers each."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        largest = max(width // 4, 1)
        self.pooled = width + largest
        self.rows = nn.Sequential(
            nn.Linear(features, width, bias=False), nn.ReLU(), nn.Linear(width, width, bias=False), nn.ReLU()
        )
        self.largest = nn.Linear(width, largest, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        """`[B, N, E]` not negative, 0 where `rows` `[B, N, F]` are."""
        embedded: Tensor = self.rows(rows)
        return embedded

    def pool(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, E]` the mean of the rows that are there, and `[B, E / 4]` the largest, at least 0."""
        return _mean(embedded, mask), torch.relu(self.largest(embedded).amax(dim=1))


class _RowHead(nn.Module):
    """Outputs of each row, from its embedding and what is the same for all rows."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.of_row, self.of_core = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.last = nn.Linear(width, outputs)

    def forward(self, rows: Tensor, core: Tensor) -> Tensor:
        """`[B, N, outputs]`"""
        answer: Tensor = self.last(torch.relu(self.of_row(rows) + self.of_core(core).unsqueeze(1)))
        return answer


def _mean(embedded: Tensor, mask: Tensor) -> Tensor:
    """`[B, E]` of the rows that are there; those of padding are 0."""
    return embedded.sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
