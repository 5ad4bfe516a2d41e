"""When to plan again, and for which load: at most once a minute, when load or prices have moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ...env.beliefs import believed_capacity, mean_load
from ...env.contract import BoolArray, Cluster, FloatArray, Plan, Snapshot
from ...env.scenario import Scenario
from ...env.workload.requests import Workload
from .milp import cheapest_plan

Capacity = Callable[[FloatArray, FloatArray], FloatArray]
"""(mean prompt tokens `[C]`, mean output tokens `[C]`) -> requests/s within target of one replica `[C, P]`."""


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

    def first(self, load_per_s: FloatArray) -> Plan:
        """The plan before anything is seen, for an expected load `[C]`."""
        capacity = self.capacity(self.prompt_tokens, self.output_tokens)
        return cheapest_plan(self.cluster, load_per_s * self.headroom, capacity, self.cluster.usd_per_hr)

    def due(self, plan: Plan, planned_at_s: float, snapshot: Snapshot) -> bool:
        """Whether a new plan is allowed and worth it."""
        if float(snapshot.time_s) - planned_at_s < self.every_s:
            return False
        if _out_of_stock(snapshot).any():
            return True
        rent = float((plan.replicas * self._price(snapshot)).sum())
        if abs(rent - float(plan.usd_per_hr)) > self.moved * float(plan.usd_per_hr):
            return True
        wanted = self._load(plan, snapshot)
        return bool((np.abs(wanted - plan.load_per_s) > self.moved * np.maximum(plan.load_per_s, 0.05)).any())

    def again(self, plan: Plan, snapshot: Snapshot) -> Plan:
        """A new plan from what is seen now; it weighs the cost of changing the mix."""
        prompt = np.where(snapshot.known("prompt_tokens_mean"), snapshot.prompt_tokens_mean, self.prompt_tokens)
        output = np.where(snapshot.known("output_tokens_mean"), snapshot.output_tokens_mean, self.output_tokens)
        running = np.nan_to_num(snapshot.ready) + np.nan_to_num(snapshot.starting)
        capacity = self.capacity(_coarse(prompt), _coarse(output))
        reachable = np.where(_out_of_stock(snapshot), running, self.cluster.max_replicas)
        cluster = replace(self.cluster, max_replicas=np.maximum(reachable, self.cluster.min_replicas))
        return cheapest_plan(cluster, self._load(plan, snapshot), capacity, self._price(snapshot), running)

    def _price(self, snapshot: Snapshot) -> FloatArray:
        return np.where(snapshot.known("usd_per_hr"), snapshot.usd_per_hr, self.cluster.usd_per_hr)

    def _load(self, plan: Plan, snapshot: Snapshot) -> FloatArray:
        ahead = snapshot.forecast_per_s[:, self.horizon]
        seen = np.fmax(snapshot.arrival_rate_per_s, ahead) * self.headroom
        load: FloatArray = np.where(np.isnan(seen), plan.load_per_s, seen)
        return load


def replanner_of(scenario: Scenario, requests: Workload) -> Replanner:
    """The planner with what is believed of a scenario: data-sheet speeds, and the mean lengths of `requests`."""
    _, prompt, output = mean_load(requests, scenario.duration_s)
    return Replanner(scenario.cluster(), believed_capacity(scenario), prompt, output)


def _out_of_stock(snapshot: Snapshot) -> BoolArray:
    """`[P]` pools whose wish for more replicas nobody answers: fewer are up or starting than were asked for."""
    up = snapshot.ready + snapshot.starting
    return np.asarray(snapshot.target > up + 0.5)  # unknown counts compare as False


def _coarse(tokens: FloatArray) -> FloatArray:
    """Lengths in steps of 10 %: the noise of a minute's mean must not make a new plan."""
    coarse: FloatArray = np.exp(np.round(np.log(np.maximum(tokens, 1.0)) / 0.1) * 0.1)
    return np.where(tokens <= 0, 0.0, coarse)
