"""What was measured of a fleet, whatever the source: load, replicas, latencies, queue; and the bill that follows. Pure.

Symbols: `T` steps, `C` classes, `P` pools, `N` requests, `S` stretches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..env.contract import Bill, FloatArray
from ..env.ledger import Meter, Tariff, charge
from ..env.workload.requests import Workload
from ..training.observed import ClassSeen, Observed
from .histograms import Histogram


class AuditError(ValueError):
    """The audit cannot go on; the message is one line that says what was looked for and what to do."""


@dataclass(frozen=True, eq=False)
class Lengths:
    """How long the requests of one class were that ended in one stretch of time."""

    begin_s: float
    end_s: float
    prompt_tokens: Histogram
    output_tokens: Histogram


@dataclass(frozen=True, eq=False)
class Measured:
    """A stretch of a fleet's past. Times count from its beginning."""

    source: str
    """For people: where it comes from."""
    began_at_s: float | None
    """Unix time of the beginning; None: the source has no wall clock."""
    class_names: tuple[str, ...]
    pool_names: tuple[str, ...]
    edges_s: FloatArray
    """`[T + 1]` where steps begin and end, 0 first."""
    arrived: FloatArray
    """`[T, C]` requests that came in each step."""
    share: FloatArray
    """`[T, C, P]` which part of them each pool got; NaN where the source does not tell."""
    up: FloatArray
    """`[T, P]` replicas that served, on the mean over the step."""
    starting: FloatArray
    """`[T, P]` replicas that were paid for and did not serve yet."""
    start_s: FloatArray
    """`[P]` from asking for a replica until it served, mean of the starts in the stretch; NaN where none was seen."""
    busy_frac: FloatArray
    """`[T, P]` share of the serving replicas' time in which anything ran; NaN where the source does not tell."""
    useful_frac: FloatArray
    """`[P]` share of the busy time that the work takes at the hardware's best; NaN where the source does not tell."""
    work_tokens: FloatArray
    """`[P, C]` prompt and output tokens processed."""
    waiting: FloatArray
    """`[T]` requests queued in all engines at the beginning of each step; NaN where the source does not tell."""
    running: FloatArray
    """`[T]` sequences in all running batches, likewise."""
    kv_used_frac: FloatArray
    """`[T, P]` mean over replicas; NaN where the source does not tell."""
    classes: Mapping[str, ClassSeen]
    attainment: Mapping[str, tuple[float, float]]
    """By class, between which values the share lies that met all targets: the same value twice where it is known."""
    latencies: Mapping[str, Mapping[str, Histogram]]
    """By class, `ttft`, `tpot` and `e2e` as the source has them; empty where every request is known."""
    lengths: Mapping[str, tuple[Lengths, ...]]
    """By class `[S]`; empty where every request is known."""
    requests: Workload | None
    """Every request, where the source has them."""
    known_frac: float
    """Share of the steps in which the source told anything."""
    notes: tuple[str, ...] = ()
    """What was assumed, one line each."""

    @property
    def duration_s(self) -> float:
        """Of the stretch."""
        return float(self.edges_s[-1])

    @property
    def step_s(self) -> FloatArray:
        """`[T]` how long each step is."""
        return np.diff(self.edges_s)

    @property
    def replica_hr(self) -> FloatArray:
        """`[P]` hours of all replicas, starting ones included."""
        hours: FloatArray = ((self.up + self.starting) * self.step_s[:, None]).sum(axis=0) / 3600.0
        return hours

    @property
    def request_count(self) -> float:
        """That arrived."""
        return float(self.arrived.sum())

    def observed(self, bill_usd: float) -> Observed:
        """As a simulation is held against."""
        return Observed(self.duration_s, self.classes, bill_usd, self.edges_s[:-1], self.waiting, self.running)


@dataclass(frozen=True, eq=False)
class Spent:
    """What was spent, by whom and for what."""

    bill: Bill
    """`[P, C, L]` of the whole stretch."""
    usd_per_step: FloatArray
    """`[T]`"""
    guessed_layers: tuple[str, ...]
    """Layers that the source does not tell and the replay stands in for."""

    @property
    def total_usd(self) -> float:
        """All of it."""
        return float(self.bill.total_usd)


@dataclass(frozen=True, eq=False)
class Split:
    """How replicas spend their time, where only a simulation tells."""

    busy_frac: FloatArray
    """`[P]` of the serving replicas' time."""
    useful_frac: FloatArray
    """`[P]` of the busy time."""
    power_w: FloatArray
    """`[P]` mean draw of one replica."""


def spent(measured: Measured, usd_per_hr: FloatArray, tariff: Tariff, bytes_per_token: float, guess: Split) -> Spent:
    """The bill of the stretch: replicas times price times time, split over layers and classes.

    Args:
        measured: what was measured.
        usd_per_hr: `[T, P]` price of one replica in each step.
        tariff: of energy and bytes, scalars.
        bytes_per_token: sent to clients for each output token.
        guess: stands in for what the source does not tell.
    """
    up_s = measured.up * measured.step_s[:, None]
    known_busy, known_useful = np.isfinite(measured.busy_frac), np.isfinite(measured.useful_frac)
    busy_s = up_s * np.clip(np.where(known_busy, measured.busy_frac, guess.busy_frac), 0.0, 1.0)
    useful_s = busy_s * np.clip(np.where(known_useful, measured.useful_frac, guess.useful_frac), 0.0, 1.0)
    starting_s = measured.starting * measured.step_s[:, None]
    steps, pools = up_s.shape
    classes = len(measured.class_names)
    claim = _claims(measured)
    # Work is known for the whole stretch only: each step gets its part by what came in it.
    weight = measured.arrived.sum(axis=1)
    part = weight / weight.sum() if weight.sum() > 0 else np.full(steps, 1.0 / steps)
    output = _output_tokens(measured)
    nothing = np.zeros((steps, pools))
    meter = Meter(
        usd_per_hr=usd_per_hr,
        useful_s=useful_s,
        wasted_s=busy_s - useful_s,
        starting_s=starting_s,
        waiting_s=up_s - busy_s,
        draining_s=nothing,
        asleep_s=nothing,
        energy_j=(up_s + starting_s) * guess.power_w,
        egress_bytes=part[:, None, None] * output * bytes_per_token,
        class_work=np.broadcast_to(measured.work_tokens, (steps, pools, classes)) * part[:, None, None],
        class_claim=claim,
    )
    wide = Tariff(
        *(np.full(steps, float(getattr(tariff, name))) for name in ("usd_per_kwh", "pue", "egress_usd_per_gb"))
    )
    by_step = charge(meter, wide)
    used = up_s.sum(axis=0) > 0
    guessed = []
    if (~known_busy & (up_s > 0)).any():
        guessed.append("idle")
    if (~known_useful & used).any():
        guessed += ["compute", "software"]
    if float(tariff.usd_per_kwh) > 0:
        guessed.append("energy")
    return Spent(
        Bill(by_step.usd.sum(axis=0), by_step.idle_usd.sum(axis=0)),
        by_step.usd.sum(axis=(1, 2, 3)),
        tuple(guessed),
    )


def _claims(measured: Measured) -> FloatArray:
    """`[T, P, C]` whose requests each pool was up for: those that it got, in the whole stretch where none came."""
    came = measured.arrived[:, :, None] * np.nan_to_num(measured.share)
    whole = came.sum(axis=0, keepdims=True)
    claim = np.where(came.sum(axis=1, keepdims=True) > 0, came, whole)
    return np.swapaxes(claim, 1, 2)


def _output_tokens(measured: Measured) -> FloatArray:
    """`[P, C]` of the whole stretch, where lengths are known."""
    outputs = np.zeros(len(measured.class_names))
    for c, name in enumerate(measured.class_names):
        if measured.requests is not None:
            own = measured.requests
            outputs[c] = float(own.output_tokens[own.class_index == c].sum())
        else:
            outputs[c] = sum(np.nan_to_num(part.output_tokens.total) for part in measured.lengths.get(name, ()))
    work = measured.work_tokens
    shares = np.divide(work, work.sum(axis=0), out=np.zeros_like(work), where=work.sum(axis=0) > 0)
    tokens: FloatArray = shares * outputs
    return tokens


def with_routing(measured: Measured, shares: FloatArray) -> Measured:
    """The same with `shares` `[T, C, P]` where the source does not tell which pool got what."""
    unknown = ~np.isfinite(measured.share)
    if not unknown.any():
        return measured
    share = np.where(unknown, shares, measured.share)
    work = measured.work_tokens
    if not np.isfinite(work).all():
        tokens = np.nansum(work, axis=0)  # `[C]`
        got = (measured.arrived[:, :, None] * share).sum(axis=0)  # `[C, P]`
        total = got.sum(axis=1, keepdims=True)
        parts = np.divide(got, total, out=np.full(got.shape, 1.0 / got.shape[1]), where=total > 0)
        work = (tokens[:, None] * parts).T
    return replace(measured, share=share, work_tokens=work)
