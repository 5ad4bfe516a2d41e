"""The time of one engine iteration: the only form that the engine kernel knows.

Symbols: P prefill tokens, A attended token pairs, n decoding sequences, K KV tokens read, T = P + n, G grid points.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

_STEPS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_LONG_STEPS = (1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
TOKENS_GRID: FloatArray = np.array(_STEPS + _LONG_STEPS, dtype=np.float64)
"""`[G]` token counts at which every law's `linear_s` is tabled: powers of two with a point between."""
TOKENS_GRID.setflags(write=False)
GRID_POINTS = len(TOKENS_GRID)
_FAR_TOKENS = 1e9
_REACH = np.append(TOKENS_GRID, _FAR_TOKENS)

# Layout of a law as a row of float64, for compiled code that holds many laws as one 2-D array.
ROW_SEQ_S = 0
ROW_KV_READ_S = 1
ROW_ATTEND_S = 2
ROW_BEST_TOKEN_S = 3
ROW_LINEAR_S = 4
LAW_WIDTH = ROW_LINEAR_S + GRID_POINTS


@dataclass(frozen=True, slots=True, eq=False)
class IterationLaw:
    """t(P, A, n, K) = linear(P + n) + attend_s_per_pair * A + kv_read_s_per_token * K + seq_s * n

    `linear` is everything that depends on the number of tokens alone: matrix products, weights read, kernel launches,
    tensor-parallel communication, the engine's own overhead. It is piecewise linear through the table; beyond the last
    point it goes on with the last slope, and no iteration is shorter than that of one token.
    """

    tokens_grid: FloatArray
    """`[G]` token counts, always `TOKENS_GRID`."""
    linear_s: FloatArray
    """`[G]` seconds at those counts."""
    attend_s_per_pair: float
    """Seconds for each pair of tokens that prefill attends; a chunk after `context` tokens has
    `chunk * (context + chunk / 2)` pairs."""
    kv_read_s_per_token: float
    """Seconds for each KV token that decoding reads, all layers together."""
    seq_s: float
    """Seconds for each decoding sequence beyond its token's share: output head, sampling, bookkeeping."""
    _reach_s: FloatArray = field(init=False, repr=False)
    """`[G + 1]` `linear_s` and one point far beyond, on the last slope."""

    def __post_init__(self) -> None:
        if self.linear_s.shape != TOKENS_GRID.shape or not np.array_equal(self.tokens_grid, TOKENS_GRID):
            raise ValueError(
                f"linear_s: shape {self.linear_s.shape}, wanted one value for each of {GRID_POINTS} points"
            )
        scalars = (self.attend_s_per_pair, self.kv_read_s_per_token, self.seq_s)
        if not (np.isfinite(self.linear_s).all() and self.linear_s[0] > 0 and (np.diff(self.linear_s) >= 0).all()):
            raise ValueError(f"linear_s: {self.linear_s}, wanted finite positive seconds that never fall")
        if not all(np.isfinite(v) and v >= 0 for v in scalars):
            raise ValueError(f"attend, kv_read, seq: {scalars}, wanted finite seconds >= 0")
        slope = (self.linear_s[-1] - self.linear_s[-2]) / (TOKENS_GRID[-1] - TOKENS_GRID[-2])
        far_s = self.linear_s[-1] + slope * (_FAR_TOKENS - TOKENS_GRID[-1])
        object.__setattr__(self, "_reach_s", np.append(self.linear_s, far_s))

    def linear(self, tokens: FloatArray | float) -> FloatArray:
        """Seconds of the part that depends on the token count alone; same shape as `tokens`."""
        return np.asarray(np.interp(tokens, _REACH, self._reach_s), dtype=np.float64)

    def iteration_s(
        self,
        prefill_tokens: FloatArray | float,
        attended_pairs: FloatArray | float,
        sequences: FloatArray | float,
        kv_tokens: FloatArray | float,
    ) -> FloatArray:
        """Seconds of iterations with this work; arguments broadcast against each other."""
        n = np.asarray(sequences, dtype=np.float64)
        attention = self.attend_s_per_pair * np.asarray(attended_pairs, dtype=np.float64)
        reading = self.kv_read_s_per_token * np.asarray(kv_tokens, dtype=np.float64)
        tokens = np.asarray(prefill_tokens, dtype=np.float64) + n
        return np.asarray(self.linear(tokens) + attention + reading + self.seq_s * n, dtype=np.float64)

    def scaled(self, factor: float) -> IterationLaw:
        """The law of an engine that takes `factor` times as long for everything."""
        return replace(
            self,
            linear_s=self.linear_s * factor,
            attend_s_per_pair=self.attend_s_per_pair * factor,
            kv_read_s_per_token=self.kv_read_s_per_token * factor,
            seq_s=self.seq_s * factor,
        )

    @property
    def best_token_s(self) -> float:
        """Seconds a token costs in the fullest iteration: what the hardware could do at best, attention aside."""
        return float(np.min(self.linear_s / TOKENS_GRID))

    def as_row(self) -> FloatArray:
        """`[LAW_WIDTH]` float64: seq_s, kv_read_s_per_token, attend_s_per_pair, best_token_s, then `linear_s`."""
        head = [self.seq_s, self.kv_read_s_per_token, self.attend_s_per_pair, self.best_token_s]
        return np.concatenate([np.array(head, dtype=np.float64), self.linear_s])


def law_from_row(row: FloatArray) -> IterationLaw:
    """The law that `as_row` laid out.

    Raises:
        ValueError: not a row of `LAW_WIDTH` numbers, or not a law.
    """
    if row.shape != (LAW_WIDTH,):
        raise ValueError(f"a law's row has shape {row.shape}, wanted ({LAW_WIDTH},)")
    return IterationLaw(
        tokens_grid=TOKENS_GRID,
        linear_s=np.array(row[ROW_LINEAR_S:], dtype=np.float64),
        attend_s_per_pair=float(row[ROW_ATTEND_S]),
        kv_read_s_per_token=float(row[ROW_KV_READ_S]),
        seq_s=float(row[ROW_SEQ_S]),
    )
