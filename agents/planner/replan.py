"""When to plan again, and for which load: at most once a minute, when load or prices have moved.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ...env.beliefs import believed_capacity, mean_load
from ...env.contract import BoolArray, Cluster, FloatArray, Plan, Snapshot
from ...env.scenario import Scenario
from ...env.workload.requests import Workload
from .solving.milp import cheapest_plan
from .wishes import FleetWishes, keeps, wishes_of

Capacity = Callable[[FloatArray, FloatArray], FloatArray]
"""(mean prompt tokens `[C]`, mean output tokens `[C]`) -> requests/s within target of one replica `[C, P]`."""


Solver = Callable[[Cluster, FloatArray, FloatArray, FloatArray, FloatArray | None], Plan]
"""As `milp.cheapest_plan`: cluster, load `[C]`, capacity `[C, P]`, price `[P]`, running `[P]` -> the cheapest plan."""


@dataclass(frozen=True)
class Replanner:
    """Plans for one cluster."""

    cluster: Cluster
    capacity: Capacity
    prompt_tokens: FloatArray
    """`[C]` mean prompt length believed before any is seen."""
    output_tokens: FloatArray
    """`[C]`"""
    headroom: float = 1.1
    """The load is planned for times this: bursts within a minute, and the error of the forecast."""
    every_s: float = 60.0
    """Not more often than this."""
    moved: float = 0.15
    """A class's load, or the plan's rent at present prices, that moved by this share makes a new plan worth its cost."""
    horizon: int = 1
    """Which forecast step to plan for (`FORECAST_HORIZON_S`)."""
    solve: Solver = cheapest_plan
    """Knows no wishes of the whole fleet: where its plan does not keep to them, `milp.cheapest_plan` plans again."""
    wishes: FleetWishes | None = None

    def first(self, load_per_s: FloatArray) -> Plan:
        """The plan before anything is seen, for an expected load `[C]`."""
        capacity = self.capacity(self.prompt_tokens, self.output_tokens)
        return self._plan(self.cluster, load_per_s * self.headroom, capacity, self.cluster.usd_per_hr, None)

    def due(self, plan: Plan, planned_at_s: float, snapshot: Snapshot) -> bool:
        """Whether a new plan is allowed and worth it."""
        if float(snapshot.time_s) - planned_at_s < self.every_s:
            return False
        load = load_to_plan(plan, snapshot, self.headroom, self.horizon)
        return bool(worth_planning(plan, load, snapshot, price_of(snapshot, self.cluster), self.moved))

    def again(self, plan: Plan, snapshot: Snapshot) -> Plan:
        """A new plan from what is seen now; it weighs the cost of changing the mix."""
        prompt, output = lengths_to_plan(snapshot, self.prompt_tokens, self.output_tokens)
        cluster, running = reachable(snapshot, self.cluster)
        load = load_to_plan(plan, snapshot, self.headroom, self.horizon)
        return self._plan(cluster, load, self.capacity(prompt, output), price_of(snapshot, self.cluster), running)

    def _plan(
        self,
        cluster: Cluster,
        load_per_s: FloatArray,
        capacity_per_s: FloatArray,
        usd_per_hr: FloatArray,
        running: FloatArray | None,
    ) -> Plan:
        plan = self.solve(cluster, load_per_s, capacity_per_s, usd_per_hr, running)
        return within_wishes(plan, self.wishes, cluster, usd_per_hr, running)


def within_wishes(
    plan: Plan, wishes: FleetWishes | None, cluster: Cluster, usd_per_hr: FloatArray, running: FloatArray | None
) -> Plan:
    """A plan, or where it does not keep to the wishes the cheapest that does."""
    if wishes is None or keeps(wishes, cluster, plan, usd_per_hr):
        return plan
    return cheapest_plan(cluster, plan.load_per_s, plan.capacity_per_s, usd_per_hr, running, wishes=wishes)


def price_of(snapshot: Snapshot, cluster: Cluster) -> FloatArray:
    """`[..., P]` of a replica now, as far as known."""
    return np.where(snapshot.known("usd_per_hr"), snapshot.usd_per_hr, cluster.usd_per_hr)


def load_to_plan(plan: Plan, snapshot: Snapshot, headroom: float, horizon: int) -> FloatArray:
    """`[..., C]` requests per second to plan for: what is seen or expected, times head-room; else as planned before."""
    seen = np.fmax(snapshot.arrival_rate_per_s, snapshot.forecast_per_s[..., horizon]) * headroom
    load: FloatArray = np.where(np.isnan(seen), plan.load_per_s, seen)
    return load


def worth_planning(
    plan: Plan, load_per_s: FloatArray, snapshot: Snapshot, usd_per_hr: FloatArray, moved: float
) -> BoolArray:
    """`[...]` whether stock, prices or load have moved so far that the plan may be wrong."""
    rent = (plan.replicas * usd_per_hr).sum(axis=-1)
    dearer = np.abs(rent - plan.usd_per_hr) > moved * plan.usd_per_hr
    other = np.abs(load_per_s - plan.load_per_s) > moved * np.maximum(plan.load_per_s, 0.05)
    worth: BoolArray = _out_of_stock(snapshot).any(axis=-1) | dearer | other.any(axis=-1)
    return worth


def lengths_to_plan(
    snapshot: Snapshot, prompt_tokens: FloatArray, output_tokens: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """`[..., C]` mean prompt and output lengths seen, in coarse steps; those believed where none is known."""
    prompt = np.where(snapshot.known("prompt_tokens_mean"), snapshot.prompt_tokens_mean, prompt_tokens)
    output = np.where(snapshot.known("output_tokens_mean"), snapshot.output_tokens_mean, output_tokens)
    return _coarse(prompt), _coarse(output)


def reachable(snapshot: Snapshot, cluster: Cluster) -> tuple[Cluster, FloatArray]:
    """The cluster without counts that cannot be had now, and `[..., P]` replicas up or starting."""
    running = np.nan_to_num(snapshot.ready) + np.nan_to_num(snapshot.starting)
    most = np.where(_out_of_stock(snapshot), running, cluster.max_replicas)
    return replace(cluster, max_replicas=np.maximum(most, cluster.min_replicas)), running


def replanner_of(scenario: Scenario, requests: Workload) -> Replanner:
    """The planner with what is believed of a scenario: data-sheet speeds, and the mean lengths of `requests`."""
    _, prompt, output = mean_load(requests, scenario.duration_s)
    capacity, wishes = believed_capacity(scenario), wishes_of(scenario)
    fleet = scenario.asked_of_fleet
    headroom = Replanner.headroom if fleet is None else fleet.headroom
    return Replanner(scenario.cluster(), capacity, prompt, output, headroom=headroom, wishes=wishes)


def _out_of_stock(snapshot: Snapshot) -> BoolArray:
    """`[..., P]` pools whose wish for more replicas nobody answers: fewer are up or starting than were asked for."""
    up = snapshot.ready + snapshot.starting
    return np.asarray(snapshot.target > up + 0.5)  # unknown counts compare as False


def _coarse(tokens: FloatArray) -> FloatArray:
    """Lengths in steps of 10 %: the noise of a minute's mean must not make a new plan."""
    coarse: FloatArray = np.exp(np.round(np.log(np.maximum(tokens, 1.0)) / 0.1) * 0.1)
    return np.where(tokens <= 0, 0.0, coarse)
