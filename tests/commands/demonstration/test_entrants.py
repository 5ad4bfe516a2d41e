"""The demo's opponents are as well set as they can be: the counts that are shipped are those a new search finds."""

import io
import json
from itertools import product
from threading import Event

import numpy as np
import pytest
from rich.console import Console

from poolpilot.agents.portfolio import RULES, STATIC, policy_factory
from poolpilot.commands.demonstration.entrants import DEMO_SCENARIO, TUNED_FILE, GivenUp, entrants_for, tune
from poolpilot.env.scenario import load_scenario
from poolpilot.env.scenario.fingerprint import fingerprint
from poolpilot.training.criterion import Outcome, loss, outcome_of
from poolpilot.training.days import tuning_episodes
from poolpilot.training.rollout import rollout

SCENARIO = load_scenario(DEMO_SCENARIO)
KNOWN = json.loads(TUNED_FILE.read_text())
REGENERATE = "regenerate it: python -m poolpilot.commands.demonstration.entrants"


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_the_counts_are_those_of_the_shipped_scenario() -> None:
    assert KNOWN["scenario"] == fingerprint(SCENARIO), f"{TUNED_FILE.name} is of another scenario; {REGENERATE}"
    out = quiet()
    entrants = entrants_for(SCENARIO, RULES, out)
    assert [entrant.policy for entrant in entrants] == list(RULES)
    assert [entrant.setting for entrant in entrants if entrant.policy == STATIC] == [tuple(KNOWN["counts"])]
    assert not any(entrant.setting for entrant in entrants if entrant.policy != STATIC), "rules run as they are shipped"
    assert out.file.getvalue() == "", "it searched what was found before"


def test_a_new_search_finds_the_same() -> None:
    assert tune(SCENARIO) == KNOWN, REGENERATE


def test_no_cheaper_counts_are_better() -> None:
    """Against trying every combination of counts that is not much cheaper."""
    cluster, best = SCENARIO.cluster(), np.array(KNOWN["counts"])
    known = loss(Outcome(KNOWN["bill_ratio"], KNOWN["shortfall"]))
    dear = float(best @ cluster.usd_per_hr)
    cheaper = [
        tuple(map(float, counts))
        for counts in product(*(range(int(high) + 1) for high in cluster.max_replicas))
        # Of two settings of which one has fewer everywhere, the larger one is the harder test.
        if 0.6 * dear < np.array(counts) @ cluster.usd_per_hr < dear - 1e-9
    ]
    assert cheaper
    episodes = tuning_episodes(SCENARIO)
    for counts in cheaper:
        outcome = outcome_of(rollout(episodes, policy_factory(STATIC, counts), SCENARIO.tick_s), episodes)
        assert loss(outcome) > known, f"{counts} is better; {REGENERATE}"


def test_counts_for_a_scenario_of_ones_own_are_searched() -> None:
    other, out = SCENARIO.model_copy(update={"duration_s": 60.0}), quiet()
    (entrant,) = entrants_for(other, (STATIC,), out)
    assert "searching fixed counts" in out.file.getvalue()
    assert len(entrant.setting) == len(SCENARIO.pools)


def test_a_search_can_be_given_up() -> None:
    giving_up = Event()
    giving_up.set()
    with pytest.raises(GivenUp, match=STATIC):
        entrants_for(SCENARIO.model_copy(update={"duration_s": 60.0}), (STATIC,), quiet(), giving_up)
