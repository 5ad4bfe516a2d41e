"""What is asked for changes the scenario and its problem as if it stood in the file."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poolpilot.agents.planner.solving.milp import compose
from poolpilot.commands.bad_input import BadInput
from poolpilot.commands.planning.asked import Asked, changed, levers, posed, workload_of
from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.env.scenario.planning import InlineOffer
from poolpilot.env.scenario.pools import Pool, PoolStage

A100, L40S, L4 = "A100-SXM-80GB", "L40S-48GB", "L4-24GB"


def market() -> Scenario:
    return load_scenario("case-study", needs_pools=False)


def offers(scenario: Scenario) -> dict[str, InlineOffer]:
    """By GPU, as the scenario has them now."""
    assert scenario.planning is not None
    sources = scenario.planning.price_sources()
    assert all(isinstance(source, InlineOffer) for source in sources)
    return {source.gpu: source for source in sources if isinstance(source, InlineOffer)}


def test_prices_and_gpus_of_a_market_change_in_the_scenario_itself() -> None:
    plain, cheaper = market(), changed(market(), Asked(price_usd_per_gpu_hr={"L40S": 0.7}))
    assert (offers(plain)[L40S].usd_per_hr, offers(cheaper)[L40S].usd_per_hr) == (1.861, 0.7)
    assert offers(cheaper)[A100].usd_per_hr == offers(plain)[A100].usd_per_hr
    assert (offers(cheaper)[L40S].instance, offers(cheaper)[L40S].as_of) == ("g6e.xlarge", offers(plain)[L40S].as_of)
    assert set(offers(changed(plain, Asked(without=("L40S",))))) == {A100}
    assert changed(plain, Asked()) == plain


def test_wishes_and_targets_change_in_the_scenario_itself() -> None:
    asked = Asked(attainment=0.8, headroom=1.7, budget_usd_per_hr=33.0, precisions=("bf16",), route_by_length=True)
    scenario = changed(market(), asked)
    assert {c.target.attainment for c in scenario.classes.values()} == {0.8}
    problem = posed(scenario, workload_of(scenario, asked), asked)
    wishes = problem.wishes
    assert (wishes.headroom, wishes.budget_usd_per_hr, wishes.route_by_length) == (1.7, 33.0, True)
    assert {option.layout.precision for option in problem.options} == {"bf16"}


def with_pipeline() -> Scenario:
    """The demo's scenario with one more pool, over unlike GPUs at 3 $/h: an A100, and two L4."""
    scenario = load_scenario("mixed-chat")
    stages = (PoolStage(gpu=A100, layers=30), PoolStage(gpu=L4, layers=5), PoolStage(gpu=L4, layers=5))
    price = scenario.pools["l40s"].price.model_copy(update={"usd_per_hr": 3.0})
    pool = Pool(stages=stages, price=price, precision="bf16")
    return scenario.model_copy(update={"pools": {**scenario.pools, "mixed": pool}})


def test_a_price_reaches_every_pool_with_the_gpu_and_of_unlike_ones_its_part_alone() -> None:
    scenario = changed(with_pipeline(), Asked(price_usd_per_gpu_hr={"L4": 0.25}))
    assert scenario.pools["mixed"].price.usd_per_hr == pytest.approx(3.0 / 3 + 2 * 0.25)
    assert scenario.pools["h100"].price.usd_per_hr == 6.88
    scenario = changed(with_pipeline(), Asked(price_usd_per_gpu_hr={"A100": 2.0}))
    # On demand the A100 stands in the pipeline alone, at 1 $/h; spot moves along with that.
    assert scenario.pools["mixed"].price.usd_per_hr == pytest.approx(2.0 + 3.0 * 2 / 3)
    assert scenario.pools["a100-spot"].price.usd_per_hr == pytest.approx(2.0 * 2.326)
    alone = changed(load_scenario("mixed-chat"), Asked(price_usd_per_gpu_hr={"A100": 2.0}))
    assert alone.pools["a100-spot"].price.usd_per_hr == pytest.approx(2.0)


def test_own_pools_without_a_gpu_or_precision_stay_empty_and_keep_their_places() -> None:
    scenario = load_scenario("mixed-chat")
    asked = Asked(without=("H100",), precisions=("bf16",))
    problem = posed(changed(scenario, asked), workload_of(scenario, asked), asked)
    assert [(option.name, option.max_replicas) for option in problem.options] == [
        ("h100", 0),
        ("l40s", 0),
        ("a100-spot", 3),
    ]
    with pytest.raises(BadInput, match="--without L4: no pool has this GPU; pools have H100"):
        posed(scenario, workload_of(scenario, asked), Asked(without=("L4",)))


def test_levers_are_told_class_by_class() -> None:
    asked, scenario = Asked(), market()
    own = levers(scenario, workload_of(scenario, asked), asked, together=True)
    kinds = {(lever.kind, lever.subject) for lever in own}
    assert kinds >= {("targets", "chat"), ("attainment", "summarisation"), ("quality floor", "chat"), ("routing", "")}


def test_of_many_classes_looser_targets_are_asked_of_all_together_and_cost_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("poolpilot.commands.planning.asked.MOST_CLASSES_APART", 2)
    asked, scenario = Asked(), load_scenario("mixed-chat")
    requests = workload_of(scenario, asked)
    targets, attainment = levers(scenario, requests, asked, together=True)
    assert {lever.subject for lever in (targets, attainment)} == {"of all classes"}
    assert attainment.settings[0].label == "1.5 times the misses"
    strict = compose(posed(scenario, requests, asked)).usd_per_hr
    for lever in (targets, attainment):
        assert compose(lever.settings[0].problem()).usd_per_hr <= strict * 1.006  # the solver's gap
    assert len(levers(scenario, requests, asked)) > len(scenario.classes)


def test_changes_are_said_in_words() -> None:
    asked = Asked(
        without=("L4",), price_usd_per_gpu_hr={"H100": 2.1}, budget_usd_per_hr=9.0, goodput=True, attainment=0.9
    )
    assert asked.changes() == ("without L4", "H100 at 2.1 $/h a GPU", "budget 9 $/h", "attainment 90 %", "most goodput")
    assert replace(asked, goodput=False, without=()).changes()[0] == "H100 at 2.1 $/h a GPU"
    assert Asked().changes() == ()
