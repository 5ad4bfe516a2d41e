"""Batches of jobs handed in at set times."""

from __future__ import annotations

import numpy as np

from .checks import WorkloadError
from .draws import correlated_lengths, shared_prefixes
from .requests import Workload
from .spec import JobLoad
from .streams import BATCHES, LENGTHS, PREFIX_CHOICES, PREFIX_LENGTHS, Stream, check_count

MAX_BATCHES = 1_000_000


def jobs(name: str, load: JobLoad, duration_s: float, rng: Stream) -> Workload:
    """The requests of all batches that are handed in over [0, duration_s)."""
    if duration_s / load.every_s * len(load.at_s) > MAX_BATCHES:
        raise WorkloadError(
            f"workload.classes.{name}.every_s: {load.every_s:g}: too often for a run of {duration_s:g} s"
        )
    periods = int(duration_s // load.every_s) + 1
    at_s = (load.every_s * np.arange(periods)[:, None] + np.sort(load.at_s)).ravel()
    at_s = at_s[at_s < duration_s]
    expected = len(at_s) * load.requests_mean
    check_count(f"{name}.requests_mean", load.requests_mean, expected, duration_s)
    sizes = np.full(len(at_s), load.requests_mean)
    if load.requests_cv > 0:
        shape = load.requests_cv**-2
        sizes = rng(BATCHES, 0).gamma(shape, load.requests_mean / shape, len(at_s))
    # Rounded up or down at random, so that the mean stays.
    counts = np.floor(sizes + rng(BATCHES, 1).random(len(at_s))).astype(np.int64)
    check_count(f"{name}.requests_mean", load.requests_mean, float(counts.sum()), duration_s)
    arrival_s = np.repeat(at_s, counts) + load.over_s * rng(BATCHES, 2).random(int(counts.sum()))
    n = len(arrival_s)
    prompt_tokens, output_tokens = correlated_lengths(
        load.prompt_tokens, load.output_tokens, load.correlation, n, rng(LENGTHS)
    )
    order = np.argsort(arrival_s, kind="stable")
    order = order[arrival_s[order] < duration_s]
    arrival_s, zeros = arrival_s[order], np.zeros(len(order), np.int64)
    if load.shared_prefix is None:
        return Workload(arrival_s, prompt_tokens[order], output_tokens[order], zeros, (name,))
    tree, node, tokens = shared_prefixes(load.shared_prefix, n, rng(PREFIX_LENGTHS), rng(PREFIX_CHOICES))
    return Workload(arrival_s, (prompt_tokens + tokens)[order], output_tokens[order], zeros, (name,), node[order], tree)
