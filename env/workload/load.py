"""From what a scenario says of its requests to the requests of one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .assign import assign_classes
from .clients import requests_of_clients
from .generate import generate
from .requests import Workload, WorkloadError
from .scaling import scaled
from .spec import MixSpec, Scaling, ServegenSpec, TraceSpec, WorkloadSpec
from .traces import Selection, read_trace


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


def _replay(spec: TraceSpec, class_names: Sequence[str], duration_s: float, seed: int, base_dir: Path) -> Workload:
    path = base_dir / spec.path
    scale = spec.scale or Scaling(kind="compress", factor=1.0)
    # What is read of the trace, in its own time: no more than the run lasts.
    speed = spec.rate_factor * (scale.factor if scale.kind == "compress" else 1.0)
    end_s = min(math.inf if spec.end_s is None else spec.end_s, spec.start_s + duration_s * speed)
    selection = Selection(
        start_s=spec.start_s,
        end_s=end_s,
        keep=spec.keep,
        seed=seed,
        keep_failed=spec.keep_failed,
        block_tokens=spec.block_tokens,
    )
    trace = read_trace(path, spec.format, selection)
    if not len(trace):
        raise WorkloadError(
            f"{path}: has no requests to replay from start_s {spec.start_s:g} to {end_s:g}, for a run of {duration_s:g} s;"
            f" it was read up to {trace.seen_s:.6g} s"
        )
    used = assign_classes(trace, spec.assign, class_names, seed).slice(spec.start_s, math.inf)
    used = used.scaled_rate(spec.rate_factor)
    # The load ends where the trace ends: a mean gap after its last request.
    trace_s = used.duration_s * (1.0 + 1.0 / len(used)) if used.duration_s > 0 else math.inf
    span_s = min((end_s - spec.start_s) / spec.rate_factor, trace_s)
    return scaled(used, scale, span_s, seed).slice(0.0, duration_s)
