"""A batch of simulated clusters: hand in an action, let a tick pass, look.

Symbols: `B` clusters, `C`/`P` the batch's maxima of classes and pools, `R` replica slots, `K` window ticks or price
steps, `W` tally width, `L` layers of the bill.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np

from .. import forecast, ledger
from ..contract import Action, Bill, BoolArray, Cluster, FloatArray, IntArray, Snapshot
from ..window import ARRIVED, WINDOW_WIDTH
from .advance import advance_some, open_one, rows_needed
from .engine_state import PS_PER_S
from .loading import batched_cluster, batched_ranges, load_world, padded, size_of, whole_ps
from .sight import remember_some, snapshot_of
from .spending import scaling_seconds
from .state import EVENTS, LOAD, MEAN_S, PROVISION, Clusters, room_for, with_room
from .world import WorldSpec

_CLUSTERS_PER_THREAD = 16
_CHUNKS_PER_THREAD = 4
_FEWEST_ROWS = 256
"""Rows for requests to begin with; there are more when a tick may need them."""


@dataclass(frozen=True, eq=False)
class TickOutcome:
    """What a tick cost and brought."""

    bill: Bill
    """`[B, P, C, L]`"""
    tally: FloatArray
    """`[B, C, W]` (`env.window`)"""
    meter: ledger.Meter
    """`[B, ...]` what the bill was made from."""
    events: IntArray
    """`[B, P, len(state.EVENTS)]` what happened to the pools' replicas."""
    asleep_s: FloatArray
    """`[B, P]` replica-seconds asleep, whatever was paid for them."""
    scaling: ledger.ScalingCosts
    """Of the bill's idle layer, what is due to scaling, by the tick whose action caused it (0 is the episode's first)."""
    done: BoolArray
    """`[B]` whether the episode is over."""


class SimulatedClusters:
    """`B` worlds that move together, tick by tick. Worlds do not touch each other.

    What happens to a cluster depends on its world and the actions alone: not on its place in the batch, the other
    clusters or the number of threads.
    """

    def __init__(
        self,
        specs: Sequence[WorldSpec],
        tick_s: float,
        window_s: float = 60.0,
        max_classes: int | None = None,
        max_pools: int | None = None,
        threads: int | None = None,
    ) -> None:
        """The maxima make room for larger worlds to come (`replace`).

        Without `threads`, large batches use every core. Plain threads, not numba's parallel loops: these spin at their
        barrier, which took 30 times as long as a small batch on a busy machine, and OpenMP does not survive a fork.

        Raises:
            ValueError: no spec, a tick that is not positive, or a world above the maxima.
        """
        if not specs or tick_s <= 0:
            raise ValueError(f"specs, tick_s: {len(specs)} and {tick_s}, wanted at least one world and a tick above 0")
        self.tick_s = tick_s
        self.specs = list(specs)
        sizes = [size_of(spec) for spec in specs]
        largest = {axis: max(size[axis] for size in sizes) for axis in sizes[0]}
        largest["C"], largest["P"] = max_classes or largest["C"], max_pools or largest["P"]
        for spec in specs:
            _check_fits(spec, largest["C"], largest["P"])
        count, shape = len(specs), (len(specs), largest["C"])
        self._span_ps, self._span_s = int(whole_ps(tick_s)), tick_s  # of the last step
        self.threads = threads or max(1, min(os.cpu_count() or 1, count // _CLUSTERS_PER_THREAD))
        self._threads = ThreadPoolExecutor(self.threads, "clusters") if self.threads > 1 else None
        self._every: Clusters = room_for({**largest, "B": count, "M": _FEWEST_ROWS})
        self._recent = np.zeros((max(1, round(window_s / tick_s)), *shape, WINDOW_WIDTH))
        self._recent_ticks = np.zeros(len(self._recent))  # how long each was
        self._place = 0
        self._window = np.zeros((*shape, WINDOW_WIDTH))
        self._ticks = np.zeros(count, dtype=np.int64)
        self._forecast = forecast.start(*shape)
        for b, spec in enumerate(specs):
            self._load(b, spec)
        self._restate(largest["C"], largest["P"])

    @property
    def now_s(self) -> FloatArray:
        """`[B]` seconds since each episode began."""
        now: FloatArray = self._every.clock["now_ps"][:, 0] / PS_PER_S
        return now

    @property
    def backing_off(self) -> FloatArray:
        """`[B, C]` requests that were turned away and will come back."""
        waiting: FloatArray = self._every.classes["backing_off"].astype(np.float64)
        return waiting

    @property
    def rented_s(self) -> FloatArray:
        """`[B, P]` replica-seconds of full rent in the last tick, counted apart from what they were for."""
        pools = self._every.pools
        unpaid: FloatArray = pools["asleep_ps"] * (1.0 - self._asleep_rent_frac)
        rented: FloatArray = (pools["rented_ps"] - unpaid) / PS_PER_S
        return rented

    def replace(self, seats: IntArray, specs: Sequence[WorldSpec]) -> None:
        """Put new worlds at places `seats` `[K]`, at their time 0; the others go on undisturbed.

        Raises:
            ValueError: one has more classes or pools than the batch has room for.
        """
        n_classes, n_pools = self.cluster.serves.shape[1:]
        sizes = [size_of(spec) for spec in specs]
        for spec in specs:
            _check_fits(spec, n_classes, n_pools)
        largest = {axis: max(size[axis] for size in sizes) for axis in sizes[0]}
        self._every = with_room(self._every, {**largest, "C": n_classes, "P": n_pools})
        self._forecast = forecast.forget(self._forecast, seats)
        for b, spec in zip(seats.tolist(), specs, strict=True):
            self.specs[b] = spec
            self._load(b, spec)
        self._restate(n_classes, n_pools)

    def have_starts_take(self, seconds: FloatArray) -> None:
        """From now on every cold start of a pool takes `seconds` `[B, P]`, whatever its world says: for what is known.

        Raises:
            ValueError: another shape, or a time that is negative or not finite.
        """
        delays = self._every.delays
        if seconds.shape != delays.shape[:2] or not (np.isfinite(seconds) & (seconds >= 0)).all():
            raise ValueError(f"seconds: shape {seconds.shape}, wanted {delays.shape[:2]} of times of 0 or more")
        delays[:, :, [PROVISION, LOAD]] = 0.0
        delays[:, :, PROVISION, MEAN_S] = seconds

    def advance(self, action: Action, span_s: float | None = None) -> TickOutcome:
        """Let the clusters run for exactly `span_s` under `action` (`[B, ...]`, padding ignored).

        Args:
            action: stands all the while.
            span_s: until the next look; left out: `tick_s`. Where nobody decides in time it is longer.

        Raises:
            ValueError: an array of the action has another shape, or a number that is not finite; or a span that is not above 0.
        """
        self._span_s = self.tick_s if span_s is None else span_s
        if not 0 < self._span_s < math.inf:
            raise ValueError(f"span_s: {span_s}, wanted seconds above 0")
        self._span_ps = int(whole_ps(self._span_s))
        self._apply(action)
        self._make_rows()
        usd_per_hr = self._usd_per_hr()
        if self._rooms_change:
            self._every.pools["room_c"] = _in_force(self._room_from_s, self._room_c, self.now_s)
        self._make_way()
        self._run_tick()
        tally = self._every.tally.copy()
        self._remember(tally)
        meter = self._meter(usd_per_hr)
        return TickOutcome(
            bill=ledger.charge(meter, self._tariff),
            tally=tally,
            meter=meter,
            events=np.stack([self._every.pools[name] for name in EVENTS], axis=-1),
            asleep_s=self._every.pools["asleep_ps"] / PS_PER_S,
            scaling=ledger.charge_scaling(scaling_seconds(self._every, self._asleep_rent_frac), usd_per_hr),
            done=self._every.clock["now_ps"][:, 0] >= self._duration_ps,
        )

    def snapshot(self) -> Snapshot:
        """`[B, ...]` what a controller would see now; padding is unknown."""
        return snapshot_of(
            self._every,
            self.cluster,
            window_tally=self._window,
            window_s=self._window_s(),
            forecast_per_s=forecast.predict(self._forecast),
            usd_per_hr=self._usd_per_hr(),
            preemptions_per_hr=self._preemptions_per_hr,
            ranges=self._ranges,
            tick_s=self._span_s,
        )

    def _run_tick(self) -> None:
        count = len(self.specs)
        if self._threads is None:
            self._run_some(0, count)
            return
        size = -(-count // (_CHUNKS_PER_THREAD * self.threads))
        chunks = [
            self._threads.submit(self._run_some, first, min(first + size, count)) for first in range(0, count, size)
        ]
        for chunk in chunks:
            chunk.result()

    def _run_some(self, first: int, last: int) -> None:
        """A tick of clusters `first` to `last` - 1, and their windows' slide."""
        advance_some(self._every, first, last, self._span_ps)
        remember_some(self._every.tally, self._recent[self._place], self._window, first, last)

    def _apply(self, action: Action) -> None:
        every = self._every
        shapes = {"route": every.pairs.shape, "admit": every.classes.shape}
        for name in ("route", "admit", "batch_cap", "token_budget", "replicas"):
            values, shape = getattr(action, name), shapes.get(name, every.pools.shape)
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"action.{name}: shape {values.shape}, wanted {shape} of finite numbers")
        every.pairs["route"] = np.maximum(action.route, 0.0)
        every.classes["admit"] = action.admit
        limits = self.cluster
        for name, wanted, low, high in (
            ("wanted", action.replicas, 0.0, limits.max_replicas),
            ("cap", action.batch_cap, 1.0, limits.max_batch_cap),
            ("token_budget", action.token_budget, 1.0, limits.max_token_budget),
        ):
            every.pools[name] = np.rint(np.clip(wanted, low, high))

    def _make_rows(self) -> None:
        """Have a row for every request that may be in a cluster before the tick is over."""
        needed = rows_needed(self._every, self._span_ps)
        if needed > self._every.desk.shape[1]:
            self._every = with_room(self._every, {"M": 2 * needed})

    def _remember(self, tally: FloatArray) -> None:
        """Let the forecast see the tick's arrivals, and the window know that it has slid (`_run_some`)."""
        self._slid(self._span_s / self.tick_s)
        self._forecast = forecast.observe(self._forecast, tally[..., ARRIVED] / self._span_s, self._span_s)

    def _make_way(self) -> None:
        """Let a step that is longer than a tick push as much more out of the window: what ended a window ago is not in it."""
        for _ in range(min(round(self._span_s / self.tick_s), len(self._recent)) - 1):
            remember_some(np.zeros_like(self._every.tally), self._recent[self._place], self._window, 0, len(self.specs))
            self._slid(0.0)

    def _slid(self, ticks: float) -> None:
        self._recent_ticks[self._place] = ticks
        self._ticks += 1
        self._place = (self._place + 1) % len(self._recent)

    def _window_s(self) -> FloatArray:
        """`[B]` seconds that the window's ticks lasted, of those of each world."""
        newest_first = np.roll(self._recent_ticks, -self._place)[::-1]
        reach = np.append(0.0, np.cumsum(newest_first))
        window: FloatArray = reach[np.minimum(self._ticks, len(self._recent))] * self.tick_s
        return window

    def _meter(self, usd_per_hr: FloatArray) -> ledger.Meter:
        every = self._every
        route, serves = every.pairs["route"], every.pairs["serves"].astype(np.float64)
        # What nobody is routed to is charged to those who could be.
        claim = np.swapaxes(route * serves, 1, 2)
        claim = np.where(claim.sum(axis=-1, keepdims=True) > 0, claim, np.swapaxes(serves, 1, 2))
        return ledger.Meter(
            usd_per_hr=usd_per_hr,
            useful_s=every.pools["useful_ps"] / PS_PER_S,
            wasted_s=every.pools["wasted_ps"] / PS_PER_S,
            starting_s=every.pools["start_ps"] / PS_PER_S,
            waiting_s=every.pools["idle_ps"] / PS_PER_S,
            draining_s=every.pools["drain_ps"] / PS_PER_S,
            asleep_s=every.pools["asleep_ps"] * self._asleep_rent_frac / PS_PER_S,
            energy_j=every.pools["energy_j"].copy(),
            egress_bytes=np.swapaxes(every.pairs["sent"], 1, 2) * self._bytes_per_token[:, None, None],
            class_work=np.swapaxes(every.pairs["work"], 1, 2).copy(),
            class_claim=claim,
        )

    def _usd_per_hr(self) -> FloatArray:
        """`[B, P]` price of a replica now."""
        return _in_force(self._price_from_s, self._price_usd_per_hr, self.now_s)

    def _load(self, b: int, spec: WorldSpec) -> None:
        """Begin world `b` at its time 0, with nothing remembered."""
        load_world(self._every, b, spec)
        open_one(self._every, b)
        self._ticks[b] = 0
        self._recent[:, b] = 0.0
        self._window[b] = 0.0

    def _restate(self, n_classes: int, n_pools: int) -> None:
        """Put together what is the same in every tick."""
        specs = self.specs
        self.cluster: Cluster = batched_cluster([spec.cluster for spec in specs], n_classes, n_pools)
        self._duration_ps = np.array([whole_ps(spec.duration_s) for spec in specs])
        self._bytes_per_token = np.array([spec.bytes_per_token for spec in specs])
        self._preemptions_per_hr = np.stack(
            [padded(spec.supply.believed_preemptions_per_hr, (n_pools,)) for spec in specs]
        )
        self._asleep_rent_frac = np.stack([padded(spec.supply.asleep_rent_frac, (n_pools,), 1.0) for spec in specs])
        self._tariff = ledger.Tariff(
            **{f.name: np.array([float(getattr(s.tariff, f.name)) for s in specs]) for f in fields(ledger.Tariff)}
        )
        self._ranges = batched_ranges([spec.ranges for spec in specs], n_pools)
        self._price_from_s, self._price_usd_per_hr = _stepped(
            [(spec.price_from_s, spec.price_usd_per_hr) for spec in specs], n_pools
        )
        self._room_from_s, self._room_c = _stepped([(spec.room_from_s, spec.room_c) for spec in specs], n_pools)
        self._rooms_change = self._room_from_s.shape[1] > 1


def _stepped(series: Sequence[tuple[FloatArray, FloatArray]], n_pools: int) -> tuple[FloatArray, FloatArray]:
    """`[B, K]` when each step begins and `[B, K, P]` its values, from each world's own."""
    steps = max(len(from_s) for from_s, _ in series)
    return (
        np.stack([padded(from_s, (steps,), np.inf) for from_s, _ in series]),
        np.stack([padded(values, (steps, n_pools)) for _, values in series]),
    )


def _in_force(from_s: FloatArray, values: FloatArray, now_s: FloatArray) -> FloatArray:
    """`[B, P]` the values of the step that each world is in."""
    step = (from_s <= now_s[:, None]).sum(axis=1) - 1
    now: FloatArray = values[np.arange(len(step)), step]
    return now


def _check_fits(spec: WorldSpec, max_classes: int, max_pools: int) -> None:
    n_classes, n_pools = len(spec.cluster.class_names), len(spec.cluster.pool_names)
    if n_classes > max_classes or n_pools > max_pools:
        raise ValueError(
            f"a world of {n_classes} classes and {n_pools} pools, wanted at most {max_classes} and {max_pools}; "
            "raise max_classes and max_pools"
        )
