"""Both readings find what was planted, pair by scenario and seed, and leave nothing out in silence."""

import json
from typing import Any

import numpy as np
import pytest

from poolpilot.agents.portfolio import make_rule
from poolpilot.env.scenario import load_scenario
from poolpilot.training.criterion import outcome_of
from poolpilot.training.days import scored_episodes
from poolpilot.training.evaluation.entrants import listed_all
from poolpilot.training.evaluation.equal_attainment import best_by_cost
from poolpilot.training.evaluation.frontier import ALWAYS_HELD, NEVER_HELD
from poolpilot.training.evaluation.jobs import Plan, jobs_of
from poolpilot.training.evaluation.rows import Row
from poolpilot.training.evaluation.running import run_evaluation
from poolpilot.training.evaluation.shipped import outcome
from poolpilot.training.evaluation.summary import summary_of
from poolpilot.training.evaluation.tables import TableError, suites_of
from poolpilot.training.rollout import rollout

from .planted import a_row, a_sweep

SCENARIOS = {"calm": 1.0, "busy": 3.0, "wild": 7.0}
"""Each with bills of its own size."""


def missed(headroom: float, seed: int) -> float:
    """A tenth as many for every half of head-room; some days are harder."""
    return float(0.02 * (1.0 + 0.2 * seed) * 10.0 ** (-2.0 * (headroom - 0.85)))


def planted(cheaper: dict[str, tuple[str, float]]) -> list[Row]:
    """Policies by name: of which kind, and what they cost compared to one that costs 10 $/h times head-room."""
    rows: list[Row] = []
    for scenario, size in SCENARIOS.items():
        for policy, (kind, factor) in cheaper.items():
            rows += a_sweep(
                policy,
                lambda h, seed, s=size, f=factor: 10.0 * s * f * h * (1.0 + 0.1 * seed),
                missed,
                scenario=scenario,
                kind=kind,
            )
    return rows


def reading(rows: list[Row], reference: str, suite: str = "suite") -> dict[str, Any]:
    document = summary_of(rows, reference)
    json.dumps(document, allow_nan=False)
    own: dict[str, Any] = document["suites"][suite]
    return own


def of(records: list[dict[str, Any]], policy: str) -> dict[str, Any]:
    return next(own for own in records if own["policy"] == policy)


def test_a_constant_ratio_is_found_in_both_readings_without_doubt() -> None:
    """Pairing by scenario and seed takes out that bills differ sevenfold between scenarios, and by a third between seeds."""
    own = reading(planted({"rule": ("rule", 1.0), "agent": ("checkpoint", 0.8)}), "rule")
    ratio = of(own["as_shipped"]["policies"], "agent")["bill_ratio"]
    assert [ratio[key] for key in ("mean", "low", "high")] == pytest.approx([0.8, 0.8, 0.8])
    for at in own["equal_attainment"]:
        cost = of(at["policies"], "agent")["cost_ratio"]
        assert [cost[key] for key in ("mean", "low", "high")] == pytest.approx([0.8, 0.8, 0.8])
        assert of(at["policies"], "agent")["compared"] == list(SCENARIOS)
    bill = of(own["as_shipped"]["policies"], "rule")["usd_per_hr"]
    assert bill["mean"] == pytest.approx(10.0 * np.mean(list(SCENARIOS.values())) * 1.15)
    assert bill["low"] < bill["mean"] < bill["high"]


def test_equal_attainment_sees_through_a_bill_that_is_low_because_more_is_missed() -> None:
    """The same frontier, entered at another point: as shipped cheaper, at equal attainment the same."""
    rows = planted({"rule": ("rule", 1.0)})
    for scenario, size in SCENARIOS.items():
        rows += a_sweep(
            "stingy",
            lambda h, seed, s=size: 10.0 * s * 0.85 * h * (1.0 + 0.1 * seed),
            lambda h, seed: missed(0.85 * h, seed),
            headrooms=[h / 0.85 for h in (0.7, 0.85, 1.2, 1.5)],
            scenario=scenario,
        )
    own = reading(rows, "rule")
    assert of(own["as_shipped"]["policies"], "stingy")["bill_ratio"]["mean"] == pytest.approx(0.85)
    assert of(own["as_shipped"]["policies"], "stingy")["shortfall"]["mean"] > 0.005
    cost = of(own["equal_attainment"][0]["policies"], "stingy")["cost_ratio"]
    assert cost["mean"] == pytest.approx(1.0, abs=0.02)


def test_the_share_of_the_gap_is_what_was_planted() -> None:
    own = reading(
        planted({"rule": ("rule", 1.0), "weak": ("rule", 1.2), "mark": ("mark", 0.9), "agent": ("checkpoint", 0.94)}),
        "weak",
    )
    (gap,) = own["equal_attainment"][0]["gaps"]
    assert (gap["rule"], gap["mark"], gap["policy"]) == ("rule", "mark", "agent")
    assert gap["chosen_by"] == "this suite, in hindsight"
    assert [gap["share"][key] for key in ("mean", "low", "high")] == pytest.approx([0.6, 0.6, 0.6])
    (cost,) = own["equal_attainment"][0]["against_best_rules"]
    assert (cost["policy"], cost["rule"]) == ("agent", "rule")
    assert cost["cost_ratio"]["mean"] == pytest.approx(0.94)
    (shipped,) = own["as_shipped"]["against_best_rules"]
    assert shipped["bill_ratio"]["mean"] == pytest.approx(0.94)
    assert shipped["shortfall_difference"]["mean"] == pytest.approx(0.0)


def test_the_best_rule_is_chosen_on_the_suite_that_rules_are_tuned_on_if_that_is_there() -> None:
    usual = planted({"one": ("rule", 1.0), "other": ("rule", 0.9), "mark": ("mark", 0.7), "agent": ("checkpoint", 0.8)})
    trained = planted(
        {"one": ("rule", 0.9), "other": ("rule", 1.0), "mark": ("mark", 0.7), "agent": ("checkpoint", 0.8)}
    )
    rows = usual + [{**row, "suite": "train"} for row in trained]
    own = reading(rows, "one")
    assert own["as_shipped"]["best_rules"] == [
        {"policy": "one", "chosen_by": "suite train"},
        {"policy": "other", "chosen_by": "this suite, in hindsight"},
    ]
    assert [gap["rule"] for gap in own["equal_attainment"][0]["gaps"]] == ["one", "other"]
    assert [best["policy"] for best in reading(rows, "one", "train")["as_shipped"]["best_rules"]] == ["one"]


def test_scenarios_that_one_does_not_reach_are_listed_and_never_extrapolated() -> None:
    rows = planted({"rule": ("rule", 1.0), "agent": ("checkpoint", 0.8)})
    for row in rows:
        if row["policy"] == "agent" and row["scenario"] == "wild":
            row["classes"][0]["met"] = 90_000
        if row["policy"] == "agent" and row["scenario"] == "calm":
            row["classes"][0]["met"] = 100_000
    own = of(reading(rows, "rule")["equal_attainment"][0]["policies"], "agent")
    assert own["reached"] == own["compared"] == ["busy"]
    assert own["not_reached"]["wild"].startswith(f"{NEVER_HELD}: at best 10 times")
    assert own["not_reached"]["calm"] == ALWAYS_HELD
    assert own["cost_ratio"]["mean"] == pytest.approx(0.8)


def test_a_checkpoint_that_always_holds_a_level_is_counted_at_its_cheapest_setting_and_rules_are_not() -> None:
    policies = {"rule": ("rule", 1.0), "lavish": ("rule", 0.5), "agent": ("checkpoint", 0.8), "mark": ("mark", 0.5)}
    rows = planted(policies)
    for row in rows:
        if row["policy"] in ("agent", "lavish") and row["scenario"] != "calm":
            row["classes"][0]["met"] = 100_000
    at = reading(rows, "rule")["equal_attainment"][0]
    own = next(own for own in at["against_best_rules"] if own["rule"] == "rule")
    assert own["cost_ratio"]["mean"] == pytest.approx(0.8)
    assert own["compared"] == ["calm"]
    assert own["compared_at_most"] == list(SCENARIOS)
    rule = {r["scenario"]: r["usd_per_hr"] for r in at["by_scenario"] if r["policy"] == "rule"}
    cheapest = {name: 10.0 * size * 0.8 * 0.7 * 1.15 for name, size in SCENARIOS.items()}
    ratios = [0.8 if name == "calm" else cheapest[name] / rule[name] for name in SCENARIOS]
    assert own["cost_ratio_at_most"]["mean"] == pytest.approx(np.exp(np.mean(np.log(ratios))))
    assert of(at["policies"], "lavish")["reached"] == ["calm"], "a rule is not"
    (gap,) = (gap for gap in at["gaps"] if gap["rule"] == "rule")
    assert gap["share"]["mean"] == pytest.approx(0.4)
    assert gap["share_at_least"]["mean"] > 0.4


def test_where_nothing_was_swept_there_is_one_reading() -> None:
    rows = [a_row(policy, seed, usd) for policy, usd in (("rule", 10.0), ("agent", 9.0)) for seed in range(3)]
    own = reading(rows, "rule")
    assert own["equal_attainment"] == []
    assert of(own["as_shipped"]["policies"], "agent")["bill_ratio"]["mean"] == pytest.approx(0.9)


def test_savings_against_a_static_peak_say_what_a_plain_rule_saves() -> None:
    own = reading(
        planted({"static-peak": ("fixed", 2.0), "rule": ("rule", 1.2), "agent": ("checkpoint", 1.0)}), "static-peak"
    )
    saved = {s["policy"]: s["mean"] for s in own["as_shipped"]["savings_against_static_peak"]}
    assert saved == {"rule": pytest.approx(0.4), "agent": pytest.approx(0.5)}


def test_a_rule_that_reaches_the_level_in_few_scenarios_is_not_the_best_for_it() -> None:
    records = [
        {"policy": "often", "cost_ratio": {"mean": 1.0}, "compared": ["a", "b", "c"]},
        {"policy": "also", "cost_ratio": {"mean": 0.95}, "compared": ["a", "b", "c"]},
        {"policy": "once", "cost_ratio": {"mean": 0.5}, "compared": ["a"]},
        {"policy": "never", "cost_ratio": None, "compared": []},
        {"policy": "mark", "cost_ratio": {"mean": 0.4}, "compared": ["a", "b", "c"]},
    ]
    assert best_by_cost(records, ["often", "also", "once", "never"]) == "also"
    assert best_by_cost(records, ["never"]) is None


def test_what_is_unknown_is_left_out_not_counted_as_nothing() -> None:
    rows = [a_row("rule", 0, 10.0, usd_per_1000_met=None), a_row("rule", 1, 10.0, usd_per_1000_met=1.0)]
    assert of(reading(rows, "rule")["as_shipped"]["policies"], "rule")["usd_per_1000_met"]["mean"] == 1.0
    none = [a_row("rule", seed, 10.0, usd_per_1000_met=None, bound_usd_per_hr=None) for seed in range(2)]
    own = of(reading(none, "rule")["as_shipped"]["policies"], "rule")
    assert own["usd_per_1000_met"] is None
    assert own["bound_usd_per_hr"] is None


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([a_row("rule", 0, 1.0), a_row("rule", 0, 2.0)], "there twice at head-room 1"),
        ([a_row("rule", 0, 1.0), a_row("rule", 1, 1.0), a_row("agent", 0, 1.0)], "policy agent: no row for seed 1"),
        ([a_row("rule", 0, 1.0), a_row("agent", 0, 1.0, world="other")], "met another world"),
        ([a_row("rule", 0, 1.0, headroom=1.2)], "no rows at head-room 1, as it is shipped"),
        ([a_row("rule", 0, 1.0), a_row("agent", 0, 1.0, scenario="t")], "wanted every policy on every scenario"),
        ([a_row("agent", 0, 1.0)], "reference rule: not in suite suite; there are agent"),
    ],
    ids=["doubled", "a seed is missing", "worlds are mixed", "not as shipped", "not everywhere", "no reference"],
)
def test_rows_that_cannot_be_compared_are_refused(rows: list[Row], problem: str) -> None:
    with pytest.raises(TableError, match=problem):
        summary_of(rows, "rule")


def test_the_summary_goes_by_the_criterion_of_tuning() -> None:
    """The same outcome from rows as from the runs themselves."""
    scenario = load_scenario("cheap-gpus").model_copy(update={"duration_s": 600.0})
    plan = Plan(
        {("suite", "cheap-gpus"): scenario}, {own.name: own for own in listed_all(["plan-tracking"])}, 2, bounded=False
    )
    rows = run_evaluation(plan, jobs_of(plan, (0.3,)))
    episodes = scored_episodes(scenario, 2, quickly=True)
    expected = outcome_of(rollout(episodes, make_rule("plan-tracking", headroom=0.3), scenario.tick_s), episodes)
    seen = outcome(suites_of(rows)["suite"].at("plan-tracking", 0.3))
    assert (seen.bill_ratio, seen.shortfall) == pytest.approx((expected.bill_ratio, expected.shortfall))
    assert expected.shortfall > 0.0
