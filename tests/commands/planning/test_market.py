"""`poolpilot plan` where machines are to be rented: what a market offers, what-ifs on it, and plans to go on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from poolpilot.cli import main
from poolpilot.env.scenario import load_scenario, shipped_scenarios

from .running import document, gpus, run, said

TO_PLAN = sorted(set(shipped_scenarios(to_plan=True)) - set(shipped_scenarios()))
"""Shipped scenarios whose pools are still to be chosen; the others are planned over pools of their own."""
CASE = ("--scenario", "case-study")
PRICES = """gpu,n_gpu,usd_hr_ondemand,usd_hr_spot,provider,region,as_of
A100-SXM-80GB,8,20.0,,big,east,2020-01-01
L40S-48GB,1,1.5,0.6,small,east,2020-01-01
"""


def priced(tmp_path: Path, text: str = PRICES) -> str:
    path = tmp_path / "prices.csv"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", TO_PLAN)
def test_scenarios_without_pools_are_planned_written_and_can_be_held(tmp_path: Path, name: str) -> None:
    path = tmp_path / "planned.yaml"
    found = document("--scenario", name, "--write", str(path), "--commands")
    assert all(c["carried_frac"] == pytest.approx(1.0) for c in found["classes"])
    scenario = load_scenario(path)
    assert scenario.planning is None
    rent = sum(pool.replicas.start * pool.price.usd_per_hr for pool in scenario.pools.values())
    assert rent == pytest.approx(found["usd_per_hr"], rel=1e-5)
    assert set(found["commands"]) == {pool["name"] for pool in found["pools"]}
    for command in found["commands"].values():
        assert command["nodes"][0]["args"][:2] == ["vllm", "serve"]
        assert "--max-num-seqs" in command["shell"]
    assert all(f"# {n}" in path.read_text() for n in ("vllm serve", "Made by poolpilot plan"))


def test_a_written_plan_planned_again_is_the_same_plan(tmp_path: Path) -> None:
    path = tmp_path / "planned.yaml"
    found = document(*CASE, "--headroom", "1.3", "--attainment", "0.9", "--write", str(path))
    again = document("--scenario", str(path))
    assert (again["headroom"], {c["attainment_wanted"] for c in again["classes"]}) == (1.3, {0.9})
    assert again["usd_per_hr"] == pytest.approx(found["usd_per_hr"], rel=0.01)


def test_a_scenario_to_be_planned_is_refused_elsewhere_by_a_line_that_says_how_to_go_on() -> None:
    result = CliRunner().invoke(main, ["simulate", *CASE])
    assert result.exit_code == 2
    assert "poolpilot plan" in result.stderr


def test_what_ifs_on_a_market_change_what_they_say() -> None:
    plan = document(*CASE)
    before = document(*CASE, "--without", "L40S", "--precision", "bf16")
    assert gpus(before) == {"A100-SXM-80GB"}
    assert {pool["precision"] for pool in before["pools"]} == {"bf16"}
    assert before["usd_per_hr"] > plan["usd_per_hr"]
    assert {c["quality"]["mean_frac"] for c in before["classes"]} == {1.0}
    cheap = document(*CASE, "--price", "L40S=0.02")
    assert "L40S-48GB" in gpus(cheap)
    assert cheap["usd_per_hr"] < plan["usd_per_hr"]
    rented = {unit["gpu"]: unit["usd_per_hr"] for unit in cheap["units"]}
    assert rented["L40S-48GB"] == 0.02
    length = document(*CASE, "--route-by-length", "--buckets", "4")
    assert length["usd_per_hr"] <= document(*CASE, "--buckets", "4")["usd_per_hr"] * 1.006
    assert length["asked"]["route_by_length"] is True


def test_quality_floors_keep_quantised_weights_off_a_class() -> None:
    found = document(*CASE, "--price", "L40S=0.02")
    chat, summarisation = found["classes"]
    by_name = {pool["name"]: pool for pool in found["pools"]}
    assert {by_name[pool]["precision"] for pool in chat["shares"]} == {"bf16"}
    assert chat["quality"]["least_frac"] == 1.0
    assert summarisation["quality"]["least_frac"] < 1.0
    assert summarisation["quality"]["sources"]


def test_prices_from_a_file_are_used_and_old_ones_warned_of(tmp_path: Path) -> None:
    found = document(*CASE, "--prices", priced(tmp_path), "--max-price-age-days", "60")
    assert {unit["provider"] for unit in found["units"]} <= {"big", "small"}
    assert any("older than 60 days" in warning for warning in found["warnings"])
    assert {pool["price_as_of"] for pool in found["pools"]} == {"2020-01-01"}
    assert not any("older" in w for w in document(*CASE, "--prices", priced(tmp_path))["warnings"])
    text = said(run(*CASE, "--no-explain", "--prices", priced(tmp_path), "--max-price-age-days", "60"))
    assert "warning: prices: " in text
    assert "(prices of prices.csv)" in text


def test_the_frontier_keeps_to_the_other_what_ifs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("plotly")
    monkeypatch.chdir(tmp_path)
    asked = (*CASE, "--prices", priced(tmp_path), "--without", "L40S", "--price", "A100=2.0", "--load", "mean")
    points = document(*asked, "--frontier")["frontier"]
    fleets = [point["fleet"] for point in points if point["usd_per_hr"] is not None]
    assert fleets
    assert not any("l40s" in fleet for fleet in fleets)
    assert all(point["usd_per_hr"] % 16.0 < 1e-6 for point in points if point["usd_per_hr"] is not None)  # eight at 2 $
    assert (tmp_path / "frontier.html").is_file()  # where the user stands, without --out


def test_whole_machines_are_paid_for_and_what_stands_unused_is_told(tmp_path: Path) -> None:
    found = document(*CASE, "--prices", priced(tmp_path), "--without", "L40S")
    (unit,) = found["units"]
    assert (unit["gpus"], unit["usd_per_hr"]) == (8, 20.0)
    used = sum(pool["replicas"] * sum(pool["gpus"].values()) for pool in found["pools"])
    assert found["rent"]["unused_gpus_usd_per_hr"] == pytest.approx((unit["units"] * 8 - used) * 2.5)
    assert found["usd_per_hr"] == unit["units"] * 20.0


def test_on_a_market_too_nothing_is_said_to_clash_that_does_not() -> None:
    result = run(*CASE, "--budget", "20", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)["infeasible"]
    assert {clash["kind"] for clash in told["clashes"]} == {"budget", "load"}
    budget = next(r["value"] for r in told["remedies"] if r["kind"] == "budget")
    assert document(*CASE, "--budget", f"{budget + 0.01:.2f}")["usd_per_hr"] <= budget + 0.01


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--price", "H100=2.1"], "--price: H100: no offer of this GPU; offered are A100-SXM-80GB, L40S-48GB"),
        (["--without", "H100"], "--without: H100: no offer of this GPU"),
        (["--without", "X9"], "--without: unknown GPU 'X9'"),
        (["--without", "A100", "--without", "L40S"], "no offer is left"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_ifs_that_change_nothing_or_leave_nothing_are_refused(arguments: list[str], told: str) -> None:
    result = run(*CASE, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in " ".join(result.stderr.split())


def test_a_price_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    result = run(*CASE, "--prices", priced(tmp_path, "a,b\n1,2\n"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "prices.csv" in result.stderr
    assert "Traceback" not in result.stderr
