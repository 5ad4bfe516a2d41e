"""What a GPU draws: idle, plus a floor while busy, plus joules for what its iterations move and multiply.

    watts while busy = limited(floor + memory * u + compute * v + experts) * TDP

u is the share of the memory's bandwidth and v the share of the peak rate that the work uses; experts is what kernels of
mixtures draw beyond that (padded tiles). A GPU's four shares of TDP are fitted to measured draw where there is any and
otherwise those fitted to all measured GPUs together; `Draw.basis` says which. Read from `power.json`.

Draw is monotone in everything: more seconds busy, iterations, tokens or attention never take fewer joules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..catalog.gpus import GPUS, Gpu
from ..catalog.models import Model, bytes_per_weight
from .factors import FactorsError, donor, read_document, shipped_factors
from .roofline import kv_bytes_per_gpu
from .stage import Stage

POWER_FILE = Path(__file__).with_name("power.json")
SCHEMA = 1

IDLE_TDP_FRAC = 0.15
"""Draw of an idle GPU that holds a model, share of TDP. Assumption: no source measures it; the least that any row of
the measurements reads is 0.17."""
LIMIT_TDP_FRAC = 0.98
"""Boards hold their mean draw here: where ML.ENERGY's fullest runs on H100 and B200 level off (0.975 to 0.986)."""
_SHARPNESS = 12.0
"""How sharply draw levels off at the limit."""
UNKNOWN_TDP_W = 700.0
"""A part whose data sheet names no TDP is taken for the largest air-cooled ones."""


@dataclass(frozen=True, slots=True)
class PowerError:
    """How far predicted draw is off, as shares of the measured one."""

    rows: int
    median: float
    p90: float
    bias: float
    """Mean of predicted over measured, minus 1."""


@dataclass(frozen=True, slots=True)
class PowerFactors:
    """Shares of TDP."""

    floor_frac: float
    """While an iteration is under way, whatever it does."""
    memory_frac: float
    """At the data sheet's full memory bandwidth."""
    compute_frac: float
    """At the peak rate of the precision, were it not limited."""
    experts_frac: float
    """More for a mixture of experts, whose kernels multiply padded tiles."""
    narrow_experts_frac: float
    """Still more where the experts' weights have 8 bits."""
    sources: tuple[str, ...]
    fitted: PowerError
    """On the rows fitted to."""
    new_model: PowerError
    """On the same rows, each model judged by factors that never saw a row of it on any GPU."""
    new_gpu: PowerError
    """On the same rows, each GPU judged by the factors of all others: what `basis` "tdp" is worth."""


@dataclass(frozen=True, slots=True)
class PowerTable:
    """All fitted shares."""

    any_gpu: PowerFactors
    """Fitted to every measured GPU, each weighing the same: for those that were not."""
    gpus: Mapping[str, PowerFactors]


@dataclass(frozen=True, slots=True)
class Draw:
    """What each of a replica's GPUs takes, or of those in one stage of a pipeline over unlike GPUs."""

    basis: Literal["fitted", "tdp"]
    """Whether the factors were fitted to this GPU type, or are those of all measured ones."""
    tdp_w: float
    idle_w: float
    floor_w: float
    limit_w: float
    iteration_j: float
    """Of reading all weights but the experts' once."""
    experts_j: float
    """Of reading all experts once."""
    untouched: float
    """Share of the experts that one token leaves unread."""
    token_j: float
    """Of multiplying one token with the weights it meets."""
    attention_w: float
    """On top, while the KV cache is read at the speed that attention kernels reach."""
    gpus: int = 1
    """That draw so."""


DRAWN_BY = ("idle_w", "floor_w", "limit_w", "iteration_j", "experts_j", "untouched", "token_j", "attention_w")
"""The fields that `drawn_j` reads."""


def drawn_j(draw: Draw, span_s: float, busy_s: float, iterations: float, tokens: float, attention_s: float) -> float:
    """Joules of one GPU over a span. The simulator compiles this very function, and hands it a row with these fields.

    Args:
        busy_s: seconds with an iteration under way, at most `span_s`.
        iterations: how many.
        tokens: computed in them, prompt and output.
        attention_s: seconds, at most `busy_s`, that reading the KV cache takes.
    """
    if busy_s <= 0.0:
        return float(draw.idle_w * span_s)
    work_j = draw.iteration_j * iterations + draw.token_j * tokens + draw.attention_w * attention_s
    if draw.experts_j > 0.0 and iterations > 0.0:
        work_j += draw.experts_j * iterations * (1.0 - draw.untouched ** (tokens / iterations))
    wanted_w = draw.floor_w + work_j / busy_s
    # As `limited_frac`; the smaller over the larger power, so that nothing overflows.
    busy_w = draw.limit_w / (1.0 + (draw.limit_w / wanted_w) ** 12.0) ** (1.0 / 12.0)
    return float(draw.idle_w * (span_s - busy_s) + busy_w * busy_s)


def limited_frac(wanted_frac: Any) -> Any:
    """Shares of TDP, levelled off as in `drawn_j`; of any shape."""
    return LIMIT_TDP_FRAC / (1.0 + (LIMIT_TDP_FRAC / wanted_frac) ** _SHARPNESS) ** (1.0 / _SHARPNESS)


def power_factors(gpu: Gpu, known: PowerTable | None = None) -> tuple[Literal["fitted", "tdp"], PowerFactors]:
    """A GPU's shares of TDP, and whether they were fitted to it."""
    table = known or shipped_power()
    own = table.gpus.get(gpu.name)
    return ("tdp", table.any_gpu) if own is None else ("fitted", own)


def draw_of(gpu: Gpu, model: Model, precision: str, gpus: int = 1, known: PowerTable | None = None) -> Draw:
    """The draw of each of the `gpus` GPUs over which a replica is split, by tensor, expert or pipeline parallel."""
    return _draw(gpu, model, precision, gpus, weight_bytes_read(model, precision), flops_per_token(model), known)


def draws_of(
    stages: Sequence[Stage], model: Model, precision: str, known: PowerTable | None = None
) -> tuple[Draw, ...]:
    """The draws that make up a replica's: one of all its GPUs where they are alike, one a stage where they are not.

    A stage reads and multiplies its own layers, the last one the output head. All stages count as busy while a round
    is under way, whatever bubbles they have.
    """
    if len({stage.gpu.name for stage in stages}) == 1:
        gpus = sum(stage.tensor_parallel for stage in stages)
        return (draw_of(stages[0].gpu, model, precision, gpus, known),)
    head_bytes = model.head_params * max(bytes_per_weight(precision), 2.0)
    head_flops = 2.0 * model.head_params
    dense_bytes, expert_bytes = weight_bytes_read(model, precision)
    flops = flops_per_token(model)
    draws = []
    for stage in stages:
        share, last = stage.layers / model.layers, float(stage is stages[-1])
        read = share * (dense_bytes - head_bytes) + last * head_bytes, share * expert_bytes
        multiplied = share * (flops - head_flops) + last * head_flops
        draws.append(_draw(stage.gpu, model, precision, stage.tensor_parallel, read, multiplied, known))
    return tuple(draws)


def _draw(
    gpu: Gpu,
    model: Model,
    precision: str,
    gpus: int,
    bytes_read: tuple[float, float],
    flops: float,
    known: PowerTable | None,
) -> Draw:
    """Of each of `gpus` GPUs that together read so many bytes an iteration (all weights but the experts', and all
    experts') and take so many operations a token."""
    basis, shares = power_factors(gpu, known)
    tdp_w = gpu.tdp_w or UNKNOWN_TDP_W
    memory_w, compute_w = shares.memory_frac * tdp_w, shares.compute_frac * tdp_w
    mixture = model.experts > 1
    narrow = mixture and bytes_per_weight(precision) == 1.0
    experts_frac = (shares.experts_frac if mixture else 0.0) + (shares.narrow_experts_frac if narrow else 0.0)
    dense_bytes, expert_bytes = bytes_read
    bytes_per_s = gpu.bandwidth_gb_per_s * 1e9 * gpus
    flops_per_s = gpu.tflops(precision) * 1e12 * gpus
    attention = shipped_factors().attention
    return Draw(
        basis=basis,
        tdp_w=tdp_w,
        idle_w=IDLE_TDP_FRAC * tdp_w,
        floor_w=(shares.floor_frac + experts_frac) * tdp_w,
        limit_w=LIMIT_TDP_FRAC * tdp_w,
        iteration_j=memory_w * dense_bytes / bytes_per_s,
        experts_j=memory_w * expert_bytes / bytes_per_s,
        untouched=1.0 - model.experts_per_token / model.experts,
        token_j=compute_w * flops / flops_per_s,
        attention_w=memory_w * attention[donor(gpu, attention)].decode_mem_eff,
        gpus=gpus,
    )


def weight_bytes_read(model: Model, precision: str) -> tuple[float, float]:
    """Bytes of all weights that every iteration reads, and of all experts, of which an iteration reads a share."""
    per_weight = bytes_per_weight(precision)
    head = model.head_params * max(per_weight, 2.0)
    attention = model.layers * model.attention_params * per_weight
    blocks = model.layers * model.experts * model.expert_params * per_weight
    return (attention + head, blocks) if model.experts > 1 else (attention + head + blocks, 0.0)


def flops_per_token(model: Model) -> float:
    """Operations of one token's products with the weights it meets: two for each."""
    layer = model.attention_params + model.experts_per_token * model.expert_params
    return 2.0 * (model.layers * layer + model.head_params)


def steady_power_w(
    gpu: Gpu,
    model: Model,
    precision: str,
    gpus: int,
    sequences: float,
    context_tokens: float,
    output_tokens_per_s: float,
    prompt_tokens_per_s: float = 0.0,
    known: PowerTable | None = None,
) -> float:
    """Watts of one GPU of a replica that decodes without a pause.

    Args:
        gpus: over which the replica is split.
        sequences: decoding at a time.
        context_tokens: mean KV tokens of a sequence.
        output_tokens_per_s: of the whole replica, measured or predicted.
        prompt_tokens_per_s: likewise, prefilled beside the decoding.
        known: other shares than those shipped.
    """
    draw = draw_of(gpu, model, precision, gpus, known)
    iterations_per_s = output_tokens_per_s / sequences
    read_bytes_per_s = iterations_per_s * sequences * context_tokens * kv_bytes_per_gpu(model, precision, gpus)
    attention = shipped_factors().attention
    reach = attention[donor(gpu, attention)].decode_mem_eff * gpu.bandwidth_gb_per_s * 1e9
    tokens_per_s = output_tokens_per_s + prompt_tokens_per_s
    return drawn_j(draw, 1.0, 1.0, iterations_per_s, tokens_per_s, read_bytes_per_s / reach)


def to_document(table: PowerTable) -> dict[str, Any]:
    """The JSON document that `from_document` reads back."""
    return {"schema": SCHEMA, **asdict(table)}


def from_document(document: Any, where: str = "power") -> PowerTable:
    """Shares from their JSON document.

    Raises:
        FactorsError: names the entry that is missing, unknown or not a number.
    """
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise FactorsError(f"{where}: wanted an object with schema {SCHEMA}")
    gpus = document.get("gpus")
    if not isinstance(gpus, dict):
        raise FactorsError(f"{where}.gpus: wanted an object by GPU name")
    for name in gpus:
        if name not in GPUS:
            raise FactorsError(f"{where}.gpus.{name}: no such GPU in the catalogue")
    return PowerTable(
        any_gpu=_factors(document.get("any_gpu"), f"{where}.any_gpu"),
        gpus={name: _factors(entry, f"{where}.gpus.{name}") for name, entry in gpus.items()},
    )


T = TypeVar("T", PowerFactors, PowerError)


def _factors(entry: Any, where: str) -> PowerFactors:
    values = _numbers(PowerFactors, entry, where)
    errors = {name: PowerError(**_numbers(PowerError, values[name], f"{where}.{name}")) for name in _ERRORS}
    return PowerFactors(**{**values, **errors, "sources": tuple(str(source) for source in values["sources"])})


_ERRORS = ("fitted", "new_model", "new_gpu")


def _numbers(kind: type[T], entry: Any, where: str) -> dict[str, Any]:
    """The fields of a dataclass; those that hold no other dataclass or list must be numbers of 0 or more (or a bias)."""
    names = [f.name for f in fields(kind)]
    if not isinstance(entry, dict) or set(entry) != set(names):
        raise FactorsError(f"{where}: wanted exactly {', '.join(names)}")
    for name, value in entry.items():
        if name in _ERRORS or name == "sources":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or (value < 0 and name != "bias"):
            raise FactorsError(f"{where}.{name}: {value!r}, wanted a number of 0 or more")
    return dict(entry)


def read_power(path: Path) -> PowerTable:
    """Shares from a JSON file; FactorsError names the file and the entry."""
    return from_document(read_document(path), str(path))


@cache
def shipped_power() -> PowerTable:
    """The reviewed shares that come with the package."""
    return read_power(POWER_FILE)
