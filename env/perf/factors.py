"""The efficiency factors of each GPU: how far real kernels stay below the data sheet. Read from `factors.json`.

Every group of factors names the tables it was fitted to and its own error on rows that the fit never saw. A GPU
without a group of its own borrows that of its nearest measured relative.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from ..catalog.gpus import GPUS, Gpu

FACTORS_FILE = Path(__file__).with_name("factors.json")
SCHEMA = 4
COMM_SWITCH_BYTES = 2.0**23
"""Largest message of vLLM's own all-reduce kernel (its default, 8 MB)."""


QUANTITIES = ("tokens", "sequences", "context_tokens", "message_bytes")
"""What a group of factors may have been measured over: tokens of one iteration, decoding sequences, KV tokens of one
sequence, bytes of one message."""


class FactorsError(ValueError):
    """A factors file cannot be used; the message names the entry."""


@dataclass(frozen=True, slots=True)
class FitError:
    """How far a fit is off, as shares of the measured time, on rows held out from it."""

    sources: tuple[str, ...]
    """Tables the factors were fitted to."""
    fitted_rows: int
    held_out_rows: int
    median: float
    p90: float
    bias: float
    """Mean of predicted over measured, minus 1."""
    ranges: Mapping[str, tuple[float, float]]
    """Least and most of each quantity over the rows fitted or judged: tokens, sequences, context_tokens,
    message_bytes; a quantity that a group does not depend on is left out."""


@dataclass(frozen=True, slots=True)
class GemmFactors:
    """A matrix product of m rows, n columns and depth k takes, times the factor for its rows,

    launch_s + depth_s * k + (compute^blend + memory^blend)^(1/blend) + quantise_s * activations,

    compute being that of whole tiles in whole waves over the GPU's compute units, as far as the two exponents say.
    """

    flop_eff: float
    """Share of the peak rate that a large product reaches."""
    mem_eff: float
    """Share of the memory bandwidth that a thin product reaches."""
    launch_s: float
    depth_s: float
    """Seconds for each step along the depth: a tile adds up its products one after the other."""
    blend: float
    """How sharply compute-bound turns into memory-bound; infinity is the plain maximum."""
    wave_exp: float
    """0: a last wave that fills few compute units costs its share only; 1: as much as a full one."""
    tile_exp: float
    """0: a tile with few rows costs its share only; 1: as much as a full one."""
    quantise_s: float
    """Seconds for each activation element brought to 8 bits first, by a kernel of its own; 0 for 16 bits."""
    by_rows: tuple[tuple[float, float], ...]
    """(rows, factor) left over by the terms above, from one to the next on the logarithm of the rows: which kernel
    the library picks changes with them. Empty is 1 throughout."""
    error: FitError


@dataclass(frozen=True, slots=True)
class AttentionFactors:
    """One layer's attention.

    Prompts: prefill_layer_s + tokens * (prefill_head_s * heads + prefill_kv_s * sqrt(KV heads)) + operations over
    the pairs attended. Decoding: decode_layer_s + sequences * (decode_head_s * heads + decode_kv_s * sqrt(KV heads))
    + bytes read.
    """

    prefill_flop_eff: float
    """Share of the 16-bit peak over the pairs attended (half of the square: causal)."""
    prefill_layer_s: float
    prefill_head_s: float
    """Seconds for each new token and query head: tiles on the diagonal are half empty."""
    prefill_kv_s: float
    """Seconds for each new token and square root of the KV heads: writing the cache."""
    decode_mem_eff: float
    """Share of bandwidth at which decoding reads the KV cache."""
    decode_layer_s: float
    decode_head_s: float
    decode_kv_s: float
    error: FitError
    """The worse of prompts and decoding."""


@dataclass(frozen=True, slots=True)
class CommFactors:
    """One all-reduce over `tp` GPUs takes latency_s + bytes / bytes_per_s, bytes being one GPU's whole message.

    Engines have a kernel of their own for messages up to `COMM_SWITCH_BYTES`, and leave larger ones to the vendor's
    library.
    """

    tp: int
    latency_s: float
    bytes_per_s: float
    large_latency_s: float
    large_bytes_per_s: float
    error: FitError


@dataclass(frozen=True, slots=True)
class TransferFactors:
    """Sending activations to the next pipeline stage takes latency_s + bytes / (link bandwidth * link_eff)."""

    latency_s: float
    link_eff: float
    """Share of the link's published bandwidth."""
    error: FitError


@dataclass(frozen=True, slots=True)
class EngineFactors:
    """What the engine adds to its kernels, from end-to-end runs."""

    iteration_s: float
    """Scheduling, input preparation, sampling: once an iteration."""
    kernel_s: float
    """Each of a layer's small kernels (norms, rotary embedding, activation, cache write)."""
    seq_s: float
    """Sampling, detokenising and streaming of one sequence's token."""
    error: FitError


@dataclass(frozen=True, slots=True)
class ServingFactors:
    """What end-to-end runs say of a GPU none of whose relatives' kernels were measured: its software is another."""

    flop_share: float
    """Of the stand-in's `flop_eff`."""
    mem_share: float
    """Of the stand-in's `mem_eff`."""
    iteration_s: float
    """In place of the engine's."""
    seq_s: float
    """In place of the engine's."""
    error: FitError


@dataclass(frozen=True, slots=True)
class IterationErrors:
    """Whole iterations put together from measured kernels of layers that no fit saw, against the model's."""

    decode: FitError
    prefill: FitError
    """Of chunks of 256 tokens or more."""


@dataclass(frozen=True, slots=True)
class Factors:
    """All fitted factors."""

    gemm: Mapping[str, Mapping[str, GemmFactors]]
    """By GPU, then by "16bit" or "8bit"."""
    attention: Mapping[str, AttentionFactors]
    """By GPU."""
    comm: Mapping[str, Mapping[str, CommFactors]]
    """By GPU, then by tensor-parallel degree as text."""
    transfer: Mapping[str, TransferFactors]
    """By kind of link: "direct" (NVLink and the like), "pcie", "network"."""
    engine: EngineFactors
    serving: Mapping[str, ServingFactors] = field(default_factory=dict)
    """By GPU, where only end-to-end runs were measured."""
    iterations: Mapping[str, Mapping[str, IterationErrors]] = field(default_factory=dict)
    """How far whole iterations of unseen layers are off, by GPU, then by "16bit" or "8bit"."""


T = TypeVar("T")

# Who stands in for an architecture that has no measured card, nearest first.
_RELATIVES = {
    "Turing": ("Volta", "GA102", "GA100", "Ada", "Hopper"),
    "Volta": ("GA100", "GA102", "Ada", "Hopper"),
    "GA102": ("GA100", "Ada", "Hopper"),
    "GA100": ("GA102", "Ada", "Hopper"),
    "Ada": ("GA102", "GA100", "Hopper"),
    "GB202": ("Ada", "Hopper", "GA100"),
    "Hopper": ("GA100", "GA102", "Ada"),
    "Blackwell": ("Hopper", "GA100", "Ada"),
    "CDNA2": ("GA100", "Hopper", "Ada"),
    "CDNA3": ("Hopper", "GA100", "Ada"),
}


def donor(gpu: Gpu, measured: Mapping[str, T]) -> str:
    """Name of the GPU whose factors serve for `gpu`: itself, its architecture, then the nearest relative's.

    Raises:
        FactorsError: nothing measured comes close.
    """
    if gpu.name in measured:
        return gpu.name
    for architecture in (gpu.architecture, *_RELATIVES.get(gpu.architecture, ())):
        cards = [name for name in measured if GPUS[name].architecture == architecture]
        if cards:
            return min(cards, key=lambda name: abs(GPUS[name].bandwidth_gb_per_s - gpu.bandwidth_gb_per_s))
    raise FactorsError(f"no measured factors for {gpu.name} or a relative; run poolpilot calibrate")


def to_document(factors: Factors) -> dict[str, Any]:
    """The JSON document that `from_document` reads back."""
    return {"schema": SCHEMA, **asdict(factors)}


def to_text(factors: Factors) -> str:
    """The factors file: the JSON document, with short lists on one line for whoever reviews it."""
    text = json.dumps(to_document(factors), indent=2)
    for _ in range(2):  # pairs first, then lists of pairs
        text = re.sub(r"\[\s+([^{}\n]*(?:,\n[^{}\n]*)*)\s+\]", _on_one_line, text)
    return text + "\n"


def _on_one_line(found: re.Match[str]) -> str:
    return "[" + " ".join(found.group(1).split()) + "]"


def from_document(document: Any, where: str = "factors") -> Factors:
    """Factors from their JSON document.

    Raises:
        FactorsError: names the entry that is missing, unknown or not a number.
    """
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise FactorsError(f"{where}: wanted an object with schema {SCHEMA}")
    return Factors(
        gemm={
            name: {kind: _read(GemmFactors, entry, f"{where}.gemm.{name}.{kind}") for kind, entry in kinds.items()}
            for name, kinds in _group(document, "gemm", where).items()
        },
        attention={
            name: _read(AttentionFactors, entry, f"{where}.attention.{name}")
            for name, entry in _group(document, "attention", where).items()
        },
        comm={
            name: {tp: _read(CommFactors, entry, f"{where}.comm.{name}.{tp}") for tp, entry in degrees.items()}
            for name, degrees in _group(document, "comm", where).items()
        },
        transfer={
            kind: _read(TransferFactors, entry, f"{where}.transfer.{kind}")
            for kind, entry in _object(document, "transfer", where).items()
        },
        engine=_read(EngineFactors, document.get("engine"), f"{where}.engine"),
        serving={
            name: _read(ServingFactors, entry, f"{where}.serving.{name}")
            for name, entry in _group(document, "serving", where).items()
        },
        iterations={
            name: {
                kind: _read(IterationErrors, entry, f"{where}.iterations.{name}.{kind}") for kind, entry in by.items()
            }
            for name, by in _group(document, "iterations", where).items()
        },
    )


def _object(document: dict[str, Any], group: str, where: str) -> dict[str, Any]:
    entries = document.get(group)
    if not isinstance(entries, dict):
        raise FactorsError(f"{where}.{group}: wanted an object by {'link' if group == 'transfer' else 'GPU name'}")
    return entries


def _group(document: dict[str, Any], group: str, where: str) -> dict[str, Any]:
    entries = _object(document, group, where)
    for name in entries:
        if name not in GPUS:
            raise FactorsError(f"{where}.{group}.{name}: no such GPU in the catalogue")
    return entries


def _read(kind: type[T], entry: Any, where: str) -> T:
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(entry, dict) or set(entry) != set(names):
        raise FactorsError(f"{where}: wanted exactly {', '.join(names)}")
    values: dict[str, Any] = {}
    for name in names:
        value = entry[name]
        if name in ("error", "decode", "prefill"):
            values[name] = _read(FitError, value, f"{where}.{name}")
        elif name == "sources":
            values[name] = tuple(str(v) for v in value)
        elif name == "by_rows":
            values[name] = _by_rows(value, f"{where}.by_rows")
        elif name == "ranges":
            values[name] = _ranges(value, f"{where}.ranges")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise FactorsError(f"{where}.{name}: {value!r}, wanted a number")
        else:
            values[name] = value
    return kind(**values)


def _by_rows(entry: Any, where: str) -> tuple[tuple[float, float], ...]:
    pairs = (
        [tuple(pair) for pair in entry if isinstance(pair, list | tuple)] if isinstance(entry, list | tuple) else None
    )
    sound = pairs is not None and len(pairs) == len(entry) and all(len(p) == 2 and min(p) > 0 for p in pairs)
    if pairs is None or not sound or any(a[0] >= b[0] for a, b in pairwise(pairs)):
        raise FactorsError(f"{where}: wanted a list of [rows, factor], rows rising, both above 0")
    return tuple((float(rows), float(factor)) for rows, factor in pairs)


def _ranges(entry: Any, where: str) -> dict[str, tuple[float, float]]:
    if not isinstance(entry, dict):
        raise FactorsError(f"{where}: wanted an object of [least, most] by quantity")
    ranges: dict[str, tuple[float, float]] = {}
    for quantity, ends in entry.items():
        numbers = isinstance(ends, list | tuple) and len(ends) == 2 and all(isinstance(v, int | float) for v in ends)
        if quantity not in QUANTITIES or not numbers or not ends[0] <= ends[1]:
            raise FactorsError(f"{where}.{quantity}: {ends!r}, wanted [least, most] of one of {', '.join(QUANTITIES)}")
        ranges[quantity] = (float(ends[0]), float(ends[1]))
    return ranges


def read_document(path: Path) -> Any:
    """What a JSON file holds; FactorsError if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FactorsError(f"{path}: not readable as JSON: {error}") from None


def read_factors(path: Path) -> Factors:
    """Factors from a JSON file; FactorsError names the file and the entry."""
    return from_document(read_document(path), str(path))


@cache
def shipped_factors() -> Factors:
    """The reviewed factors that come with the package."""
    return read_factors(FACTORS_FILE)
