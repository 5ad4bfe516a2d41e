"""Holding the model against measured serving: what each row of a table should read, and how far off it is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..catalog.gpus import Gpu
from ..catalog.models import Model
from .capacity import mean_iteration_s
from .coverage import coverage
from .factors import Factors
from .law import IterationLaw
from .roofline import DoesNotFit, LayoutError, iteration_law, kv_bytes_per_gpu, kv_capacity_tokens

_BUDGET_TOKENS = 8192.0
"""vLLM's default token budget of an online server on large GPUs; the tables seldom state it."""
_ROUNDS = 60
_LEAST_SHARE = 0.95
"""A data sheet's bandwidth is not exceeded; the rest is for rounding."""


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
    decode_only: bool = False
    """`tpot_s` is the median gap between tokens, so that of an iteration without prompts; how long these were is not
    told, and `prompt_tokens` is 0."""

    @property
    def engine_family(self) -> str:
        """The engine without its version: rows of one family are alike."""
        return re.sub(r"-v?\d.*$", "", self.engine).lower()

    @property
    def in_flight(self) -> float | None:
        """Mean requests decoding: the stated ones, or by Little's law what was measured; None if neither is told."""
        if self.concurrency is not None:
            return self.concurrency
        if self.request_rate_per_s is None or self.tpot_s is None:
            return None
        return self.request_rate_per_s * self.tpot_s * self.output_tokens


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


class NotComparableError(ValueError):
    """A row that the model cannot speak about; the message says why."""


def compare(row: ServingRow, factors: Factors | None = None) -> Comparison:
    """What the model says about a row.

    The time compared is that per output token; for a static batch without one, that of the whole batch. In a closed or
    open loop other requests' prompts run beside the decoding, as `mean_iteration_s` has it.

    Raises:
        NotComparableError: the layout cannot run, or the row states too little.
    """
    law = law_of(row, factors)
    if row.tpot_s is not None:
        return Comparison(row, row.tpot_s, tpot_s(row, law))
    if not row.static_batch:
        raise NotComparableError("no tpot_ms")
    if row.concurrency is None:
        raise NotComparableError("a static batch without batch_or_concurrency")
    if not row.output_tokens_per_s:
        raise NotComparableError("neither tpot_ms nor throughput_out_tok_s")
    tokens = row.concurrency * row.output_tokens
    return Comparison(row, tokens / row.output_tokens_per_s, tokens / output_tokens_per_s(row, law))


def law_of(row: ServingRow, factors: Factors | None = None) -> IterationLaw:
    """The law of the replica that a row was measured on.

    Raises:
        NotComparableError: the layout cannot run, or the row cannot be of a replica in a steady state; the message is
            the reason that is counted.
    """
    try:
        law = iteration_law(row.gpu, row.model, row.precision, row.tensor_parallel, factors=factors)
        kv_tokens = kv_capacity_tokens(row.gpu, row.model, row.precision, row.tensor_parallel, 0.95)
    except (LayoutError, DoesNotFit) as error:
        raise NotComparableError(str(error)) from None
    if row.concurrency is not None and row.concurrency * (row.prompt_tokens + row.output_tokens / 2) > kv_tokens:
        raise NotComparableError("more tokens in flight than the KV cache holds: the row contains queueing")
    if row.concurrency is None and (row.in_flight or 0.0) > (row.max_num_seqs or math.inf):
        raise NotComparableError("an open loop with more requests in flight than max_num_seqs: no steady state")
    if _step_s(row) < _LEAST_SHARE * _least_step_s(row):
        raise NotComparableError(
            "faster than the GPU can read weights and context once a token: the row cannot mean what it says"
        )
    return law


def _step_s(row: ServingRow) -> float:
    """Seconds between a sequence's tokens, as measured; infinity if the row does not tell."""
    if row.tpot_s is not None:
        return row.tpot_s
    if row.concurrency is None or not row.output_tokens_per_s:
        return math.inf
    return row.concurrency / row.output_tokens_per_s


def _least_step_s(row: ServingRow) -> float:
    """What reading the weights once, and every sequence's context, takes at the data sheet's bandwidth; 0 for experts."""
    if row.model.experts > 1:
        return 0.0
    context = (row.concurrency or 0.0) * (row.prompt_tokens + row.output_tokens / 2.0)
    cache = context * kv_bytes_per_gpu(row.model, row.precision, row.tensor_parallel)
    weights = row.model.weight_bytes(row.precision) / row.tensor_parallel
    return (weights + cache) / (row.gpu.bandwidth_gb_per_s * 1e9)


def tpot_s(row: ServingRow, law: IterationLaw) -> float:
    """Seconds per output token that the law predicts for a row; NotComparableError if it states too little."""
    if not (row.static_batch or row.decode_only):
        return _loop_tpot_s(row, law)
    if row.concurrency is None:
        raise NotComparableError("a static batch without batch_or_concurrency")
    context = row.concurrency * (row.prompt_tokens + row.output_tokens / 2.0)
    return float(law.iteration_s(0.0, 0.0, row.concurrency, context))


def output_tokens_per_s(row: ServingRow, law: IterationLaw) -> float:
    """Output tokens per second that the law predicts for a row.

    Raises:
        NotComparableError: the row states too little, or its throughput is what its clients asked for.
    """
    if row.concurrency is None:
        reason = (
            "a static batch without batch_or_concurrency"
            if row.static_batch
            else "an open loop: its throughput is the rate asked for"
        )
        raise NotComparableError(reason)
    if row.decode_only:
        raise NotComparableError("its throughput contains prompts of unknown length")
    if not row.static_batch:
        return row.concurrency / _loop_tpot_s(row, law)
    prompts = row.concurrency * row.prompt_tokens
    chunk = min(prompts, _BUDGET_TOKENS)
    pairs_s = law.attend_s_per_pair * prompts * row.prompt_tokens / 2.0
    prefill_s = prompts / chunk * float(law.linear(chunk)) + pairs_s if prompts else 0.0
    return row.concurrency * row.output_tokens / (prefill_s + row.output_tokens * tpot_s(row, law))


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


def inside_range(row: ServingRow, factors: Factors | None = None) -> bool:
    """Whether a row lies inside the range over which its law was calibrated: GPU, precision, batch, context, chunks.

    Raises:
        NotComparableError: the layout cannot run.
    """
    try:
        known = coverage(row.gpu, row.model, row.precision, row.tensor_parallel, factors)
    except LayoutError as error:
        raise NotComparableError(str(error)) from None
    sequences = row.in_flight or 1.0
    context = max(row.prompt_tokens + row.output_tokens / 2.0, 1.0)
    decoding = known.inside(sequences, sequences, context)
    prefilling = known.inside(min(max(row.prompt_tokens, 1.0), _BUDGET_TOKENS), 0.0, 0.0)
    return bool(decoding and prefilling)


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
