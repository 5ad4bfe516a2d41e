"""All gates in a row over a refit's folder: each verdict is kept as it comes, and what is not there cannot be told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from poolpilot.agents.checkpoint import load_checkpoint
from poolpilot.agents.planner.written import scenario_yaml
from poolpilot.agents.registry import BEFORE_TRIAL, OFF_POLICY, RANGES, TWIN, Registry, Verdict
from poolpilot.tests.agents.registry.candidates import a_checkpoint
from poolpilot.training.finetuning.gates.checking import Asked, check, held_out, not_reproduced
from poolpilot.training.finetuning.gates.days import DaysError
from poolpilot.training.finetuning.learned_from import LearnedFrom, learned_from

from .judged import WASTEFUL, a_scenario


@pytest.fixture(scope="module")
def refit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a refit leaves, with two stretches that were held out."""
    folder = tmp_path_factory.mktemp("refit")
    (folder / "days").mkdir()
    (folder / "refit.json").write_text(json.dumps({"reproduces": True, "verdict": "good"}))
    for n in (1, 2):
        scenario = a_scenario(300.0 + 30.0 * n)
        path = folder / "days" / f"held-out-{n}.yaml"
        path.write_text(scenario_yaml(scenario, path.parent, ["A recorded stretch."]))
    (folder / "days" / "fitted-1.yaml").write_text("never looked at")
    return folder


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.found(tmp_path / "registry", a_checkpoint(tmp_path / "old", name="old", **WASTEFUL))  # type: ignore[arg-type]


def test_held_out_stretches_are_read_and_fitted_ones_are_not(refit: Path) -> None:
    assert [day.name for day in held_out(refit)] == ["held-out-1", "held-out-2"]
    assert len({day.fingerprint for day in held_out(refit)}) == 2
    assert not_reproduced(refit) == ""


def test_the_twins_gate_is_run_and_its_evidence_kept(refit: Path, registry: Registry, tmp_path: Path) -> None:
    version = registry.add(a_checkpoint(tmp_path / "new", name="new"))
    steps: list[str] = []
    [found] = check(registry, version, Asked(refit, gates=(TWIN,), twin_seeds=2), steps.append)
    assert (found.verdict, found.candidate, found.incumbent) == (Verdict.PASS, version, registry.incumbent())
    assert registry.evidence(version)[TWIN].figures == json.loads(json.dumps(dict(found.figures)))
    assert steps[:2] == ["twin: held-out-1", "twin: held-out-2"]


def test_what_there_is_nothing_to_look_at_for_cannot_be_told(registry: Registry, tmp_path: Path) -> None:
    version = registry.add(a_checkpoint(tmp_path / "new", name="new"))
    found = {e.gate: e for e in check(registry, version, Asked())}
    assert list(found) == list(BEFORE_TRIAL)
    assert {e.verdict for e in found.values()} == {Verdict.UNKNOWN}
    assert found[TWIN].reason == found[RANGES].reason == "no refit to judge in"
    assert found[OFF_POLICY].lets_through
    assert not found[TWIN].lets_through


def test_a_twin_that_does_not_reproduce_the_record_proves_nothing(registry: Registry, tmp_path: Path) -> None:
    version = registry.add(a_checkpoint(tmp_path / "new", name="new"))
    folder = tmp_path / "refit"
    folder.mkdir()
    (folder / "refit.json").write_text(json.dumps({"reproduces": False, "verdict": "bad"}))
    [found] = check(registry, version, Asked(folder, gates=(TWIN,)))
    assert (found.verdict, found.reason) == (Verdict.UNKNOWN, "the refit's verdict is bad")


@pytest.mark.parametrize("content", ["{", "[]", '{"verdict": "good"}', None])
def test_a_folder_that_is_no_refits_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "refit.json").write_text(content)
    with pytest.raises(DaysError, match="refit") as caught:
        not_reproduced(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_card_tells_which_records_its_policy_was_learned_from(tmp_path: Path) -> None:
    plain = load_checkpoint(a_checkpoint(tmp_path / "plain"))
    told = {"record": ["ab12", "cd34"], "recorded_until_unix_s": 1.8e9}
    tuned = load_checkpoint(a_checkpoint(tmp_path / "tuned", card={"finetuned": told}))
    odd = load_checkpoint(
        a_checkpoint(tmp_path / "odd", card={"finetuned": {"record": 1, "recorded_until_unix_s": True}})
    )
    assert learned_from(plain) == learned_from(odd) == LearnedFrom()
    assert learned_from(tuned) == LearnedFrom(frozenset({"ab12", "cd34"}), 1.8e9)
