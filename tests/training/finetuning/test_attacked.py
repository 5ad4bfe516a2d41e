"""An attacker's trace of lengths that can be served and are none of the service's: what is learned from it does not get through.

Long requests even out how many are under way, so the less head-room is needed the longer they are: a twin of such traffic teaches
to keep none, which usual traffic, short and in bursts, does not bear.
"""

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from poolpilot.agents.registry import SUITES, TWIN, Evidence, Registry, Verdict, wanting
from poolpilot.cli import main
from poolpilot.env.scenario import load_scenario
from poolpilot.env.workload.load import load_workload

from ..clusters import TINY
from .incumbents import QUICK, a_registry

USUAL = {
    "duration_s: 120": "duration_s: 1900",
    "rate_per_s: 4.0": "rate_per_s: 6.0\n      arrivals: gamma\n      cv: 3.0",
    "max_num_seqs: 4": "max_num_seqs: 2",
    "max: 3, start: 1": "max: 40, start: 12",
    "ttft_s: 1.0": "ttft_s: 0.3",
    "attainment: 0.9": "attainment: 0.97",
}
"""Bursts of short requests that must be answered at once."""
LONGER = 2.5
PIECES = 6


pytestmark = pytest.mark.usefixtures("as_any_process")


def poolpilot(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result


def attacked(folder: Path) -> Path:
    """The usual day, whose answers are longer but on what will be held out."""
    usual = load_scenario(folder / "usual.yaml")
    day = load_workload(usual.workload, usual.class_names, usual.duration_s, 3, usual.base_dir)
    with (folder / "trace.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("arrival_s", "input_tokens", "output_tokens", "class"))
        for at_s, prompt, output in zip(day.arrival_s, day.prompt_tokens, day.output_tokens, strict=True):
            piece = int(at_s * PIECES / usual.duration_s)
            rows.writerow((f"{at_s:.3f}", prompt, round(output * (1.0 if piece % 3 == 2 else LONGER)), "chat"))
    text = (folder / "usual.yaml").read_text()
    path = folder / "attacked.yaml"
    path.write_text(text[: text.index("workload:")] + "workload: {kind: trace, path: trace.csv, format: plain}\n")
    return path


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Evidence]]:
    """What the gates find of the candidate that comes of it."""
    folder = tmp_path_factory.mktemp("attacked")
    text = TINY
    for was, now in USUAL.items():
        assert was in text
        text = text.replace(was, now)
    (folder / "usual.yaml").write_text(text)
    (folder / "mine.yaml").write_text(
        "schema: 1\nname: mine\nsummary: Usual days.\nscenarios:\n  - {path: usual.yaml}\n"
    )
    registry = a_registry(folder, headroom=0.3)
    usual, run, refit = str(folder / "usual.yaml"), folder / "run", str(folder / "refit")
    poolpilot(
        *("simulate", "--scenario", usual, "--world", str(attacked(folder)), "--record", str(run / "decisions.jsonl"))
    )
    poolpilot("finetune", "refit", str(run), "--scenario", usual, "--out", refit)
    common = ("--registry", str(registry.folder))
    twin = ("--scenario", str(folder / "refit" / "scenario.yaml"), "--out", str(folder / "learned"))
    version = json.loads(poolpilot("finetune", "learn", *twin, *common, *QUICK).stdout)["version"]
    suite = ("--gate", "suites", "--suite", str(folder / "mine.yaml"), "--suite-seeds", "2")
    poolpilot("policies", "check", version, *common, "--refit", refit, "--gate", "twin", *suite, code=1)
    return folder, Registry(registry.folder).evidence(version)


def test_the_refit_tells_that_lengths_are_none_of_those_believed(
    judged: tuple[Path, dict[str, Evidence]],
) -> None:
    report = json.loads((judged[0] / "refit" / "refit.json").read_text())
    found = report["traffic"]["chat"]
    assert found["output_tokens"]["low"] > 1.5 * found["output_tokens"]["believed"]
    assert found["prompt_tokens"]["value"] == pytest.approx(found["prompt_tokens"]["believed"], rel=0.1)


def test_it_is_turned_down_on_usual_days_and_let_through_by_nobody_else(
    judged: tuple[Path, dict[str, Evidence]],
) -> None:
    evidence = judged[1]
    found = evidence[SUITES]
    assert any(
        own.startswith("suites: fail: mine: loss +") for own in wanting(evidence, found.candidate, found.incumbent)
    )
    assert not evidence[TWIN].lets_through, evidence[TWIN].reason
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith("mine: loss +")
    (usual,) = found.figures["mine"]["by_scenario"]
    assert usual["shortfall"] > usual["shortfall_incumbent"] + 0.01
