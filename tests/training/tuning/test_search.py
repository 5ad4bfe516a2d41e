"""Tuning finds better knobs than bad ones, the same at each time and however many processes take part."""

from dataclasses import replace
from pathlib import Path

import pytest

from poolpilot.agents.portfolio import INTEGRAL, PLAN_TRACKING, THRESHOLD, spec_of
from poolpilot.agents.rules import KnobError, RuleSpec
from poolpilot.agents.tuned import read_tuned, write_tuned
from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.env.scenario.fingerprint import fingerprint
from poolpilot.training.criterion import HELD, Outcome, loss, mean_outcome
from poolpilot.training.tuning.ground import Ground, ground_of
from poolpilot.training.tuning.search import DIGITS, knobs_for, loss_at_least, search
from poolpilot.training.tuning.together import tune_rules

from ..clusters import tiny


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> list[Scenario]:
    one = load_scenario(tiny(tmp_path_factory.mktemp("tiny")))
    return [one, one.model_copy(update={"name": "shorter", "duration_s": 80.0})]


@pytest.fixture(scope="module")
def ground(scenarios: list[Scenario]) -> Ground:
    return ground_of(scenarios, seeds=2)


def at(spec: RuleSpec, **defaults: float) -> RuleSpec:
    """The rule with other defaults."""
    knobs = tuple(replace(knob, default=defaults.get(knob.name, knob.default)) for knob in spec.knobs)
    return replace(spec, knobs=knobs)


def lavish_tracking() -> RuleSpec:
    """Plan tracking that by default holds as much as it is ever tried with."""
    spec = spec_of(PLAN_TRACKING)
    return at(spec, **{knob.name: knob.high for knob in spec.knobs if knob.name in ("headroom", "burst")})


def test_bad_knobs_become_better_and_the_first_trial_is_the_defaults(ground: Ground) -> None:
    lavish = lavish_tracking()
    seen: list[None] = []
    found = search(lavish, ground, 10, lambda: seen.append(None))
    assert found.trials == len(seen) == 10
    defaults = mean_outcome([o for days in ground for o in days.outcomes(PLAN_TRACKING, lavish.defaults)])
    assert found.by_defaults == defaults
    assert loss(found.outcome) < loss(defaults) - 0.01
    assert found.outcome == mean_outcome([o for days in ground for o in days.outcomes(PLAN_TRACKING, found.knobs)])


def test_knobs_found_lie_in_their_range_and_are_short(ground: Ground) -> None:
    spec = spec_of(PLAN_TRACKING)
    found = search(spec, ground, 3)
    assert set(found.knobs) == set(spec.defaults)
    for knob in spec.knobs:
        value = found.knobs[knob.name]
        assert knob.low <= value <= knob.high
        assert value == float(f"{value:.{DIGITS}g}")


def test_one_trial_keeps_the_defaults(ground: Ground) -> None:
    spec = spec_of(PLAN_TRACKING)
    found = search(spec, ground, 1)
    assert (found.knobs, found.outcome, found.pruned) == (spec.defaults, found.by_defaults, 0)


def test_a_trial_that_cannot_win_any_more_is_ended() -> None:
    missed = Outcome(0.5, 0.1)
    assert loss_at_least([missed], 4) == pytest.approx((0.5 * 0.25**3) ** 0.25 + 40.0 * (0.025 - HELD))
    for others in ([Outcome(0.25, 0.0)] * 3, [Outcome(0.9, 0.2)] * 3):
        assert loss_at_least([missed], 4) <= loss(mean_outcome([missed, *others]))
    assert loss_at_least([missed] * 4, 4) == pytest.approx(loss(missed))


def test_what_is_tried_second_can_be_said(ground: Ground) -> None:
    """A start that is better than the defaults is found at once."""
    lavish = lavish_tracking()
    found = search(lavish, ground, 2, start={"headroom": 1.1, "burst": 0.3})
    assert found.knobs == {**lavish.defaults, "headroom": 1.1, "burst": 0.3}
    assert found.trials == 2


def test_two_processes_find_the_same_as_one_to_the_bit(scenarios: list[Scenario], tmp_path: Path) -> None:
    told: list[None] = []
    rules = (PLAN_TRACKING + INTEGRAL, PLAN_TRACKING, THRESHOLD)
    alone = dict(tune_rules(rules, "tiny ones", scenarios, trials=4, seeds=1))
    together = dict(
        tune_rules(rules, "tiny ones", scenarios, trials=4, seeds=1, workers=2, on_trial=lambda: told.append(None))
    )
    assert together == alone
    assert len(told) == 12
    assert set(together) == set(rules)
    for rule in alone.values():
        assert (rule.trials, rule.seeds, rule.suite, rule.suite_hash) == (4, 1, "tiny ones", fingerprint(*scenarios))
    write_tuned(tmp_path / "tuned.json", alone)
    assert read_tuned(tmp_path / "tuned.json", spec_of) == alone


def test_a_rule_that_does_not_exist_is_refused_before_anything_is_drawn() -> None:
    with pytest.raises(KnobError, match="no rule 'no-such'"):
        next(tune_rules([PLAN_TRACKING, "no-such"], "none", [], trials=1, seeds=1))


def test_a_rule_can_be_tuned_for_one_scenario(scenarios: list[Scenario]) -> None:
    assert set(knobs_for(THRESHOLD, scenarios[0], trials=2)) == set(spec_of(THRESHOLD).defaults)
