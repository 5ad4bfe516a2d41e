"""Every rule is known once, by one name; names and knobs that do not exist are refused in one line."""

import math
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from poolpilot.agents import opponents, portfolio
from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.agents.opponents.static_round_robin import StaticRoundRobin
from poolpilot.agents.portfolio import (
    INTEGRAL,
    PLAN_TRACKING,
    RULE_SPECS,
    RULES,
    STATIC,
    SettingError,
    base_of,
    make_rule,
    policy_factory,
    shipped_tuned,
    spec_of,
    tuned_knobs,
)
from poolpilot.agents.rules import KnobError, RuleSpec
from poolpilot.agents.tuned import Reached, TunedRule, write_tuned
from poolpilot.env.scenario import load_scenario

CLUSTER = load_scenario("mixed-chat").cluster()
SPECS = list(RULE_SPECS.values())
EVERY = [*SPECS, *(spec_of(name + INTEGRAL) for name in RULE_SPECS)]


def named(spec: RuleSpec) -> str:
    return spec.name


def test_every_file_that_ends_with_a_spec_is_registered_once() -> None:
    files = sorted(path.stem for path in Path(next(iter(opponents.__path__))).glob("*.py"))
    found = [getattr(import_module(f"poolpilot.agents.opponents.{name}"), "SPEC", None) for name in files]
    specs = [spec for spec in found if spec is not None]
    assert sorted(map(named, specs)) == sorted(RULE_SPECS)
    assert all(RULE_SPECS[spec.name] is spec for spec in specs)
    assert len(set(RULES)) == len(RULES)


@pytest.mark.parametrize("spec", EVERY, ids=named)
def test_a_spec_says_what_there_is_to_search(spec: RuleSpec) -> None:
    names = [knob.name for knob in spec.knobs]
    assert len(set(names)) == len(names)
    assert spec.headroom in names
    assert spec.summary
    assert spec.source
    for knob in spec.knobs:
        assert math.isfinite(knob.low) and math.isfinite(knob.high)  # noqa: PT018
        assert knob.low < knob.high
        assert knob.low <= knob.default <= knob.high, f"{knob.name}: its default must be among what is searched"
        assert knob.low > 0 or not knob.log
        assert knob.doc


@pytest.mark.parametrize("spec", EVERY, ids=named)
def test_a_rule_is_made_by_name_and_heeds_every_knob(spec: RuleSpec) -> None:
    rule = make_rule(spec.name, {})(CLUSTER)
    assert getattr(rule, "name", None) == spec.name
    assert isinstance(rule.follows_plan, bool)
    for knob in spec.knobs:
        other = knob.low if knob.default != knob.low else knob.high
        assert repr(make_rule(spec.name, {knob.name: other})(CLUSTER)) != repr(rule), f"{knob.name} changes nothing"


@pytest.mark.parametrize("name", list(RULE_SPECS))
def test_a_rule_as_shipped_is_the_one_with_the_tuned_knobs(name: str) -> None:
    spec, tuned = RULE_SPECS[name], shipped_tuned().get(name)
    assert tuned_knobs(name) == (tuned.knobs if tuned else spec.defaults)
    assert repr(make_rule(name)(CLUSTER)) == repr(make_rule(name, tuned_knobs(name))(CLUSTER))


def test_headroom_multiplies_the_knob_that_trades_bill_against_attainment() -> None:
    wide = make_rule(PLAN_TRACKING, {"headroom": 1.2}, headroom=1.5)(CLUSTER)
    assert isinstance(wide, PlanTracking)
    assert wide.headroom == pytest.approx(1.8)
    thresholds = [spec for spec in SPECS if spec.inverse]
    assert thresholds
    for spec in thresholds:
        assert spec.settled(headroom=2.0)[spec.headroom] == pytest.approx(spec.defaults[spec.headroom] / 2.0)


def test_knobs_that_are_not_given_to_a_policy_stay_as_shipped() -> None:
    policy = policy_factory(PLAN_TRACKING, {"burst": 0.9})(CLUSTER)
    assert isinstance(policy, PlanTracking)
    assert (policy.burst, policy.headroom) == (0.9, tuned_knobs(PLAN_TRACKING)["headroom"])


def test_fixed_counts_are_multiplied_and_rounded() -> None:
    counts = (3.0, 0.0, 2.0)
    for headroom, wanted in ((1.0, [3, 0, 2]), (0.7, [2, 0, 1]), (1.5, [4, 0, 3])):
        policy = policy_factory(STATIC, counts, headroom=headroom)(CLUSTER)
        assert isinstance(policy, StaticRoundRobin)
        np.testing.assert_array_equal(policy.replicas, wanted)


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("no-such", {}, "it has no knobs|no-such"),
        (PLAN_TRACKING, {"nerve": 1.0}, "plan-tracking: no knob 'nerve'; its knobs are headroom, "),
        (PLAN_TRACKING, {"headroom": float("nan")}, "headroom is nan, wanted a number of 0 or more"),
        (PLAN_TRACKING, {"headroom": -1.0}, "headroom is -1.0, wanted a number of 0 or more"),
        (PLAN_TRACKING, (1.3, 0.5, 120.0), "wanted knobs by name: headroom, burst"),
        (STATIC, {"h100": 1.0}, "static-round-robin: it has no knobs, got h100"),
        (STATIC, (), "wanted a replica count of 0 or more for each pool"),
        (STATIC, (1.0, -1.0, 0.0), "wanted a replica count of 0 or more for each pool"),
    ],
    ids=["policy", "knob", "nan", "negative", "by place", "knobs of counts", "no counts", "negative counts"],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(name: str, setting: object, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        policy_factory(name, setting)(CLUSTER)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_unknown_rule_is_refused_with_those_that_there_are() -> None:
    for refused in (spec_of, tuned_knobs, make_rule):
        with pytest.raises(KnobError, match=r"no rule 'no-such'.*plan-tracking"):
            refused("no-such")
    with pytest.raises(SettingError, match="has no knobs"):
        policy_factory("no-such", {"headroom": 1.0})


def test_a_rule_with_a_controller_around_it_is_the_rule_as_tuned_and_the_controllers_knobs() -> None:
    name = PLAN_TRACKING + INTEGRAL
    assert (base_of(name), base_of(PLAN_TRACKING)) == (PLAN_TRACKING, None)
    inside, spec = tuned_knobs(PLAN_TRACKING), spec_of(name)
    assert spec.headroom == spec_of(PLAN_TRACKING).headroom
    if name not in shipped_tuned():
        assert tuned_knobs(name) == {**spec.defaults, **inside}
    with pytest.raises(KnobError, match="no rule"):
        spec_of(name + INTEGRAL)


def test_a_tuned_file_sets_rules_and_what_stands_around_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {**spec_of(PLAN_TRACKING).defaults, "headroom": 1.11}
    tuned = TunedRule(
        knobs=own,
        trials=1,
        seeds=1,
        suite="s",
        suite_hash="h",
        reached=Reached(loss=1.0, bill_ratio=1.0, shortfall=0.0),
        reached_by_defaults=Reached(loss=1.0, bill_ratio=1.0, shortfall=0.0),
        versions={},
    )
    write_tuned(tmp_path / "tuned.json", {PLAN_TRACKING: tuned})
    monkeypatch.setattr(portfolio, "SHIPPED", tmp_path / "tuned.json")
    shipped_tuned.cache_clear()
    try:
        assert tuned_knobs(PLAN_TRACKING) == own
        assert tuned_knobs(PLAN_TRACKING + INTEGRAL) == {**spec_of(PLAN_TRACKING + INTEGRAL).defaults, **own}
        policy = policy_factory(PLAN_TRACKING)(CLUSTER)
        assert isinstance(policy, PlanTracking)
        assert policy.headroom == 1.11
    finally:
        shipped_tuned.cache_clear()
