"""`poolpilot policies` over a registry: begun, listed with evidence, promoted and rolled back by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from poolpilot.agents.planner.written import scenario_yaml
from poolpilot.agents.registry import CANARY, GATES, TWIN, Evidence, Registry, Verdict
from poolpilot.cli import main
from poolpilot.controller.waiting import FIGURE, Wait
from poolpilot.env.contract import Mode
from poolpilot.env.scenario import load_scenario
from poolpilot.tests.agents.registry.candidates import a_checkpoint, let_through


class Shell:
    """Commands over one registry."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = folder / "registry"

    def run(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["policies", *arguments, "--registry", str(self.registry)])
        assert result.exit_code == code, result.output
        return result

    def told(self, *arguments: str) -> object:
        return json.loads(self.run(*arguments, "--json").stdout)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A registry of two: one that decides, and a candidate."""
    made = Shell(tmp_path)
    made.run("init", str(a_checkpoint(tmp_path / "first", name="first")))
    made.run("add", str(a_checkpoint(tmp_path / "second", name="[/red] second", pool_output=(0.1, 0.0, 0.0, 0.0))))
    return made


def candidate_of(shell: Shell) -> str:
    return shell.run("add", str(shell.folder / "second")).stdout.strip()


def test_versions_are_listed_with_how_they_fared_at_every_gate(shell: Shell) -> None:
    registry, version = Registry(shell.registry), candidate_of(shell)
    registry.keep(Evidence(TWIN, version, registry.incumbent(), Verdict.FAIL, "dearer by 4 %"))
    listed = shell.run("show").stdout
    for word in (*GATES, "incumbent", "candidate", "FAIL", version, "[/red] second"):
        assert word in listed
    told = shell.told("show")
    assert isinstance(told, dict)
    assert [own["is"] for own in told["versions"]] == ["incumbent", "candidate"]
    assert told["versions"][1]["evidence"][TWIN]["verdict"] == "fail"
    assert told["versions"][1]["lacks"][0] == "twin: fail: dearer by 4 %"


def test_one_version_is_shown_by_its_first_digits_with_figures_and_history(shell: Shell) -> None:
    registry, version = Registry(shell.registry), candidate_of(shell)
    figures = {"bill_ratio": {"mean": 0.97, "low": 0.95, "high": 0.99}, "days": 8}
    registry.keep(Evidence(TWIN, version, registry.incumbent(), Verdict.PASS, "cheaper", figures))
    shown = shell.run("show", version[:8]).stdout
    for word in (
        "cheaper",
        "bill_ratio",
        "0.97 (between 0.95 and 0.99)",
        "It may not be promoted: off-policy",
        "added",
    ):
        assert word in " ".join(shown.split())
    assert "bill_ratio" in shell.run(version[:8]).stdout  # without `show`, as for any other policy


def test_promotion_is_refused_with_all_that_lacks_and_forced_with_a_reason_that_is_kept(shell: Shell) -> None:
    version = candidate_of(shell)
    refused = shell.run("promote", version, code=2)
    assert refused.stderr.startswith(f"Error: {version}: twin: no evidence; off-policy: no evidence")
    assert shell.run("promote", version, "--force", "the load test is over").stdout.startswith(f"{version} decides")
    last = shell.told("history")
    assert isinstance(last, list)
    assert (last[-1]["kind"], last[-1]["forced"], last[-1]["reason"]) == ("promoted", True, "the load test is over")
    assert "promoted (forced)" in shell.run("history").stdout


def test_a_candidate_that_passed_is_promoted_and_rolled_back_from(shell: Shell) -> None:
    registry, version = Registry(shell.registry), candidate_of(shell)
    first = registry.incumbent()
    let_through(registry, version)
    assert shell.told("promote", version) == {"incumbent": version, "instead_of": first, "generation": 2}
    assert shell.told("rollback", "--reason", "slow") == {"incumbent": first, "instead_of": version, "generation": 3}
    assert "rolled back" in shell.run("show").stdout
    assert "it was rolled back from" in shell.run("promote", version, code=2).stderr


def test_a_trial_is_begun_and_ended_by_hand(shell: Shell) -> None:
    version = candidate_of(shell)
    assert "twin: no evidence" in shell.run("trial", version, code=2).stderr
    shell.run("trial", version, "--force", "to see how it does")
    assert standing(shell) == "on trial, no sidecar has begun it"
    assert f"policies end-trial {version}" in shell.run("show", version).stdout
    shell.run("end-trial", version)
    assert Registry(shell.registry).state().on_trial == ""


def test_what_a_trial_waits_for_is_shown_and_one_that_was_ended_by_hand_runs_no_more(shell: Shell) -> None:
    registry, version = Registry(shell.registry), candidate_of(shell)
    registry.begin_trial(version, registry.incumbent(), force="to see how it does")
    begun = Evidence(CANARY, version, registry.incumbent(), Verdict.RUNNING, "3 of at most 60 blocks")
    registry.keep(begun)
    assert standing(shell) == "on trial"
    assert "running" in shell.run("show", version).stdout
    waits = Wait(Mode.CANARY, datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
    registry.keep(replace(begun, reason=waits.in_words(3600.0, begun.reason), figures={FIGURE: waits.as_json()}))
    assert standing(shell) == "on trial, waits"
    shown = " ".join(shell.run("show", version).stdout.split())
    assert "waits since 2026-03-01 12:00 UTC, the mode is canary" in shown
    assert "ends without a verdict at 2026-03-01 13:00 UTC; 3 of at most 60 blocks" in shown
    shell.run("end-trial", version)
    assert standing(shell) == "candidate"
    listed = shell.run("show").stdout
    assert "cut off" in listed
    assert "running" not in listed


def standing(shell: Shell) -> str:
    """Of the candidate."""
    told = shell.told("show", candidate_of(shell))
    assert isinstance(told, dict)
    return str(told["is"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "ffff"], "version 'ffff': there are"),
        (["rollback", "--reason", "slow"], "is the first version; there is none before it"),
        (["init", "steady-hand"], "there is a registry already"),
        (["add", "nothing-there"], "no card.json there and no shipped checkpoint of that name"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(shell: Shell, arguments: list[str], said: str) -> None:
    result = shell.run(*arguments, code=2)
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_gates_are_run_by_hand_and_one_that_lets_nobody_through_is_exit_code_1(shell: Shell) -> None:
    version = candidate_of(shell)
    day = load_scenario("mixed-chat").model_copy(update={"duration_s": 300.0})
    (shell.folder / "day.yaml").write_text(scenario_yaml(day, shell.folder, ["One day."]))
    suite = shell.folder / "own.yaml"
    suite.write_text("schema: 1\nname: own\nsummary: One day.\nscenarios:\n  - path: day.yaml\n")
    more = ("--gate", "suites", "--suite", str(suite), "--suite-seeds", "2")
    shell.run("check", Registry(shell.registry).incumbent(), *more)  # beside itself it is not worse
    told = json.loads(shell.run("check", version, "--gate", "twin", "--json", code=1).stdout)
    assert [(e["gate"], e["verdict"]) for e in told["evidence"]] == [("twin", "cannot tell")]
    assert "no refit to judge in" in shell.run("show", version).stdout
