"""What training never draws, so that the suite `unseen` asks what no checkpoint and no tuned rule has met.

Written here and nowhere else. `clusters` leaves all of it out. In every scenario of `unseen` all models, some class and
each pool's GPU type or price list are of it: tests hold it to that.
"""

from __future__ import annotations

from typing import Final

GPUS: Final = frozenset(
    {
        "T4-16GB",
        "V100-PCIe-16GB",
        "V100-SXM-16GB",
        "V100-SXM-32GB",
        "A6000-48GB",
        "L40-48GB",
        "RTX4090-24GB",
        "H100-PCIe-80GB",
        "H200-SXM-141GB",
        "GH200-96GB",
        "B200-SXM-180GB",
        "MI300X-192GB",
    }
)
"""GPU types, by their name in the catalogue."""

MODELS: Final = frozenset(
    {
        "01-ai/Yi-34B",
        "Qwen/Qwen2.5-7B",
        "Qwen/Qwen2.5-72B",
        "Qwen/Qwen3-30B-A3B",
        "Qwen/Qwen3-Embedding-0.6B",
        "codellama/CodeLlama-34b-Instruct-hf",
        "meta-llama/Llama-2-70b-hf",
        "meta-llama/Llama-3.2-3B",
    }
)
"""Models, by their name in the catalogue."""

PROVIDERS: Final = frozenset({"lambda", "runpod"})
"""Whose price lists; lists that do not come along, such as the market of arXiv:2502.00722, are unseen too."""

CLASSES: Final = frozenset({"agent", "embedding", "rag", "translation"})
"""Kinds of requests, by the name of their class."""
