"""What is missing or broken in a record, by name. Pure.

Symbols: `T` ticks, `C` classes, `P` pools, `W` columns of a tally.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from ...env.contract import BILL_LAYERS, BoolArray, FloatArray
from ...env.window import FINISHED, LOST, MET
from .episode import LATE_TICKS, Episode

FROZEN_TICKS: Final = 12
"""A pool that serves and whose figures stay the same to the last digit for so many ticks does not tell the truth."""
RENT_RATIO: Final = (0.5, 2.0)
"""What a pool's bill over a stretch may be of what its replicas cost at its price."""
RENT_SLACK_TICKS: Final = 3
"""And the rent of a replica over so many ticks, the longest ones, more or less."""
RENT_AGAINST: Final = -0.25
"""A bill that moves by so much of its replicas' rent against them, tick by tick, is not theirs, whatever it sums up to."""
MOVED: Final = 0.1
"""Deviation of a pool's rent over its mean, from which its movement tells something."""
FEWEST_MOVED: Final = 30
"""With fewer ticks it tells nothing."""
ATTAINMENT_OFF: Final = 0.2
"""By how much the attainment shown and that counted may differ over a stretch: the one is over a sliding window."""
_RENT_LAYERS: Final = [BILL_LAYERS.index(layer) for layer in ("compute", "software", "idle")]


class DefectKind(StrEnum):
    """What may be wrong with a record."""

    TRUNCATED_LINE = "truncated_line"
    """A file's last line was cut: the tick is lost."""
    UNREADABLE_LINE = "unreadable_line"
    """A line is no JSON, or a field of it cannot be: the tick is lost."""
    UNREADABLE_FILE = "unreadable_file"
    """A file cannot be read, or not unpacked, from here on."""
    CHANGED_SCHEMA = "changed_schema"
    """Lines of another version of the format, or of the contract: their ticks are left out."""
    NO_SITTING = "no_sitting"
    """Ticks of which nothing tells the cluster: left out."""
    GAP = "gap"
    """Ticks are missing: a new episode begins after it."""
    LATE_TICKS = "late_ticks"
    """Ticks that came late. Nothing is lost: what was in force stood until then, and all of that time was counted."""
    CLOCK_JUMP = "clock_jump"
    """The clock went back, or clock and wall moved apart: a new episode begins."""
    REPEATED_TICK = "repeated_tick"
    """A tick that is there twice: once is enough."""
    MASKED_TELEMETRY = "masked_telemetry"
    """A pool that serves, or a class, of which nothing was known at some ticks."""
    FROZEN_TELEMETRY = "frozen_telemetry"
    """A pool that serves, and whose figures do not move."""
    IMPLAUSIBLE_OUTCOME = "implausible_outcome"
    """Bill or requests contradict what was seen of the cluster at the same time."""
    NOT_COUNTED = "not_counted"
    """Ticks whose bill and requests nobody counted."""


SUSPECT: Final = frozenset({DefectKind.FROZEN_TELEMETRY, DefectKind.IMPLAUSIBLE_OUTCOME})
"""Defects of ticks that were read: what they say is not to be learned from."""


@dataclass(frozen=True)
class Defect:
    """Something missing or broken."""

    kind: DefectKind
    where: str
    """File and line, or entry of the stream, at which it begins."""
    subject: str
    """A pool, a class or nothing."""
    ticks: int
    """That are lost, or touched."""
    detail: str

    def __str__(self) -> str:
        """One line for people."""
        of = f" {self.subject}" if self.subject else ""
        return f"{self.where}: {self.kind}{of}: {self.detail}"


def defects_of(episode: Episode) -> Iterator[Defect]:
    """What an episode's own figures show to be missing, late or wrong."""
    yield from _late(episode)
    yield from _masked(episode)
    yield from _frozen(episode)
    yield from _implausible(episode)


def _late(episode: Episode) -> Iterator[Defect]:
    lasted = episode.lasted_ticks
    late = lasted > LATE_TICKS
    if not late.any():
        return
    slots = int((np.rint(lasted[late]) - 1.0).sum())
    detail = (
        f"{int(late.sum())} of {len(episode)} ticks came late, up to {lasted.max():.1f} ticks after the one before;"
        f" in {slots} slots nobody decided, and what was in force stood on"
    )
    yield Defect(DefectKind.LATE_TICKS, episode.where, "", int(late.sum()), detail)


def _masked(episode: Episode) -> Iterator[Defect]:
    cluster, snapshot = episode.sitting.cluster, episode.snapshot
    serving = snapshot.plausible("ready", 0.0) > 0
    stale = ~(snapshot.telemetry_age_s <= float(episode.sitting.limits.stale_after_s))
    silent = serving & (stale | ~snapshot.known("running"))
    n = len(episode)
    for name, ticks in zip(cluster.pool_names, silent.sum(axis=0), strict=True):
        if ticks:
            yield Defect(
                DefectKind.MASKED_TELEMETRY,
                episode.where,
                name,
                int(ticks),
                f"served, and told nothing of itself, at {ticks} of {n} ticks",
            )
    # The first look of a sitting has seen no request yet.
    unknown = ~snapshot.known("arrival_rate_per_s")[1:]
    for name, ticks in zip(cluster.class_names, unknown.sum(axis=0), strict=True):
        if ticks:
            detail = f"arrivals unknown at {ticks} of {n} ticks"
            yield Defect(DefectKind.MASKED_TELEMETRY, episode.where, name, int(ticks), detail)


def _frozen(episode: Episode) -> Iterator[Defect]:
    snapshot = episode.snapshot
    columns = ("running", "waiting", "kv_used_frac", "tokens_per_s")
    told = np.stack([getattr(snapshot, name) for name in columns], axis=-1)
    same = (told[1:] == told[:-1]).all(axis=-1)  # unknown is never the same: that is masked, not frozen
    busy = snapshot.plausible("running", 0.0) > 0
    still: BoolArray = same & busy[1:]
    for p, name in enumerate(episode.sitting.cluster.pool_names):
        longest = _longest(still[:, p])
        if longest + 1 >= FROZEN_TICKS:
            detail = f"{', '.join(columns)} stay the same to the last digit for {longest + 1} ticks while it serves"
            yield Defect(DefectKind.FROZEN_TELEMETRY, episode.where, name, longest + 1, detail)


def _longest(flags: BoolArray) -> int:
    """Length of the longest run of True."""
    padded = np.concatenate([[False], flags, [False]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(padded))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _follows(rent: FloatArray, billed: FloatArray) -> float:
    """By how much of a change of the rent `[T]` the bill `[T]` changes, both in $/h, by least squares; 1 where the rent hardly
    moves."""
    known = np.isfinite(billed)
    if known.sum() < FEWEST_MOVED or rent[known].std() <= MOVED * rent[known].mean():
        return 1.0
    off = rent[known] - rent[known].mean()
    return float((off * billed[known]).sum() / (off * off).sum())


def _implausible(episode: Episode) -> Iterator[Defect]:
    cluster, snapshot, since = episode.sitting.cluster, episode.snapshot, episode.since
    missing = int((~episode.counted & (episode.tick > 0)).sum())  # nothing came before a sitting's first tick
    if missing:
        yield Defect(
            DefectKind.NOT_COUNTED,
            episode.where,
            "",
            missing,
            f"bill and requests of {missing} of {len(episode)} ticks were not counted",
        )
    spans = since.span_s
    counted = episode.counted & (spans > 0)
    counted[:1] = False  # what came before the episode is of a fleet that is not in it
    if not counted.any():
        return
    held = sum(np.nan_to_num(getattr(snapshot, name)) for name in ("ready", "starting", "draining"))
    between: FloatArray = 0.5 * (held[1:] + held[:-1])
    price = np.where(snapshot.known("usd_per_hr"), snapshot.usd_per_hr, cluster.usd_per_hr)[1:]
    expected: FloatArray = (between * price * spans[1:, None] / 3600.0)[counted[1:]].sum(axis=0)
    sleeping = np.nan_to_num(snapshot.asleep)
    # At the mean price: that of a tick may have moved anywhere in it. By the hour: a late tick's bill is larger anyhow.
    at_mean = price.mean(axis=0)
    awake, all_held = (
        (own * at_mean)[counted[1:]] for own in (between, between + 0.5 * (sleeping[1:] + sleeping[:-1]))
    )
    billed = since.usd[counted][:, :, _RENT_LAYERS].sum(axis=-1)
    total = np.nansum(billed, axis=0)
    by_hour = billed / spans[counted][:, None] * 3600.0
    n = int(counted.sum())
    longest_s = RENT_SLACK_TICKS * float(np.sort(spans[counted])[-RENT_SLACK_TICKS:].mean())
    for p, name in enumerate(cluster.pool_names):
        negative = int((billed[:, p] < -1e-9).sum())
        # Within a tick replicas come and go unseen.
        slack = float(price[:, p].max() * longest_s) / 3600.0
        low, high = RENT_RATIO[0] * expected[p] - slack, RENT_RATIO[1] * expected[p] + slack
        if negative or not low <= total[p] <= high:
            detail = (
                f"{negative} of {n} ticks have a bill below 0"
                if negative
                else f"billed {total[p]:.3f} $ over {n} ticks, its replicas cost {expected[p]:.3f} $ at its price"
            )
            yield Defect(DefectKind.IMPLAUSIBLE_OUTCOME, episode.where, name, negative or n, detail)
            continue
        # Who sleeps may be paid for as little as nothing and as much as who serves.
        share = max(_follows(rent, by_hour[:, p]) for rent in (awake[:, p], all_held[:, p]))
        if share < RENT_AGAINST:
            detail = f"its bill falls as its replicas rise, by {-share:.2f} of what they cost, over {n} ticks"
            yield Defect(DefectKind.IMPLAUSIBLE_OUTCOME, episode.where, name, n, detail)
    tally = since.tally[counted].astype(np.float64).sum(axis=0)
    shown = snapshot.attainment[counted]
    weight = since.tally[counted][..., FINISHED] + since.tally[counted][..., LOST]
    for c, name in enumerate(cluster.class_names):
        judged = tally[c, FINISHED] + tally[c, LOST]
        if tally[c, MET] > tally[c, FINISHED] + 1e-6:
            detail = f"{tally[c, MET]:.0f} requests met their targets, and {tally[c, FINISHED]:.0f} finished"
            yield Defect(DefectKind.IMPLAUSIBLE_OUTCOME, episode.where, name, n, detail)
            continue
        known = ~np.isnan(shown[:, c]) & (weight[:, c] > 0)
        if judged <= 0 or not known.any():
            continue
        seen = float(np.average(shown[known, c], weights=weight[known, c]))
        met = float(tally[c, MET] / judged)
        if abs(seen - met) > ATTAINMENT_OFF:
            detail = f"{met:.1%} of {judged:.0f} requests met their targets by the count, {seen:.1%} by the snapshots"
            yield Defect(DefectKind.IMPLAUSIBLE_OUTCOME, episode.where, name, n, detail)
