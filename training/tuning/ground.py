"""What rules are tuned on: days of scenarios, drawn once for all trials. Drawing a day costs about as much as a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...env.batch import Episode
from ...env.scenario import Scenario
from ..contenders import contender
from ..criterion import Outcome, outcome_of
from ..days import tuning_episodes


@dataclass(frozen=True)
class Days:
    """Some days of one scenario."""

    scenario: Scenario
    episodes: Sequence[Episode]

    def outcome(self, rule: str, knobs: Mapping[str, float]) -> Outcome:
        """What a rule with these knobs comes to on them."""
        entry = contender(rule, self.scenario, knobs=knobs)
        return outcome_of(entry.run(self.episodes, self.scenario.tick_s), self.episodes)


Ground = tuple[Days, ...]


def ground_of(scenarios: Sequence[Scenario], seeds: int) -> Ground:
    """`seeds` tuning days of each scenario."""
    return tuple(Days(scenario, tuning_episodes(scenario, seeds)) for scenario in scenarios)
