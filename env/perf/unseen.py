"""Layers that no fit may see: their kernels, put together to whole iterations, judge the fitted factors.

Each is one GPU's share of a transformer layer. The shares of released models come first; the wider ones are made up
from the shapes that were measured, so that large matrices are judged too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One GPU's share of a layer with a gated feed-forward block and heads of 128."""

    hidden: int
    heads: int
    kv_heads: int
    ffn: int

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """Columns n and rows k of the four weight matrices."""
        return (
            ((self.heads + 2 * self.kv_heads) * 128, self.hidden),
            (self.hidden, self.heads * 128),
            (2 * self.ffn, self.hidden),
            (self.hidden, self.ffn),
        )


UNSEEN_LAYERS = (
    LayerShape(3072, 24, 8, 8192),  # Llama-3.2-3B
    LayerShape(3072, 12, 4, 4096),  # the same, split in 2
    LayerShape(2048, 16, 8, 6144),  # Qwen3-1.7B
    LayerShape(1024, 16, 8, 3072),  # Qwen3-0.6B
    LayerShape(4096, 16, 4, 6144),  # Qwen3-8B, split in 2
    LayerShape(4096, 8, 2, 3072),  # the same, split in 4
    LayerShape(4096, 32, 8, 8192),
    LayerShape(5120, 32, 8, 8192),
    LayerShape(6144, 24, 8, 6144),
    LayerShape(8192, 32, 8, 8192),
    LayerShape(8192, 16, 4, 6144),
)
UNSEEN_MODELS = ("codellama/CodeLlama-34b-Instruct-hf", "meta-llama/Llama-2-7b-hf", "meta-llama/Meta-Llama-3-8B")
"""Held out where tables name models."""
_PRODUCTS = frozenset(shape for layer in UNSEEN_LAYERS for shape in layer.products)
_HEADS = frozenset((layer.heads, layer.kv_heads) for layer in UNSEEN_LAYERS)


def unseen_products(n: Any, k: Any) -> Mask:
    """`[R]` which products are of an unseen layer."""
    return np.array([(int(a), int(b)) in _PRODUCTS for a, b in zip(n, k, strict=True)], dtype=np.bool_)


def unseen_heads(heads: Any, kv_heads: Any) -> Mask:
    """`[R]` which attention is of an unseen layer."""
    return np.array([(int(a), int(b)) in _HEADS for a, b in zip(heads, kv_heads, strict=True)], dtype=np.bool_)
