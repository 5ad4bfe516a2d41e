"""Requests drawn from what a scenario says of each class.

Symbols: `N` requests of one class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .draws import correlated_lengths, shared_prefixes, stream
from .jobs import jobs
from .requests import Workload, WorkloadError, check_class_names
from .sessions import sessions
from .spec import AnyLoad, ClassLoad, GeneratedSpec, JobLoad, SessionLoad
from .streams import LENGTHS, PREFIX_CHOICES, PREFIX_LENGTHS, Stream, arrival_times, check_count


def generate(spec: GeneratedSpec, class_names: Sequence[str], duration_s: float, seed: int) -> Workload:
    """Draw the requests of a run over [0, duration_s).

    Each class has random streams of its own, keyed by its place in `class_names`: changing one class, or making the
    run longer, leaves all other requests as they were (to a microsecond).

    Raises:
        WorkloadError: `spec` names a class that is not in `class_names`, or asks for too many requests.
    """
    names = tuple(class_names)
    check_class_names(spec.named_classes, names)
    if not (math.isfinite(duration_s) and duration_s > 0.0):
        raise WorkloadError(f"duration_s: {duration_s!r}: wanted a finite number above 0")
    empty = np.empty(0, np.int64)
    parts = [Workload(np.empty(0), empty, empty, empty, names)]
    for i, name in enumerate(names):
        if name in spec.classes:

            def rng(*key: int, position: int = i) -> np.random.Generator:
                return stream(seed, position, *key)

            part = _of_class(name, spec.classes[name], duration_s, rng)
            parts.append(replace(part, class_index=np.full(len(part), i), class_names=names))
    return Workload.mix(*parts)


def _of_class(name: str, load: AnyLoad, duration_s: float, rng: Stream) -> Workload:
    if isinstance(load, SessionLoad):
        return sessions(name, load, duration_s, rng)
    if isinstance(load, JobLoad):
        return jobs(name, load, duration_s, rng)
    return _single_requests(name, load, duration_s, rng)


def _single_requests(name: str, load: ClassLoad, duration_s: float, rng: Stream) -> Workload:
    def check(expected: float, _at_start_per_s: float) -> None:
        check_count(f"{name}.rate_per_s", load.rate_per_s, expected, duration_s)

    arrival_s = arrival_times(load, load.rate_per_s, load.clients, duration_s, rng, check)[0]
    prompt_tokens, output_tokens = correlated_lengths(
        load.prompt_tokens, load.output_tokens, load.correlation, len(arrival_s), rng(LENGTHS)
    )
    zeros = np.zeros(len(arrival_s), np.int64)
    if load.shared_prefix is None:
        return Workload(arrival_s, prompt_tokens, output_tokens, zeros, (name,))
    tree, node, tokens = shared_prefixes(load.shared_prefix, len(arrival_s), rng(PREFIX_LENGTHS), rng(PREFIX_CHOICES))
    return Workload(arrival_s, prompt_tokens + tokens, output_tokens, zeros, (name,), node, tree)
