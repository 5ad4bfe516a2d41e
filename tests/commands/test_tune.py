"""`poolpilot tune`, and what other commands make of its file."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from poolpilot.agents.portfolio import PLAN_TRACKING, RULE_SPECS, THRESHOLD, spec_of
from poolpilot.agents.tuned import TunedRule, read_tuned
from poolpilot.cli import main
from poolpilot.commands import knobs
from poolpilot.training.contenders import PERFECT_FORECAST
from poolpilot.training.tuning import together

from ..training.clusters import tiny


def ran(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_knobs_are_printed_and_kept_and_other_rules_stay(tmp_path: Path) -> None:
    scenario, out = tiny(tmp_path), tmp_path / "mine.json"
    quick = ("--scenario", scenario, "--trials", 2, "--seeds", 1, "--out", out)
    result = ran("tune", PLAN_TRACKING, *quick)
    assert result.exit_code == 0, result.output
    for word in (PLAN_TRACKING, "headroom", "→", "shortfall"):
        assert word in result.stdout
    first = read_tuned(out, spec_of)
    document = json.loads(ran("tune", THRESHOLD, *quick, "--json").stdout)
    assert (document["out"], list(document["rules"])) == (str(out), [THRESHOLD])
    both = read_tuned(out, spec_of)
    assert both[PLAN_TRACKING] == first[PLAN_TRACKING]
    assert both[THRESHOLD].model_dump(mode="json") == document["rules"][THRESHOLD]


def test_a_rule_is_tuned_anew_whatever_the_file_says_of_it(tmp_path: Path) -> None:
    """Knobs change their names; who tunes again must not have to mend the file first."""
    scenario, out = tiny(tmp_path), tmp_path / "mine.json"
    quick = ("--scenario", scenario, "--trials", 1, "--seeds", 1, "--out", out)
    assert ran("tune", THRESHOLD, *quick).exit_code == 0
    spoilt = json.loads(out.read_text())
    spoilt[THRESHOLD]["knobs"] = {"of_old": 1.0}
    out.write_text(json.dumps(spoilt))
    assert ran("tune", THRESHOLD, *quick).exit_code == 0
    assert read_tuned(out, spec_of)[THRESHOLD].knobs == spec_of(THRESHOLD).defaults


def test_a_file_of_knobs_sets_the_rules_of_a_simulation(tmp_path: Path) -> None:
    scenario, out = tiny(tmp_path), tmp_path / "mine.json"
    assert ran("tune", PLAN_TRACKING, "--scenario", scenario, "--trials", 1, "--seeds", 1, "--out", out).exit_code == 0
    told = json.loads(out.read_text())
    told[PLAN_TRACKING]["knobs"]["headroom"] = 2.0
    out.write_text(json.dumps(told))
    simulate = ("simulate", "--scenario", scenario, "--policy", PLAN_TRACKING, "--json")
    usual, wide = (json.loads(ran(*simulate, *more).stdout)["policies"][0] for more in ((), ("--knobs", out)))
    assert wide["usd_per_hr"] > usual["usd_per_hr"]


def test_knobs_can_be_searched_for_the_scenario_at_hand(tmp_path: Path) -> None:
    result = ran("simulate", "--scenario", tiny(tmp_path), "--policy", THRESHOLD, "--tune", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["policies"][0]["policy"] == THRESHOLD


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no-such", "--scenario", "mixed-chat"), ("no rule 'no-such'", *RULE_SPECS)),
        (("--scenario", "nowhere"), ("nowhere",)),
        ((THRESHOLD, "--suite", "no-such"), ("no-such",)),
    ],
    ids=["rule", "scenario", "suite"],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "mine.json"
    result = ran("tune", *arguments, "--out", out)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr
    assert not out.exists()


@pytest.mark.parametrize("command", ["simulate", "control"])
def test_a_spoilt_file_of_knobs_is_one_line_and_exit_code_2(command: str, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"threshold": 1}')
    folder = ("--folder", tmp_path / "run") if command == "control" else ()
    result = ran(command, "--scenario", tiny(tmp_path), "--knobs", tmp_path / "mine.json", *folder)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {tmp_path / 'mine.json'}: threshold")
    assert result.stderr.count("\n") == 1


def test_a_file_of_knobs_sets_the_rules_of_an_evaluation_and_stands_in_its_manifest(tmp_path: Path) -> None:
    scenario, out = tiny(tmp_path), tmp_path / "mine.json"
    assert ran("tune", PLAN_TRACKING, "--scenario", scenario, "--trials", 1, "--seeds", 1, "--out", out).exit_code == 0
    told = json.loads(out.read_text())
    told[PLAN_TRACKING]["knobs"]["headroom"] = 1.9
    out.write_text(json.dumps(told))
    named = ("--policy", PLAN_TRACKING, "--policy", PERFECT_FORECAST)
    evaluate = ("evaluate", "--scenario", scenario, *named, "--seeds", 2, "--no-bound", "--workers", 1)
    document = json.loads(ran(*evaluate, "--knobs", out, "--json").stdout)
    assert len(document["rows"]) == 4
    assert all(row["knobs"]["headroom"] == 1.9 for row in document["rows"]), "the mark is the rule, told what comes"
    for name in (PLAN_TRACKING, PERFECT_FORECAST):
        assert document["manifest"]["policies"][name]["knobs"]["headroom"] == 1.9


@pytest.mark.parametrize("command", [("tune",), ("simulate", "--tune"), ("evaluate", "--tune")], ids=lambda own: own[0])
def test_without_optuna_it_is_said_what_to_install(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knobs, "find_spec", lambda name: None)
    named = () if command[0] == "tune" else ("--policy", PLAN_TRACKING)
    result = ran(*command, "--scenario", tiny(tmp_path), *named)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "needs optuna: pip install 'poolpilot[tune]'" in result.stderr


def test_a_run_that_is_cut_off_keeps_what_it_has_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*arguments: Any) -> Iterator[tuple[str, TunedRule]]:
        yield from islice(whole(*arguments), 1)
        raise KeyboardInterrupt

    whole = together.tune_rules
    monkeypatch.setattr(together, "tune_rules", cut_off)
    out = tmp_path / "mine.json"
    quick = ("--scenario", tiny(tmp_path), "--trials", 1, "--seeds", 1, "--workers", 1, "--out", out)
    assert ran("tune", THRESHOLD, PLAN_TRACKING, *quick).exit_code != 0
    assert set(read_tuned(out, spec_of)) == {THRESHOLD}
