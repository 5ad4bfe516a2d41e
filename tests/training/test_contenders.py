"""Whoever is compared is found by name and says what it is set to."""

import pytest

from poolpilot.agents.checkpoint import shipped_checkpoints
from poolpilot.agents.portfolio import PLAN_TRACKING, RULE_SPECS, STATIC, tuned_knobs
from poolpilot.env.scenario import load_scenario
from poolpilot.training.contenders import FORETOLD, MARKS, PERFECT_FORECAST, contender
from poolpilot.training.days import scored_episodes

SCENARIO = load_scenario("mixed-chat").model_copy(update={"duration_s": 60.0})


@pytest.mark.parametrize("name", [*RULE_SPECS, *shipped_checkpoints(), *MARKS])
def test_each_runs_under_its_name(name: str) -> None:
    entry = contender(name, SCENARIO)
    ticks: list[int] = []
    results = entry.run(scored_episodes(SCENARIO, 2, quickly=True), SCENARIO.tick_s, ticks.append)
    assert entry.name == name
    assert len(results) == 2
    assert all(result.bill.total_usd > 0 for result in results)
    assert name in MARKS or ticks == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", list(RULE_SPECS))
def test_a_rule_has_its_shipped_knobs_but_for_its_headroom(name: str) -> None:
    spec, shipped = RULE_SPECS[name], tuned_knobs(name)
    assert contender(name, SCENARIO).knobs == shipped
    wider = contender(name, SCENARIO, headroom=1.25).knobs
    factor = 1.0 / 1.25 if spec.inverse else 1.25
    assert wider == {**shipped, spec.headroom: pytest.approx(factor * shipped[spec.headroom])}


def test_a_knob_of_ones_own_stands_beside_those_shipped() -> None:
    assert contender(PLAN_TRACKING, SCENARIO, knobs={"burst": 0.9}).knobs == {
        **tuned_knobs(PLAN_TRACKING),
        "burst": 0.9,
    }


def test_fixed_counts_are_said_pool_by_pool_and_grow_with_headroom() -> None:
    entry = contender(STATIC, SCENARIO)
    assert set(entry.knobs) == set(SCENARIO.pools)
    episodes = scored_episodes(SCENARIO, 1)
    (usual,) = entry.run(episodes, SCENARIO.tick_s)
    assert usual.replicas[-1].tolist() == list(entry.knobs.values())
    (twice,) = contender(STATIC, SCENARIO, headroom=2.0).run(episodes, SCENARIO.tick_s)
    assert twice.replicas[-1].sum() > usual.replicas[-1].sum()


@pytest.mark.parametrize(
    ("name", "knobs", "said"),
    [
        ("no-such", None, "no-such"),
        (PLAN_TRACKING, {"nerve": 1.0}, "no knob 'nerve'; its knobs are headroom, burst"),
        (STATIC, {"nerve": 1.0}, "it has no knobs, got nerve"),
    ],
    ids=["policy", "knob", "a rule without knobs"],
)
def test_who_does_not_exist_is_refused_in_one_line(name: str, knobs: dict[str, float] | None, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        contender(name, SCENARIO, knobs=knobs)
    assert "\n" not in str(caught.value)


def test_headroom_multiplies_what_a_checkpoint_thinks_is_needed() -> None:
    name = next(iter(shipped_checkpoints()))
    cluster = SCENARIO.cluster()
    usual, wider = (contender(name, SCENARIO, headroom).make(cluster) for headroom in (1.0, 1.2))  # type: ignore[attr-defined]
    assert (usual.bending.headroom, wider.bending.headroom) == (1.0, 1.2)
    assert wider.miss_price == usual.miss_price
    own = contender(name, SCENARIO, 0.5, miss_price=2.0).make(cluster)  # type: ignore[attr-defined]
    assert (own.miss_price, own.bending.headroom) == (2.0, 0.5)


def test_the_perfect_forecast_is_its_rule_told_what_comes() -> None:
    scenario = load_scenario("two-models").model_copy(update={"duration_s": 600.0})
    episodes = scored_episodes(scenario, 2, quickly=True)
    rule, mark = contender(FORETOLD, scenario), contender(PERFECT_FORECAST, scenario)
    assert mark.knobs == rule.knobs
    mine, told = rule.run(episodes, scenario.tick_s), mark.run(episodes, scenario.tick_s)
    assert any((a.replicas != b.replicas).any() for a, b in zip(mine, told, strict=True))
    wider = contender(PERFECT_FORECAST, scenario, headroom=1.5).run(episodes, scenario.tick_s)
    assert all(b.usd_per_hr > a.usd_per_hr for a, b in zip(told, wider, strict=True))
