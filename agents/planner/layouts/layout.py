"""Layouts: how one replica of a model lies over GPUs, tensor and pipeline parallel, alike or unlike, and at which
precision; and which of them are worth considering.

vLLM splits every stage of a pipeline over the same number of GPUs, so what is enumerated does too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import numpy as np

from ....env.catalog.gpus import GPUS, Gpu, gpu
from ....env.catalog.links import BETWEEN_MACHINES, MACHINE_GPUS
from ....env.catalog.models import PRECISIONS, Model, model
from ....env.catalog.names import CatalogError
from ....env.contract import FloatArray
from ....env.perf.law import TOKENS_GRID, IterationLaw
from ....env.perf.memory import pipeline_kv_tokens
from ....env.perf.roofline import DEFAULT_BATCH_TOKENS, DoesNotFit, LayoutError, Stage, even_split, pipeline_law
from ....env.perf.stage import check_layout
from .chains import Group, best_chain, places_of
from .partition import USUAL_LOAD, Flags, Load, Place, Split, best_split, stages_at

__all__ = [
    "DoesNotFit",
    "Layout",
    "LayoutError",
    "LayoutStage",
    "Rejected",
    "Survey",
    "gpu_short_name",
    "precision_on",
    "survey_layouts",
]

DEGREES = (1, 2, 4, 8)
"""Tensor-parallel degrees that are tried: machines have so many GPUs."""
WORTH_ADDING = 0.1
"""Share of more requests that a pipeline must serve than what runs on a part of its GPUs: fewer are not worth a stage."""
MAX_MIXED_GPUS = 8
"""GPUs of one pipeline over unlike types, at most."""
LAYOUT_FLAGS = Flags(min_kv_tokens=4096)
"""A layout whose KV cache holds less is no use to chat: one long request fills it."""


@dataclass(frozen=True, slots=True)
class LayoutStage:
    """Some layers on GPUs of one type in one machine."""

    gpu: str
    """Of the catalogue."""
    layers: int
    tensor_parallel: int = 1
    link_to_next: str | None = None
    """Of the catalogue's links; None is what joins GPUs of one type in a machine, and machines where types differ or
    the replica fills more than one. A network's link ends a machine."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One replica."""

    model: str
    """Of the catalogue."""
    precision: str
    """Of the weights: bf16, fp16, fp8, int8 or int4."""
    stages: tuple[LayoutStage, ...]

    @property
    def gpus(self) -> dict[str, int]:
        """How many of each type, in the order of the stages."""
        counts: dict[str, int] = {}
        for stage in self.stages:
            counts[stage.gpu] = counts.get(stage.gpu, 0) + stage.tensor_parallel
        return counts

    @property
    def gpu_count(self) -> int:
        """GPUs of the replica."""
        return sum(stage.tensor_parallel for stage in self.stages)

    @property
    def pipeline_parallel(self) -> int:
        """Stages."""
        return len(self.stages)

    @property
    def mixed(self) -> bool:
        """Whether GPUs of different types make up the replica."""
        return len({gpu(stage.gpu).name for stage in self.stages}) > 1

    @property
    def layers(self) -> tuple[int, ...]:
        """Of each stage."""
        return tuple(stage.layers for stage in self.stages)

    @property
    def even(self) -> bool:
        """Whether the layers are split as vLLM does by itself."""
        return self.layers == even_split(sum(self.layers), len(self.layers))

    @property
    def name(self) -> str:
        """Short, readable: `a100-80-tp2-fp8`, `l40s-l4-pp2-int4`, `2xl4-t4-pp3-int8`. Layouts that differ only in how
        many layers a stage has share it."""
        runs: list[tuple[str, int, int]] = []
        for stage in self.stages:
            short, degree = gpu_short_name(stage.gpu), stage.tensor_parallel
            if runs and runs[-1][:2] == (short, degree):
                runs[-1] = short, degree, runs[-1][2] + 1
            else:
                runs.append((short, degree, 1))
        alone = len(runs) == 1
        parts = [
            ("" if count == 1 or alone else f"{count}x") + short + (f"-tp{degree}" if degree > 1 else "")
            for short, degree, count in runs
        ]
        pipeline = [f"pp{len(self.stages)}"] if len(self.stages) > 1 else []
        return "-".join([*parts, *pipeline, self.precision])

    def perf_stages(self) -> tuple[Stage, ...]:
        """As the performance model takes them; CatalogError for an unknown GPU or link."""
        return stages_at([Place(s.gpu, s.tensor_parallel, s.link_to_next) for s in self.stages], self.layers)

    def law(self, batch_tokens: int = DEFAULT_BATCH_TOKENS) -> IterationLaw:
        """The iteration law of the replica; of a pipeline its round, with `batch_tokens` for each batch in flight.

        Raises:
            LayoutError: a GPU cannot run the model so, or the layers do not sum up.
        """
        return pipeline_law(self.perf_stages(), model(self.model), self.precision, batch_tokens=batch_tokens)

    def kv_tokens(self, memory_utilization: float = 0.9) -> int:
        """Tokens that the KV cache holds.

        Raises:
            LayoutError: as for `law`.
            DoesNotFit: the weights leave no room; names the stage and the gigabytes missing.
        """
        return pipeline_kv_tokens(self.perf_stages(), model(self.model), self.precision, memory_utilization)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something that was asked for and is not offered."""

    what: str
    """The layout's name, or GPU and precision."""
    why: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What can be considered, and why the rest is not."""

    layouts: tuple[Layout, ...]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]
    """What was taken for something else, such as fp16 for bf16 on a V100."""


@cache
def gpu_short_name(name: str) -> str:
    """A GPU's name for people: without memory and form factor where nothing else is called so (`l40s`, `a100-80`,
    `h100-pcie`); unique in the catalogue."""
    full = gpu(name).name
    stem = _stem(full)
    alike = [other for other in GPUS if _stem(other) == stem]
    return stem if len(alike) == 1 else f"{stem}-{gpu(full).memory_gb:.0f}"


def _stem(full: str) -> str:
    return full.rsplit("-", 1)[0].removesuffix("-SXM").lower()


def precision_on(cards: Sequence[Gpu], precision: str) -> str:
    """What weights of this precision are called on these GPUs: 16 bits are bf16 where all of them have it, fp16 where
    not; `16-bit` asks for either. CatalogError for a precision that is not known."""
    if precision in ("16-bit", "16bit", "bf16"):
        return "bf16" if all(card.supports_bf16 for card in cards) else "fp16"
    if precision not in PRECISIONS:
        raise CatalogError(f"unknown precision {precision!r}; wanted one of 16-bit, {', '.join(PRECISIONS)}")
    return precision


def survey_layouts(
    model_name: str,
    gpus: Sequence[str],
    precisions: Sequence[str],
    *,
    max_tensor_parallel: int = 8,
    max_stages: int = 1,
    mixed: bool = False,
    machine_gpus: Mapping[str, int] | None = None,
    load: Load = USUAL_LOAD,
    flags: Flags = LAYOUT_FLAGS,
    between_machines: str = BETWEEN_MACHINES,
) -> Survey:
    """Which layouts of a model run and fit on these GPU types, and why others do not.

    Left out is, of layouts of the same GPUs at the same precision, one that another is at least as good as: as fast at
    every load, and as many KV tokens. A pipeline is tried only as long as fewer stages lack room for the KV cache of
    the load's sequences: stages share the weights' memory, and else only add transfers and bubbles to what as many
    replicas would do. Pipelines over unlike GPUs join stages of two types, under the same condition for each part. And
    a pipeline that serves hardly more than a layout of fewer of its GPUs (`WORTH_ADDING`) is left out.
    Layers are split over stages as `partition` finds best.

    Args:
        gpus: of the catalogue, in any spelling it knows; layouts carry full names.
        precisions: of the weights; "16-bit" or "bf16" is bf16 where the GPU has it and fp16 elsewhere.
        max_stages: of a pipeline.
        mixed: whether unlike GPUs may make up a pipeline.
        machine_gpus: GPUs of one machine by GPU type (left out: 8): the widest tensor parallel; stages beyond them are
            joined by `between_machines`.
        load: what pipelines are split for.
        flags: of the engine; a layout whose cache holds less than `min_kv_tokens` does not count as fitting.

    Raises:
        CatalogError: an unknown model, GPU, precision or link.
    """
    asked = _Asked(
        shape=model(model_name),
        machine_gpus={gpu(name).name: count for name, count in (machine_gpus or {}).items()},
        max_tensor_parallel=max_tensor_parallel,
        max_stages=max_stages,
        load=load,
        flags=flags,
        between_machines=between_machines,
    )
    cards = list({gpu(name).name: gpu(name) for name in gpus}.values())
    found = _Found([], [], [], set(), [])
    for card in cards:
        for precision in found.named([card], precisions):
            _alike(asked, card, precision, found)
    if mixed and max_stages > 1:
        for pair in combinations(cards, 2):
            for precision in found.named(pair, precisions, quietly=True):
                _unlike(asked, pair, precision, found)
    kept = _undominated(asked, found)
    return Survey(tuple(kept), tuple(found.rejected), tuple(dict.fromkeys(found.notes)))


@dataclass(frozen=True, slots=True)
class _Asked:
    """The arguments of `survey_layouts`, names looked up."""

    shape: Model
    machine_gpus: Mapping[str, int]
    max_tensor_parallel: int
    max_stages: int
    load: Load
    flags: Flags
    between_machines: str

    @property
    def enough_kv_tokens(self) -> float:
        """What the load's sequences fill."""
        return max(float(self.flags.min_kv_tokens), self.load.sequences * self.load.context_tokens)

    def in_machine(self, card: Gpu) -> int:
        return self.machine_gpus.get(card.name, MACHINE_GPUS)

    def degrees(self, card: Gpu) -> Iterator[int]:
        """Tensor-parallel degrees that a machine has the GPUs for."""
        return (d for d in DEGREES if d <= min(self.max_tensor_parallel, self.in_machine(card)))


@dataclass(frozen=True, slots=True)
class _Found:
    layouts: list[Layout]
    rejected: list[Rejected]
    notes: list[str]
    roomy: set[tuple[str, int, int, str]]
    """GPU, tensor parallel, stages and precision whose KV cache has room for the whole load."""
    serves: list[tuple[Layout, float]]
    """Layouts, kept or not, and the requests per second they serve of the load."""

    def add(self, layout: Layout, split: Split) -> None:
        """Keeps a layout, unless it is a pipeline that serves hardly more than a part of its GPUs would."""
        rate = split.requests_per_s
        parts = [
            (part, most)
            for part, most in self.serves
            if layout.pipeline_parallel > 1
            and _width(part.precision) == _width(layout.precision)
            and _is_part(part.gpus, layout.gpus)
        ]
        self.serves.append((layout, rate))
        best, most = max(parts, key=lambda found: found[1], default=(layout, 0.0))
        if rate > most * (1.0 + WORTH_ADDING):
            self.layouts.append(layout)
            return
        why = f"{best.name}, of fewer of these GPUs, serves {most:.2f} requests/s, this one {rate:.2f}"
        self.rejected.append(Rejected(layout.name, why))

    def is_roomy(self, card: Gpu, degree: int, stages: int, precision: str) -> bool:
        """Whether so many stages, or fewer, have room for the whole load by themselves."""
        return any((card.name, degree, count, _width(precision)) in self.roomy for count in range(1, stages + 1))

    def named(self, cards: Sequence[Gpu], precisions: Sequence[str], quietly: bool = False) -> list[str]:
        """The precisions as these GPUs have them, each once: of bf16 and fp16 the one with the wider range."""
        named = list(dict.fromkeys(precision_on(cards, precision) for precision in precisions))
        if "bf16" in precisions and "bf16" not in named and not quietly:
            self.notes.append(f"{cards[0].name} has no bf16: its 16-bit layouts are fp16")
        return [p for p in named if p != "fp16" or "bf16" not in named]


def _alike(asked: _Asked, card: Gpu, precision: str, found: _Found) -> None:
    """Adds the layouts on one GPU type."""
    try:
        check_layout(card, asked.shape, precision, 1)
    except LayoutError as error:
        found.rejected.append(Rejected(f"{gpu_short_name(card.name)}-{precision}", str(error)))
        return
    for degree in asked.degrees(card):
        enough: Layout | None = None
        for stages in range(1, asked.max_stages + 1):
            places = places_of(list(_machines(asked, card, degree, stages)), asked.between_machines)
            name = _layout(asked, precision, places, None).name
            if enough is not None:
                found.rejected.append(Rejected(name, _more_than_enough(asked, enough)))
                continue
            try:
                split = best_split(
                    places,
                    asked.shape.name,
                    precision,
                    asked.load,
                    asked.flags,
                )
            except (LayoutError, DoesNotFit) as error:
                found.rejected.append(Rejected(name, str(error)))
                continue
            layout = _layout(asked, precision, places, split.layers)
            found.add(layout, split)
            if split.kv_tokens >= asked.enough_kv_tokens:
                found.roomy.add((card.name, degree, stages, _width(precision)))
                enough = layout


def _more_than_enough(asked: _Asked, enough: Layout) -> str:
    return (
        f"{enough.name} has the KV cache that {asked.load.sequences} sequences need; replicas of it serve as much a GPU,"
        " without the bubbles of more stages"
    )


def _unlike(asked: _Asked, pair: Sequence[Gpu], precision: str, found: _Found) -> None:
    """Adds the pipelines over two GPU types."""
    for degree, *counts in product(DEGREES, range(1, asked.max_stages), range(1, asked.max_stages)):
        if sum(counts) > asked.max_stages or sum(counts) * degree > MAX_MIXED_GPUS:
            continue
        if any(degree not in asked.degrees(card) for card in pair):
            continue
        # Where one part has all the cache that is needed, the other would only be a brake.
        if any(found.is_roomy(card, degree, count, precision) for card, count in zip(pair, counts, strict=True)):
            continue
        groups = [g for card, count in zip(pair, counts, strict=True) for g in _machines(asked, card, degree, count)]
        name = _layout(asked, precision, [Place(g.gpu, degree) for g in groups for _ in range(g.stages)], None).name
        try:
            places, split = best_chain(
                groups,
                asked.shape.name,
                precision,
                asked.load,
                asked.flags,
                between_machines=asked.between_machines,
            )
        except (LayoutError, DoesNotFit) as error:
            found.rejected.append(Rejected(name, str(error)))
        else:
            found.add(_layout(asked, precision, places, split.layers), split)


def _width(precision: str) -> str:
    """bf16 and fp16 are as fast and as large as each other."""
    return "16-bit" if precision in ("bf16", "fp16") else precision


def _is_part(part: Mapping[str, int], whole: Mapping[str, int]) -> bool:
    """Whether these are some of those GPUs, but not all."""
    return part != whole and all(count <= whole.get(name, 0) for name, count in part.items())


def _machines(asked: _Asked, card: Gpu, degree: int, stages: int) -> Iterator[Group]:
    """Stages of one type on as few machines as they need."""
    each = max(1, asked.in_machine(card) // degree)
    while stages > 0:
        yield Group(card.name, min(stages, each), degree)
        stages -= each


def _layout(asked: _Asked, precision: str, places: Sequence[Place], layers: Sequence[int] | None) -> Layout:
    """Without `layers`: for its name only."""
    counts = [1] * len(places) if layers is None else layers
    stages = [
        LayoutStage(place.gpu, count, place.tensor_parallel, place.link_to_next)
        for place, count in zip(places, counts, strict=True)
    ]
    return Layout(asked.shape.name, precision, tuple(stages))


def _undominated(asked: _Asked, found: _Found) -> list[Layout]:
    """Without those that another layout of the same GPUs at the same precision is at least as good as."""
    worth = [_worth(asked, layout) for layout in found.layouts]
    kept = []
    for i, layout in enumerate(found.layouts):
        for j, other in enumerate(found.layouts):
            if i == j or other.precision != layout.precision or other.gpus != layout.gpus:
                continue
            if (worth[j] <= worth[i]).all() and ((worth[j] < worth[i]).any() or j < i):
                why = f"{other.name}, of the same GPUs, is as fast at every load and holds as many KV tokens"
                found.rejected.append(Rejected(layout.name, why))
                break
        else:
            kept.append(layout)
    return kept


def _worth(asked: _Asked, layout: Layout) -> FloatArray:
    """`[G + 4]` seconds at every load and the KV tokens, the less the better."""
    law, budget = layout.law(asked.flags.batch_tokens), float(asked.flags.batch_tokens * layout.pipeline_parallel)
    # More tokens than an iteration (or a pipeline's round) takes need several.
    linear_s = np.ceil(TOKENS_GRID / budget) * law.linear(np.minimum(TOKENS_GRID, budget))
    other = (
        law.attend_s_per_pair,
        law.kv_read_s_per_token,
        law.seq_s,
        -float(layout.kv_tokens(asked.flags.memory_utilization)),
    )
    return np.concatenate([linear_s, np.array(other)])
