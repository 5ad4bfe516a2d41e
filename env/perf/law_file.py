"""A law measured on a user's own endpoint, as the JSON file that `poolpilot profile` writes and a scenario's pool names.

    {"schema": 1,
     "law": {"tokens": [1, 256, 2048], "linear_s": [0.012, 0.014, 0.071], "attend_s_per_pair": 2.1e-9,
             "kv_read_s_per_token": 4e-8, "seq_s": 1e-5},
     "kv_tokens": 60000,
     "replica": {"gpu": "L40S-48GB", "model": "llama-3.1-8b", "precision": "bf16", "tensor_parallel": 1},
     "measured": {...}}

Only `schema` and `law` must be there: a law may also come from elsewhere. Of `replica` it is checked that a pool is what
was measured. Where `correction` tells by how much this hardware differs from what the performance model says of it, the
file also speaks of other models and layouts on the same GPU. `measured` is for people: when, over which range, and how
well it fitted.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..catalog.gpus import gpu
from ..catalog.models import model
from ..one_line import first_problem, one_line
from .correction import Correction, corrected_law
from .law import TOKENS_GRID, IterationLaw

SCHEMA = 1
MAX_FILE_BYTES = 1 << 20
_Seconds = Annotated[float, Field(ge=0, le=1e4, allow_inf_nan=False)]
_PositiveSeconds = Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]
_Tokens = Annotated[float, Field(ge=1, le=1e7, allow_inf_nan=False)]


class LawFileError(ValueError):
    """A law file cannot be used; the message is one line that names file and field."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LawTable(_Strict):
    """The parameters of `IterationLaw`, with `linear_s` at any token counts."""

    tokens: Annotated[tuple[_Tokens, ...], Field(min_length=2, max_length=4096)]
    """Rising token counts of an iteration."""
    linear_s: Annotated[tuple[_PositiveSeconds, ...], Field(min_length=2, max_length=4096)]
    """Seconds at those counts, never falling."""
    attend_s_per_pair: _Seconds
    kv_read_s_per_token: _Seconds
    seq_s: _Seconds

    @model_validator(mode="after")
    def _a_law(self) -> LawTable:
        if len(self.tokens) != len(self.linear_s):
            raise ValueError(f"{len(self.linear_s)} linear_s for {len(self.tokens)} tokens, wanted as many of each")
        if (np.diff(self.tokens) <= 0).any():
            raise ValueError("tokens: wanted rising counts")
        if (np.diff(self.linear_s) < 0).any():
            raise ValueError("linear_s: wanted seconds that never fall")
        return self

    def law(self) -> IterationLaw:
        """Laid out on `TOKENS_GRID`: flat before the first count, the last slope beyond the last one."""
        tokens, seconds = np.array(self.tokens), np.array(self.linear_s)
        slope = (seconds[-1] - seconds[-2]) / (tokens[-1] - tokens[-2])
        beyond = np.maximum(TOKENS_GRID - tokens[-1], 0.0) * slope
        return IterationLaw(
            tokens_grid=TOKENS_GRID,
            linear_s=np.interp(TOKENS_GRID, tokens, seconds) + beyond,
            attend_s_per_pair=self.attend_s_per_pair,
            kv_read_s_per_token=self.kv_read_s_per_token,
            seq_s=self.seq_s,
        )


class MeasuredReplica(_Strict):
    """What the law was measured on."""

    gpu: str
    model: str
    precision: Literal["fp32", "fp16", "bf16", "fp8", "int8", "int4"]
    tensor_parallel: Annotated[int, Field(ge=1, le=8)] = 1
    pipeline_parallel: Annotated[int, Field(ge=1, le=64)] = 1

    @model_validator(mode="after")
    def _known(self) -> MeasuredReplica:
        gpu(self.gpu)
        model(self.model)
        return self

    def refusal(
        self, gpu_name: str, model_name: str, precision: str, tensor_parallel: int, pipeline_parallel: int = 1
    ) -> str | None:
        """Why a law of this replica does not speak of that one; None if it does."""
        own = {**self.model_dump(), "gpu": gpu(self.gpu).name, "model": model(self.model).name}
        asked = (gpu(gpu_name).name, model(model_name).name, precision, tensor_parallel, pipeline_parallel)
        for (field, mine), other in zip(own.items(), asked, strict=True):
            if mine != other:
                return f"measured on {field} {mine}, not {other}"
        return None


class LawRanges(_Strict):
    """Over what the law was measured: least and most."""

    tokens: tuple[float, float]
    """Of one iteration."""
    sequences: tuple[float, float]
    """Decoding together."""
    context_tokens: tuple[float, float]
    """KV tokens of one sequence."""


class LawFile(_Strict):
    """The whole file. `read_law_file` reads it, `document` is what `json.dumps` takes."""

    schema_version: Literal[1] = Field(alias="schema")
    law: LawTable
    kv_tokens: Annotated[int, Field(ge=1)] | None = None
    """What the KV cache of a replica holds, where the endpoint told it."""
    replica: MeasuredReplica | None = None
    correction: Correction | None = None
    ranges: LawRanges | None = None
    measured: dict[str, Any] = {}

    @model_validator(mode="after")
    def _correction_of_something(self) -> LawFile:
        if self.correction is not None and (self.replica is None or self.replica.pipeline_parallel != 1):
            raise ValueError("correction: wanted the replica that it was measured on beside it, of one pipeline stage")
        return self

    def law_of(
        self, gpu_name: str, model_name: str, precision: str, tensor_parallel: int, pipeline_parallel: int = 1
    ) -> IterationLaw:
        """The law of such a replica: as measured, or by the correction if only the GPU is the same.

        Raises:
            LawFileError: it was measured on something else; the message says what differs.
            LayoutError: the GPU cannot run the model so.
        """
        if self.replica is None:
            return self.law.law()
        refusal = self.replica.refusal(gpu_name, model_name, precision, tensor_parallel, pipeline_parallel)
        if refusal is None:
            return self.law.law()
        same_gpu = gpu(gpu_name).name == gpu(self.replica.gpu).name
        if self.correction is None or not same_gpu or pipeline_parallel != self.replica.pipeline_parallel:
            raise LawFileError(refusal)
        return corrected_law(gpu(gpu_name), model(model_name), precision, tensor_parallel, self.correction)

    def kv_tokens_of(
        self, gpu_name: str, model_name: str, precision: str, tensor_parallel: int, pipeline_parallel: int = 1
    ) -> int | None:
        """What the KV cache of such a replica was seen to hold; None if that was not seen on one like it."""
        speaks = self.speaks_of(gpu_name, model_name, precision, tensor_parallel, pipeline_parallel)
        return self.kv_tokens if speaks else None

    def speaks_of(
        self, gpu_name: str, model_name: str, precision: str, tensor_parallel: int, pipeline_parallel: int = 1
    ) -> bool:
        """Whether `law` was measured on such a replica, or nobody said on what."""
        own = self.replica
        return own is None or not own.refusal(gpu_name, model_name, precision, tensor_parallel, pipeline_parallel)

    def document(self) -> dict[str, Any]:
        """The JSON document that `read_law_file` reads back."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def table_of(law: IterationLaw) -> LawTable:
    """The law as a file holds it, exactly."""
    return LawTable(
        tokens=tuple(law.tokens_grid.tolist()),
        linear_s=tuple(law.linear_s.tolist()),
        attend_s_per_pair=law.attend_s_per_pair,
        kv_read_s_per_token=law.kv_read_s_per_token,
        seq_s=law.seq_s,
    )


def read_law_file(path: Path) -> LawFile:
    """A law file, read again only when it has changed.

    Raises:
        LawFileError: it cannot be read, is no JSON, or a field is missing, unknown or out of range.
    """
    try:
        stat = path.stat()
        if stat.st_size > MAX_FILE_BYTES:
            raise LawFileError(f"{path}: larger than {MAX_FILE_BYTES} bytes, wanted a law file")
        return _read(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise LawFileError(one_line(f"{path}: cannot be read: {error.strerror or error}")) from None


@lru_cache(maxsize=256)
def _read(path: Path, changed_ns: int, size: int) -> LawFile:
    del changed_ns, size  # only tell one state of the file from another
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise LawFileError(one_line(f"{path}: not readable as JSON: {error}")) from None
    if not isinstance(document, dict):
        raise LawFileError(f"{path}: wanted an object with schema and law; poolpilot profile --out writes one")
    try:
        return LawFile.model_validate(document)
    except ValidationError as error:
        raise LawFileError(one_line(f"{path}: {first_problem(error)}")) from None
