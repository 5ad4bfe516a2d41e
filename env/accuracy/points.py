"""Measured points beside what the model predicts for them, and how far off that is.

Symbols: `N` points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..catalog.gpus import Gpu
from ..catalog.models import Model
from ..perf.factors import Factors
from ..perf.law import FloatArray, IterationLaw

IntArray = np.ndarray[Any, np.dtype[np.int64]]
ITERATION, TPOT, THROUGHPUT, POWER = "iteration time", "TPOT", "throughput", "power"
KNEE_TOKENS = 256.0
"""Where products turn from reading weights to multiplying on the GPUs of today, and all experts are touched."""
QUANTITIES = (ITERATION, TPOT, THROUGHPUT, POWER)


@dataclass(frozen=True)
class Correction:
    """What few measurements of a GPU and model change of their law: multipliers, all 1 if nothing."""

    base: float = 1.0
    """Of the time of an iteration of one token: weights read, launches, the engine's overhead."""
    few_tokens: float = 1.0
    """Of what tokens up to `KNEE_TOKENS` add to it: experts touched, thin products."""
    tokens: float = 1.0
    """Of what further tokens add."""
    attend: float = 1.0
    """Of `attend_s_per_pair`."""
    kv_read: float = 1.0
    """Of `kv_read_s_per_token`."""
    sequences: float = 1.0
    """Of `seq_s`."""
    by_kind: Mapping[str, float] = field(default_factory=dict)
    """Of everything, for points of one kind (an engine, say)."""

    def apply(self, law: IterationLaw) -> IterationLaw:
        """The law, corrected but for `by_kind`."""
        first = law.linear_s[0]
        few = np.minimum(law.linear_s, float(law.linear(KNEE_TOKENS)))
        return replace(
            law,
            linear_s=self.base * first + self.few_tokens * (few - first) + self.tokens * (law.linear_s - few),
            attend_s_per_pair=self.attend * law.attend_s_per_pair,
            kv_read_s_per_token=self.kv_read * law.kv_read_s_per_token,
            seq_s=self.sequences * law.seq_s,
        )


UNCHANGED = Correction()
Predict = Callable[[Correction, IntArray], FloatArray]
"""(correction, which points `[M]`) -> `[M]` predicted values."""


@dataclass(frozen=True, eq=False)
class Points:
    """What was measured of one GPU and model, all by one kind of experiment."""

    gpu: Gpu
    model: Model
    quantities: tuple[str, ...]
    """`[N]`"""
    kinds: tuple[str, ...]
    """`[N]` what else tells points apart: the engine, or the phase of an iteration."""
    sources: tuple[str, ...]
    """`[N]` who measured."""
    rows: IntArray
    """`[N]` the measured row that each point is of: a row that tells two quantities is two points."""
    measured: FloatArray
    """`[N]`"""
    predictor: Callable[[Factors], Predict]
    """The prediction by a set of factors."""
    group: str
    """The experiment: corrections are fitted to points of one group."""

    def __len__(self) -> int:
        return len(self.measured)


@dataclass(frozen=True, slots=True)
class Stats:
    """How far predictions are off, as shares of what was measured."""

    count: int
    median: float
    """Of the absolute error."""
    p90: float
    """Of the absolute error."""
    bias: float
    """Mean of predicted over measured, minus 1: above 0 the model predicts too much."""


def stats(off: Sequence[float] | FloatArray) -> Stats:
    """`off` are predicted over measured, minus 1; NaN of nothing."""
    shares = np.asarray(off, dtype=np.float64)
    if not len(shares):
        return Stats(0, float("nan"), float("nan"), float("nan"))
    return Stats(
        len(shares),
        float(np.median(np.abs(shares))),
        float(np.quantile(np.abs(shares), 0.9)),
        float(shares.mean()),
    )
