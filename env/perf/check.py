"""Holding the model against measured serving: what each row of a table should read, and how far off it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..catalog.gpus import Gpu
from ..catalog.models import Model
from .capacity import mean_iteration_s
from .factors import Factors
from .law import IterationLaw
from .roofline import DoesNotFit, LayoutError, iteration_law, kv_capacity_tokens

_BUDGET_TOKENS = 8192.0
"""vLLM's default token budget of an online server on large GPUs; the tables seldom state it."""
_ROUNDS = 60


@dataclass(frozen=True, slots=True)
class ServingRow:
    """One measured point of one replica."""

    source: str
    gpu: Gpu
    model: Model
    precision: str
    tensor_parallel: int
    engine: str
    prompt_tokens: float
    output_tokens: float
    concurrency: float | None
    """Requests in flight, or the batch; None for an open loop."""
    request_rate_per_s: float | None
    static_batch: bool
    """All prompts first, then decoding together; otherwise requests come and go."""
    tpot_s: float | None
    output_tokens_per_s: float | None
    max_num_seqs: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row's measured time beside the model's."""

    row: ServingRow
    measured_s: float
    predicted_s: float

    @property
    def off_frac(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted_s / self.measured_s - 1.0


@dataclass(frozen=True, slots=True)
class GroupError:
    """How far the model is off for one GPU, engine and model."""

    gpu: str
    engine: str
    """Without its version."""
    model: str
    rows: int
    median: float
    p90: float
    bias: float


class NotComparableError(ValueError):
    """A row that the model cannot speak about; the message says why."""


def compare(row: ServingRow, factors: Factors | None = None) -> Comparison:
    """What the model says about a row.

    The time compared is that per output token; for a static batch without one, that of the whole batch. In a closed or
    open loop other requests' prompts run beside the decoding, as `mean_iteration_s` has it.

    Raises:
        NotComparableError: the layout cannot run, or the row states too little.
    """
    try:
        law = iteration_law(row.gpu, row.model, row.precision, row.tensor_parallel, factors=factors)
        kv_tokens = kv_capacity_tokens(row.gpu, row.model, row.precision, row.tensor_parallel, 0.95)
    except (LayoutError, DoesNotFit) as error:
        raise NotComparableError(str(error)) from None
    if row.concurrency is not None and row.concurrency * (row.prompt_tokens + row.output_tokens / 2) > kv_tokens:
        raise NotComparableError("more tokens in flight than the KV cache holds: the row contains queueing")
    if row.static_batch:
        return _static(row, law)
    if row.tpot_s is None:
        raise NotComparableError("no tpot_ms")
    return Comparison(row, row.tpot_s, _loop_tpot_s(row, law))


def _static(row: ServingRow, law: IterationLaw) -> Comparison:
    if row.concurrency is None:
        raise NotComparableError("a static batch without batch_or_concurrency")
    n = row.concurrency
    decode = float(law.iteration_s(0.0, 0.0, n, n * (row.prompt_tokens + row.output_tokens / 2.0)))
    if row.tpot_s is not None:
        return Comparison(row, row.tpot_s, decode)
    if not row.output_tokens_per_s:
        raise NotComparableError("neither tpot_ms nor throughput_out_tok_s")
    prompts = n * row.prompt_tokens
    chunk = min(prompts, _BUDGET_TOKENS)
    prefill = prompts / chunk * float(law.linear(chunk)) + law.attend_s_per_pair * prompts * row.prompt_tokens / 2.0
    return Comparison(row, n * row.output_tokens / row.output_tokens_per_s, prefill + row.output_tokens * decode)


def _loop_tpot_s(row: ServingRow, law: IterationLaw) -> float:
    """Mean iteration at the stated concurrency, or at the one that the stated rate settles at (Little's law)."""
    decodes = max(row.output_tokens - 1.0, 1.0)

    def seconds(running: float) -> float:
        n = np.array([running])
        room = np.maximum(_BUDGET_TOKENS - n, 1.0)
        return float(mean_iteration_s(law, n, n / decodes, room, row.prompt_tokens, decodes)[0])

    if row.concurrency is not None:
        return seconds(row.concurrency)
    if row.request_rate_per_s is None:
        raise NotComparableError("neither batch_or_concurrency nor request_rate")
    most = row.max_num_seqs or 256.0
    low, high = 1.0, most
    for _ in range(_ROUNDS):
        middle = (low + high) / 2.0
        if middle < row.request_rate_per_s * decodes * seconds(middle):
            low = middle
        else:
            high = middle
    return seconds(high)


def group_errors(comparisons: Iterable[Comparison]) -> list[GroupError]:
    """The error by GPU, engine and model, and by GPU and engine over all models ("all"), in that order."""
    groups: dict[tuple[str, str, bool, str], list[float]] = {}
    for comparison in comparisons:
        row = comparison.row
        engine = re.sub(r"-v?\d.*$", "", row.engine).lower()
        for over_all, name in ((False, row.model.name), (True, "all")):
            groups.setdefault((row.gpu.name, engine, over_all, name), []).append(comparison.off_frac)
    return [_group(gpu, engine, name, off) for (gpu, engine, _, name), off in sorted(groups.items())]


def _group(gpu: str, engine: str, model: str, off: Sequence[float]) -> GroupError:
    shares = np.array(off)
    return GroupError(
        gpu=gpu,
        engine=engine,
        model=model,
        rows=len(off),
        median=float(np.median(np.abs(shares))),
        p90=float(np.quantile(np.abs(shares), 0.9)),
        bias=float(shares.mean()),
    )


def compare_all(
    rows: Iterable[ServingRow], factors: Factors | None = None
) -> tuple[list[Comparison], Mapping[str, int]]:
    """Comparisons of all rows that can be compared, and how many rows were left out for each reason."""
    compared: list[Comparison] = []
    left_out: dict[str, int] = {}
    for row in rows:
        try:
            compared.append(compare(row, factors))
        except NotComparableError as error:
            reason = str(error)
            left_out[reason] = left_out.get(reason, 0) + 1
    return compared, left_out
