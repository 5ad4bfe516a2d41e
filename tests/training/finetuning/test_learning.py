"""A learner in miniature: it betters an incumbent that wastes, stays near it, stops at its bounds and goes on."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from poolpilot.agents.checkpoint import load_checkpoint
from poolpilot.agents.registry import Registry
from poolpilot.commands.finetune import finetune
from poolpilot.env.scenario import load_scenario
from poolpilot.telemetry.learner_progress import PROGRESS_FILE, LearnerState, read_progress
from poolpilot.training.finetuning.scoring import FORGOTTEN, Scoring
from poolpilot.training.finetuning.settings import FinetuneConfig
from poolpilot.training.judging import Judge

from ..clusters import tiny
from .incumbents import QUICK, a_registry

pytestmark = pytest.mark.usefixtures("as_any_process")


def learn(folder: Path, *options: str, quick: Sequence[str] = QUICK) -> Result:
    arguments = ["learn", "--scenario", str(folder / "tiny.yaml"), "--registry", str(folder / "registry")]
    return CliRunner().invoke(finetune, [*arguments, "--out", str(folder / "out"), *quick, *options])


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("learned")
    tiny(folder)
    a_registry(folder)
    result = learn(folder)
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def test_it_betters_an_incumbent_that_wastes_and_stays_near_it(learned: tuple[Path, dict[str, object]]) -> None:
    folder, said = learned
    scores = json.loads((folder / "out" / "scores.json").read_text())
    assert scores["best"]["loss"] < scores["incumbent"]["loss"]
    assert 0.0 < scores["best"]["kl"] <= 5.0
    assert said["finished"] is True


def test_what_would_be_best_and_has_forgotten_the_rest_is_not_kept(tmp_path: Path) -> None:
    tiny(tmp_path)
    registry = a_registry(tmp_path)
    incumbent = registry.checkpoint(registry.incumbent())
    config = FinetuneConfig(portfolio=incumbent.portfolio, headroom_factors=(0.85, 1.0))
    days = Judge((load_scenario(tmp_path / "tiny.yaml"),), 1, 2)
    free = Scoring(tmp_path / "free", incumbent, config, days, {"other": days})
    free.settle()
    assert free.improved
    assert free.best.elsewhere["other"] == pytest.approx(free.best.loss), "the same days"
    held = Scoring(tmp_path / "held", incumbent, config, days, {"other": days})
    known = free.best.elsewhere["other"] / (1.0 + 2.0 * FORGOTTEN)
    held.incumbent_score = replace(held.incumbent_score, elsewhere={"other": known})
    held.settle()
    assert not held.improved
    assert held.history[-1].elsewhere == free.best.elsewhere


def test_other_clusters_are_rehearsed_and_looked_at(tmp_path: Path) -> None:
    tiny(tmp_path)
    a_registry(tmp_path)
    result = learn(tmp_path, "--rehearsal", "0.5", "--steps", "64", "--clusters", "4")
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert set(scores["incumbent"]["elsewhere"]) == {"train", "stress"}
    assert min(scores["incumbent"]["elsewhere"].values()) > 0.5


def test_its_candidate_is_registered_and_does_not_decide(learned: tuple[Path, dict[str, object]]) -> None:
    folder, said = learned
    registry = Registry(folder / "registry")
    assert {own.version for own in registry.versions()} == {registry.incumbent(), said["version"]}
    assert registry.incumbent() != said["version"]
    card = registry.checkpoint(str(said["version"])).card
    assert card["finetuned"]["incumbent"] == registry.incumbent()
    assert card["files"] == load_checkpoint(folder / "out" / "candidate").card["files"]


def test_its_progress_stands_where_the_sidecar_looks(learned: tuple[Path, dict[str, object]]) -> None:
    folder, said = learned
    progress = read_progress(folder / "registry" / PROGRESS_FILE)
    assert progress is not None
    assert progress.state is LearnerState.DONE
    assert progress.candidate == said["version"]
    assert progress.steps >= 768
    assert list((folder / "out" / "tensorboard").iterdir())


def test_it_goes_on_only_from_the_same_incumbent(learned: tuple[Path, dict[str, object]]) -> None:
    folder, said = learned
    registry = Registry(folder / "registry")
    before = registry.incumbent()
    registry.promote(str(said["version"]), before, force="for this test")
    refused = learn(folder, "--resume")
    registry.rollback("for this test")
    assert refused.exit_code == 2
    assert f"incumbent was '{before}'" in refused.output


def test_a_candidate_is_no_further_than_the_bound(tmp_path: Path) -> None:
    tiny(tmp_path)
    a_registry(tmp_path)
    result = learn(tmp_path, "--kl-limit", "0.05", "--kl-target", "0.05", "--steps", "384")
    assert result.exit_code == 0, result.output
    history = json.loads((tmp_path / "out" / "scores.json").read_text())["history"]
    learned = [own for own in history if own["share"] > 0.0]
    assert learned
    assert all(0.0 < own["kl"] <= 0.05 for own in learned)
    assert any(own["share"] < 1.0 for own in learned)


def test_an_incumbent_that_wastes_is_bettered_by_less_headroom_alone(tmp_path: Path) -> None:
    tiny(tmp_path)
    registry = a_registry(tmp_path)
    result = learn(tmp_path, "--learning-rate", "1e-6", "--steps", "128")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert "head-room 0.85 times its" in said["reason"]
    card = registry.checkpoint(said["version"]).card
    assert card["headroom"] == pytest.approx(0.85)
    assert card["finetuned"]["score"]["loss"] < card["finetuned"]["incumbent_score"]["loss"]


def test_it_stops_when_its_processor_time_is_spent_and_goes_on_when_told(tmp_path: Path) -> None:
    tiny(tmp_path)
    registry = a_registry(tmp_path)
    stopped = learn(tmp_path, "--cpu-seconds", "1")
    assert stopped.exit_code == 0, stopped.output
    said = json.loads(stopped.stdout)
    assert said["finished"] is False
    assert "CPU seconds are spent; --resume goes on" in said["reason"]
    assert said["candidate"] is None
    progress = read_progress(registry.folder / PROGRESS_FILE)
    assert progress is not None
    assert progress.state is LearnerState.STOPPED
    assert learn(tmp_path).exit_code == 2
    gone_on = learn(tmp_path, "--resume")
    assert gone_on.exit_code == 0, gone_on.output
    assert json.loads(gone_on.stdout)["finished"] is True


def test_memory_that_cannot_do_is_refused_at_once(tmp_path: Path) -> None:
    tiny(tmp_path)
    a_registry(tmp_path)
    refused = learn(tmp_path, "--memory-mb", "100")
    assert refused.exit_code == 2
    assert refused.output.splitlines()[-1].endswith("--memory-mb 100: wanted 600 or more")
