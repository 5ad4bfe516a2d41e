"""From what Prometheus saw of a fleet to what was measured of it. Pure.

Symbols: `K` moments, `T` = `K` - 1 steps, `R` replicas of a pool, `C` classes, `P` pools, `S` stretches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from ...env.contract import BoolArray, FloatArray
from ...env.scenario.classes import Target
from ...training.observed import ClassSeen
from ..description import Description
from ..histograms import Histogram, spread_around
from ..measured import AuditError, Lengths, Measured
from .answers import increments
from .reading import Past, PoolPast

_LATENCIES: Final = {"ttft": "ttft_s", "tpot": "tpot_s", "e2e": "e2e_s"}
NOTE_RATE: Final = (
    "Requests arrive evenly at random within each step of the scrapes; per step they are those that ended, and the growth"
    " of those in the engines."
)
NOTE_LENGTHS: Final = (
    "Lengths follow the engines' histograms: log-uniform to a power inside a bucket, so that each stretch has its exact mean;"
    " prompt and answer are drawn independently."
)
NOTE_STARTS: Final = (
    "A replica is paid for from its process's start, and for the description's provisioning time before that."
)
NOTE_ENGINE: Final = "Latencies are the engines' own: what proxies and networks add is not in them."
NOTE_JOINT: Final = (
    "Histograms do not tell which requests missed both targets: attainment lies between the sum of both misses and the larger"
    " one."
)


def measured_of(past: Past, description: Description, source: str, provision_s: Mapping[str, float]) -> Measured:
    """What a fleet's past comes to.

    Args:
        past: what Prometheus answered.
        description: the fleet.
        source: of the figures, for people.
        provision_s: by pool, the fleet's seconds from asking for a replica until its process starts.

    Raises:
        AuditError: no request arrived.
    """
    classes, pools = tuple(description.classes), tuple(description.pools)
    steps, step_s = past.window.moments - 1, past.window.step_s * past.speed
    edges_s: FloatArray = np.asarray(np.arange(steps + 1) * step_s, dtype=np.float64)
    by_pool = np.zeros((steps, len(classes), len(pools)))
    up, starting = np.zeros((steps, len(pools))), np.zeros((steps, len(pools)))
    busy, useful = np.full((steps, len(pools)), math.nan), np.full(len(pools), math.nan)
    kv = np.full((steps, len(pools)), math.nan)
    start_s = np.full(len(pools), math.nan)
    waiting, running = np.zeros(steps + 1), np.zeros(steps + 1)
    for p, name in enumerate(pools):
        own = past.pools[name]
        there = _there(own, past)
        up[:, p] = _present(there)
        starting[:, p], start_s[p] = _starting(own, past, there, provision_s[name])
        busy[:, p], useful[p] = _busy(own, there, step_s)
        kv[:, p] = _mean_where(own.figures["kv_used_frac"], there)[:-1]
        waiting += np.nansum(own.figures["waiting"], axis=0)
        running += np.nansum(own.figures["running"], axis=0)
        born = _born(own, past)
        for c, class_name in enumerate(classes):
            if class_name in own.finished:
                by_pool[:, c, p] = _arrivals(own.finished[class_name], own.inside[class_name], born)
    arrived = by_pool.sum(axis=2)
    if arrived.sum() < 1:
        raise AuditError(f"{source}: no request ended in the range; wanted a time in which the fleet served")
    known = np.any([np.isfinite(past.pools[name].figures["running"]).any(axis=0) for name in pools], axis=0)
    notes = [NOTE_RATE, NOTE_LENGTHS, NOTE_ENGINE, NOTE_STARTS]
    seen, attainment, latencies, lengths = {}, {}, {}, {}
    for class_name, described in description.classes.items():
        own_pools = [past.pools[name] for name in pools if class_name in past.pools[name].histograms]
        kinds = {label: _whole(own_pools, class_name, kind) for label, kind in _LATENCIES.items()}
        found = {label: histogram for label, histogram in kinds.items() if histogram is not None}
        ended = sum(float(increments(own.finished[class_name], _born(own, past)).sum()) for own in own_pools)
        gap = None if "tpot" in found else _whole(own_pools, class_name, "token_gap_s")
        seen[class_name] = _seen(found, gap, ended, described.target)
        attainment[class_name] = _attained(found, described.target)
        latencies[class_name] = found
        lengths[class_name] = _lengths(own_pools, class_name, past, step_s)
        if gap is not None:
            notes.append(
                f"{class_name}: its engines time gaps between tokens, not requests: only their mean is compared."
            )
    if any(low < high for low, high in attainment.values()):
        notes.append(NOTE_JOINT)
    work = np.array([[_tokens(past.pools[name], own, past) for own in classes] for name in pools])
    share = np.divide(by_pool, arrived[:, :, None], out=np.zeros_like(by_pool), where=arrived[:, :, None] > 0)
    return Measured(
        source=source,
        began_at_s=past.window.begin_s,
        class_names=classes,
        pool_names=pools,
        edges_s=edges_s,
        arrived=arrived,
        share=share,
        up=up,
        starting=starting,
        start_s=start_s,
        busy_frac=busy,
        useful_frac=useful,
        work_tokens=work,
        waiting=np.where(known, waiting, math.nan)[:-1],
        running=np.where(known, running, math.nan)[:-1],
        kv_used_frac=kv,
        classes=seen,
        attainment=attainment,
        latencies=latencies,
        lengths=lengths,
        requests=None,
        known_frac=float(known.mean()),
        notes=(*notes, *(f"Not in Prometheus: {line}." for line in past.lacking)),
    )


def _arrivals(finished: FloatArray, inside: FloatArray, born: BoolArray) -> FloatArray:
    """`[T]` requests that arrived in each step: those that ended and the growth of those inside, replica by replica.

    Gauges and counters of one scrape may be an iteration apart: what one step seems to lose, the next ones give back.
    """
    total = np.zeros(finished.shape[1] - 1)
    ended = increments(finished, born)
    for r in range(len(finished)):
        held = inside[r].copy()
        there = np.isfinite(held)
        if not there.any():
            continue
        first = int(np.argmax(there))
        before = np.maximum.accumulate(np.where(there, np.arange(len(held)), first))
        held = held[before]  # a gap in the scrapes keeps what was inside
        grown = np.diff(held)
        grown[:first] = 0.0
        if first > 0 and born[r]:
            grown[first - 1] = held[first]
        came = np.cumsum(ended[r] + grown)
        total += np.diff(np.maximum.accumulate(np.maximum(came, 0.0)), prepend=0.0)
    return total


def _born(own: PoolPast, past: Past) -> BoolArray:
    """`[R]` whether each replica's process began after the first moment; where nobody tells, it did if it came later."""
    there = np.isfinite(own.figures["running"])
    late: BoolArray = ~there[:, 0]
    if "started_s" not in own.figures:
        return late
    with np.errstate(invalid="ignore"):
        started_s = np.nanmin(np.where(np.isfinite(own.figures["started_s"]), own.figures["started_s"], np.inf), axis=1)
    return np.where(np.isfinite(started_s), started_s >= past.window.begin_s, late).astype(np.bool_)


_GAP_S: Final = 120.0
"""A replica that is not seen for longer was away, where nobody tells when its process began."""
_SAME_S: Final = 2.0
"""A process that began so near another's beginning is the same one."""


def _there(own: PoolPast, past: Past) -> BoolArray:
    """`[R, K]` whether each replica was up: where it was seen, and between two sights of the same process.

    A scrape that failed does not make a machine free.
    """
    there: BoolArray = np.isfinite(own.figures["running"])
    filled = there.copy()
    started_s = own.figures.get("started_s", np.full(there.shape, math.nan))
    for r, row in enumerate(there):
        seen = np.flatnonzero(row)
        for before, after in pairwise(seen.tolist()):
            if after == before + 1:
                continue
            apart_s = abs(float(started_s[r, after] - started_s[r, before]))
            same = apart_s < _SAME_S
            if math.isnan(apart_s):
                same = (after - before) * past.window.step_s * past.speed <= _GAP_S
            filled[r, before:after] |= same
    return filled


def _starting(own: PoolPast, past: Past, there: BoolArray, provision_s: float) -> tuple[FloatArray, float]:
    """`[T]` replicas that were paid for before they served: from when they were asked for until they were first seen; and the
    mean of the starts whose beginning is known, in the fleet's seconds."""
    moments = there.shape[1]
    begin_s, step_s = past.window.begin_s, past.window.step_s
    total = np.zeros(moments - 1)
    edges_s = begin_s + np.arange(moments) * step_s
    took_s: list[float] = []
    for r in range(len(there)):
        for first in np.flatnonzero(there[r, 1:] & ~there[r, :-1]) + 1:
            seen_s = edges_s[first] - 0.5 * step_s  # somewhere in the step before
            asked_s = seen_s - provision_s / past.speed
            if "started_s" in own.figures and np.isfinite(own.figures["started_s"][r, first]):
                asked_s = float(own.figures["started_s"][r, first]) - provision_s / past.speed
                took_s.append((seen_s - asked_s) * past.speed)
            inside = np.clip(np.minimum(edges_s[1:], seen_s) - np.maximum(edges_s[:-1], asked_s), 0.0, None)
            total += inside / step_s
    return total, float(np.mean(took_s)) if took_s else math.nan


def _busy(own: PoolPast, there: BoolArray, step_s: float) -> tuple[FloatArray, float]:
    """`[T]` share of the replicas' time with anything running, and the useful share of the busy time of all of it.

    By the busy counter where there is one, else by what the scrapes saw running.
    """
    present_s = _present(there) * step_s
    if "busy_s_total" in own.figures:
        grown = increments(own.figures["busy_s_total"]).sum(axis=0)
        useful = increments(own.figures["useful_s_total"]).sum() if "useful_s_total" in own.figures else math.nan
        busy = np.divide(grown, present_s, out=np.full(len(grown), math.nan), where=present_s > 0)
        return np.minimum(busy, 1.0), float(useful / grown.sum()) if grown.sum() > 0 else math.nan
    at_work = (np.nan_to_num(own.figures["running"]) > 0).astype(np.float64)
    both = 0.5 * (at_work[:, :-1] + at_work[:, 1:]).sum(axis=0) * step_s
    return np.divide(both, present_s, out=np.full(len(both), math.nan), where=present_s > 0), math.nan


def _present(there: BoolArray) -> FloatArray:
    """`[T]` replicas on the mean over each step: one that comes or goes was there for half of its step."""
    counts = there.sum(axis=0).astype(np.float64)
    present: FloatArray = 0.5 * (counts[:-1] + counts[1:])
    return present


def _mean_where(values: FloatArray, there: BoolArray) -> FloatArray:
    known = there & np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    means: FloatArray = np.divide(total, count, out=np.full(len(count), math.nan), where=count > 0)
    return means


def _tokens(own: PoolPast, class_name: str, past: Past) -> float:
    """Prompt and output tokens that the pool processed for a class: by its histograms, else its share of the pool's counters."""
    if class_name not in own.finished:
        return 0.0
    found = [_whole([own], class_name, kind) for kind in ("prompt_tokens", "output_tokens")]
    ended = float(increments(own.finished[class_name], _born(own, past)).sum())
    if all(histogram is not None for histogram in found):
        return ended * sum(histogram.mean for histogram in found if histogram is not None)
    everyone = sum(float(increments(values, _born(own, past)).sum()) for values in own.finished.values())
    return (ended / everyone if everyone > 0 else 0.0) * sum(_counted(own, past, kind) for kind in _TOKEN_COUNTERS)


_TOKEN_COUNTERS: Final = {"prompt_tokens": "prompt_tokens_total", "output_tokens": "generation_tokens_total"}


def _counted(own: PoolPast, past: Past, kind: str) -> float:
    """Tokens of a kind that the pool's counters grew by."""
    counter = own.figures.get(_TOKEN_COUNTERS[kind])
    return 0.0 if counter is None else float(increments(counter, _born(own, past)).sum())


def _whole(pools: Sequence[PoolPast], class_name: str, kind: str) -> Histogram | None:
    """Of the whole range and all pools; None where nothing is known. Pools of other bounds: those of the busiest."""
    parts = [part for own in pools for part in own.histograms[class_name].get(kind, ()) if part is not None]
    return _joined(parts)


def _joined(parts: Sequence[Histogram]) -> Histogram | None:
    if not parts:
        return None
    by_bounds: dict[tuple[float, ...], list[Histogram]] = {}
    for part in parts:
        by_bounds.setdefault(tuple(part.bounds.tolist()), []).append(part)
    return max((Histogram.joined(own) for own in by_bounds.values()), key=lambda own: own.count)


def _seen(found: Mapping[str, Histogram], gap: Histogram | None, ended: float, target: Target) -> ClassSeen:
    figures: dict[str, float] = {}
    wanted = {"ttft": target.ttft_s, "tpot": target.tpot_s, "e2e": target.e2e_s or target.deadline_s}
    for label, histogram in found.items():
        figures[f"{label}_mean_s"] = histogram.mean
        figures[f"{label}_p50_s"], figures[f"{label}_p95_s"] = (histogram.quantile(share) for share in (0.5, 0.95))
        limit = wanted[label]
        if limit is not None and label in ("ttft", "tpot"):
            figures[f"{label}_met"] = histogram.share_within(limit)
    if gap is not None:
        figures["tpot_mean_s"] = gap.mean
    targets = {f"{label}_target_s": limit for label, limit in wanted.items() if limit is not None}
    return ClassSeen(requests=ended, attainment=math.nan, **figures, **targets)


def _attained(found: Mapping[str, Histogram], target: Target) -> tuple[float, float]:
    """Between which shares the attainment lies."""
    wanted = {"ttft": target.ttft_s, "tpot": target.tpot_s, "e2e": target.e2e_s or target.deadline_s}
    shares = []
    for label, limit in wanted.items():
        if limit is None:
            continue
        share = found[label].share_within(limit) if label in found else math.nan
        shares.append(share)
    known = [share for share in shares if not math.isnan(share)]
    high = min(known, default=1.0)
    if len(known) < len(shares):
        return 0.0, high
    return max(1.0 - sum(1.0 - share for share in known), 0.0), high


def _lengths(pools: Sequence[PoolPast], class_name: str, past: Past, step_s: float) -> tuple[Lengths, ...]:
    """Stretch by stretch; where one has none, as over the whole range."""
    span_s = past.stretch_steps * step_s
    whole = {
        kind: _whole(pools, class_name, kind) or _only_mean(pools, class_name, kind, past) for kind in _TOKEN_COUNTERS
    }
    stretches = max((past.window.moments - 1) // past.stretch_steps, 1)
    found = []
    for s in range(stretches):
        own = {}
        for kind, instead in whole.items():
            parts = [
                part
                for pool in pools
                if s < len(row := pool.histograms[class_name].get(kind, ())) and (part := row[s]) is not None
            ]
            own[kind] = _joined(parts) or instead
        last = s == stretches - 1
        end_s = (past.window.moments - 1) * step_s if last else (s + 1) * span_s
        found.append(Lengths(s * span_s, end_s, own["prompt_tokens"], own["output_tokens"]))
    return tuple(found)


SIGMA_UNKNOWN: Final = 1.0
"""Of the logarithm of lengths where only their mean is known: about that of the public chat traces (docs/workloads.md)."""


def _only_mean(pools: Sequence[PoolPast], class_name: str, kind: str, past: Past) -> Histogram:
    tokens = sum(_counted(own, past, kind) for own in pools)
    ended = sum(float(increments(values, _born(own, past)).sum()) for own in pools for values in own.finished.values())
    if tokens <= 0 or ended <= 0:
        raise AuditError(
            f"class {class_name}: Prometheus has neither histograms nor counters of its {kind.replace('_', ' ')}; wanted"
            f" {' or '.join(name for own in pools for name in own.dialect.history.get(kind, ()))}"
        )
    return spread_around(tokens / ended, SIGMA_UNKNOWN)
