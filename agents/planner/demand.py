"""Demand: how much of what is asked for, by class and by length of prompt and output.

Symbols: `C` classes, `B` buckets.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...env.contract import FloatArray, IntArray

__all__ = ["Demand"]


@dataclass(frozen=True, eq=False)
class Demand:
    """Requests per second by class x length bucket."""

    class_names: tuple[str, ...]
    """`C`"""
    class_index: IntArray
    """`[B]`"""
    prompt_tokens: FloatArray
    """`[B]` mean of the bucket's requests."""
    output_tokens: FloatArray
    """`[B]`"""
    rate_per_s: FloatArray
    """`[B]` without head-room."""
