"""The planner of training: plans for a whole batch of clusters in a few calls, none of which loops over clusters.

When a plan is due, for which load, lengths and counts, is decided by the very functions of `replan`; capacities and
programs are solved by compiled code (`env.perf.capacities`, `branching`), to the same gap as `milp`. Among plans that
cost the same within that gap it may choose another than `milp` would: evaluation and sidecar use `milp`.

Symbols: `B` clusters, `C` classes, `P` pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np

from ....env.beliefs import BelievedCapacity
from ....env.contract import BoolArray, Cluster, FloatArray, IntArray, Plan, Snapshot
from ....env.perf.capacities import Asked, Engines, asked_of, capacities_some, engines_of
from ....env.rows import rows_of
from ..replan import Replanner, lengths_to_plan, load_to_plan, price_of, reachable, within_wishes, worth_planning
from .branching import solve_some
from .program import Program, plan_of, program_of


@dataclass(frozen=True)
class QuickCapacity:
    """As the `BelievedCapacity` it is made from, compiled."""

    believed: BelievedCapacity
    engines: Engines
    """`[P, ...]`"""

    def __call__(self, prompt_tokens: FloatArray, output_tokens: FloatArray) -> FloatArray:
        """Requests/s within target of one replica `[C, P]`."""
        rates = np.zeros((1, *self.believed.serves.shape))
        asked = asked_of(self.believed.targets)
        capacities_some(
            np.zeros(1, dtype=np.int64),
            Engines(*(part[None] for part in self.engines)),
            self.believed.serves[None],
            Asked(*(part[None] for part in asked)),
            prompt_tokens[None],
            output_tokens[None],
            rates,
        )
        own: FloatArray = rates[0]
        return own


def quick_capacity(believed: BelievedCapacity) -> QuickCapacity:
    """The compiled form of what is believed."""
    rows = np.stack([law.as_row() for law in believed.laws])
    return QuickCapacity(believed, engines_of(rows, believed.kv_tokens, believed.token_budget, believed.max_num_seqs))


def quick(planner: Replanner) -> Replanner:
    """A planner that answers by compiled code, for one cluster and for `PlansTogether`.

    Raises:
        TypeError: its capacities are not a `BelievedCapacity`, which can be compiled.
    """
    capacity = planner.capacity
    if not isinstance(capacity, BelievedCapacity):
        raise TypeError(f"planner.capacity: a {type(capacity).__name__}, wanted a BelievedCapacity")
    return replace(planner, capacity=quick_capacity(capacity), solve=quick_plan)


def quick_plan(
    cluster: Cluster,
    load_per_s: FloatArray,
    capacity_per_s: FloatArray,
    usd_per_hr: FloatArray,
    running: FloatArray | None = None,
) -> Plan:
    """As `milp.cheapest_plan`, and for a batch as well: every array `[..., ]` with at most one leading axis."""
    program = program_of(cluster, load_per_s, capacity_per_s, usd_per_hr, running)
    single = program.work.ndim == 2
    parts: list[Any] = [np.ascontiguousarray(np.asarray(part)[None] if single else part) for part in program]
    every = Program(*parts)
    shape = every.work.shape
    replicas, route, short = np.zeros((shape[0], shape[2])), np.zeros(shape), np.zeros(shape[:2])
    solve_some(np.arange(shape[0]), every, replicas, route, short)
    if single:
        replicas, route, short = replicas[0], route[0], short[0]
    return plan_of(cluster, program, load_per_s, capacity_per_s, replicas, route, short)


class Planned(Protocol):
    """What is looked at of an `env.batch.Episode`."""

    @property
    def planner(self) -> object:
        """Made by `quick`."""
        ...

    @property
    def first_load_per_s(self) -> FloatArray:
        """`[C]`"""
        ...


class PlansTogether:
    """A `Planning` for `ClusterBatch` whose episodes all have planners made by `quick`."""

    def __init__(self) -> None:
        """Nothing is known before `first`."""
        self._knobs: Replanner | None = None
        self._wishing: dict[int, Replanner] = {}
        """By seat, those with wishes of the whole fleet."""

    def first(self, seats: IntArray, episodes: Sequence[Planned], cluster: Cluster, plan: Plan | None) -> Plan:
        """Take in `episodes` at `seats` `[K]`; the batch's plan with a first plan in their rows."""
        for b, episode in zip(seats, episodes, strict=True):
            planner = episode.planner
            assert isinstance(planner, Replanner)
            assert isinstance(planner.capacity, QuickCapacity)
            self._take_in(int(b), planner, planner.capacity.engines, cluster)
        load = np.zeros((len(seats), cluster.class_mask.shape[1]))
        for row, episode in zip(load, episodes, strict=True):
            row[: len(episode.first_load_per_s)] = episode.first_load_per_s
        assert self._knobs is not None
        capacity = self._capacities(seats, cluster, self._prompt_tokens, self._output_tokens)
        own = rows_of(cluster, seats)
        fresh = quick_plan(own, load * self._knobs.headroom, capacity, own.usd_per_hr)
        self._hold(seats, fresh, own, own.usd_per_hr, None)
        return fresh if plan is None else with_rows(plan, seats, fresh)

    def again(
        self, plan: Plan, planned_at_s: FloatArray, snapshot: Snapshot, cluster: Cluster
    ) -> tuple[Plan, BoolArray]:
        """The batch's plan, made again where it is due, and `[B]` where that was."""
        knobs = self._knobs
        assert knobs is not None
        due: BoolArray = np.asarray(snapshot.time_s - planned_at_s >= knobs.every_s)
        if not due.any():
            return plan, due
        price = price_of(snapshot, cluster)
        load = np.where(cluster.class_mask, load_to_plan(plan, snapshot, knobs.headroom, knobs.horizon), 0.0)
        due &= worth_planning(plan, load, snapshot, price, knobs.moved)
        seats = np.flatnonzero(due)
        if not len(seats):
            return plan, due
        prompt, output = lengths_to_plan(snapshot, self._prompt_tokens, self._output_tokens)
        capacity = self._capacities(seats, cluster, prompt, output)
        within, running = reachable(snapshot, cluster)
        own = rows_of(within, seats)
        fresh = quick_plan(own, load[seats], capacity, price[seats], running[seats])
        self._hold(seats, fresh, own, price[seats], running[seats])
        return with_rows(plan, seats, fresh), due

    def _hold(
        self, seats: IntArray, plan: Plan, cluster: Cluster, usd_per_hr: FloatArray, running: FloatArray | None
    ) -> None:
        """Replace the rows of `plan` that do not keep to the wishes of their seats."""
        for k, seat in enumerate(seats.tolist()):
            planner = self._wishing.get(seat)
            if planner is None:
                continue
            c, p = planner.cluster.serves.shape
            own = replace(
                planner.cluster, min_replicas=cluster.min_replicas[k, :p], max_replicas=cluster.max_replicas[k, :p]
            )
            before = _part(plan, k, c, p)
            now = None if running is None else running[k, :p]
            after = within_wishes(before, planner.wishes, own, usd_per_hr[k, :p], now)
            for field in fields(Plan):
                getattr(_part(plan, k, c, p), field.name)[...] = getattr(after, field.name)

    def _capacities(
        self, seats: IntArray, cluster: Cluster, prompt_tokens: FloatArray, output_tokens: FloatArray
    ) -> FloatArray:
        """`[K, C, P]` at the mean lengths `[B, C]`."""
        capacities_some(
            seats,
            self._engines,
            cluster.serves,
            asked_of(cluster.targets),
            prompt_tokens,
            output_tokens,
            self._rates,
        )
        return self._rates[seats]

    def _take_in(self, b: int, planner: Replanner, engines: Engines, cluster: Cluster) -> None:
        n_clusters, n_classes, n_pools = cluster.serves.shape
        if self._knobs is None:
            self._knobs = planner
            self._prompt_tokens, self._output_tokens = (np.ones((n_clusters, n_classes)) for _ in range(2))
            self._rates = np.zeros(cluster.serves.shape)
            self._engines = Engines(
                law_rows=np.zeros((n_clusters, n_pools, engines.law_rows.shape[1])),
                kv_tokens=np.zeros((n_clusters, n_pools)),
                token_budget=np.zeros((n_clusters, n_pools)),
                max_num_seqs=np.zeros((n_clusters, n_pools)),
                tried=np.full((n_clusters, n_pools, engines.tried.shape[1]), np.inf),
            )
        self._wishing.pop(b, None)
        if planner.wishes is not None:
            self._wishing[b] = planner
        for knob in ("headroom", "every_s", "moved", "horizon"):
            if getattr(planner, knob) != getattr(self._knobs, knob):
                raise ValueError(f"planner.{knob}: {getattr(planner, knob)}, wanted one and the same in a batch")
        more = engines.tried.shape[1] - self._engines.tried.shape[2]
        if more > 0:
            tried = np.pad(self._engines.tried, ((0, 0), (0, 0), (0, more)), constant_values=np.inf)
            self._engines = self._engines._replace(tried=tried)
        for held, own in zip(self._engines, engines, strict=True):
            held[b] = np.inf if held is self._engines.tried else 0.0
            held[b][tuple(slice(0, n) for n in own.shape)] = own
        for values, own in (
            (self._prompt_tokens, planner.prompt_tokens),
            (self._output_tokens, planner.output_tokens),
        ):
            values[b] = 1.0
            values[b, : len(own)] = own


def _part(plan: Plan, k: int, c: int, p: int) -> Plan:
    """Views of row `k` of a batch, without the padding."""
    return Plan(
        replicas=plan.replicas[k, :p],
        route=plan.route[k, :c, :p],
        batch_cap=plan.batch_cap[k, :p],
        capacity_per_s=plan.capacity_per_s[k, :c, :p],
        load_per_s=plan.load_per_s[k, :c],
        usd_per_hr=plan.usd_per_hr[k : k + 1].reshape(()),
        attainment=plan.attainment[k, :c],
    )


def with_rows(plan: Plan, seats: IntArray, fresh: Plan) -> Plan:
    """A copy of a batch's plan with the rows `seats` replaced."""
    parts = {}
    for field in fields(Plan):
        parts[field.name] = np.array(getattr(plan, field.name))
        parts[field.name][seats] = getattr(fresh, field.name)
    return Plan(**parts)
