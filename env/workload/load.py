"""From what a scenario says of its requests to the requests of one run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .assign import assign_classes
from .clients import requests_of_clients
from .generate import generate
from .requests import Workload, WorkloadError
from .scaling import scaled
from .spec import MixSpec, ServegenSpec, TraceSpec, WorkloadSpec
from .traces import Selection, Trace, read_trace, read_trace_batches


def load_workload(
    spec: WorkloadSpec, class_names: Sequence[str], duration_s: float, seed: int, base_dir: Path
) -> Workload:
    """The requests of a run over [0, duration_s).

    Args:
        spec: what the scenario holds under `workload:`.
        class_names: the scenario's classes, in its order.
        duration_s: length of the run.
        seed: draws generated requests, or the shares of a trace's classes.
        base_dir: the scenario file's folder, where relative paths start.

    Raises:
        WorkloadError: the spec names an unknown class, or makes too many requests, or none.
        TraceError: a trace cannot be used.
    """
    if isinstance(spec, MixSpec):
        parts = [
            load_workload(part, class_names, duration_s, _seed_of_part(seed, i), base_dir)
            for i, part in enumerate(spec.parts)
        ]
        return Workload.mix(*parts)
    if isinstance(spec, TraceSpec):
        return _replay(spec, class_names, duration_s, seed, base_dir)
    if isinstance(spec, ServegenSpec):
        return requests_of_clients(spec, class_names, duration_s, seed, base_dir)
    return generate(spec, class_names, duration_s, seed)


def _seed_of_part(seed: int, i: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=(i,)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def replay_parts(
    spec: TraceSpec, class_names: Sequence[str], part_s: float, seed: int, base_dir: Path
) -> Iterator[Workload]:
    """A trace of any length as one workload after another, each of `part_s` seconds of a run, in one pass.

    Times count from the beginning of each part. Without `scale` the parts together are the requests of
    `load_workload`; with it each part is scaled by itself. Prompts share nothing with those of another part.

    Raises:
        WorkloadError: the spec names an unknown class.
        TraceError: the trace cannot be used; while iterating.
    """
    if not (math.isfinite(part_s) and part_s > 0.0):
        raise WorkloadError(f"part_s: {part_s!r}: wanted a finite number of seconds above 0")
    own_part_s = part_s * _speed(spec)
    end_s = math.inf if spec.end_s is None else spec.end_s
    held: list[Trace] = []
    part, seen_s = 0, spec.start_s
    for batch in read_trace_batches(base_dir / spec.path, spec.format, _selection(spec, end_s, seed)):
        held.append(batch)
        seen_s = min(batch.seen_s, end_s)
        while seen_s >= spec.start_s + (part + 1) * own_part_s:
            begin_s, until_s = (spec.start_s + k * own_part_s for k in (part, part + 1))
            trace = Trace.joined(held)
            cut = int(np.searchsorted(trace.arrival_s, until_s))
            rows = np.arange(len(trace))
            held = [trace.picked(rows[cut:])]
            yield _scaled(spec, trace.picked(rows[:cut]), class_names, (begin_s, until_s), _seeds(seed, part))
            part += 1
    begin_s = spec.start_s + part * own_part_s
    if held and seen_s >= begin_s:
        # The load ends where the trace ends.
        yield _scaled(spec, Trace.joined(held), class_names, (begin_s, begin_s + own_part_s), _seeds(seed, part))


def _seeds(seed: int, part: int) -> tuple[int, int]:
    """What draws classes, the same throughout, and what draws a part's scaling."""
    return seed, _seed_of_part(seed, part)


def _speed(spec: TraceSpec) -> float:
    """Seconds of the trace in a second of the run."""
    compressed = spec.scale is not None and spec.scale.kind == "compress"
    return spec.rate_factor * (spec.scale.factor if spec.scale and compressed else 1.0)


def _selection(spec: TraceSpec, end_s: float, seed: int) -> Selection:
    return Selection(
        start_s=spec.start_s,
        end_s=end_s,
        keep=spec.keep,
        seed=seed,
        keep_failed=spec.keep_failed,
        block_tokens=spec.block_tokens,
    )


def _replay(spec: TraceSpec, class_names: Sequence[str], duration_s: float, seed: int, base_dir: Path) -> Workload:
    path = base_dir / spec.path
    # What is read of the trace, in its own time: no more than the run lasts.
    end_s = min(math.inf if spec.end_s is None else spec.end_s, spec.start_s + duration_s * _speed(spec))
    trace = read_trace(path, spec.format, _selection(spec, end_s, seed))
    if not len(trace):
        raise WorkloadError(
            f"{path}: has no requests to replay from start_s {spec.start_s:g} to {end_s:g}, for a run of {duration_s:g} s;"
            f" it was read up to {trace.seen_s:.6g} s"
        )
    return _scaled(spec, trace, class_names, (spec.start_s, end_s), (seed, seed)).slice(0.0, duration_s)


def _scaled(
    spec: TraceSpec, trace: Trace, class_names: Sequence[str], span: tuple[float, float], seeds: tuple[int, int]
) -> Workload:
    """A part of the trace as requests of a run, counted from the part's beginning; `span` in the trace's time."""
    used = assign_classes(trace, spec.assign, class_names, seeds[0]).slice(span[0], math.inf)
    used = used.scaled_rate(spec.rate_factor)
    if spec.scale is None or not len(used):
        return used
    # The load ends where the trace ends: a mean gap after its last request.
    trace_s = used.duration_s * (1.0 + 1.0 / len(used)) if used.duration_s > 0 else math.inf
    return scaled(used, spec.scale, min((span[1] - span[0]) / spec.rate_factor, trace_s), seeds[1])
