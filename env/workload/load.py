"""From what a scenario says of its requests to the requests of one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from .generate import generate
from .requests import Workload, WorkloadError
from .spec import TraceSpec, WorkloadSpec
from .traces import assign_classes, read_trace


def load_workload(
    spec: WorkloadSpec, class_names: Sequence[str], duration_s: float, seed: int, base_dir: Path
) -> Workload:
    """The requests of a run over [0, duration_s).

    Args:
        spec: what the scenario holds under `workload:`.
        class_names: the scenario's classes, in its order.
        duration_s: length of the run.
        seed: draws generated requests, or the shares of a trace's classes.
        base_dir: the scenario file's folder, where a trace's relative path starts.

    Raises:
        WorkloadError: the spec names an unknown class, or makes too many requests, or none.
        TraceError: the trace cannot be used.
    """
    if isinstance(spec, TraceSpec):
        return _replay(spec, class_names, duration_s, seed, base_dir)
    return generate(spec, class_names, duration_s, seed)


def _replay(spec: TraceSpec, class_names: Sequence[str], duration_s: float, seed: int, base_dir: Path) -> Workload:
    path = base_dir / spec.path
    # Classes are given before the cut, so that a request keeps its class whatever part of the trace is used.
    whole = assign_classes(read_trace(path, spec.format), spec.assign, class_names, seed)
    end_s = math.inf if spec.end_s is None else spec.end_s
    used = whole.slice(spec.start_s, end_s).scaled_rate(spec.rate_factor).slice(0.0, duration_s)
    if not len(used):
        raise WorkloadError(
            f"{path}: has no requests to replay from start_s {spec.start_s:g} to end_s {end_s:g} in a run of"
            f" {duration_s:g} s; its last arrives at {whole.duration_s:.6g} s"
        )
    return used
