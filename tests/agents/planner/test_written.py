"""A plan as a scenario: pools, counts, prices, routing and limits of the plan; a file that reads back the same."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from poolpilot.agents.planner.composition import Option, Problem
from poolpilot.agents.planner.layouts.layout import Layout, LayoutStage
from poolpilot.agents.planner.problem import problem_of
from poolpilot.agents.planner.solving.milp import compose
from poolpilot.agents.planner.written import PlanNotWritable, planned_scenario, pool_names, scenario_yaml
from poolpilot.agents.portfolio import held_setting
from poolpilot.env.market.offers import StockLimit
from poolpilot.env.scenario import Scenario, load_scenario, shipped_scenarios
from poolpilot.env.workload.load import load_workload

from .markets import A100, L40S, MODEL, a_market, a_plan, counted, for_the_demo

ALL_ON_A100 = [[1, 0, 0, 0]] * 4


def planned(problem: Problem, replicas: list[float], share: list[list[float]], **planning: Any) -> Scenario:
    return planned_scenario(for_the_demo(**planning), problem, counted(problem, replicas, share))


def test_pools_are_the_plans_with_engine_cold_start_and_where_prices_come_from() -> None:
    problem = a_market()
    share = [[0.75, 0, 0, 0.25], [0.75, 0, 0, 0.25], [1, 0, 0, 0], [0, 0, 1, 0]]
    scenario = planned(problem, [8, 0, 2, 1], share, engine={"max_num_seqs": 77}, cold_start={"provision_s": 5})
    assert scenario.pool_names == ("a100-bf16-big", "l40s-int4-small", "l40s-pp2-fp8-west")
    assert scenario.planning is None
    assert scenario.fleet is not None, "what was asked of the whole stays, for whoever plans again"
    assert scenario.fleet.max_spot_share == for_the_demo().asked_of_fleet.max_spot_share
    big, small, west = scenario.pools.values()
    assert (big.gpu, big.precision, big.replicas.start, big.price.usd_per_hr) == (A100, "bf16", 8, 2.0)
    assert (small.gpu, small.precision, small.price.usd_per_hr) == (L40S, "int4", 1.9)
    assert (west.pipeline_parallel, west.stage_layers, west.price.usd_per_hr) == (2, (20, 20), 1.6)
    assert west.price.kind == "spot"
    assert west.spot is not None
    assert west.spot.preemptions_per_hr == 0.2
    assert {pool.engine.max_num_seqs for pool in scenario.pools.values()} == {77}
    assert {pool.cold_start.provision_s for pool in scenario.pools.values()} == {5}
    assert big.price.source == "big east, on demand, 2026-01-02"
    assert small.price.source == "small east, on demand, 2026-03-04, a list"


@pytest.mark.parametrize(("first", "second"), [(L40S, L40S), (L40S, A100)], ids=["alike", "unlike"])
def test_stages_in_several_machines_keep_their_link(first: str, second: str) -> None:
    problem = a_market()
    stages = LayoutStage(first, 24, 1, "Ethernet-100G"), LayoutStage(second, 16)
    offers = (2,) if first == second else (2, 3)
    west = replace(problem.options[3], layout=replace(problem.options[3].layout, stages=stages), offers=offers)
    more = replace(problem.offers[2], gpu=A100, usd_per_hr=1.7)
    problem = replace(problem, offers=(*problem.offers, more), options=(*problem.options[:3], west))
    scenario = planned(problem, [8, 0, 2, 1], [[0.75, 0, 0, 0.25], [0.75, 0, 0, 0.25], [1, 0, 0, 0], [0, 0, 1, 0]])
    pool = scenario.pools[scenario.pool_names[-1]]
    assert pool.stages is not None
    assert [(s.gpu, s.layers, s.link_to_next) for s in pool.stages] == [
        (first, 24, "Ethernet-100G"),
        (second, 16, None),
    ]
    law = west.layout.law(pool.engine.max_num_batched_tokens)
    assert np.array_equal(scenario.pool_law(scenario.pool_names[-1]).as_row(), law.as_row())


def test_the_plans_routing_is_carried_and_quality_keeps_pools_off() -> None:
    problem = a_market()
    share = [[0.75, 0, 0, 0.25], [0.25, 0, 0, 0.75], [1, 0, 0, 0], [0, 0, 1, 0]]
    scenario = planned(problem, [8, 0, 2, 1], share)
    chat = scenario.classes["chat"]
    # Six of eight requests a second are short: 0.75 x 0.75 + 0.25 x 0.25.
    assert chat.shares == {"a100-bf16-big": 0.625, "l40s-pp2-fp8-west": 0.375}
    assert chat.pools == ("a100-bf16-big", "l40s-pp2-fp8-west")
    assert scenario.classes["batch"].pools is None  # every pool may serve it
    counts, shares = held_setting(scenario)[:3], np.reshape(held_setting(scenario)[3:], (3, 3))
    assert counts == (8.0, 2.0, 1.0)
    assert shares.tolist() == [[0.625, 0.0, 0.375], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_pipelines_over_unlike_gpus_and_own_links_say_every_stage(tmp_path: Path) -> None:
    problem = a_market()
    stages = (LayoutStage(A100, 28, 1, "InfiniBand-HDR200"), LayoutStage(L40S, 12, 2))
    mixed = Option("mixed", Layout(MODEL, "bf16", stages), (0, 1), np.array([3.0, 1.0, 1.0, 3.0]))
    problem = replace(problem, options=(mixed,))
    scenario = planned_scenario(for_the_demo(), problem, counted(problem, [4], [[1]] * 4))
    (pool,) = scenario.pools.values()
    assert pool.stages is not None
    assert [(s.gpu, s.layers, s.tensor_parallel, s.link_to_next) for s in pool.stages] == [
        (A100, 28, 1, "InfiniBand-HDR200"),
        (L40S, 12, 2, None),
    ]
    # Half a machine of A100s stands by unused: 16 for it, and 8 L40S at 1.9.
    assert pool.price.usd_per_hr == pytest.approx((16.0 + 8 * 1.9) / 4)
    (tmp_path / "planned.yaml").write_text(scenario_yaml(scenario, tmp_path))
    assert plain(load_scenario(tmp_path / "planned.yaml")) == plain(scenario)


def test_the_rent_of_unused_gpus_is_in_the_price() -> None:
    problem = a_market()
    plan = counted(problem, [3, 0, 0, 0], ALL_ON_A100)
    scenario = planned_scenario(for_the_demo(), problem, plan)
    (pool,) = scenario.pools.values()
    assert pool.price.usd_per_hr * 3 == pytest.approx(plan.usd_per_hr, abs=1e-5) == pytest.approx(16.0, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "most"),
    [
        ({}, 6),  # twice the plan
        ({"offer": {"stock": 1}}, 6),  # eight GPUs are rented already
        ({"stock": 5}, 5),
        ({"stock": 2}, 3),  # fewer than planned: never below the plan
        ({"max_replicas": 4}, 4),
    ],
    ids=["twice", "in whole machines", "by type", "used up", "the option's own"],
)
def test_pools_may_grow_as_far_as_stock_allows(change: dict[str, Any], most: int) -> None:
    problem = a_market()
    if "offer" in change:
        problem = replace(problem, offers=(replace(problem.offers[0], **change["offer"]), *problem.offers[1:]))
    if "stock" in change:
        problem = replace(problem, stock=(StockLimit("A100", (A100,), change["stock"]),))
    if "max_replicas" in change:
        problem = replace(problem, options=(replace(problem.options[0], max_replicas=4), *problem.options[1:]))
    (pool,) = planned(problem, [3, 0, 0, 0], ALL_ON_A100).pools.values()
    assert (pool.replicas.min, pool.replicas.start, pool.replicas.max) == (0, 3, most)


def test_held_counts_cannot_change() -> None:
    problem = a_market()
    scenario = planned_scenario(for_the_demo(), problem, counted(problem, [3, 0, 0, 0], ALL_ON_A100), held=True)
    (pool,) = scenario.pools.values()
    assert (pool.replicas.min, pool.replicas.start, pool.replicas.max) == (3, 3, 3)


def test_floors_stay_with_the_model_on_demand_first() -> None:
    problem = a_market(min_on_demand_replicas=3, min_replicas=5)
    share = [[0.5, 0, 0, 0.5]] * 3 + [[0, 1, 0, 0]]
    floors = {name: pool.replicas.min for name, pool in planned(problem, [2, 4, 0, 4], share).pools.items()}
    assert floors == {"l40s-bf16-small": 4, "a100-bf16-big": 1, "l40s-pp2-fp8-west": 0}


def test_a_budget_becomes_the_guards_and_what_it_does_not_carry_may_be_turned_away() -> None:
    problem = a_market(budget_usd_per_hr=20.0)
    scenario = planned(problem, [2, 0, 0, 0], [[0.5, 0, 0, 0], [0.5, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    assert scenario.guard.budget_usd_per_hr == 20.0
    assert scenario.guard.min_admit_frac == 0.5
    assert scenario.classes["chat"].shares == {"a100-bf16-big": 0.5}


def test_a_class_that_no_pool_serves_cannot_be_written() -> None:
    problem = a_market()
    with pytest.raises(PlanNotWritable, match=r"classes\.chat: the plan has no pool for it"):
        planned(problem, [0, 0, 2, 0], [[0, 0, 0, 0]] * 3 + [[0, 0, 1, 0]])


def test_names_fit_what_a_pool_may_be_called_and_differ() -> None:
    problem = a_market()
    first = problem.options[0]

    def named(name: str) -> Option:
        return replace(first, name=name)

    names = ["a b/c", "a-b-c", "@@", "x" * 90, "x" * 80]
    found = pool_names(replace(problem, options=tuple(map(named, names))))
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name) for name in found)
    assert found[:3] == ("a-b-c", "a-b-c-2", "pool")


def plain(scenario: Scenario) -> dict[str, Any]:
    return scenario.model_dump(mode="json")


@pytest.mark.parametrize("name", sorted(shipped_scenarios()))
def test_a_scenarios_own_pools_planned_written_and_read_back_are_the_same(tmp_path: Path, name: str) -> None:
    scenario = load_scenario(name)
    requests = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)
    problem = problem_of(scenario, requests, load="mean")
    plan = compose(problem)
    written = planned_scenario(scenario, problem, plan)
    path = tmp_path / "planned.yaml"
    path.write_text(scenario_yaml(written, tmp_path, ["how it was made", "line\nbreaks: [are] gone"], {}))
    back = load_scenario(path)
    assert plain(back) == plain(written)
    assert back.pool_names == scenario.pool_names  # those without replicas stay: a policy may start them
    assert [pool.replicas.start for pool in back.pools.values()] == plan.replicas.tolist()
    for key, pool in back.pools.items():
        assert pool.price.usd_per_hr == pytest.approx(scenario.pools[key].price.usd_per_hr)


def test_a_planned_scenario_reads_back_with_comments_and_in_readable_yaml(tmp_path: Path) -> None:
    problem, plan = a_plan()
    written = planned_scenario(for_the_demo(), problem, plan)
    name = written.pool_names[0]
    text = scenario_yaml(written, tmp_path, ["first line"], {name: ["of the pool\ninjected: true"]})
    (tmp_path / "planned.yaml").write_text(text)
    assert plain(load_scenario(tmp_path / "planned.yaml")) == plain(written)
    assert text.startswith("# first line\nschema: 1\nname: mixed-chat-planned\n")
    assert f"  # of the pool injected: true\n  {name}:\n    gpu: " in text
    assert "null" not in text


def test_paths_lead_where_they_led(tmp_path: Path) -> None:
    home = tmp_path / "here"
    home.mkdir()
    (home / "trace.csv").write_text("arrived_s,class,prompt_tokens,output_tokens\n0.5,chat,100,20\n3.0,chat,90,30\n")
    document = yaml.safe_load(shipped_scenarios()["mixed-chat"].read_text())
    document["classes"] = {"chat": document["classes"]["chat"]}
    document["workload"] = {"kind": "trace", "path": "trace.csv"}
    (home / "mine.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    scenario = load_scenario(home / "mine.yaml")
    for folder, path in (
        (home, "trace.csv"),
        (tmp_path, "here/trace.csv"),
        (Path("/"), str(home / "trace.csv").lstrip("/")),
    ):
        moved = yaml.safe_load(scenario_yaml(scenario, folder))["workload"]["path"]
        assert moved == path
    elsewhere = tmp_path / "there"
    elsewhere.mkdir()
    assert yaml.safe_load(scenario_yaml(scenario, elsewhere))["workload"]["path"] == str(home / "trace.csv")
