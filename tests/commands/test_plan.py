"""`poolpilot plan` as a user runs it: plans, what-ifs, files, and what it says where there is none."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from poolpilot.cli import main
from poolpilot.dashboard.report.shell import unpacked
from poolpilot.env.contract import BILL_LAYERS, Plan
from poolpilot.env.scenario import load_scenario, shipped_scenarios
from poolpilot.env.wire import from_json

from .planning.running import changed, document, gpus, run, said


@pytest.mark.parametrize("name", sorted(shipped_scenarios()))
def test_every_shipped_scenario_has_a_plan_that_carries_its_mean_load(name: str) -> None:
    found = document("--scenario", name, "--load", "mean")
    scenario, cluster = load_scenario(name), load_scenario(name).cluster()
    assert found["scenario"] == name
    assert {c["name"] for c in found["classes"]} == set(scenario.classes)
    assert all(c["carried_frac"] == pytest.approx(1.0) for c in found["classes"])
    counts = {pool["name"]: pool["replicas"] for pool in found["pools"]}
    most = dict(zip(cluster.pool_names, cluster.max_replicas, strict=True))
    price = dict(zip(cluster.pool_names, cluster.usd_per_hr, strict=True))
    assert all(count <= most[pool] for pool, count in counts.items())
    assert found["usd_per_hr"] == pytest.approx(sum(count * price[pool] for pool, count in counts.items()))
    assert found["bound"] <= found["usd_per_hr"] + 1e-9
    assert all(pool["used_frac"] <= 1.0 + 1e-6 for pool in found["pools"])


def test_every_dollar_is_told_twice_by_purpose_and_by_layer() -> None:
    found = document("--scenario", "two-models")
    rent, bill = found["rent"], found["bill_usd_per_hr"]
    assert rent["usd_per_hr"] == pytest.approx(found["usd_per_hr"])
    assert tuple(bill) == BILL_LAYERS
    assert sum(bill[layer] for layer in BILL_LAYERS[:3]) == pytest.approx(found["usd_per_hr"])
    assert sum(pool["usd_per_hr"] for pool in found["pools"]) == pytest.approx(found["usd_per_hr"])
    assert sum(unit["rent_usd_per_hr"] for unit in found["units"]) == pytest.approx(found["usd_per_hr"])


def test_the_document_holds_the_contracts_plan() -> None:
    found = document("--scenario", "mixed-chat")
    told = dict(found["plan"])
    pools, classes = told.pop("pool_names"), told.pop("class_names")
    plan = from_json(Plan, told)
    assert classes == ["chat", "summarisation", "batch"]
    assert set(pools) == {pool["name"] for pool in found["pools"]}
    assert plan.route.sum(axis=1).tolist() == pytest.approx([1.0] * 3)
    assert float(plan.usd_per_hr) == found["usd_per_hr"]
    assert plan.load_per_s.tolist() == pytest.approx([c["rate_per_s"] * 1.1 for c in found["classes"]])


def test_tables_tell_counts_rent_routing_bill_limits_and_what_is_left_out() -> None:
    found, result = document("--scenario", "mixed-chat"), run("--scenario", "mixed-chat")
    assert result.exit_code == 0
    text = said(result)
    assert f"{found['usd_per_hr']:.2f} $/h in all, for the peak load times 1.1; no plan costs less than" in text
    for title in (
        "Plan for mixed-chat",
        "Routing",
        "What the rent is for",
        "The bill by layer, expected at the planned load",
        "Limits",
        "Not chosen",
    ):
        assert title in text
    for pool in found["pools"]:
        assert f"{pool['usd_per_hr']:.2f}" in text
    for entry in found["not_chosen"]:
        assert entry["reason"][:20] in text


def test_the_same_seed_is_the_same_plan_and_more_headroom_never_cheaper() -> None:
    asked = ("--scenario", "cheap-gpus", "--seed", "3")
    one, again = document(*asked), document(*asked)
    for told in (one, again):
        told.pop("solve_s")
    assert one == again
    more = document(*asked, "--headroom", "1.5")
    assert more["headroom"] == 1.5
    assert more["usd_per_hr"] >= one["usd_per_hr"]


def test_what_ifs_change_what_they_say() -> None:
    asked = ("--scenario", "mixed-chat")
    plan = document(*asked)
    assert "A100-SXM-80GB" in gpus(plan)
    without = document(*asked, "--without", "A100")
    assert "A100-SXM-80GB" not in gpus(without)
    assert without["usd_per_hr"] > plan["usd_per_hr"]
    assert next(e["reason"] for e in without["not_chosen"] if e["what"] == "A100-SXM-80GB") == "none to be had"
    cheap = document(*asked, "--price", "H100=0.5")
    assert gpus(cheap) == {"H100-SXM-80GB"}
    assert cheap["usd_per_hr"] == pytest.approx(0.5 * cheap["pools"][0]["replicas"])
    assert cheap["usd_per_hr"] < plan["usd_per_hr"]
    only = document(*asked, "--precision", "fp8", "--load", "mean")
    assert {pool["precision"] for pool in only["pools"]} == {"fp8"}
    calm = document(*asked, "--load", "mean")
    assert calm["usd_per_hr"] < plan["usd_per_hr"]
    lax = document(*asked, "--attainment", "0.5")
    assert {c["attainment_wanted"] for c in lax["classes"]} == {0.5}
    assert lax["usd_per_hr"] <= plan["usd_per_hr"] * 1.005


def test_what_if_titles_say_what_was_asked() -> None:
    result = run(
        "--scenario", "mixed-chat", "--no-explain", "--without", "A100", "--price", "H100=2.1", "--attainment", "0.95"
    )
    assert "Plan for mixed-chat (without A100, H100 at 2.1 $/h a GPU, attainment 95 %)" in said(result)


def test_a_budget_buys_as_much_in_time_as_it_can() -> None:
    asked = ("--scenario", "mixed-chat", "--without", "A100")
    whole = document(*asked)
    some = document(*asked, "--budget", "4", "--goodput")
    assert (some["objective"], some["usd_per_hr"] <= 4.0) == ("goodput", True)
    carried = [c["carried_frac"] for c in some["classes"]]
    assert 0.0 < np.mean(carried) < 1.0
    assert all(c["attainment"] == pytest.approx(c["attainment_wanted"] * c["carried_frac"]) for c in some["classes"])
    enough = document(*asked, "--budget", f"{whole['usd_per_hr'] + 0.01}", "--goodput")
    assert [c["carried_frac"] for c in enough["classes"]] == pytest.approx([1.0] * 3, abs=5e-3)
    result = run(*asked, "--budget", "4", "--goodput", "--no-explain")
    assert "requests/s within target, and no plan more than" in said(result)


def test_where_there_is_no_plan_it_says_what_clashes_and_exits_1(tmp_path: Path) -> None:
    def crowd(scenario: dict[str, Any]) -> None:
        scenario["workload"]["classes"]["chat"]["rate_per_s"] = 60.0

    crowded = changed(tmp_path, crowd)
    result = run("--scenario", crowded)
    assert result.exit_code == 1
    text = said(result)
    assert "No plan for mixed-chat carries the load within all limits." in text
    assert "chat cannot be carried even alone" in text
    assert "clash" in text
    assert "load of chat" in text
    assert "Traceback" not in result.output
    as_json = run("--scenario", crowded, "--json")
    assert as_json.exit_code == 1
    told = json.loads(as_json.stdout)
    assert told["scenario"] == "mixed-chat"
    (short,) = told["infeasible"]["shortages"]
    assert short["name"] == "chat"
    assert short["alone_per_s"] < short["rate_per_s"]
    assert told["infeasible"]["remedies"]
    assert told["infeasible"]["lines"][0].startswith("chat cannot be carried even alone")


def test_a_target_that_nothing_can_meet_is_named(tmp_path: Path) -> None:
    def hurry(scenario: dict[str, Any]) -> None:
        scenario["classes"]["chat"]["target"]["tpot_s"] = 0.001

    result = run("--scenario", changed(tmp_path, hurry))
    assert result.exit_code == 1
    assert "chat cannot be carried: no option serves it within its targets" in said(result)


def test_a_budget_that_is_too_small_clashes() -> None:
    result = run("--scenario", "mixed-chat", "--budget", "0.5")
    assert result.exit_code == 1
    assert "these clash: budget (0.5 $/h) and load of " in said(result)
    enough = document("--scenario", "mixed-chat")["usd_per_hr"]
    assert f"budget at least {enough:.3g} $/h (now 0.5 $/h)" in said(result)


def test_what_would_change_the_plan_is_planned_again() -> None:
    asked = ("--scenario", "mixed-chat", "--json")
    found = json.loads(run(*asked).stdout)
    changes = {(c["kind"], c["subject"]): c for c in found["sensitivity"]["changes"]}
    cheaper = changes[("price", "A100-SXM-80GB")]
    again = document("--scenario", "mixed-chat", "--price", f"A100={2.326 * 0.9}")
    assert cheaper["usd_per_hr"] == pytest.approx(again["usd_per_hr"] - found["usd_per_hr"], abs=0.02)
    assert {m["name"] for m in found["sensitivity"]["marginals"]} == {"chat", "summarisation", "batch"}
    at = {b["offer"]: b for b in found["sensitivity"]["break_even"]}
    offer, below = next(
        (o, b["below_usd_per_gpu_hr"]) for o, b in at.items() if o.startswith("H100") and b["below_usd_per_gpu_hr"]
    )
    assert below < at[offer]["usd_per_gpu_hr"]
    assert "H100-SXM-80GB" not in gpus(document("--scenario", "mixed-chat", "--price", f"H100={below * 1.05}"))
    assert "H100-SXM-80GB" in gpus(document("--scenario", "mixed-chat", "--price", f"H100={below * 0.9}"))
    text = said(run("--scenario", "mixed-chat"))
    for title in (
        "What would change it, each alone and planned again",
        "Not rented, and the price below which it would be",
    ):
        assert title in text
    assert document("--scenario", "mixed-chat")["sensitivity"] is None


def test_a_plan_is_written_simulated_and_held(tmp_path: Path) -> None:
    path = tmp_path / "planned.yaml"
    found = document("--scenario", "mixed-chat", "--write", str(path))
    scenario = load_scenario(path)
    assert {n: p.replicas.start for n, p in scenario.pools.items() if p.replicas.start} == {
        pool["name"]: pool["replicas"] for pool in found["pools"]
    }
    for c in found["classes"]:
        assert scenario.classes[c["name"]].shares == pytest.approx(c["shares"], abs=1e-5)
    text = path.read_text()
    assert text.startswith("# Made by poolpilot plan from mixed-chat, for the peak load times 1.1 of seed 0: ")
    result = CliRunner().invoke(
        main, ["simulate", "--scenario", str(path), "--policy", "held-plan", "--duration", "60", "--json"]
    )
    assert result.exit_code == 0, result.output
    (policy,) = json.loads(result.stdout)["policies"]
    assert policy["usd_per_hr"] == pytest.approx(found["usd_per_hr"], rel=1e-3)
    assert policy["replica_changes"] == 0


def test_the_head_room_of_a_plan_is_kept_for_whoever_plans_again(tmp_path: Path) -> None:
    path = tmp_path / "planned.yaml"
    document("--scenario", "mixed-chat", "--load", "mean", "--headroom", "1.5", "--write", str(path))
    fleet = load_scenario(path).fleet
    assert fleet is not None
    assert fleet.headroom == 1.5


def test_a_goodput_plan_that_leaves_a_class_out_is_told_but_neither_simulated_nor_written(tmp_path: Path) -> None:
    asked = ("--scenario", "case-study", "--goodput", "--budget", "2", "--no-explain")
    for extra in (["--simulate"], ["--write", str(tmp_path / "planned.yaml")]):
        result = run(*asked, *extra)
        assert result.exit_code == 2
        assert "Plan for case-study (budget 2 $/h, most goodput)" in said(result)
        assert re.search(r"classes\.\w+: the plan has no pool for it", result.stderr)
    assert not (tmp_path / "planned.yaml").exists()


def test_a_goodput_plan_that_carries_a_part_lets_that_part_in_when_held(tmp_path: Path) -> None:
    path = tmp_path / "planned.yaml"
    asked = ("--scenario", "mixed-chat", "--without", "A100", "--budget", "4", "--goodput", "--load", "mean")
    found = document(*asked, "--headroom", "2", "--write", str(path))
    scenario = load_scenario(path)
    carried = {c["name"]: c["carried_frac"] for c in found["classes"]}
    assert min(carried.values()) < 0.99
    for name, requests in scenario.classes.items():
        assert sum((requests.shares or {}).values()) == pytest.approx(carried[name], abs=1e-5)
    assert scenario.guard.budget_usd_per_hr == 4.0
    assert scenario.guard.min_admit_frac <= min(carried["chat"], carried["summarisation"]) + 1e-6


def test_the_simulated_plan_stands_beside_the_expected_one(tmp_path: Path) -> None:
    def short(scenario: dict[str, Any]) -> None:
        scenario["duration_s"] = 60
        scenario["world"] = {"performance_error_frac": 0.1}

    path = changed(tmp_path, short)
    found = document("--scenario", path, "--simulate", "--seeds", "2")
    told = found["simulated"]
    assert (told["seeds"], told["duration_s"], told["performance_error_frac"]) == (2, 60.0, 0.1)
    assert told["usd_per_hr"] == pytest.approx(found["usd_per_hr"], rel=1e-3)
    assert sum(told["layers_usd_per_hr"].values()) == pytest.approx(told["usd_per_hr"])
    chat = told["classes"][0]
    assert chat["wanted"] == 0.99
    assert chat["met_per_s"] <= chat["finished_per_s"]
    assert list(chat["ttft_s"]) == list(chat["tpot_s"]) == ["p50", "p95", "p99"]
    assert chat["ttft_s"]["p50"] <= chat["ttft_s"]["p95"] <= chat["ttft_s"]["p99"]
    result = run("--scenario", path, "--no-explain", "--simulate", "--seeds", "1")
    for title in ("Simulated: the plan held for 1 min of the scenario's own load, 1 seeds", "Latency, simulated"):
        assert title in said(result)


def test_the_frontier_is_a_table_a_page_and_a_document(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    result = run(
        "--scenario", "mixed-chat", "--no-explain", "--frontier", "--compare", "--out", str(tmp_path), "--json"
    )
    assert result.exit_code == 0, result.output
    points = json.loads(result.stdout)["frontier"]
    plan = {p["attainment"]: p["usd_per_hr"] for p in points if p["series"] == "plan"}
    assert list(plan) == sorted(plan)
    costs = [usd for usd in plan.values() if usd is not None]
    assert all(more >= less * 0.995 for less, more in pairwise(costs))  # wanting more never costs less
    assert {p["series"] for p in points} >= {"plan", "H100-SXM-80GB alone", "L40S-48GB alone"}
    for p in points:
        if p["series"] != "plan" and p["usd_per_hr"] is not None:
            assert p["usd_per_hr"] >= plan[p["attainment"]] * 0.995
    kept = json.loads((tmp_path / "frontier.json").read_text())
    assert kept["points"] == points
    assert "Rent of the plan" in str(unpacked((tmp_path / "frontier.html").read_text())["figures"])
    assert json.loads((tmp_path / "plan.json").read_text())["scenario"] == "mixed-chat"
    assert load_scenario(tmp_path / "planned.yaml").name == "mixed-chat-planned"
    assert (tmp_path / "serve.sh").read_text().startswith("#!/bin/sh\n")


def test_without_plotly_a_frontier_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolpilot.commands.planning.files.find_spec", lambda name: None)
    result = run("--scenario", "mixed-chat", "--frontier")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install 'poolpilot[figures]'" in result.stderr


def test_other_fleets_stand_beside_the_plan() -> None:
    found = document("--scenario", "mixed-chat", "--without", "A100", "--compare")
    fleets = {rival["name"]: rival["usd_per_hr"] for rival in found["compared"]}
    assert fleets["plan"] == found["usd_per_hr"]
    assert set(fleets) == {"plan", "greedy mix", "H100-SXM-80GB alone", "L40S-48GB alone", "A100-SXM-80GB alone"}
    assert all(usd is None or usd >= found["usd_per_hr"] * 0.995 for usd in fleets.values())
    assert fleets["A100-SXM-80GB alone"] is None
    text = said(run("--scenario", "mixed-chat", "--no-explain", "--compare"))
    assert "Beside other fleets for the same load and targets" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--scenario", "nowhere"], "nowhere: no such file"),
        ([], "Missing option '--scenario'"),
        (["--scenario", "mixed-chat", "--headroom", "0.5"], "0.5 is not in the range"),
        (["--scenario", "mixed-chat", "--headroom", "nan"], "nan: wanted a finite number from 1 to 5"),
        (["--scenario", "mixed-chat", "--seed", "-1"], "-1 is not in the range"),
        (["--scenario", "mixed-chat", "--load", "worst"], "'worst' is not one of"),
        (["--scenario", "mixed-chat", "--budget", "nan"], "nan: wanted a finite number above 0"),
        (["--scenario", "mixed-chat", "--budget", "inf"], "inf: wanted a finite number above 0"),
        (["--scenario", "mixed-chat", "--budget", "0"], "0.0 is not in the range"),
        (["--scenario", "mixed-chat", "--attainment", "1"], "1.0 is not in the range"),
        (["--scenario", "mixed-chat", "--attainment", "nan"], "nan: wanted a finite number from 0 to 1"),
        (["--scenario", "mixed-chat", "--price", "H100"], "H100: wanted a GPU, = and dollars per hour"),
        (["--scenario", "mixed-chat", "--price", "H100=nan"], "H100=nan: wanted a GPU, = and dollars per hour"),
        (["--scenario", "mixed-chat", "--price", "H100=-1"], "H100=-1: wanted a GPU, = and dollars per hour"),
        (
            ["--scenario", "mixed-chat", "--price", "V100=1"],
            "--price V100: no pool has this GPU; pools have H100-SXM-80GB",
        ),
        (["--scenario", "mixed-chat", "--price", "X9=1"], "--price X9: unknown GPU 'X9'; closest in the catalogue"),
        (["--scenario", "mixed-chat", "--without", "V100"], "--without V100: no pool has this GPU"),
        (["--scenario", "mixed-chat", "--without", "X9"], "--without X9: unknown GPU 'X9'"),
        (["--scenario", "mixed-chat", "--prices", "nowhere.csv"], "'nowhere.csv' does not exist"),
        (["--scenario", "mixed-chat", "--goodput"], "--goodput: wanted a budget to spend"),
        (["--scenario", "mixed-chat", "--goodput", "--budget", "9", "--frontier"], "--goodput: not with --frontier"),
        (["--scenario", "mixed-chat", "--goodput", "--budget", "9", "--compare"], "--goodput: not with --frontier"),
        (["--scenario", "mixed-chat", "--gap", "nan"], "nan: wanted a finite number"),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, list) else None,
)
def test_bad_input_is_exit_code_2(arguments: list[str], told: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_prices_from_a_file_need_a_section_that_asks_for_prices(tmp_path: Path) -> None:
    prices = tmp_path / "prices.csv"
    prices.write_text("gpu,usd_per_hr\n")
    result = run("--scenario", "mixed-chat", "--prices", str(prices))
    assert result.exit_code == 2
    assert "--prices: mixed-chat has no section `planning`" in result.stderr


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    result = run("--scenario", "mixed-chat", "--no-explain", "--write", str(tmp_path / "no" / "where.yaml"))
    assert result.exit_code == 2
    assert "where.yaml" in result.stderr


def test_help_teaches_by_examples() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for line in ("poolpilot plan --scenario", "--frontier", "exits with 0, bad input with 2, and with 1"):
        assert line in " ".join(result.stdout.split())
