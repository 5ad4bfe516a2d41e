"""Where a law rests on measurements of the very GPU, and over which loads: outside, it is an extrapolation.

Symbols: N iterations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..catalog.gpus import Gpu
from ..catalog.models import Model
from .factors import Factors, FitError, donor, shipped_factors
from .kernels import ACTIVATION_BYTES, comm_factors
from .law import FloatArray
from .stage import Stage, check_layout, gemm_kind

Range = tuple[float, float]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
NOTHING: Range = (np.inf, -np.inf)
"""The range of what was never measured."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far a law rests on measurements of this very GPU, and over which loads."""

    gpu: str
    precision: str
    calibrated: bool
    """Matrix products and attention (and the all-reduce, if split) were measured on this GPU type, in this kind of
    precision."""
    borrowed: tuple[str, ...]
    """What was taken from a relative, e.g. "attention from L40S-48GB"."""
    errors: tuple[tuple[str, FitError], ...]
    """Error of each group of factors used, on rows held out from its fit."""
    tokens: Range
    """Tokens of one iteration (decoding sequences and prompt tokens) over which every group was measured."""
    sequences: Range
    """Decoding sequences of one iteration, likewise."""
    context_tokens: Range
    """KV tokens of one decoding sequence, likewise."""

    def inside(
        self,
        tokens: FloatArray | float,
        sequences: FloatArray | float,
        context_tokens: FloatArray | float,
    ) -> BoolArray:
        """`[N]` whether iterations lie inside what was measured; never on a GPU or precision that was not.

        Args:
            tokens: of the iteration, prompt tokens and decoding sequences together.
            sequences: decoding; 0 for an iteration of prompts alone, whose context is not asked for then.
            context_tokens: KV tokens of one sequence (their mean, if they differ).
        """
        decoding = np.asarray(sequences, dtype=np.float64) > 0
        within = _within(tokens, self.tokens)
        attended = _within(sequences, self.sequences) & _within(context_tokens, self.context_tokens)
        return np.asarray(self.calibrated & within & (attended | ~decoding), dtype=np.bool_)


def _within(values: FloatArray | float, ends: Range) -> BoolArray:
    seen = np.asarray(values, dtype=np.float64)
    return np.asarray((seen >= ends[0]) & (seen <= ends[1]), dtype=np.bool_)


def coverage(
    gpu: Gpu,
    model: Model,
    precision: str,
    tensor_parallel: int = 1,
    factors: Factors | None = None,
    *,
    pipeline_parallel: int = 1,
) -> Coverage:
    """What the law of this replica rests on; LayoutError as for `iteration_law`.

    Of a pipeline, tokens and sequences are those of a round: as many batches as stages.
    """
    check_layout(gpu, model, precision, tensor_parallel)
    known = factors or shipped_factors()
    used = {"matrix products": donor(gpu, known.gemm), "attention": donor(gpu, known.attention)}
    kind = gemm_kind(gpu, precision, known)
    errors = [
        ("matrix products", known.gemm[used["matrix products"]][kind].error),
        ("attention", known.attention[used["attention"]].error),
    ]
    sent: list[Range] = []
    if tensor_parallel > 1:
        used["all-reduce"], comm = comm_factors(gpu, tensor_parallel, known)
        errors.append(("all-reduce", comm.error))
        token_bytes = ACTIVATION_BYTES * model.hidden
        least, most = comm.error.ranges.get("message_bytes", NOTHING)
        sent.append((least / token_bytes, most / token_bytes))
    borrowed = [f"{group} from {name}" for group, name in used.items() if name != gpu.name]
    if kind == "16bit" and precision in ("fp8", "int8", "int4"):
        borrowed.append(f"{precision} products from those of 16 bits")
    if kind == "8bit" and precision == "int8":
        borrowed.append("int8 products from those of fp8")
    own = known.serving.get(gpu.name)
    measured = [error for _, error in errors]
    return Coverage(
        gpu=gpu.name,
        precision=precision,
        calibrated=not borrowed,
        borrowed=tuple(borrowed),
        errors=(*errors, ("engine", known.engine.error if own is None else own.error)),
        tokens=_of_round(_common([*_ranges(measured, "tokens"), *sent]), pipeline_parallel),
        sequences=_of_round(_common(_ranges(measured, "sequences")), pipeline_parallel),
        context_tokens=_common(_ranges(measured, "context_tokens")),
    )


def pipeline_coverage(
    stages: Sequence[Stage], model: Model, precision: str, factors: Factors | None = None
) -> Coverage:
    """What the law of a pipeline rests on, also over unlike GPUs: inside is what is inside for every stage."""
    count = len(stages)
    kinds = {(stage.gpu.name, stage.tensor_parallel): stage for stage in stages}
    parts = [
        coverage(stage.gpu, model, precision, stage.tensor_parallel, factors, pipeline_parallel=count)
        for stage in kinds.values()
    ]
    return Coverage(
        gpu=" + ".join(dict.fromkeys(part.gpu for part in parts)),
        precision=precision,
        calibrated=all(part.calibrated for part in parts),
        borrowed=tuple(dict.fromkeys(borrowed for part in parts for borrowed in part.borrowed)),
        errors=tuple(error for part in parts for error in part.errors),
        tokens=_common([part.tokens for part in parts]),
        sequences=_common([part.sequences for part in parts]),
        context_tokens=_common([part.context_tokens for part in parts]),
    )


def _of_round(batch: Range, batches: int) -> Range:
    return batch[0], batch[1] * batches


def _ranges(errors: Iterable[FitError], quantity: str) -> list[Range]:
    return [error.ranges[quantity] for error in errors if quantity in error.ranges]


def _common(ranges: list[Range]) -> Range:
    """What lies in all ranges."""
    if not ranges:
        return NOTHING
    return max(least for least, _ in ranges), min(most for _, most in ranges)
