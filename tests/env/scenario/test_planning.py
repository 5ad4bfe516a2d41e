"""A scenario may say what may be rented instead of which pools there are; every mistake in it is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from poolpilot.env.scenario import ScenarioError, load_scenario, parse_scenario, shipped_scenarios
from poolpilot.env.scenario import document as scenario_document
from poolpilot.env.scenario.planning import InlineOffer, Planning, PriceFile

HERE = Path("mine.yaml")
SHIPPED = shipped_scenarios()


def document(planning: Any = None, **more: Any) -> dict[str, Any]:
    """A scenario whose pools nobody has chosen yet."""
    return {
        "schema": 1,
        "name": "to-be-planned",
        "summary": "Chat on whatever is cheapest.",
        "duration_s": 600,
        "model": "llama-3.1-8b",
        "classes": {"chat": {"target": {"ttft_s": 1.0, "tpot_s": 0.05}}},
        "workload": {
            "kind": "generated",
            "classes": {
                "chat": {
                    "rate_per_s": 2.0,
                    "prompt_tokens": {"kind": "lognormal", "median": 450, "sigma": 0.9, "max": 3000},
                    "output_tokens": {"kind": "lognormal", "median": 200, "sigma": 0.6, "max": 900},
                }
            },
        },
        "planning": {} if planning is None else planning,
    } | more


def planned(planning: Any = None, **more: Any) -> Planning:
    found = parse_scenario(document(planning, **more), HERE, needs_pools=False).planning
    assert found is not None
    return found


def test_a_scenario_to_be_planned_has_no_pools_and_whatever_needs_them_refuses_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document()))
    scenario = load_scenario(path, needs_pools=False)
    assert scenario.pool_names == ()
    assert scenario.serves().shape == (1, 0)
    with pytest.raises(
        ScenarioError, match=r"mine\.yaml: has no pools yet; run `poolpilot plan --scenario .*mine\.yaml"
    ):
        load_scenario(path)


def test_shipped_scenarios_without_pools_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ready.yaml").write_text(SHIPPED["mixed-chat"].read_text())
    (tmp_path / "to-plan.yaml").write_text(yaml.safe_dump(document(name="to-plan")))
    monkeypatch.setattr(scenario_document, "SHIPPED", tmp_path)
    assert list(shipped_scenarios()) == ["ready"]
    assert list(shipped_scenarios(to_plan=True)) == ["ready", "to-plan"]
    assert load_scenario("to-plan", needs_pools=False).name == "to-plan"
    with pytest.raises(ScenarioError, match="run `poolpilot plan --scenario to-plan --write FILE` first"):
        load_scenario("to-plan")


def test_neither_pools_nor_planning_is_no_scenario() -> None:
    lacking = document()
    del lacking["planning"]
    with pytest.raises(ScenarioError, match=r"pools: wanted at least 1 pool, or a section `planning`"):
        parse_scenario(lacking, HERE, needs_pools=False)


def test_prices_are_a_path_a_file_offers_or_a_list_of_them() -> None:
    assert planned().price_sources() == ()
    assert planned({"prices": "prices.csv"}).price_sources() == (Path("prices.csv"),)
    own = {"path": "aws/vms.csv", "as_of": "2026-11-01"}
    mixed = planned({"prices": ["a.csv", own, {"gpu": "H100", "usd_per_hr": 2.5}]}).price_sources()
    assert [type(source) for source in mixed] == [type(Path()), PriceFile, InlineOffer]
    (offer,) = planned({"prices": {"gpu": "l40s", "usd_per_hr": 1.8}}).price_sources()
    assert isinstance(offer, InlineOffer)
    assert offer.gpu == "L40S-48GB"


def test_stock_is_by_type_or_family_over_all_regions_or_by_region() -> None:
    planning = planned({"stock": {"A100": 8, "L40S": {"us-east-1": 4, "us-west-2": 0}}})
    assert planning.stock == {"A100": 8, "L40S": {"us-east-1": 4, "us-west-2": 0}}


def test_a_class_that_names_no_quality_floor_has_the_plan_s() -> None:
    classes = document()["classes"] | {"draft": {"target": {"deadline_s": 900}, "quality_floor": 0.9}}
    scenario = parse_scenario(document({"quality_floor": 0.99}, classes=classes), HERE, needs_pools=False)
    assert [scenario.quality_floor(name) for name in scenario.class_names] == [0.99, 0.9]
    assert load_scenario("mixed-chat").quality_floor("chat") == 0.0


@pytest.mark.parametrize(
    ("planning", "wanted"),
    [
        ({"gpus": ["H1000"]}, r"planning\.gpus\.0: 'H1000': unknown GPU 'H1000'; closest in the catalogue: H100"),
        ({"gpus": []}, r"planning\.gpus: .*at least 1 item"),
        ({"prices": []}, r"planning\.prices\.list: .*at least 1 item"),
        ({"prices": [{"gpu": "H100"}]}, r"planning\.prices\.list\.0\.offer\.usd_per_hr: Field required"),
        (
            {"prices": {"gpu": "H100", "usd_per_hr": 0}},
            r"planning\.prices\.one\.offer\.usd_per_hr: 0: .*greater than 0",
        ),
        (
            {"prices": {"gpu": "H100", "usd_per_hr": 9, "gpus": 8, "machine_gpus": 4}},
            r"machine_gpus: 4: wanted at least the 8 GPUs of one unit",
        ),
        (
            {"prices": {"gpu": "H100", "usd_per_hr": 9, "preemptions_per_hr": 1}},
            r"preemptions_per_hr: only of a spot offer",
        ),
        ({"stock": {"H900": 3}}, r"planning\.stock\.H900\.\[key\]: 'H900': unknown GPU 'H900'"),
        ({"stock": {"H100": -1}}, r"planning\.stock\.H100.*-1: .*greater than or equal to 0"),
        ({"precisions": ["fp4"]}, r"planning\.precisions\.0: 'fp4': Input should be 'bf16'"),
        ({"max_spot_share": 1.5}, r"planning\.max_spot_share: 1\.5: .*less than or equal to 1"),
        ({"headroom": float("nan")}, r"planning\.headroom: nan"),
        ({"budget": 5}, r"planning\.budget: 5: Extra inputs are not permitted"),
        ({"max_tensor_parallel": 16}, r"planning\.max_tensor_parallel: 16: .*less than or equal to 8"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(planning: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ScenarioError, match=wanted) as raised:
        parse_scenario(document(planning), HERE, needs_pools=False)
    assert "\n" not in str(raised.value)


def test_a_class_s_unknown_model_is_named_though_no_pool_holds_it() -> None:
    classes = {"chat": {"target": {"ttft_s": 1.0}, "model": "llama-9"}}
    with pytest.raises(ScenarioError, match=r"classes\.chat\.model: unknown model 'llama-9'"):
        parse_scenario(document(classes=classes), HERE, needs_pools=False)


def test_a_class_cannot_name_pools_that_are_not_chosen_yet() -> None:
    classes = {"chat": {"target": {"ttft_s": 1.0}, "pools": ["h100"]}}
    with pytest.raises(ScenarioError, match=r"classes\.chat\.pools: unknown pool 'h100'; pools are not chosen yet"):
        parse_scenario(document(classes=classes), HERE, needs_pools=False)
