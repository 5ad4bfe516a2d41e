"""Few factors by which one user's hardware differs from what the performance model says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..catalog.gpus import Gpu
from ..catalog.models import Model
from .law import IterationLaw
from .roofline import iteration_law

_Ratio = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


class Correction(BaseModel):
    """Multiples of the shipped efficiency factors of one GPU, and of what its engine adds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    compute: _Ratio = 1.0
    """Of the rate at which matrix products run."""
    memory: _Ratio = 1.0
    """Of the rate at which weights and activations are read."""
    prefill_attention: _Ratio = 1.0
    """Of the rate of attention over prompts, beyond `compute`."""
    decode_attention: _Ratio = 1.0
    """Of the rate at which decoding reads the KV cache, beyond `memory`."""
    sequence: _Ratio = 1.0
    """Of the time of one more sequence."""
    iteration_s: Annotated[float, Field(ge=-1, le=10, allow_inf_nan=False)] = 0.0
    """Added to every iteration; negative where this engine is leaner than those measured."""


def corrected_law(gpu: Gpu, model: Model, precision: str, tensor_parallel: int, correction: Correction) -> IterationLaw:
    """The performance model's law with the correction in it.

    An efficiency only ever stands beside the data sheet's figure that it is a share of, so a multiple of the one is a
    multiple of the other.

    Raises:
        LayoutError: as for `iteration_law`.
        ValueError: the correction leaves an iteration no time.
    """
    card = replace(
        gpu,
        bandwidth_gb_per_s=gpu.bandwidth_gb_per_s * correction.memory,
        fp32_tflops=gpu.fp32_tflops * correction.compute,
        fp16_tflops=gpu.fp16_tflops * correction.compute,
        fp8_tflops=gpu.fp8_tflops * correction.compute,
        int8_tops=gpu.int8_tops * correction.compute,
    )
    law = iteration_law(card, model, precision, tensor_parallel)
    return replace(
        law,
        linear_s=np.asarray(law.linear_s + correction.iteration_s, dtype=np.float64),
        attend_s_per_pair=law.attend_s_per_pair / correction.prefill_attention,
        kv_read_s_per_token=law.kv_read_s_per_token / correction.decode_attention,
        seq_s=law.seq_s * correction.sequence,
    )
