"""Fixed counts are the best of all."""

from itertools import product

import numpy as np

from poolpilot.agents.portfolio import STATIC, policy_factory
from poolpilot.env.scenario import load_scenario
from poolpilot.training.criterion import HELD, loss, outcome_of
from poolpilot.training.days import tuning_episodes
from poolpilot.training.rollout import rollout
from poolpilot.training.tuning.counts import LOADS_PLANNED, fixed_counts

SCENARIO = load_scenario("mixed-chat").model_copy(update={"duration_s": 120.0})


def test_they_are_better_than_all_cheaper_ones() -> None:
    """Against trying every combination of counts."""
    episodes = tuning_episodes(SCENARIO)
    trials: list[None] = []
    found = fixed_counts(episodes, SCENARIO.tick_s, lambda: trials.append(None))
    assert found.outcome.shortfall <= HELD
    assert found.trials == len(trials) > 1
    cluster, cheaper = SCENARIO.cluster(), 0
    rent = np.array(found.counts) @ cluster.usd_per_hr
    for counts in product(*(range(int(high) + 1) for high in cluster.max_replicas)):
        if 0 < np.array(counts) @ cluster.usd_per_hr < rent - 1e-9:
            results = rollout(episodes, policy_factory(STATIC, tuple(map(float, counts))), SCENARIO.tick_s)
            assert loss(outcome_of(results, episodes)) >= loss(found.outcome), f"{counts} is better and cheaper"
            cheaper += 1
    assert cheaper > 0


def test_of_a_large_cluster_the_planners_counts_are_tried() -> None:
    """A million combinations and more would take hours."""
    pools = {
        name: pool.model_copy(update={"replicas": pool.replicas.model_copy(update={"max": 120})})
        for name, pool in SCENARIO.pools.items()
    }
    large = SCENARIO.model_copy(update={"pools": pools})
    found = fixed_counts(tuning_episodes(large), large.tick_s)
    assert found.trials <= LOADS_PLANNED
    assert 0 < sum(found.counts) < 12
    assert found.outcome.shortfall < 0.1
