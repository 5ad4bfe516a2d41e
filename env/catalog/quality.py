"""How much of a model's quality is left at a precision: published evaluations of quantised checkpoints.

A recovery is the quantised checkpoint's score over the 16-bit one's. Weights alone are quantised, or weights and
activations; the KV cache stays at 16 bits in all of them. Who evaluated, and on what, stands in each row; the study
behind most of them is Kurtic et al., "Give Me BF16 or Give Me Death?", arXiv:2411.02355.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from .models import MODELS, Model, bytes_per_weight, model

EASIEST: Final = "OpenLLM v1"
"""The benchmark that most checkpoints were evaluated on, and that shows least of what is lost."""
NEAR_RATIO: Final = 2.0
"""A model stands in for another up to this many times as large or as small."""
_FULL: Final = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One published comparison of a quantised checkpoint with its 16-bit original."""

    model: str
    """Of the catalogue; releases share their base's row there."""
    precision: str
    """Of the catalogue."""
    scheme: str
    """Bits of weights and activations: W8A8, W8A16, W4A16."""
    benchmark: str
    recovery_frac: float
    """Quantised score over 16-bit score; above 1 is chance."""
    score: float | None
    """Quantised; None where only the recovery was published."""
    baseline: float | None
    """At 16 bits."""
    source: str


@dataclass(frozen=True, slots=True)
class Quality:
    """What is left of a model's quality at a precision."""

    frac: float
    """Mean recovery over the benchmarks, each counted as at most 1."""
    low: float
    """The worst of them; of a borrowed figure, the worst of any model at least half as large."""
    source: str
    """Which evaluations, of which model."""
    of: str = ""
    """The model of the catalogue that was evaluated; empty where the precision is the original's."""
    borrowed: bool = False
    """Not of this model itself, or held to a relative's that was evaluated more widely."""


def _scored(model: str, precision: str, scheme: str, benchmark: str, score: float, base: float, at: str) -> Evaluation:
    return Evaluation(model, precision, scheme, benchmark, score / base, score, base, at)


def _recovered(model: str, precision: str, scheme: str, at: str, **percent: float) -> tuple[Evaluation, ...]:
    """Of a card that tells recoveries only, by benchmark."""
    return tuple(
        Evaluation(model, precision, scheme, _BENCHMARKS[name], value / 100.0, None, None, at)
        for name, value in percent.items()
    )


_BENCHMARKS: Final = {
    "v1": EASIEST,
    "v2": "OpenLLM v2",
    "arena": "Arena-Hard",
    "humaneval": "HumanEval",
    "humaneval_plus": "HumanEval+",
}
_V1, _V2 = EASIEST, "OpenLLM v2"
_8, _70, _405 = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-405B"
_3_8, _3_70 = "meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-70B"
_2_7, _1 = "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-3.2-1B"

# Model cards as Neural Magic (now Red Hat) published them on Hugging Face; each says what was compared with what.
# fmt: off
EVALUATIONS: Final = (
    _scored(_8, "fp8", "W8A8", _V1, 73.44, 73.79, "neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8"),
    *_recovered(_8, "int8", "W8A8", "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8",
                v1=100.3, v2=101.5, arena=105.4, humaneval=99.7, humaneval_plus=98.8),
    _scored(_8, "int8", "W8A8", f"{_V1}, base model", 62.71, 63.03, "neuralmagic/Meta-Llama-3.1-8B-quantized.w8a8"),
    *_recovered(_8, "int4", "W4A16", "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16",
                v1=98.9, v2=96.1, arena=93.0, humaneval=99.7, humaneval_plus=97.4),
    _scored(_70, "fp8", "W8A8", _V1, 84.29, 84.40, "RedHatAI/Meta-Llama-3.1-70B-Instruct-FP8"),
    _scored(_70, "fp8", "W8A8", f"{_V1}, base model", 79.70, 79.84, "neuralmagic/Meta-Llama-3.1-70B-FP8"),
    *_recovered(_70, "fp8", "W8A8", "neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8-dynamic", arena=101.6),
    *_recovered(_70, "int4", "W4A16", "neuralmagic/Meta-Llama-3.1-70B-Instruct-quantized.w4a16",
                v1=99.4, v2=97.4, arena=100.0, humaneval=101.0, humaneval_plus=99.2),
    *_recovered(_405, "fp8", "W8A8", "neuralmagic/Meta-Llama-3.1-405B-Instruct-FP8", v1=99.81),
    Evaluation(_405, "fp8", "W8A8", f"{_V1}, base model", 0.987, 82.00, None, "neuralmagic/Meta-Llama-3.1-405B-FP8"),
    _scored(_3_8, "fp8", "W8A8", _V1, 68.22, 68.71, "neuralmagic/Meta-Llama-3-8B-Instruct-FP8"),
    _scored(_3_8, "int8", "W8A16", _V1, 68.54, 68.69,
            "neuralmagic/Meta-Llama-3-8B-Instruct-quantized.w8a16 (its table; its summary has the two swapped)"),
    _scored(_3_70, "fp8", "W8A8", _V1, 79.16, 79.51, "neuralmagic/Meta-Llama-3-70B-Instruct-FP8"),
    _scored(_3_70, "int8", "W8A16", _V1, 77.90, 79.18,
            "neuralmagic/Meta-Llama-3-70B-Instruct-quantized.w8a16 (its table; its summary has the two swapped)"),
    _scored(_2_7, "fp8", "W8A8", _V1, 53.28, 53.43, "neuralmagic/Llama-2-7b-chat-hf-FP8"),
    _scored(_2_7, "int8", "W8A8", _V1, 53.38, 53.41, "neuralmagic/Llama-2-7b-chat-quantized.w8a8"),
    _scored(_2_7, "int4", "W4A16", _V1, 52.64, 53.40, "neuralmagic/Llama-2-7b-chat-quantized.w4a16"),
    _scored(_1, "fp8", "W8A8", f"{_V1}, some tasks", 50.88, 51.70, "neuralmagic/Llama-3.2-1B-Instruct-FP8-dynamic"),
    Evaluation(_1, "int8", "W8A8", f"{_V1}, worst task", 0.95, None, None,
               "RedHatAI/Llama-3.2-1B-Instruct-quantized.w8a8 (a bound: within 5 % on every task)"),
    Evaluation(_1, "int4", "W4A16", "13 data sets", 0.88, None, None,
               "arXiv:2409.11055 (a bound: 1B models lose more than 12 %, as a third party restates it)"),
    _scored("mistralai/Mixtral-8x7B-v0.1", "fp8", "W8A8", _V1, 73.19, 73.48,
            "neuralmagic/Mixtral-8x7B-Instruct-v0.1-FP8"),
    _scored("Qwen/Qwen2-7B", "int8", "W8A16", _V1, 69.28, 69.64, "neuralmagic/Qwen2-7B-Instruct-quantized.w8a16"),
    _scored("Qwen/Qwen2-72B", "int8", "W8A16", _V1, 80.01, 80.09, "neuralmagic/Qwen2-72B-Instruct-quantized.w8a16"),
    _scored("Qwen/Qwen2.5-32B", "fp8", "W8A8", _V1, 77.08, 77.20, "neuralmagic-ent/QwQ-32B-Preview-FP8-dynamic"),
    _scored("Qwen/Qwen2.5-72B", "int8", "W8A8", _V1, 81.30, 81.50,
            "neuralmagic-ent/Qwen2.5-72B-Instruct-quantized.w8a8"),
    _scored("Qwen/Qwen2.5-72B", "int8", "W8A8", _V2, 49.63, 49.84,
            "neuralmagic-ent/Qwen2.5-72B-Instruct-quantized.w8a8"),
    _scored("Qwen/Qwen2.5-72B", "int8", "W8A8", f"{_V1}, base model", 78.71, 78.91,
            "neuralmagic-ent/Qwen2.5-72B-quantized.w8a8"),
)
# fmt: on


@lru_cache(maxsize=512)
def quality_frac(model_name: str, precision: str) -> Quality:
    """What is left of the model's quality with weights of this precision.

    A model without an evaluation of its own borrows the nearest one's that is at most twice as large or small, of the
    same maker if there is one; else that of the next smaller model, for small ones lose more; a model that is smaller
    than any evaluated, the worst figure of all. One that was evaluated on OpenLLM v1 alone, which shows least of what is
    lost, is credited with no more than the nearest model keeps that was evaluated on harder benchmarks too.

    Raises:
        CatalogError: no such model or precision.
    """
    wanted = model(model_name)
    bytes_per_weight(precision)
    if precision in _FULL:
        return Quality(1.0, 1.0, "the original, at 16 bits or more")
    rows = [row for row in EVALUATIONS if row.precision == precision]
    own = [row for row in rows if row.model == wanted.name]
    if own and not _easy_alone(own):
        return _quality(own)
    if not own:
        return _borrowed(wanted, rows)
    mine, widely = _quality(own), _widely(rows)
    harder = _nearest(wanted, [name for name in widely if _ratio(wanted, name) <= NEAR_RATIO], widely)
    if harder is None:
        return mine
    held = _quality([row for row in rows if row.model == harder])
    if held.frac >= mine.frac:
        return Quality(mine.frac, min(mine.low, held.low), mine.source, mine.of)
    source = f"held to {harder}: {held.source}; itself {mine.frac:.3f} on {mine.source}"
    return Quality(held.frac, min(mine.low, held.low), source, held.of, borrowed=True)


def _borrowed(wanted: Model, rows: list[Evaluation]) -> Quality:
    worst = min(rows, key=lambda row: row.recovery_frac)
    relative = _relative(wanted, [row.model for row in rows])
    if relative is None:
        source = (
            f"none as small was evaluated; worst at this precision: {worst.model}, {worst.benchmark} ({worst.source})"
        )
        return Quality(worst.recovery_frac, worst.recovery_frac, source, worst.model, borrowed=True)
    peers = [row for row in rows if MODELS[row.model].params * NEAR_RATIO >= wanted.params or row.model == relative]
    low = min(row.recovery_frac for row in peers)
    found = quality_frac(relative, worst.precision)
    source = f"borrowed from {relative}: {found.source}"
    return Quality(found.frac, min(low, found.low), source, found.of, borrowed=True)


def _quality(rows: list[Evaluation]) -> Quality:
    kept = [min(row.recovery_frac, 1.0) for row in rows]
    benchmarks = ", ".join(dict.fromkeys(row.benchmark for row in rows))
    where = ", ".join(dict.fromkeys(row.source for row in rows))
    return Quality(sum(kept) / len(kept), min(kept), f"{rows[0].scheme}, {benchmarks} ({where})", rows[0].model)


def _easy_alone(rows: list[Evaluation]) -> bool:
    return all(row.benchmark.startswith(EASIEST) for row in rows)


def _widely(rows: list[Evaluation]) -> list[str]:
    """Models evaluated on more than the easiest benchmark."""
    names = dict.fromkeys(row.model for row in rows)
    return [name for name in names if not _easy_alone([row for row in rows if row.model == name])]


def _relative(wanted: Model, names: list[str]) -> str | None:
    """Near in size, of the same maker if there is one, else the next smaller; None where all are larger and none near."""
    unique = list(dict.fromkeys(names))
    near = [name for name in unique if _ratio(wanted, name) <= NEAR_RATIO]
    kin = [name for name in near if _maker(name) == _maker(wanted.name)]
    smaller = [name for name in unique if MODELS[name].params < wanted.params]
    return _nearest(wanted, kin or near or smaller, names)


def _nearest(wanted: Model, among: list[str], names: list[str]) -> str | None:
    """By size; of equals the one that `names` holds most often."""
    return min(among, key=lambda n: (round(_ratio(wanted, n), 2), -names.count(n)), default=None)


def _ratio(wanted: Model, name: str) -> float:
    """How many times as large the larger of the two is."""
    return math.exp(abs(math.log(wanted.params / MODELS[name].params)))


def _maker(name: str) -> str:
    """Who made it: models of one maker are trained alike. `Qwen/Qwen2-7B` is of `qwen`."""
    return name.split("/", 1)[0].lower()
