"""`poolpilot plan`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from poolpilot.cli import main
from poolpilot.env.contract import Plan
from poolpilot.env.scenario import load_scenario, shipped_scenarios
from poolpilot.env.wire import from_json


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


def plan_of(*arguments: str) -> Plan:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return from_json(Plan, json.loads(result.stdout)["plan"])


@pytest.mark.parametrize("name", shipped_scenarios())
def test_every_shipped_scenario_has_a_plan_that_carries_its_load(name: str) -> None:
    cluster, plan = load_scenario(name).cluster(), plan_of("--scenario", name, "--load", "mean")
    assert (plan.attainment >= cluster.targets.attainment - 2e-3).all()
    assert (plan.replicas <= cluster.max_replicas).all()
    assert float(plan.usd_per_hr) == pytest.approx(float((plan.replicas * cluster.usd_per_hr).sum()))


def test_the_json_names_pools_and_classes() -> None:
    document = json.loads(run("--scenario", "mixed-chat", "--json").stdout)
    assert document["scenario"] == "mixed-chat"
    assert document["pools"] == ["h100", "l40s", "a100-spot"]
    assert document["classes"] == ["chat", "summarisation", "batch"]


def test_the_table_tells_counts_rent_and_routing() -> None:
    plan, result = plan_of("--scenario", "mixed-chat"), run("--scenario", "mixed-chat")
    assert result.exit_code == 0
    assert f"{float(plan.usd_per_hr):.2f} $/h in all, for the peak load times 1.1" in " ".join(result.stdout.split())
    for text in ("h100", "l40s", "a100-spot", "summarisation"):
        assert text in result.stdout


def test_the_same_seed_is_the_same_plan_and_more_headroom_never_cheaper() -> None:
    one, again = plan_of("--scenario", "cheap-gpus", "--seed", "3"), plan_of("--scenario", "cheap-gpus", "--seed", "3")
    assert np.array_equal(one.route, again.route)
    assert np.array_equal(one.replicas, again.replicas)
    more = plan_of("--scenario", "cheap-gpus", "--seed", "3", "--headroom", "1.5")
    assert (more.load_per_s > one.load_per_s).all()
    assert float(more.usd_per_hr) >= float(one.usd_per_hr)


def test_a_load_that_does_not_fit_is_said(tmp_path: Path) -> None:
    document = yaml.safe_load(shipped_scenarios()["mixed-chat"].read_text())
    document["workload"]["classes"]["chat"]["rate_per_s"] = 60.0
    path = tmp_path / "crowded.yaml"
    path.write_text(yaml.safe_dump(document))
    result = run("--scenario", str(path))
    assert result.exit_code == 0
    assert "the load does not fit" in result.stdout
    assert "Raise a pool's replicas.max" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scenario", "nowhere"], "nowhere: no such file"),
        ([], "Missing option '--scenario'"),
        (["--scenario", "mixed-chat", "--headroom", "0.5"], "0.5 is not in the range"),
        (["--scenario", "mixed-chat", "--headroom", "nan"], "wanted a number from 1 to 5"),
        (["--scenario", "mixed-chat", "--seed", "-1"], "-1 is not in the range"),
        (["--scenario", "mixed-chat", "--load", "worst"], "'worst' is not one of"),
    ],
    ids=["no such file", "no scenario", "headroom below 1", "headroom of none", "a negative seed", "an unknown load"],
)
def test_bad_input_is_exit_code_2(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr
