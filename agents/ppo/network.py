"""The network: shared weights over pools and over classes, set pooling between them.

Permuting pools permutes their outputs and changes nothing else; padding rows change nothing at all. Set pooling
instead of attention because attention costs about twenty times more on a CPU.

Symbols: `B` batch, `C` classes, `P` pools, `FC`/`FP`/`FG` features (see `env.codec`), `E` width of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...env.codec import CLASS_FEATURES, CLASS_OUTPUTS, POOL_FEATURES, POOL_OUTPUTS, WHOLE_FEATURES


class SetNetwork(nn.Module):
    """Outputs for each class and pool, and the value of the whole."""

    def __init__(self, width: int = 48) -> None:
        """`width` is `E`."""
        super().__init__()
        self.width = width
        self.of_class = _mlp(len(CLASS_FEATURES), width, width)
        self.of_pool = _mlp(len(POOL_FEATURES), width, width)
        self.of_whole = _mlp(2 * width + len(WHOLE_FEATURES), 2 * width, width)
        self.class_head = _mlp(2 * width, width, CLASS_OUTPUTS, last=True)
        self.pool_head = _mlp(2 * width, width, POOL_OUTPUTS, last=True)
        self.value_of_whole = _mlp(2 * width + len(WHOLE_FEATURES), 2 * width, 1, last=True)
        self.value_class = _mlp(len(CLASS_FEATURES), width, width)
        self.value_pool = _mlp(len(POOL_FEATURES), width, width)
        for head in (self.class_head, self.pool_head):
            final = head[-1]
            assert isinstance(final, nn.Linear)
            # Near zero: the untrained policy is the rule it bends.
            nn.init.normal_(final.weight, std=0.01)
            nn.init.zeros_(final.bias)

    def forward(
        self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`[B, C, CLASS_OUTPUTS]` and `[B, P, POOL_OUTPUTS]`, in (-1, 1), zero for padding."""
        class_part, pool_part = self.of_class(classes), self.of_pool(pools)
        pooled = torch.cat([_mean(class_part, class_mask), _mean(pool_part, pool_mask), whole], dim=-1)
        core = self.of_whole(pooled)
        by_class = self.class_head(torch.cat([class_part, _spread(core, class_part)], dim=-1))
        by_pool = self.pool_head(torch.cat([pool_part, _spread(core, pool_part)], dim=-1))
        return torch.tanh(by_class) * class_mask.unsqueeze(-1), torch.tanh(by_pool) * pool_mask.unsqueeze(-1)

    def value(self, classes: Tensor, pools: Tensor, whole: Tensor, class_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """`[B, 1]` expected discounted reward."""
        class_part, pool_part = self.value_class(classes), self.value_pool(pools)
        pooled = torch.cat([_mean(class_part, class_mask), _mean(pool_part, pool_mask), whole], dim=-1)
        value: Tensor = self.value_of_whole(pooled)
        return value


def _mlp(inputs: int, hidden: int, outputs: int, last: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs)]
    return nn.Sequential(*layers) if last else nn.Sequential(*layers, nn.Tanh())


def _mean(parts: Tensor, mask: Tensor) -> Tensor:
    """`[B, E]` mean over the rows that are there."""
    weights = mask.unsqueeze(-1)
    return (parts * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def _spread(core: Tensor, like: Tensor) -> Tensor:
    """`[B, N, E]` the same core beside each of the rows of `like` `[B, N, E]`."""
    return core.unsqueeze(1).expand(-1, like.shape[1], -1)
