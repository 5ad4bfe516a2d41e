"""Fixed counts planned for the peak of another day, with the plan's routing: how most services are provisioned.

Source: usual practice, "provision for peak"; the counts and shares are the planner's, so that they are as cheap as fixed
ones can be. `python -m poolpilot.training.static_peak` prints the sweep that `HEADROOM` was chosen by.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ..agents.portfolio import HELD_PLAN, PolicyFactory, policy_factory
from ..env.batch import Episode
from ..env.scenario import Scenario
from ..env.scenario.fingerprint import fingerprint
from .days import tuning_episodes

STATIC_PEAK: Final = "static-peak"
HEADROOM: Final = 1.1
"""Times the load of the peak minute: the least loss (`criterion`) on suite `train` of those in `SWEPT`."""
SWEPT: Final = (0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6)
PEAK_S: Final = 60.0


def static_peak(scenario: Scenario, headroom: float = HEADROOM) -> PolicyFactory:
    """The counts and shares for `headroom` times the peak minute of the scenario's first tuning day, held for ever.

    Spot pools stay empty where the others serve every class: counts that are never asked for again cannot be built on
    machines that are taken away.
    """
    return planned_for_peak(_another_day(scenario), headroom)


def planned_for_peak(day: Episode, headroom: float = HEADROOM) -> PolicyFactory:
    """The counts and shares for `headroom` times the peak minute of a day, held for ever."""
    cluster = day.world.cluster
    peak_per_s = day.world.workload.rates_per_s(min(PEAK_S, day.world.duration_s)).max(axis=0)
    plan = day.planner.first(headroom * peak_per_s)
    # A class without a share would be turned away.
    anywhere = cluster.serves * np.maximum(plan.replicas, 1e-3)
    shares = np.where(plan.route.sum(axis=1, keepdims=True) > 0, plan.route, anywhere)
    shares = shares / shares.sum(axis=1, keepdims=True)
    return policy_factory(HELD_PLAN, (*plan.replicas.tolist(), *shares.ravel().tolist()))


_days: dict[str, Episode] = {}
"""By what their scenario hangs on: a sweep over head-rooms asks for the same again and again."""


def _another_day(scenario: Scenario) -> Episode:
    own = fingerprint(scenario)
    if own not in _days:
        (_days[own],) = tuning_episodes(_on_demand(scenario), 1)
    return _days[own]


def _on_demand(scenario: Scenario) -> Scenario:
    """The scenario with its spot pools shut, if every class keeps a pool."""
    kept = ~scenario.cluster().spot
    if not (scenario.serves() & kept).any(axis=1).all():
        return scenario
    none = {"min": 0, "max": 0, "start": 0}
    pools = {
        name: pool if own else pool.model_copy(update={"replicas": pool.replicas.model_copy(update=none)})
        for own, (name, pool) in zip(kept, scenario.pools.items(), strict=True)
    }
    return scenario.model_copy(update={"pools": pools})


def main() -> None:
    """Print the sweep: head-room, bill ratio, shortfall, loss."""
    from .criterion import loss, mean_outcome, outcome_of
    from .rollout import rollout
    from .suites import load_suite

    scenarios = load_suite("train").scenarios
    days = [tuning_episodes(scenario, 3)[1:] for scenario in scenarios]  # the first is the one planned for
    for headroom in SWEPT:
        outcomes = [
            outcome_of(rollout(own, static_peak(scenario, headroom), scenario.tick_s), own)
            for scenario, own in zip(scenarios, days, strict=True)
        ]
        mean = mean_outcome(outcomes)
        print(f"{headroom:5g} bill {mean.bill_ratio:.3f} shortfall {mean.shortfall:.4f} loss {loss(mean):.3f}")


if __name__ == "__main__":
    main()
