"""What a world makes known to the clairvoyant (`agents.bound`): its true laws, machines, prices and requests as arrays.

Symbols: `N` requests, `C` classes, `P` pools, `K` ticks, `T` stretches of time.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from ..agents.bound.relaxation import Certificate, Hindsight, best_prices, certificate, no_prices, second_usd
from ..agents.bound.sharing import sharing_of
from ..agents.bound.work import Engine, dearest_weights, kinds_of, least_work_s, may_run_out, owed_work_s
from ..env.batch import Episode
from ..env.contract import BoolArray, FloatArray, IntArray
from ..env.guard import Limits
from ..env.ledger import JOULES_PER_KWH, SECONDS_PER_HOUR
from ..env.perf.law import law_from_row
from ..env.perf.power import drawn_j
from ..env.sim.world import WorldSpec

STRETCH_S = 30.0
"""Time is looked at in stretches about so long, of whole ticks; what is within one may happen in any order."""
MOST_STRETCHES = 240
_LEAST_SHARE = 0.1
"""Of the rent: weights are chosen for prices no lower than this."""
_LATE_S = 1e-6
"""Times are compared generously by this: what the simulator rounds must not make the bound too high."""


@dataclass(frozen=True)
class Bound:
    """What no policy can undercut in one episode."""

    usd: float
    """Of the whole episode."""
    duration_s: float

    @property
    def usd_per_hr(self) -> float:
        """Mean bill."""
        return self.usd * SECONDS_PER_HOUR / self.duration_s


class Clairvoyant:
    """One episode, seen from its end. The same for every policy that met it."""

    def __init__(self, episode: Episode, tick_s: float) -> None:
        """Look at everything that does not depend on what was met."""
        self._world = world = episode.world
        ticks = math.ceil(world.duration_s / tick_s - 1e-9)
        self.duration_s = ticks * tick_s
        per_stretch = max(1, round(STRETCH_S / tick_s), math.ceil(ticks / MOST_STRETCHES))
        begins = np.arange(0, ticks, per_stretch)
        self._rows = np.flatnonzero(world.workload.arrival_s < self.duration_s)
        latest_s = np.minimum(latest_finish_s(world), self.duration_s)[self._rows]
        first = stretch_of(world.workload.arrival_s[self._rows] - _LATE_S, per_stretch * tick_s, len(begins))
        last = stretch_of(latest_s + _LATE_S, per_stretch * tick_s, len(begins))
        self._engines = engines_of(world)
        requests, rows = world.workload, self._rows
        prompt, output = requests.prompt_tokens[rows], requests.output_tokens[rows]
        self._sharing = sharing_of(requests.prefixes, requests.prefix_index[rows], prompt, requests.arrival_s[rows])
        self._kinds = kinds_of(requests.class_index[rows], prompt, output, self._sharing, world.cluster.serves)
        self._prices_move = len(world.price_from_s) > 1
        idle_usd, busy_usd = _power_usd_per_s(world)
        safe = never_lost(world)
        rent = rent_usd_per_hr(world, ticks, tick_s) / SECONDS_PER_HOUR
        least = least_replicas(world, episode.limits, safe, ticks, tick_s)
        most = most_replicas(world, episode.limits, latest_finish_s(world), ticks, tick_s)
        self._usual: list[Certificate] | None = None
        self._past = Hindsight(
            class_index=world.workload.class_index[self._rows],
            first=first,
            last=np.maximum(last, first),
            work_s=np.zeros((len(self._rows), len(self._engines))),
            owed_s=np.zeros((len(self._rows), len(self._engines))),
            owed_since=np.minimum(
                stretch_of(self._sharing.since_s - _LATE_S, per_stretch * tick_s, len(begins)), first
            ),
            own_usd=_network_usd(world)[self._rows],
            length_s=np.add.reduceat(np.full(ticks, tick_s), begins),
            rent_usd_per_s=np.minimum.reduceat(rent, begins, axis=0) + idle_usd,
            busy_usd_per_s=busy_usd,
            least_s=np.add.reduceat(least, begins, axis=0) * tick_s,
            most_s=np.add.reduceat(most, begins, axis=0) * tick_s,
            kept=sets_kept(world, episode.limits, safe),
        )

    def bound(self, met: IntArray) -> Bound:
        """The least bill of a policy that meets so many requests `[C]` of each class within their targets.

        Every choice of weights and prices proves a bound; the highest of a few is taken.
        """
        return self._highest(self._certificates(met), met)

    def near(self, met: IntArray) -> Bound:
        """As `bound`, but by the weights and prices that are best where just the wanted attainment is met.

        They prove a bound for any `met`, a little lower the further off it is, and are looked for only once: for
        many policies on one episode.
        """
        if self._usual is None:
            wanted = self._world.cluster.targets.attainment
            came = np.bincount(self._past.class_index, minlength=len(wanted))
            self._usual = self._certificates(np.ceil(wanted * came).astype(np.int64))
        return self._highest(self._usual, met)

    def _highest(self, certificates: list[Certificate], met: IntArray) -> Bound:
        return Bound(max(0.0, *(own.usd(met) for own in certificates)), self.duration_s)

    def _certificates(self, met: IntArray) -> list[Certificate]:
        """What a few choices of weights and prices prove, those that look best where `met` is met."""
        rent = self._past.rent_usd_per_s
        found = []
        for usd_per_s in (rent.mean(axis=0), rent.min(axis=0))[: 1 + self._prices_move]:
            past = self._weighed(met, usd_per_s + self._past.busy_usd_per_s)
            prices = best_prices(past, met)
            again = np.maximum(second_usd(past, prices).mean(axis=0), _LEAST_SHARE * usd_per_s)
            reweighed = self._weighed(met, again)
            for own, at in ((past, no_prices(past)), (past, prices), (reweighed, prices)):
                found.append(certificate(own, at, len(met)))
        return found

    def unforced(self) -> Clairvoyant:
        """The same episode, as if the guard kept no replica: what is left of the bound is the work's alone."""
        other = copy(self)
        nothing = np.zeros_like(self._past.least_s)
        other._past = replace(self._past, least_s=nothing, kept=self._past.kept[:0])
        other._usual = None
        return other

    def _weighed(self, met: IntArray, usd_per_s: FloatArray) -> Hindsight:
        """With each request's least work, by weights that are chosen for prices `[P]`."""
        requests, rows = self._world.workload, self._rows
        prompt, output = requests.prompt_tokens[rows], requests.output_tokens[rows]
        serves = self._world.cluster.serves[self._past.class_index]
        work, owed = np.full(serves.shape, np.inf), np.zeros(serves.shape)
        weights = dearest_weights(self._engines, self._kinds, met, usd_per_s)
        for p, (engine, own) in enumerate(zip(self._engines, serves.T, strict=True)):
            hit = self._sharing.hit_tokens[own]
            work[own, p] = least_work_s(weights[p], engine, prompt[own], output[own], hit)
            owed[own, p] = owed_work_s(weights[p], engine, self._sharing)[own]
        return replace(self._past, work_s=work, owed_s=owed)


def stretch_of(time_s: FloatArray, stretch_s: float, count: int) -> IntArray:
    """`[N]` the stretch that each time lies in."""
    return np.clip(np.floor(time_s / stretch_s), 0, count - 1).astype(np.int64)


def engines_of(world: WorldSpec) -> tuple[Engine, ...]:
    """`[P]` what a replica of each pool can truly do: at full clock, which heat only lowers."""
    cluster, requests = world.cluster, world.workload
    engines = []
    for p in range(len(cluster.pool_names)):
        own = cluster.serves[requests.class_index, p]
        kv_tokens, seqs = float(world.kv_tokens[p]), float(cluster.max_batch_cap[p])
        engines.append(
            Engine(
                law=law_from_row(world.law_rows[p]),
                kv_tokens=kv_tokens,
                max_num_seqs=seqs,
                token_budget=float(cluster.max_token_budget[p] * world.batches_in_flight[p]),
                prefix_caching=bool(world.prefix_caching[p]),
                throws_out=may_run_out(kv_tokens, seqs, requests.prompt_tokens[own], requests.output_tokens[own]),
            )
        )
    return tuple(engines)


def latest_finish_s(world: WorldSpec) -> FloatArray:
    """`[N]` latest end of a request that meets its targets; infinite where none says."""
    requests, targets = world.workload, world.cluster.targets
    c, arrival = requests.class_index, requests.arrival_s
    further = np.maximum(requests.output_tokens - 1.0, 0.0)
    tokens_s = np.where(further > 0, targets.tpot_s[c] * further, 0.0)
    latest = np.full(len(requests), np.inf)
    for allowed in (targets.ttft_s[c] + tokens_s, targets.e2e_s[c], targets.deadline_s[c]):
        latest = np.fmin(latest, arrival + allowed)
    return latest


def never_lost(world: WorldSpec) -> BoolArray:
    """`[P]` whether nothing but a decision ever takes a replica that serves."""
    supply = world.supply
    safe: BoolArray = (supply.crashes_per_hr == 0) & (supply.preemptions_per_hr == 0)
    for fault in supply.faults:
        if fault.kind != "stock_out":
            safe[world.cluster.pool_names.index(fault.pool)] = False
    return safe


def rent_usd_per_hr(world: WorldSpec, ticks: int, tick_s: float) -> FloatArray:
    """`[K, P]` price of a replica in each tick: that of the tick's beginning holds for all of it."""
    step = np.searchsorted(world.price_from_s, np.arange(ticks) * tick_s, side="right") - 1
    prices: FloatArray = world.price_usd_per_hr[step]
    # A tick begins at a whole picosecond, a price by a float: where they nearly meet, either may hold.
    for moved in (-_LATE_S, _LATE_S):
        near = np.searchsorted(world.price_from_s, np.arange(ticks) * tick_s + moved, side="right") - 1
        prices = np.minimum(prices, world.price_usd_per_hr[np.maximum(near, 0)])
    return prices


def least_replicas(world: WorldSpec, limits: Limits, safe: BoolArray, ticks: int, tick_s: float) -> FloatArray:
    """`[K, P]` replicas that the guard keeps whatever is proposed: the minimum, and those of the start until its steps
    and cooldowns have let them go. None where the world may take them, the start's none where a budget may."""
    low, start = world.cluster.min_replicas, world.start_replicas
    drops = 1.0 + np.floor(np.arange(ticks) / least_ticks_between_drops(limits, tick_s))
    staying = start - float(limits.scale_down_step) * drops[:, None]
    if np.isfinite(limits.budget_usd_per_hr):
        staying = np.zeros_like(staying)
    forced: FloatArray = np.where(safe, np.maximum(np.maximum(staying, low), 0.0), 0.0)
    return forced


def most_replicas(world: WorldSpec, limits: Limits, latest_s: FloatArray, ticks: int, tick_s: float) -> FloatArray:
    """`[K, P]` replicas that can do work which meets its targets: the maximum, those still draining whose requests may
    yet be in time, and no more than the machines that there are, with those that have had notice."""
    cluster, supply, requests = world.cluster, world.supply, world.workload
    begin, end = np.arange(ticks) * tick_s, np.arange(1, ticks + 1) * tick_s
    slots = 2.0 * cluster.max_replicas + supply.sleep_max
    most = np.zeros((ticks, len(slots)))
    for p, name in enumerate(cluster.pool_names):
        own = cluster.serves[requests.class_index, p]
        longest_s = float((latest_s - requests.arrival_s)[own].max(initial=0.0))
        drained = np.inf
        if np.isfinite(longest_s) and not np.isfinite(limits.budget_usd_per_hr):
            between_s = least_ticks_between_drops(limits, tick_s) * tick_s
            drained = float(limits.scale_down_step) * (2.0 + math.floor((longest_s + tick_s) / between_s))
        faults = [fault for fault in supply.faults if fault.pool == name]
        noticed = np.full(ticks, np.inf if supply.preemptions_per_hr[p] > 0 else 0.0)
        machines = np.full(ticks, np.inf)
        moves = sorted((f for f in faults if f.kind == "capacity"), key=lambda f: f.at_s)
        taken = [(f.at_s, float(f.count)) for f in faults if f.kind == "preempt"]
        if cluster.spot[p] and moves:
            at_s, count = np.array([f.at_s for f in moves]), np.array([float(f.count) for f in moves])
            taken += [(at, before - after) for at, before, after in zip(at_s[1:], count, count[1:], strict=False)]
            if at_s[0] > 0.0:
                taken.append((float(at_s[0]), np.inf))
            for k in range(ticks):
                during = count[(at_s > begin[k] - _LATE_S) & (at_s < end[k] + _LATE_S)]
                before = count[at_s <= begin[k] + _LATE_S][-1:]
                machines[k] = np.concatenate([during, before]).max() if len(before) else np.inf
        for at, number in taken:
            if number > 0:
                noticed += np.where((at < end + _LATE_S) & (at + supply.notice_s[p] > begin - _LATE_S), number, 0.0)
        most[:, p] = np.minimum(np.minimum(slots[p], cluster.max_replicas[p] + drained + noticed), machines + noticed)
    return most


def sets_kept(world: WorldSpec, limits: Limits, safe: BoolArray) -> BoolArray:
    """`[G, P]` sets of pools, those of a class, of which the guard never lets the last replica go."""
    if np.isfinite(limits.budget_usd_per_hr):
        return np.zeros((0, len(safe)), dtype=np.bool_)
    kept = [
        pools
        for pools in np.unique(world.cluster.serves, axis=0)
        if pools.any() and safe[pools].all() and world.start_replicas[pools].sum() >= 1.0
    ]
    return np.array(kept, dtype=np.bool_).reshape(-1, len(safe))


def least_ticks_between_drops(limits: Limits, tick_s: float) -> int:
    """Ticks from one step down of a pool to the next that the guard allows."""
    return max(1, math.ceil(float(limits.scale_down_cooldown_s) / tick_s - 1e-9))


def _power_usd_per_s(world: WorldSpec) -> tuple[FloatArray, FloatArray]:
    """`[P]` least dollars of power of a replica's rented second, and beyond that of a busy one."""
    usd_per_j = float(world.tariff.usd_per_kwh * world.tariff.pue) / JOULES_PER_KWH
    # A busy GPU that computes nothing draws its floor, levelled off: what `drawn_j` says of no iterations at all.
    idle_w = [[draw.gpus * draw.idle_w for draw in own] for own in world.draws]
    busy_w = [
        [draw.gpus * drawn_j(draw, 1.0, 1.0, 0.0, 0.0, 0.0) if draw.floor_w > 0.0 else 0.0 for draw in own]
        for own in world.draws
    ]
    pairs = zip(idle_w, busy_w, strict=True)
    rented_w = np.array([sum(map(min, idle, busy)) for idle, busy in pairs])
    return usd_per_j * rented_w, usd_per_j * (np.array([sum(busy) for busy in busy_w]) - rented_w)


def _network_usd(world: WorldSpec) -> FloatArray:
    """`[N]` for each answer's bytes."""
    usd_per_byte = float(world.tariff.egress_usd_per_gb) / 1e9
    usd: FloatArray = world.workload.output_tokens.astype(np.float64) * world.bytes_per_token * usd_per_byte
    return usd
