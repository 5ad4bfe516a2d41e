"""In which order machines with unlike GPUs make up a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ....env.catalog.gpus import gpu
from ....env.catalog.links import BETWEEN_MACHINES
from ....env.perf.roofline import DoesNotFit, LayoutError
from .partition import TIE, USUAL_FLAGS, USUAL_LOAD, Flags, Load, Place, Split, best_split

WORTH_PARTING = 0.01
"""Share of more requests from which on a machine's stages may stand at both ends of a pipeline."""


@dataclass(frozen=True, slots=True)
class Group:
    """Equal stages that stand in one machine."""

    gpu: str
    stages: int = 1
    tensor_parallel: int = 1


def best_chain(
    groups: Sequence[Group],
    model_name: str,
    precision: str,
    load: Load = USUAL_LOAD,
    flags: Flags = USUAL_FLAGS,
    *,
    between_machines: str = BETWEEN_MACHINES,
) -> tuple[tuple[Place, ...], Split]:
    """The order of machines in a pipeline, and its split, that serve most requests a second.

    Only the first stage (it holds the embedding) and the last (it holds the output head, multiplies it and samples)
    differ from the others, so each pair of groups at the two ends is tried once; those between keep the order given.
    A group's stages stay together, so that as few transfers as possible cross machines; it takes both ends where that
    serves `WORTH_PARTING` more.

    Args:
        between_machines: link between groups; inside one it is the GPUs' own.

    Raises:
        As for `split_for`.
    """
    best: tuple[tuple[Place, ...], Split] | None = None
    missing: DoesNotFit | None = None
    for parted, places in _orders(groups, between_machines):
        try:
            split = best_split(places, model_name, precision, load, flags)
        except DoesNotFit as error:
            missing = error
            continue
        worth = WORTH_PARTING if parted else TIE
        if best is None or split.requests_per_s > best[1].requests_per_s * (1.0 + worth):
            best = places, split
    if best is None:
        raise missing or LayoutError("no groups: wanted at least one")
    return best


def _orders(groups: Sequence[Group], between_machines: str) -> Iterator[tuple[bool, tuple[Place, ...]]]:
    """Each pair of kinds of GPU at the two ends once, those that part a group last; and whether they do."""
    if len(groups) == 1:
        yield False, places_of(groups, between_machines)
        return
    seen = set()
    for first, last in sorted(product(range(len(groups)), repeat=2), key=lambda pair: pair[0] == pair[1]):
        parted = first == last
        if parted and groups[first].stages < 2:
            continue
        middle = [g for i, g in enumerate(groups) if i not in (first, last)]
        ends = groups[first], groups[last]
        if parted:
            ends = replace(ends[0], stages=ends[0].stages - 1), replace(ends[0], stages=1)
        kind = tuple((group.gpu, group.tensor_parallel) for group in ends)
        if kind not in seen:
            seen.add(kind)
            yield parted, places_of([ends[0], *middle, ends[1]], between_machines)


def places_of(order: Sequence[Group], between_machines: str = BETWEEN_MACHINES) -> tuple[Place, ...]:
    """The stages of a pipeline through machines in this order."""
    places: list[Place] = []
    if len(order) == 1:
        return (Place(order[0].gpu, order[0].tensor_parallel),) * order[0].stages  # the GPUs' own link, as always
    for group in order:
        inside = gpu(group.gpu).link_among(group.stages * group.tensor_parallel).name
        places += [Place(group.gpu, group.tensor_parallel, inside)] * (group.stages - 1)
        places.append(Place(group.gpu, group.tensor_parallel, between_machines))
    return (*places[:-1], replace(places[-1], link_to_next=None))
