"""Per-class figures over a sliding window: the same buckets and percentiles, live and simulated.

Every tick yields one *tally* per class: plain counts and sums that add up over ticks and over proxies. A window is
the sum of the last few tallies, and `class_columns` turns it into the class block of a Snapshot.

Symbols: `C` classes, `N` latency buckets, `W` = `TALLY_WIDTH`, `V` = `WINDOW_WIDTH`; `...` optional leading axes.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from .contract import CLASS_COLUMNS, FloatArray, IntArray

N_BUCKETS: Final = 128
BUCKET_LOW_S: Final = 5e-4
"""Everything faster lands in the first bucket."""
BUCKETS_PER_E: Final = 8.4
"""Buckets per factor of e: each is 12.6 % wide, the last ends at about 2,070 s."""

ARRIVED: Final = 0
SHED: Final = 1
FINISHED: Final = 2
MET: Final = 3
"""Finished requests that met all their targets."""
LOST: Final = 4
"""Requests that failed for good: neither finished nor turned away."""
PROMPT_SUM: Final = 5
PROMPT_SQUARES: Final = 6
OUTPUT_SUM: Final = 7
OUTPUT_SQUARES: Final = 8
E2E_SUM_S: Final = 9
TTFT: Final = 10
"""First of `N_BUCKETS` counts of times to first token."""
TPOT: Final = TTFT + N_BUCKETS
"""First of `N_BUCKETS` counts of mean times per output token."""
WINDOW_WIDTH: Final = TPOT + N_BUCKETS
"""So many columns are looked at through the sliding window; what follows is summed up over whole runs only."""
MET_OUTPUT_SUM: Final = WINDOW_WIDTH
"""Output tokens of the requests in `MET`."""
E2E: Final = MET_OUTPUT_SUM + 1
"""First of `N_BUCKETS` counts of times from the first knock to the last byte."""
TALLY_WIDTH: Final = E2E + N_BUCKETS


def empty_tally(*shape: int) -> FloatArray:
    """`[*shape, W]` zeros."""
    return np.zeros((*shape, TALLY_WIDTH))


def bucket_of(seconds: FloatArray) -> IntArray:
    """The latency bucket of each value; NaN goes nowhere and is refused."""
    if np.isnan(seconds).any():
        raise ValueError("a latency of NaN belongs in no bucket; leave the request out")
    place = np.log(np.maximum(seconds, BUCKET_LOW_S) / BUCKET_LOW_S) * BUCKETS_PER_E
    return np.minimum(place, N_BUCKETS - 1).astype(np.int64)


def percentile_s(counts: FloatArray, share: float) -> FloatArray:
    """The `share` (0..1) quantile of `[..., N]` bucket counts, in seconds, `[...]`; NaN where there is no count.

    Linear in the logarithm inside the bucket: within half a bucket (6 %) of the exact quantile.
    """
    cumulated = counts.cumsum(axis=-1)
    total = cumulated[..., -1]
    wanted = share * total
    bucket = np.minimum((cumulated < wanted[..., None]).sum(axis=-1), N_BUCKETS - 1)
    inside = np.take_along_axis(counts, bucket[..., None], axis=-1)[..., 0]
    below = np.take_along_axis(cumulated, bucket[..., None], axis=-1)[..., 0] - inside
    with np.errstate(invalid="ignore", divide="ignore"):
        fraction = np.where(inside > 0, (wanted - below) / inside, 0.5)
    value: FloatArray = np.where(total > 0, BUCKET_LOW_S * np.exp((bucket + fraction) / BUCKETS_PER_E), np.nan)
    return value


def class_columns(tally: FloatArray, window_s: FloatArray | float, in_flight: FloatArray) -> FloatArray:
    """The class block of a Snapshot from a window's tally.

    Args:
        tally: `[..., C, V]`, or `[..., C, W]`, sum of the window's tallies.
        window_s: length of the window, `[...]` or a number.
        in_flight: `[..., C]`, NaN where unknown.

    Returns:
        `[..., C, len(CLASS_COLUMNS)]`; what no request tells is NaN.
    """
    seconds = np.asarray(window_s, dtype=np.float64)[..., None]
    finished, arrived = tally[..., FINISHED], tally[..., ARRIVED]
    with np.errstate(invalid="ignore", divide="ignore"):
        prompt_mean = tally[..., PROMPT_SUM] / finished
        output_mean = tally[..., OUTPUT_SUM] / finished
        columns = {
            "arrival_rate_per_s": arrived / seconds,
            "prompt_tokens_mean": prompt_mean,
            "prompt_tokens_std": np.sqrt(np.maximum(tally[..., PROMPT_SQUARES] / finished - prompt_mean**2, 0.0)),
            "output_tokens_mean": output_mean,
            "output_tokens_std": np.sqrt(np.maximum(tally[..., OUTPUT_SQUARES] / finished - output_mean**2, 0.0)),
            "in_flight": in_flight,
            "ttft_p50_s": percentile_s(tally[..., TTFT : TTFT + N_BUCKETS], 0.50),
            "ttft_p95_s": percentile_s(tally[..., TTFT : TTFT + N_BUCKETS], 0.95),
            "tpot_p50_s": percentile_s(tally[..., TPOT : TPOT + N_BUCKETS], 0.50),
            "tpot_p95_s": percentile_s(tally[..., TPOT : TPOT + N_BUCKETS], 0.95),
            "attainment": tally[..., MET] / (finished + tally[..., LOST]),
            "shed_per_s": tally[..., SHED] / seconds,
        }
    return np.stack([np.broadcast_to(columns[c.name], arrived.shape) for c in CLASS_COLUMNS], axis=-1)
