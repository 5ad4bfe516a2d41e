"""How much of a pool's traffic its iteration law speaks about from measurements: the same for simulator and sidecar.

Outside the calibrated range a law is an extrapolation: planner and policies then decide on less than they seem to know.

Symbols: `P` pools, `...` optional leading axes (a batch of clusters).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .contract import BoolArray, FloatArray


@dataclass(frozen=True, eq=False)
class CalibratedRanges:
    """Over which loads the law of each pool rests on measurements of its very GPU and precision."""

    calibrated: BoolArray
    """`[..., P]` False for a GPU or precision that was not measured: no load of it is inside."""
    tokens: FloatArray
    """`[..., P, 2]` least and most tokens of an iteration."""
    sequences: FloatArray
    """`[..., P, 2]` decoding sequences of an iteration."""
    context_tokens: FloatArray
    """`[..., P, 2]` KV tokens of a sequence."""
    kv_tokens: FloatArray
    """`[..., P]` what the KV cache of a replica holds; NaN where nothing is known of a pool."""


def unknown_ranges(*shape: int) -> CalibratedRanges:
    """Ranges `[..., P]` of pools of whose laws nobody knows what they rest on."""
    bounds = np.full((*shape, 2), np.nan)
    return CalibratedRanges(np.zeros(shape, dtype=np.bool_), bounds, bounds, bounds, np.full(shape, np.nan))


def covered_frac(
    ranges: CalibratedRanges,
    replicas: FloatArray,
    running: FloatArray,
    kv_used_frac: FloatArray,
    token_budget: FloatArray,
    prompt_tokens_per_s: FloatArray,
    output_tokens_per_s: FloatArray,
) -> FloatArray:
    """`[..., P]` share of each pool's tokens inside the calibrated range; NaN where nothing ran or it cannot be known.

    All arguments are `[..., P]`. Output tokens are inside if the mean batch of a replica and the mean context of its
    sequences are; where nothing runs at the moment of looking these are not asked for. Prompt tokens are inside if an
    iteration filled up to the token budget is.

    Args:
        replicas: that serve, draining ones included.
        running: sequences of all replicas.
        kv_used_frac: mean over replicas.
    """
    total = prompt_tokens_per_s + output_tokens_per_s
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sequences = running / replicas
        context = kv_used_frac * ranges.kv_tokens / sequences
        decoding = _within(sequences, ranges.sequences) & _within(sequences, ranges.tokens)
        decoding &= _within(context, ranges.context_tokens)
        prefilling = _within(token_budget, ranges.tokens)
        inside = ((decoding | (running == 0)) * output_tokens_per_s + prefilling * prompt_tokens_per_s) / total
    unknown = np.isnan(sequences) | np.isnan(kv_used_frac) & (running > 0) | np.isnan(ranges.kv_tokens)
    frac: FloatArray = np.where(unknown | ~(total > 0) | np.isnan(token_budget), np.nan, inside * ranges.calibrated)
    return frac


def _within(values: FloatArray, bounds: FloatArray) -> BoolArray:
    inside: BoolArray = (values >= bounds[..., 0]) & (values <= bounds[..., 1])
    return inside
