"""More or fewer requests of the same kind.

Symbols: `N` requests before, `M` after, `G` nodes of the prefix tree.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..contract import FloatArray, IntArray
from .checks import WorkloadError
from .draws import stream
from .prefixes import PrefixTree
from .requests import Workload
from .spec import Scaling
from .streams import MAX_REQUESTS

STRETCH_GAPS = 50
"""Mean number of consecutive requests that `resampled` keeps together: clusters of gaps and lengths survive."""


def scaled(requests: Workload, scaling: Scaling, span_s: float, seed: int) -> Workload:
    """The requests of [0, span_s) at another rate; see `Scaling` for the ways.

    Raises:
        WorkloadError: it would make too many requests.
    """
    if len(requests) * scaling.factor > MAX_REQUESTS:
        raise WorkloadError(
            f"scale.factor: {scaling.factor:g}: makes {len(requests) * scaling.factor:.3g} requests,"
            f" wanted at most {MAX_REQUESTS:.0e}"
        )
    rng = stream(seed)
    if scaling.kind == "compress":
        return requests.scaled_rate(scaling.factor)
    if scaling.kind == "thin":
        return thinned(requests, scaling.factor, rng)
    if scaling.kind == "superpose":
        return superposed(requests, round(scaling.factor), span_s, rng)
    return resampled(requests, scaling.factor, span_s, scaling.window_s, rng)


def thinned(requests: Workload, share: float, rng: np.random.Generator) -> Workload:
    """A share of the requests, drawn one by one."""
    rows = np.flatnonzero(rng.random(len(requests)) < share)
    return requests.picked(rows, requests.arrival_s[rows])


def superposed(requests: Workload, copies: int, span_s: float, rng: np.random.Generator) -> Workload:
    """As many copies of the requests of [0, span_s), all but the first begun at a random moment and carried round.

    Copies come from other users: of the prefixes they share roots (system prompts) with the others, and no more.
    """
    shift_s = np.concatenate([[0.0], rng.random(copies - 1) * span_s])
    arrival_s = ((requests.arrival_s + shift_s[:, None]) % span_s).ravel() if len(requests) else requests.arrival_s
    rows = np.tile(np.arange(len(requests)), copies)
    copy = np.repeat(np.arange(copies), len(requests))
    order = np.argsort(arrival_s, kind="stable")
    return _copied(requests, rows[order], copy[order], arrival_s[order])


def resampled(requests: Workload, factor: float, span_s: float, window_s: float, rng: np.random.Generator) -> Workload:
    """`factor` times as many requests whose rate moves as before, and whose gaps have the spread they had.

    Time is measured in expected requests (by the mean rate of each window): there the trace is a stationary stream of
    gaps. Stretches of consecutive requests are drawn from near the same place in the trace, with the gaps before
    them, and put one after another; at `factor` times the rate, time is measured back.
    """
    if not len(requests):
        return requests
    edges_s, at_edges = _expected(requests.arrival_s, span_s, window_s)
    place = np.interp(requests.arrival_s, edges_s, at_edges)
    gaps = np.diff(place, prepend=0.0)
    rows = _stretches(place, factor, rng)
    # A stretch's own mean gap is not exactly 1: without the correction the total would wander.
    target = np.cumsum(gaps[rows])
    target *= factor * at_edges[-1] / max(target[-1] + 1.0, 1.0) if target[-1] > 0 else 1.0
    arrival_s = np.interp(target / factor, at_edges, edges_s)
    within = arrival_s < span_s
    rows = rows[within]
    # The k-th use of a request is by the k-th user like it.
    order = np.argsort(rows, kind="stable")
    first = np.searchsorted(rows[order], rows[order])
    copy = np.empty(len(rows), np.int64)
    copy[order] = np.arange(len(rows)) - first
    return _copied(requests, rows, copy, arrival_s[within])


def _expected(arrival_s: FloatArray, span_s: float, window_s: float) -> tuple[FloatArray, FloatArray]:
    """Edges of windows, and requests up to each; a window without any counts as having a little."""
    n = max(int(np.ceil(span_s / window_s)), 1)
    edges_s = np.minimum(np.arange(n + 1) * window_s, span_s)
    counts, _ = np.histogram(arrival_s, edges_s)
    return edges_s, np.concatenate([[0.0], np.cumsum(np.maximum(counts, 1e-9))])


def _stretches(place: FloatArray, factor: float, rng: np.random.Generator) -> IntArray:
    """`[M]` requests to use, in order: stretches of geometric length, begun near where the new stream is."""
    n = len(place)
    total = max(round(n * factor), 1)
    lengths = rng.geometric(1.0 / min(STRETCH_GAPS, n), total // min(STRETCH_GAPS, n) * 2 + 64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    used = int(np.searchsorted(starts, total))
    lengths, starts = lengths[:used], starts[:used]
    # Near by: within some stretches of the same place in the trace.
    near = starts / factor + rng.uniform(-2.0, 2.0, used) * STRETCH_GAPS
    begin = np.clip(near.astype(np.int64), 0, n - 1)
    rows = np.repeat(begin - starts, lengths) + np.arange(int(lengths.sum()))
    picked: IntArray = rows[:total] % n
    return picked


def _copied(requests: Workload, rows: IntArray, copy: IntArray, arrival_s: FloatArray) -> Workload:
    """Requests by place, each of some copy; copies have prefix trees of their own below common roots."""
    picked = requests.picked(rows, arrival_s)
    tree, copies = requests.prefixes, int(copy.max(initial=0)) + 1
    if copies == 1 or not (picked.prefix_index >= 0).any():
        return picked
    is_root = tree.parent < 0
    below = np.flatnonzero(~is_root)
    # Copy 0 keeps its places; each other copy has the nodes below the roots once more, in the same order.
    place = np.tile(np.arange(len(tree)), (copies, 1))
    place[1:, below] = len(tree) + np.arange((copies - 1) * len(below)).reshape(copies - 1, len(below))
    parent = np.concatenate([tree.parent, place[1:, tree.parent[below]].ravel()])
    tokens = np.concatenate([tree.tokens, np.tile(tree.tokens[below], copies - 1)])
    node = np.where(picked.prefix_index >= 0, place[copy, picked.prefix_index], -1)
    return replace(picked, prefix_index=node, prefixes=PrefixTree(parent, tokens))
