"""`poolpilot scenarios`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from poolpilot.cli import main
from poolpilot.env.scenario import shipped_scenarios

SHIPPED = shipped_scenarios(to_plan=True)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["scenarios", *arguments])


def a_file(folder: Path, **changes: Any) -> str:
    document = yaml.safe_load(SHIPPED["mixed-chat"].read_text()) | changes
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_the_shipped_ones_are_listed() -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    assert all(name in result.stdout for name in SHIPPED)


def test_the_list_as_json_is_one_document() -> None:
    listed = json.loads(run("--json").stdout)
    assert {entry["name"]: Path(entry["path"]) for entry in listed} == SHIPPED
    assert all(entry["summary"] for entry in listed)


@pytest.mark.parametrize("name", SHIPPED)
def test_one_is_shown_by_name(name: str) -> None:
    result = run(name)
    assert result.exit_code == 0
    document = yaml.safe_load(SHIPPED[name].read_text())
    for text in (*document.get("pools", ()), *document["classes"]):
        assert text in result.stdout


def test_one_whose_pools_are_to_be_planned_shows_what_may_be_rented(tmp_path: Path) -> None:
    offers = [
        {"gpu": "L40S", "usd_per_hr": 7.2, "gpus": 4, "region": "cellar", "as_of": "2026-11-01", "stock": 3},
        {"gpu": "H100", "usd_per_hr": 2.5},
    ]
    document = yaml.safe_load(SHIPPED["mixed-chat"].read_text())
    del document["pools"]
    document["planning"] = {"prices": offers, "stock": {"H100": 8}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    result = run(str(path))
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    (cheap,) = [line for line in lines if "L40S-48GB" in line]
    assert [cell.strip() for cell in cheap.strip("│").split("│")] == [
        *("L40S-48GB", "1.800", "on_demand", "4", "7.20", "cellar", "3", "2026-11-01"),
    ]
    assert "Stock over all offers together: 8 H100 GPUs." in result.stdout
    (int4,) = [line for line in lines if "│ int4" in line]
    assert [cell.strip() for cell in int4.strip("│").split("│")] == [
        *("meta-llama/Llama-2-13b-hf", "int4", "97.0%", "93.0%", "Llama-3.1-8B", "nobody"),
    ]
    assert "Pools" not in result.stdout


def test_a_price_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    result = run(a_file(tmp_path, planning={"prices": "none.csv"}))
    assert result.exit_code == 2
    assert "none.csv: cannot be read: No such file" in result.stderr


def test_a_file_of_ones_own_is_shown(tmp_path: Path) -> None:
    result = run(a_file(tmp_path, summary="[/bold] is [red]no markup[/red]"))
    assert result.exit_code == 0
    assert "[/bold] is [red]no markup[/red]" in result.stdout
    assert "A100-SXM-80GB" in result.stdout
    assert "deadline 240 s" in result.stdout


def test_a_file_as_json_is_one_document_that_loads_again(tmp_path: Path) -> None:
    result = run(a_file(tmp_path), "--json")
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert run(a_file(tmp_path, **document)).exit_code == 0


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown model": ({"model": "llama-99"}, "unknown model 'llama-99'"),
    "a negative length": ({"duration_s": -5}, "duration_s: -5: Input should be greater than 0"),
    "an unknown field": ({"colour": "green"}, "colour: 'green': Extra inputs are not permitted"),
}


@pytest.mark.parametrize(("changes", "said"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(
    tmp_path: Path, changes: dict[str, Any], said: str, options: list[str]
) -> None:
    path = a_file(tmp_path, **changes)
    result = run(path, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {path}: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["nowhere", "nowhere.yaml", "/"])
def test_a_missing_file_names_the_shipped_ones(name: str) -> None:
    result = run(name)
    assert result.exit_code == 2
    assert result.stderr == (f"Error: {name}: no such file and no shipped scenario; shipped are {', '.join(SHIPPED)}\n")


def test_the_installed_command_says_it_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "poolpilot", "scenarios", str(tmp_path / "none.yaml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_suite_is_listed_with_what_it_leaves_out(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    shown = run("--suite", "spot", "--data", nowhere)
    assert shown.exit_code == 0
    assert "spot-three-zones" in shown.stdout
    assert "skipped: no data folder" in " ".join(shown.stdout.split())
    listed = json.loads(run("--suite", "spot", "--data", nowhere, "--json").stdout)
    assert [entry["name"] for entry in listed["scenarios"]] == ["spot-three-zones", "spot-no-notice"]
    assert [entry["name"] for entry in listed["skipped"]] == ["spot-recorded-three-zones", "spot-recorded-prices"]


def test_an_unknown_suite_is_refused_in_one_line() -> None:
    result = run("--suite", "nothing")
    assert result.exit_code == 2
    assert result.stderr.strip().endswith("shipped are spot, steady, stress, traces, train, unseen")
    assert run("mixed-chat", "--suite", "train").exit_code == 2


def test_what_policies_do_not_see_is_said(tmp_path: Path) -> None:
    shown = run(a_file(tmp_path, telemetry={"delay_s": 20, "noise_frac": 0.1, "lacks": ["gpu_temp_c"]})).stdout
    assert "figures 20 s old; off by 10%; never gpu_temp_c" in " ".join(shown.split())
