"""Options: every layout from every source of machines, with what one replica of it carries of each bucket.

Symbols: `C` classes, `B` buckets, `O` options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, product

import numpy as np

from ...env.catalog.models import model
from ...env.contract import BoolArray, Targets
from ...env.market.offers import Offer
from ...env.scenario.pools import Engine
from .carrying import Carried, carried_by_sets, replica_of
from .composition import Option
from .demand import Demand
from .layouts.layout import Layout

__all__ = ["Asked", "offers_for", "options_of", "why_nobody"]

Quality = Callable[[str, str], float]
"""(model, precision) -> share of the 16-bit model's score that is kept."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of whoever serves a class."""

    models: tuple[str, ...]
    """`[C]` of the catalogue."""
    targets: Targets
    """`[C]`, with the wanted attainment."""
    quality_floor: tuple[float, ...] = ()
    """`[C]` least share of the 16-bit model's score that a precision must keep; empty: any will do."""


def options_of(
    layouts: Sequence[Layout],
    offers: Sequence[Offer],
    demand: Demand,
    asked: Asked,
    engine: Engine,
    *,
    quality: Quality | None = None,
    mix_kinds: bool = False,
) -> tuple[Option, ...]:
    """Every layout on every fitting source of machines, capacities under the targets; those that serve nobody left out.

    A layout on unlike GPUs takes one offer per type, all of one provider and region, and of one kind (on demand or
    spot) unless `mix_kinds`.

    Args:
        engine: the flags that every replica starts with.
        quality: None: every precision is as good as the 16-bit model.

    Raises:
        LayoutError: a layout cannot run.
        DoesNotFit: a layout does not fit into its GPUs' memory.
    """
    found: list[Option] = []
    for layout in layouts:
        sources = list(offers_for(layout, offers, mix_kinds=mix_kinds))
        if not sources:
            continue
        names = _names(layout, sources, offers)
        for own in _of_layout(layout, demand, asked, engine, quality):
            if own.capacity_per_s.any():
                found += [
                    Option(
                        name=name if own.whole else f"{name}-for-{_initials(own, demand)}",
                        layout=layout,
                        offers=source,
                        capacity_per_s=own.capacity_per_s,
                        why_not=own.why_not,
                    )
                    for name, source in zip(names, sources, strict=True)
                ]
    names = _each_once([option.name for option in found])
    return tuple(replace(option, name=name) for option, name in zip(found, names, strict=True))


def why_nobody(
    layouts: Sequence[Layout],
    demand: Demand,
    asked: Asked,
    engine: Engine,
    options: Sequence[Option],
    *,
    quality: Quality | None = None,
) -> dict[int, dict[str, str]]:
    """For each bucket that is asked for and that none of the `options` carries: the layouts' names, and what keeps each
    from it."""
    carried_by_some = np.zeros(len(demand.class_index), dtype=np.bool_)
    for option in options:
        carried_by_some |= option.capacity_per_s > 0
    left = np.flatnonzero(~carried_by_some & (demand.rate_per_s > 0)).tolist()
    if not left:
        return {}
    told = {layout.name: next(_of_layout(layout, demand, asked, engine, quality)).why_not for layout in layouts}
    return {b: {name: why_not[b] for name, why_not in told.items()} for b in left}


def _of_layout(
    layout: Layout, demand: Demand, asked: Asked, engine: Engine, quality: Quality | None
) -> Iterator[Carried]:
    """What a replica carries: first if it serves all it can, then if it is kept for fewer classes."""
    refused = [_refusal(layout, asked, c, quality) for c in range(len(demand.class_names))]
    serves: BoolArray = np.array([not reason for reason in refused])
    law, kv_tokens = layout.law(engine.max_num_batched_tokens), layout.kv_tokens(engine.gpu_memory_utilization)
    replica = replica_of(law, kv_tokens, engine, layout.pipeline_parallel)
    for own in carried_by_sets(replica, demand, serves, asked.targets):
        told = zip(demand.class_index, own.why_not, strict=True)
        yield own._replace(why_not=tuple(refused[c] or reason for c, reason in told))


def _refusal(layout: Layout, asked: Asked, c: int, quality: Quality | None) -> str:
    """Why a class may not be served on a layout, whatever its speed; empty if it may."""
    if model(layout.model).name != model(asked.models[c]).name:
        return f"it wants {asked.models[c]}"
    if quality is None or not asked.quality_floor:
        return ""
    kept, floor = quality(layout.model, layout.precision), asked.quality_floor[c]
    if kept >= floor:
        return ""
    return f"{layout.precision} keeps {100 * kept:.1f} % of the quality, below the class's floor of {100 * floor:.1f} %"


def offers_for(layout: Layout, offers: Sequence[Offer], *, mix_kinds: bool = False) -> Iterator[tuple[int, ...]]:
    """All ways to rent a layout's GPUs: an offer for each of its types, in the order of `layout.gpus`.

    Each tensor-parallel group must fit into one machine of its offer.
    """
    widest: dict[str, int] = {}
    for stage in layout.stages:
        widest[stage.gpu] = max(widest.get(stage.gpu, 0), stage.tensor_parallel)
    fitting = [
        [f for f, offer in enumerate(offers) if offer.gpu == gpu and offer.machine_gpus >= widest[gpu]]
        for gpu in layout.gpus
    ]
    for combination in product(*fitting):
        own = [offers[f] for f in combination]
        places = {(offer.provider, offer.region) for offer in own}
        if len(places) == 1 and (mix_kinds or len({offer.kind for offer in own}) == 1):
            yield combination


def _names(layout: Layout, sources: Sequence[tuple[int, ...]], offers: Sequence[Offer]) -> list[str]:
    """What tells the sources apart is named: spot, then provider, region and instance."""
    tags = [
        (
            "spot" if any(offers[f].kind == "spot" for f in source) else "",
            offers[source[0]].provider,
            offers[source[0]].region,
            "-".join(dict.fromkeys(offers[f].instance for f in source)),
        )
        for source in sources
    ]
    telling = [i == 0 or len({tag[i] for tag in tags}) > 1 for i in range(4)]
    names = [
        "-".join([layout.name, *(part for part, said in zip(tag, telling, strict=True) if part and said)])
        for tag in tags
    ]
    return _each_once([_plain(name) for name in names])


def _each_once(names: Sequence[str]) -> list[str]:
    """The names, later ones of the same numbered."""
    once: dict[str, None] = {}
    for name in names:
        numbered = (f"{name}-{n}" for n in count(2))
        once[name if name not in once else next(own for own in numbered if own not in once)] = None
    return list(once)


def _initials(own: Carried, demand: Demand) -> str:
    """The classes that a replica is kept for, as a part of a pool's name."""
    return _plain("-".join(demand.class_names[c] for c in own.classes))[:24]


def _plain(name: str) -> str:
    """As the name of a pool may be written."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name.lower())[:60]
