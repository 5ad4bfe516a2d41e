import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from poolpilot.agents.planner.written import scenario_yaml
from poolpilot.cli import main

from ..training.finetuning.worlds import believed, true


def poolpilot(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of an hour of the world that differs, and both scenarios."""
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "believed.yaml").write_text(scenario_yaml(believed(3600.0), folder))
    (folder / "true.yaml").write_text(scenario_yaml(true(3600.0), folder))
    log = str(folder / "run" / "decisions.jsonl")
    told = poolpilot(
        "simulate", "--scenario", str(folder / "believed.yaml"), "--world", str(folder / "true.yaml"), "--record", log
    )
    assert told.exit_code == 0, told.output
    assert "360 ticks of two-pools under plan-tracking" in told.stdout
    return folder


def test_a_recorded_run_decides_the_same_again(folder: Path) -> None:
    told = poolpilot("control", "--replay", str(folder / "run"), "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["ticks"] == 360


def test_a_refit_is_written_and_told_and_its_exit_code_says_whether_to_go_on(folder: Path) -> None:
    out = folder / "refit"
    told = poolpilot(
        "finetune",
        "refit",
        str(folder / "run"),
        "--scenario",
        str(folder / "believed.yaml"),
        "--out",
        str(out),
        "--json",
    )
    document = json.loads(told.stdout)
    assert document == json.loads((out / "refit.json").read_text())
    assert told.exit_code == (0 if document["reproduces"] else 3)
    assert (out / "scenario.yaml").exists() == document["reproduces"]
    factor = document["time_factors"]["l40s"]
    assert factor["low"] <= 1.3 <= factor["high"]
    assert set(document["held_out"]["queue"]) == {"time_s", "measured", "before", "after"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such file"),
        (["redis://127.0.0.1:1/0", "run"], "a store's stream is read alone"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(folder: Path, arguments: list[str], said: str) -> None:
    told = poolpilot(
        "finetune", "refit", *arguments, "--scenario", str(folder / "believed.yaml"), "--out", str(folder / "no")
    )
    assert told.exit_code == 2
    assert said in told.stderr
    assert not (folder / "no").exists()


def test_a_world_without_a_record_is_refused(folder: Path) -> None:
    told = poolpilot("simulate", "--scenario", str(folder / "believed.yaml"), "--world", "mixed-chat")
    assert told.exit_code == 2
    assert "--world: only with --record" in told.stderr
