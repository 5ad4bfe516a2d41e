"""Requests as the clients of a published service sent them: few large, many small, each with its own bursts.

Symbols: `N` requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..contract import FloatArray, IntArray
from .arrivals import renewal_points_of_shape
from .assign import assign_classes
from .draws import stream
from .formats.columns import Labels
from .formats.servegen import FAMILIES, ClientWindows, Quantiles, Service, read_service
from .requests import Workload, WorkloadError
from .spec import ServegenSpec
from .streams import MAX_REQUESTS
from .traces import Trace

CLIENT_LABEL = "client"
ARRIVALS, LENGTHS, DONORS, CLASSES = range(4)


def requests_of_clients(
    spec: ServegenSpec, class_names: Sequence[str], duration_s: float, seed: int, base_dir: Path
) -> Workload:
    """Draw the requests of a run over [0, duration_s).

    Each client and window has random streams of its own. Within a window a client's gaps have the family and shape
    that were fitted to it. Prompt and output lengths are drawn apart: only their marginals are published. A client
    without published lengths takes those of another, drawn by the number of requests.

    Raises:
        TraceError: a file cannot be read.
        WorkloadError: the part has no requests, or too many.
    """
    path = base_dir / spec.path
    service = read_service(path, base_dir / spec.lengths if spec.lengths else None)
    end_s = min(spec.start_s + duration_s, math.inf if spec.end_s is None else spec.end_s)
    parts = _parts(service.windows, spec.start_s, end_s)
    expected = float((parts.rate_per_s * parts.for_s).sum())
    if expected <= 0:
        raise WorkloadError(f"{path}: no client sends from start_s {spec.start_s:g} to {end_s:g}")
    scale = 1.0 if spec.rate_per_s is None else spec.rate_per_s * (end_s - spec.start_s) / expected
    if expected * scale > MAX_REQUESTS:
        raise WorkloadError(
            f"{path}: makes {expected * scale:.3g} requests in {end_s - spec.start_s:g} s, wanted at most"
            f" {MAX_REQUESTS:.0e}; lower rate_per_s, or shorten the run"
        )
    trace = _drawn(service, parts, scale, spec.start_s, seed)
    class_seed = int(stream(seed, CLASSES).integers(2**62))
    return assign_classes(trace, spec.assign, class_names, class_seed).slice(0.0, duration_s)


def rates_of_clients(path: Path, rate_per_s: float | None, step_s: float, seed: int) -> FloatArray:
    """`[T]` requests per second in each `step_s` of the whole trace, of the same draw as `requests_of_clients`.

    Scaled to a mean of `rate_per_s`, if one is given.

    Steps are to divide the trace's windows. Windows in which no client sent are gaps in the trace: NaN.

    Raises:
        TraceError: the file cannot be read.
    """
    parts = _parts(read_service(path, None).windows, 0.0, math.inf)
    window_s = float(parts.for_s.max())
    steps = round(window_s / step_s)
    counts = np.zeros((int(parts.window.max()) + 1, steps))
    seen = np.zeros(len(counts), dtype=np.bool_)
    seen[parts.window] = True
    expected = float((parts.rate_per_s * parts.for_s).sum())
    scale = 1.0 if rate_per_s is None else rate_per_s * len(counts) * window_s / expected
    for i, window in enumerate(parts.window):
        points_s = _points_s(parts, i, scale, seed)
        counts[window] += np.bincount(np.minimum(points_s // step_s, steps - 1).astype(np.int64), minlength=steps)
    counts[~seen] = np.nan
    rates: FloatArray = counts.ravel() / step_s
    return rates


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """Windows, or what of them lies in the part that is used."""

    client: IntArray
    window: IntArray
    """Number of the window in the service's time."""
    from_s: FloatArray
    for_s: FloatArray
    rate_per_s: FloatArray
    family: IntArray
    shape: FloatArray


def _parts(windows: ClientWindows, start_s: float, end_s: float) -> _Parts:
    from_s = np.maximum(windows.start_s, start_s)
    for_s = np.minimum(windows.start_s + windows.window_s, end_s) - from_s
    rows = np.flatnonzero(for_s > 0)
    return _Parts(
        windows.client[rows],
        (windows.start_s[rows] // windows.window_s).astype(np.int64),
        from_s[rows],
        for_s[rows],
        windows.rate_per_s[rows],
        windows.family[rows],
        windows.shape[rows],
    )


def _drawn(service: Service, parts: _Parts, scale: float, start_s: float, seed: int) -> Trace:
    """All parts' requests, sorted by arrival from `start_s`."""
    lender = _lenders(service, parts, seed)
    arrivals, prompts, outputs, counts = [], [], [], []
    for i, client in enumerate(parts.client):
        key = (int(client), int(parts.window[i]))
        points_s = _points_s(parts, i, scale, seed)
        uniform = stream(seed, LENGTHS, *key).random((len(points_s), 2))
        prompt, output = _lengths(service, lender.get(int(client), int(client)), float(parts.from_s[i]))
        arrivals.append(parts.from_s[i] - start_s + points_s)
        prompts.append(np.maximum(prompt.at(uniform[:, 0]), 1))
        outputs.append(output.at(uniform[:, 1]))
        counts.append(len(points_s))
    arrival_s = np.concatenate(arrivals)
    order = np.argsort(arrival_s, kind="stable")
    clients, codes = np.unique(np.repeat(parts.client, counts), return_inverse=True)
    return Trace(
        arrival_s[order],
        np.concatenate(prompts)[order],
        np.concatenate(outputs)[order],
        labels={CLIENT_LABEL: Labels(codes.reshape(-1)[order], tuple(str(c) for c in clients))},
    )


def _points_s(parts: _Parts, i: int, scale: float, seed: int) -> FloatArray:
    """When a part's client sent, in seconds from the part's beginning."""
    rate = parts.rate_per_s[i] * scale
    kind = "weibull" if FAMILIES[parts.family[i]] == "Weibull" else "gamma"
    rng = stream(seed, ARRIVALS, int(parts.client[i]), int(parts.window[i]))
    points_s: FloatArray = renewal_points_of_shape(kind, parts.shape[i], rate * parts.for_s[i], rng) / rate
    return points_s


def _lengths(service: Service, client: int, at_s: float) -> tuple[Quantiles, Quantiles]:
    """Of the latest bucket that has begun, or else the first."""
    latest = service.lengths[client][0]
    for bucket in service.lengths[client]:
        if bucket[0] <= at_s:
            latest = bucket
    return latest[1], latest[2]


def _lenders(service: Service, parts: _Parts, seed: int) -> dict[int, int]:
    """For each client without lengths, one that has some."""
    windows = service.windows
    having = np.array(sorted(service.lengths), np.int64)
    place = np.minimum(np.searchsorted(having, windows.client), len(having) - 1)
    known = having[place] == windows.client
    weight = np.bincount(place[known], windows.rate_per_s[known], minlength=len(having))
    share = weight / weight.sum() if weight.sum() > 0 else np.full(len(having), 1.0 / len(having))
    missing = [int(client) for client in np.unique(parts.client) if int(client) not in service.lengths]
    return {client: int(stream(seed, DONORS, client).choice(having, p=share)) for client in missing}
