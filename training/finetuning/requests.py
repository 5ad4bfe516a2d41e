"""The requests of a stretch, as far as a record tells them: counts by tick and sums of their lengths; or all of them, from
the access log. Pure but for the draws.

Symbols: `T` ticks, `C` classes, `N` requests, `G` groups of ticks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.special import ndtri

from ...env.contract import FloatArray, IntArray
from ...env.window import ARRIVED, OUTPUT_SQUARES, OUTPUT_SUM, PROMPT_SQUARES, PROMPT_SUM, SHED
from ...env.workload.requests import Workload
from ...telemetry.envoy_log import RequestRecord
from ...telemetry.record import Episode

GROUP_TICKS: Final = 6
"""Lengths are drawn anew, to the moments of what finished, every so many ticks."""
FEWEST_TOLD: Final = 20
"""With fewer requests in a group their lengths are those of the whole stretch."""


def base_arrivals(episode: Episode, returning: float, retry_after_s: float) -> FloatArray:
    """`[T, C]` requests that arrived for the first time, in expectation: those that came back after a 429 taken off.

    Args:
        episode: counts of its ticks.
        returning: share of the requests that are turned away and come back.
        retry_after_s: when they do.
    """
    arrived = episode.since.tally[..., ARRIVED].astype(np.float64)
    if returning <= 0 or not episode.since.tally[..., SHED].any():
        return arrived
    came: FloatArray = np.maximum(arrived - returning * shed_before(episode, retry_after_s), 0.0)
    return came


def retry_ticks(episode: Episode, retry_after_s: float) -> int:
    """In how many ticks who was turned away may be back: at least one, since when within a tick it was is not recorded."""
    return max(1, round(retry_after_s / max(episode.tick_s, 1e-9)))


def shed_before(episode: Episode, retry_after_s: float) -> FloatArray:
    """`[T, C]` requests that were turned away `retry_ticks` before the time that each row tells of; none where that is not
    in the episode. Within a tick they are taken to be spread evenly: what lies across two ticks is shared between them."""
    shed, own = episode.since.tally[..., SHED].astype(np.float64), episode.tick_s
    first_s = float(episode.since.span_s[0]) or own
    edges_s = np.concatenate([[episode.time_s[0] - first_s], episode.time_s])
    total = np.concatenate([np.zeros((1, shed.shape[1])), np.cumsum(shed, axis=0)])
    before_s = edges_s - retry_ticks(episode, retry_after_s) * own
    then: FloatArray = np.stack([np.interp(before_s, edges_s, column) for column in total.T], axis=1)
    return np.diff(then, axis=0)


def requests_of(
    episode: Episode,
    longest: FloatArray,
    returning: float,
    retry_after_s: float,
    rng: np.random.Generator,
    cv: FloatArray | None = None,
) -> Workload:
    """Requests with the counts of each tick, within it as uneven as counts are from tick to tick, and lengths of the moments that were recorded.

    Args:
        episode: row `t` tells of the time since row `t - 1`.
        longest: `[C]` tokens of the longest request of a class.
        returning, retry_after_s: see `base_arrivals`.
        rng: draws where in its tick a request comes, and which length is whose.
        cv: `[C]` coefficient of variation of the gaps (`Traffic.cv`); left out: 1, as of a Poisson process.
    """
    cluster, times = episode.sitting.cluster, episode.time_s - episode.time_s[0]
    counts = _whole(base_arrivals(episode, returning, retry_after_s))
    parts = []
    for c in range(len(cluster.class_names)):
        n = counts[1:, c]
        at = np.repeat(times[:-1], n) + _within(n, 1.0 if cv is None else float(cv[c]), rng) * np.repeat(
            np.diff(times), n
        )
        group = np.repeat(np.arange(len(n)) // GROUP_TICKS, n)
        prompt = _lengths(episode, c, group, PROMPT_SUM, PROMPT_SQUARES, rng)
        output = _lengths(episode, c, group, OUTPUT_SUM, OUTPUT_SQUARES, rng)
        parts.append(_cut(at, prompt, output, c, float(longest[c])))
    return _joined(parts, cluster.class_names)


def requests_in_log(
    records: Sequence[RequestRecord],
    episode: Episode,
    longest: FloatArray,
    returning: float,
    rng: np.random.Generator,
) -> Workload:
    """The requests of an access log within an episode, each as it was; of those whose usage is not known, the lengths of
    another one of their class.

    Args:
        records: of Envoy's log, any order.
        episode: whose wall clock tells when on the decider's clock they came.
        longest: `[C]` tokens of the longest request of a class.
        returning: share of the turned away that is taken for having come back: as many of them are left out.
        rng: draws whose lengths, and who is left out.
    """
    cluster = episode.sitting.cluster
    began, ended = float(episode.wall_s[0]), float(episode.wall_s[-1])
    parts = []
    for c, name in enumerate(cluster.class_names):
        own = [r for r in records if r.class_name == name and began <= r.started_at_s < ended]
        own = [r for r in own if not (r.shed or r.code == 429) or rng.random() >= returning]
        told = [r for r in own if not math.isnan(r.prompt_tokens)]
        if not told:
            continue
        rows = [r if not math.isnan(r.prompt_tokens) else told[int(rng.integers(len(told)))] for r in own]
        at = np.interp([r.started_at_s for r in own], episode.wall_s, episode.time_s) - float(episode.time_s[0])
        prompt = np.array([r.prompt_tokens for r in rows])
        output = np.nan_to_num(np.array([r.completion_tokens for r in rows]))
        parts.append(_cut(at, prompt, output, c, float(longest[c])))
    return _joined(parts, cluster.class_names)


def _within(n: IntArray, cv: float, rng: np.random.Generator) -> FloatArray:
    """`[sum(n)]` where in their ticks, 0 to 1, the `n` requests `[T]` of each come: a renewal process of gamma gaps, given its
    count, has gaps in the proportions of a Dirichlet distribution."""
    if cv == 1.0:
        return rng.random(int(n.sum()))
    last = np.cumsum(n + 1) - 1
    gaps = np.maximum(rng.gamma(cv**-2, size=int(last[-1]) + 1), 1e-300)
    # Each tick's own shares are summed up: beside those of other ticks the smallest gaps would be none.
    whole = np.repeat(np.add.reduceat(gaps, last - n), n + 1)
    place = np.cumsum(gaps / whole) - np.repeat(np.arange(len(n)), n + 1)
    # What comes with the next tick is counted there.
    places: FloatArray = np.clip(np.delete(place, last), 0.0, 1.0 - 1e-9)
    return places


def _whole(expected: FloatArray) -> IntArray:
    """Whole counts whose sums follow those of `expected` `[T, C]`."""
    sums = np.rint(np.cumsum(expected, axis=0))
    return np.diff(sums, axis=0, prepend=0.0).astype(np.int64)


def moments(
    episode: Episode, c: int, total: int, squares: int, rows: slice = slice(None)
) -> tuple[float, float, float]:
    """How many requests of a class told their length in these rows, its mean, and its standard deviation."""
    told = float(episode.since.told[rows, c].sum())
    if told <= 0:
        return 0.0, math.nan, math.nan
    sums = episode.since.tally[rows, c].astype(np.float64)
    mean = float(sums[:, total].sum()) / told
    return told, mean, math.sqrt(max(float(sums[:, squares].sum()) / told - mean**2, 0.0))


def mu_sigma(mean: float, deviation: float) -> tuple[float, float]:
    """Of the log-normal distribution with these moments."""
    variance = math.log1p((deviation / mean) ** 2) if mean > 0 else 0.0
    return math.log(max(mean, 1e-9)) - 0.5 * variance, math.sqrt(variance)


def _lengths(
    episode: Episode, c: int, group: IntArray, total: int, squares: int, rng: np.random.Generator
) -> FloatArray:
    """`[N]` log-normal lengths with each group's own mean and spread: its quantiles at equal steps, shuffled."""
    lengths = np.zeros(len(group))
    whole = moments(episode, c, total, squares)
    for g in np.unique(group):
        own = np.flatnonzero(group == g)
        rows = slice(int(g) * GROUP_TICKS + 1, (int(g) + 1) * GROUP_TICKS + 1)
        told, mean, deviation = moments(episode, c, total, squares, rows)
        if told < FEWEST_TOLD:
            _, mean, deviation = whole
        if not mean > 0:
            continue
        mu, sigma = mu_sigma(mean, deviation)
        steps = (np.arange(len(own)) + 0.5) / len(own)
        drawn = np.exp(mu + sigma * ndtri(steps))
        drawn *= mean / drawn.mean()
        lengths[own] = rng.permutation(drawn)
    return lengths


def _cut(at: FloatArray, prompt: FloatArray, output: FloatArray, c: int, longest: float) -> tuple[FloatArray, ...]:
    """First the answer is cut, then the prompt, as `env.workload.fitting` does."""
    prompt = np.clip(np.rint(prompt), 1, longest)
    output = np.clip(np.rint(output), 0, longest - prompt)
    return at, prompt, output, np.full(len(at), float(c))


def _joined(parts: Sequence[tuple[FloatArray, ...]], class_names: tuple[str, ...]) -> Workload:
    if not parts:
        parts = [(np.zeros(0),) * 4]
    at, prompt, output, index = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(at, kind="stable")
    return Workload(
        at[order],
        prompt[order].astype(np.int64),
        output[order].astype(np.int64),
        index[order].astype(np.int64),
        class_names,
    )
