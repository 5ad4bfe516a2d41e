"""The demo's opponents are as well set as they can be: the settings that are shipped are those a new search finds."""

import io
import json
from itertools import product
from threading import Event

import numpy as np
import pytest
from rich.console import Console

from poolpilot.agents.portfolio import PLAN_TRACKING, RULES, STATIC, THRESHOLD, policy_factory
from poolpilot.commands.demonstration.entrants import (
    DEMO_SCENARIO,
    TUNED_FILE,
    GivenUp,
    entrants_for,
    fingerprint,
    tune,
)
from poolpilot.env.scenario import load_scenario
from poolpilot.training.evaluate import tuning_episodes
from poolpilot.training.rollout import RunResult, attainment_of, rollout
from poolpilot.training.tuning import TOLERATED_SHORTFALL

SCENARIO = load_scenario(DEMO_SCENARIO)
KNOWN = json.loads(TUNED_FILE.read_text())
REGENERATE = "regenerate it: python -m poolpilot.commands.demonstration.entrants"


def quiet() -> Console:
    return Console(file=io.StringIO())


def played(name: str, setting: tuple[float, ...]) -> tuple[list[RunResult], float]:
    """The tuning days under a rule, and by how much its worst class misses its target over all of them."""
    results = rollout(tuning_episodes(SCENARIO), policy_factory(name, setting), SCENARIO.tick_s)
    together = attainment_of(np.sum([r.tally for r in results], axis=0))
    return results, float(np.nan_to_num(results[0].attainment_wanted - together).max())


def test_the_settings_are_those_of_the_shipped_scenario() -> None:
    assert KNOWN["scenario"] == fingerprint(SCENARIO), f"{TUNED_FILE.name} is of another scenario; {REGENERATE}"
    assert set(KNOWN["settings"]) == set(RULES)
    out = quiet()
    entrants = entrants_for(SCENARIO, RULES, out)
    assert [entrant.setting for entrant in entrants] == [tuple(KNOWN["settings"][name]) for name in RULES]
    assert out.file.getvalue() == "", "it tuned what was tuned before"


def test_a_new_search_for_fixed_counts_finds_the_same() -> None:
    assert tune(SCENARIO, STATIC) == KNOWN["evidence"][STATIC], REGENERATE


@pytest.mark.parametrize("name", RULES)
def test_the_settings_come_to_what_they_are_said_to(name: str) -> None:
    evidence = KNOWN["evidence"][name]
    results, together = played(name, tuple(evidence["setting"]))
    assert np.mean([r.usd_per_hr for r in results]) == pytest.approx(evidence["usd_per_hr"], abs=1e-3), REGENERATE
    assert max(together, 0.0) == pytest.approx(evidence["shortfall"], abs=1e-4), REGENERATE


def test_the_fixed_counts_reach_the_targets_and_no_cheaper_ones_do() -> None:
    cluster, best = SCENARIO.cluster(), np.array(KNOWN["settings"][STATIC])
    assert played(STATIC, tuple(best))[1] <= TOLERATED_SHORTFALL
    dear = float(best @ cluster.usd_per_hr)
    cheaper = [
        tuple(map(float, counts))
        for counts in product(*(range(int(high) + 1) for high in cluster.max_replicas))
        # Of two settings of which one has fewer everywhere, the larger one is the harder test.
        if 0.6 * dear < np.array(counts) @ cluster.usd_per_hr < dear - 1e-9
    ]
    assert cheaper
    for counts in cheaper:
        assert played(STATIC, counts)[1] > TOLERATED_SHORTFALL, f"{counts} reaches the targets too; {REGENERATE}"


def test_a_scenario_of_ones_own_is_tuned_anew() -> None:
    other, out = SCENARIO.model_copy(update={"duration_s": 60.0}), quiet()
    assert fingerprint(other) != fingerprint(SCENARIO)
    (entrant,) = entrants_for(other, (PLAN_TRACKING,), out)
    assert "tuning plan-tracking" in out.file.getvalue()
    assert len(entrant.setting) == 3


def test_the_name_and_the_summary_are_not_part_of_the_fingerprint() -> None:
    assert fingerprint(SCENARIO.model_copy(update={"name": "n", "summary": "s"})) == fingerprint(SCENARIO)


def test_tuning_can_be_given_up() -> None:
    giving_up = Event()
    giving_up.set()
    with pytest.raises(GivenUp, match=THRESHOLD):
        entrants_for(SCENARIO.model_copy(update={"duration_s": 60.0}), (THRESHOLD,), quiet(), giving_up)
