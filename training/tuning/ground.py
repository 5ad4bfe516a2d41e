"""What rules are tuned on: days of scenarios, drawn once for all trials.

Scenarios that last as long are run side by side: that is two to three times as fast as one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias

from ...agents.portfolio import make_rule
from ...env.batch import Episode
from ...env.scenario import Scenario
from ..criterion import Outcome, outcome_of
from ..days import tuning_episodes
from ..rollout import rollout

SIDE_BY_SIDE: Final = 4
"""Scenarios at most: more would be faster still, but trials are ended early only in between."""


@dataclass(frozen=True)
class Days:
    """Some days of each of a few scenarios that last equally long."""

    scenarios: tuple[Scenario, ...]
    episodes: tuple[tuple[Episode, ...], ...]
    """Of each scenario, as many of each."""

    def outcomes(self, rule: str, knobs: Mapping[str, float]) -> list[Outcome]:
        """What a rule with these knobs comes to on each scenario."""
        every = [episode for own in self.episodes for episode in own]
        results = iter(rollout(every, make_rule(rule, knobs), self.scenarios[0].tick_s))
        return [outcome_of(list(islice(results, len(own))), own) for own in self.episodes]


Ground: TypeAlias = tuple[Days, ...]


def ground_of(scenarios: Sequence[Scenario], seeds: int) -> Ground:
    """`seeds` tuning days of each scenario."""
    alike: dict[tuple[float, float], list[Scenario]] = {}
    for scenario in scenarios:
        alike.setdefault((scenario.duration_s, scenario.tick_s), []).append(scenario)
    groups = [own[i : i + SIDE_BY_SIDE] for own in alike.values() for i in range(0, len(own), SIDE_BY_SIDE)]
    return tuple(Days(tuple(own), tuple(tuple(tuning_episodes(one, seeds)) for one in own)) for own in groups)


def scenarios_of(ground: Ground) -> list[Scenario]:
    """All of them."""
    return [scenario for days in ground for scenario in days.scenarios]
