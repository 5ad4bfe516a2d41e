"""The requests that a fleet may have got, from what was measured of its load. Pure; randomness comes from a seed.

Symbols: `T` steps, `C` classes, `N` requests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..env.contract import FloatArray, IntArray
from ..env.workload.requests import Workload
from .histograms import Histogram
from .measured import Lengths, Measured


def requests_of(measured: Measured, longest_tokens: FloatArray, seed: int) -> Workload:
    """The measured requests themselves where the source has them, else requests that the measurement allows.

    Every step gets as many as arrived in it, evenly at random within it: a Poisson process that is known to have had so
    many. Lengths are drawn from the histograms of their stretch.

    Args:
        measured: the load.
        longest_tokens: `[C]` most tokens of one request, answer included.
        seed: draws what the measurement does not tell; the same one draws the same.
    """
    if measured.requests is not None:
        return measured.requests
    streams = np.random.SeedSequence(seed).spawn(len(measured.class_names))
    parts = [
        _of_class(measured, c, name, longest_tokens[c], np.random.default_rng(stream))
        for c, (name, stream) in enumerate(zip(measured.class_names, streams, strict=True))
    ]
    arrival_s, prompt, output = (np.concatenate([part[i] for part in parts]) for i in range(3))
    classes = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    order = np.argsort(arrival_s, kind="stable")
    return Workload(
        arrival_s[order],
        prompt[order].astype(np.int64),
        output[order].astype(np.int64),
        classes[order].astype(np.int64),
        measured.class_names,
    )


def _of_class(
    measured: Measured, c: int, name: str, longest: float, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    counts = whole_counts(measured.arrived[:, c])
    edges = measured.edges_s
    step = np.repeat(np.arange(len(counts)), counts)
    arrival_s = np.sort(edges[step] + rng.random(len(step)) * (edges[step + 1] - edges[step]))
    prompt, output = np.ones(len(step)), np.ones(len(step))
    for stretch in measured.lengths[name]:
        first, last = np.searchsorted(arrival_s, [stretch.begin_s, stretch.end_s])
        if stretch.end_s >= measured.duration_s:
            last = len(arrival_s)
        prompt[first:last] = _tokens(stretch.prompt_tokens, last - first, rng, longest, least=1)
        output[first:last] = _tokens(stretch.output_tokens, last - first, rng, longest, least=0)
    return arrival_s, prompt, output


def _tokens(lengths: Histogram, n: int, rng: np.random.Generator, longest: float, least: int) -> FloatArray:
    drawn: FloatArray = np.rint(np.clip(lengths.drawn(int(n), rng, longest), least, longest))
    return drawn


def whole_counts(arrived: FloatArray) -> IntArray:
    """`[T]` whole requests: what is left of one step's is carried into the next, so that the sum is kept."""
    upto = np.floor(np.cumsum(np.maximum(arrived, 0.0)) + 0.5 + 1e-9)
    counts: IntArray = np.diff(upto, prepend=0.0).astype(np.int64)
    return counts


def mean_tokens(parts: Sequence[Lengths]) -> tuple[float, float]:
    """Of prompts and answers, over stretches by their requests."""
    count = sum(part.prompt_tokens.count for part in parts)
    if count <= 0:
        return float("nan"), float("nan")
    prompt = sum(part.prompt_tokens.mean * part.prompt_tokens.count for part in parts) / count
    output = sum(part.output_tokens.mean * part.prompt_tokens.count for part in parts) / count
    return prompt, output
