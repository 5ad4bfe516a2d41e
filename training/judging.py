"""What a policy comes to on given scenarios, by the criterion, at one price of a miss or at several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..agents.portfolio import PolicyFactory
from ..env.batch import Episode
from ..env.contract import Cluster, FloatArray, Policy
from ..env.scenario import Scenario
from .criterion import Outcome, mean_outcome, outcome_of
from .rollout import RunResult, rollout
from .worlds import episode_of

SEATS: Final = 96
"""Episodes side by side; a world takes a few megabytes."""

PricedFactory = Callable[[Cluster, FloatArray], Policy]
"""Makes a policy for a batch of clusters `[B]` with their prices of a miss `[B]`."""


@dataclass(frozen=True)
class Day:
    """One episode of one of the scenarios."""

    scenario: int
    tick_s: float
    episode: Episode


class Judge:
    """The days of some scenarios, and what policies come to on them. The same days for every policy and price."""

    def __init__(self, scenarios: Sequence[Scenario], first_seed: int, seeds: int) -> None:
        """Draws `seeds` days of each scenario, from `first_seed` on; planned for quickly.

        Raises:
            ValueError: no scenarios.
        """
        if not scenarios:
            raise ValueError("no scenarios to judge on, wanted one at least")
        self.names = tuple(scenario.name for scenario in scenarios)
        self.days = [
            Day(i, scenario.tick_s, episode_of(scenario, first_seed + k, miss_price=1.0, quickly=True))
            for i, scenario in enumerate(scenarios)
            for k in range(seeds)
        ]

    def by_price(self, make: PricedFactory, miss_prices: Sequence[float]) -> list[Outcome]:
        """The mean outcome over scenarios, for each price."""
        return [mean_outcome(outcomes) for outcomes in self.by_scenario(make, miss_prices)]

    def of_rule(self, make: PolicyFactory) -> Outcome:
        """The mean outcome over scenarios of a policy that knows no price of a miss."""
        return mean_outcome(self.of_rule_by_scenario(make))

    def of_rule_by_scenario(self, make: PolicyFactory) -> list[Outcome]:
        """Scenario by scenario."""
        return self.by_scenario(lambda cluster, _: make(cluster), [1.0])[0]

    def by_scenario(self, make: PricedFactory, miss_prices: Sequence[float]) -> list[list[Outcome]]:
        """For each price, the outcome of each scenario."""
        runs = [(m, day) for m in range(len(miss_prices)) for day in self.days]
        results: dict[tuple[int, int], list[tuple[RunResult, Episode]]] = {}
        for kind in sorted({(day.tick_s, day.episode.world.duration_s) for day in self.days}):
            own = [(m, d) for m, d in runs if (d.tick_s, d.episode.world.duration_s) == kind]
            for start in range(0, len(own), SEATS):
                part = own[start : start + SEATS]
                prices = np.array([miss_prices[m] for m, _ in part])
                done = rollout([day.episode for _, day in part], lambda c, p=prices: make(c, p), kind[0])  # type: ignore[misc]
                for (m, day), result in zip(part, done, strict=True):
                    results.setdefault((m, day.scenario), []).append((result, day.episode))
        return [
            [outcome_of(*zip(*results[m, i], strict=True)) for i in range(len(self.names))]
            for m in range(len(miss_prices))
        ]
