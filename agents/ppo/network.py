"""The network: shared weights over pools and over classes, set pooling between them.

Permuting pools permutes their outputs and changes nothing else; padding rows change nothing at all. Set pooling
instead of attention because attention costs about twenty times more on a CPU.

Actor and critic share nothing but calls: their first layers are computed as one, so that each set of rows is read once.
What is the same for all rows enters a head once a cluster, not once a row.

Symbols: `B` batch, `C` classes, `P` pools, `FC`/`FP`/`FG` features (see `env.codec`), `E` width of an embedding.
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
        pooled = 4 * width + len(WHOLE_FEATURES)
        self.of_whole = nn.Sequential(nn.Linear(pooled, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU())
        self.class_head, self.pool_head = _RowHead(width, CLASS_OUTPUTS), _RowHead(width, POOL_OUTPUTS)
        self.whole_head = nn.Linear(width, WHOLE_OUTPUTS)
        self.value_of_whole = nn.Sequential(nn.Linear(pooled, 2 * width), nn.ReLU(), nn.Linear(2 * width, 1))
        for last in self.last_layers():
            # Near zero: the untrained policy is the rule it bends.
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)

    def last_layers(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        """The layers that make the outputs of classes, pools and the whole."""
        return self.class_head.last, self.pool_head.last, self.whole_head

    def forward(self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor) -> Answers:
        """The outputs, in (-1, 1), zero for padding."""
        class_mask, pool_mask = class_mask.unsqueeze(-1), pool_mask.unsqueeze(-1)
        class_part = self.of_class.acting(self.of_class.first(classes), class_mask)
        pool_part = self.of_pool.acting(self.of_pool.first(pools), pool_mask)
        return self._answers(class_part, pool_part, whole, class_mask, pool_mask)

    def value(self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """`[B, 1]` expected discounted reward."""
        class_mask, pool_mask = class_mask.unsqueeze(-1), pool_mask.unsqueeze(-1)
        class_part = self.of_class.valuing(self.of_class.first(classes), class_mask)
        pool_part = self.of_pool.valuing(self.of_pool.first(pools), pool_mask)
        return self._value(class_part, pool_part, whole, class_mask, pool_mask)

    def act_and_value(
        self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor
    ) -> tuple[Answers, Tensor]:
        """What `forward` and `value` give, at less than the price of both."""
        class_mask, pool_mask = class_mask.unsqueeze(-1), pool_mask.unsqueeze(-1)
        class_first, pool_first = self.of_class.first(classes), self.of_pool.first(pools)
        answers = self._answers(
            self.of_class.acting(class_first, class_mask),
            self.of_pool.acting(pool_first, pool_mask),
            whole,
            class_mask,
            pool_mask,
        )
        value = self._value(
            self.of_class.valuing(class_first, class_mask),
            self.of_pool.valuing(pool_first, pool_mask),
            whole,
            class_mask,
            pool_mask,
        )
        return answers, value

    def _answers(
        self, class_part: Tensor, pool_part: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor
    ) -> Answers:
        core = self.of_whole(_pooled(class_part, pool_part, whole, class_mask, pool_mask))
        return (
            torch.tanh(self.class_head(class_part, core)) * class_mask,
            torch.tanh(self.pool_head(pool_part, core)) * pool_mask,
            torch.tanh(self.whole_head(core)),
        )

    def _value(
        self, class_part: Tensor, pool_part: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor
    ) -> Tensor:
        value: Tensor = self.value_of_whole(_pooled(class_part, pool_part, whole, class_mask, pool_mask))
        return value


class _Encoder(nn.Module):
    """Embeds the rows of a set, for acting in two layers and for valuing in one."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.both = nn.Linear(features, 2 * width)
        self.second = nn.Linear(width, width)

    def first(self, rows: Tensor) -> Tensor:
        """`[B, N, 2 E]` the first layers of both."""
        return torch.relu(self.both(rows))

    def acting(self, first: Tensor, mask: Tensor) -> Tensor:
        """`[B, N, E]` not negative, 0 for padding."""
        return torch.relu(self.second(first[..., : self.width])) * mask

    def valuing(self, first: Tensor, mask: Tensor) -> Tensor:
        """`[B, N, E]` not negative, 0 for padding."""
        return first[..., self.width :] * mask


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


def _pooled(class_part: Tensor, pool_part: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor) -> Tensor:
    """`[B, 4 E + FG]` mean and largest embedding of the rows that are there, beside the features of the whole.

    Embeddings are not negative and 0 for padding, so padding is never the largest.
    """
    return torch.cat(
        [
            class_part.sum(dim=1) / class_mask.sum(dim=1).clamp(min=1.0),
            class_part.amax(dim=1),
            pool_part.sum(dim=1) / pool_mask.sum(dim=1).clamp(min=1.0),
            pool_part.amax(dim=1),
            whole,
        ],
        dim=-1,
    )
