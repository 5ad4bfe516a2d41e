"""`poolpilot finetune run` as a user runs it: processes of its own, in a folder that is not the repository's, stopped and gone on
with, from a recorded day to a candidate with its evidence. Nothing that it does decides."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from poolpilot.agents.registry import BEFORE_TRIAL, OFF_POLICY, SUITES, Registry, Verdict
from poolpilot.agents.registry.state import TRIAL
from poolpilot.commands.finetuning.begun import REFITTED
from poolpilot.commands.finetuning.stepping import LOCK
from poolpilot.telemetry.learner_progress import PROGRESS_FILE, LearnerState, read_progress
from poolpilot.training.suites.suite import DATA_VARIABLE

from ..training.clusters import TINY
from ..training.finetuning.incumbents import a_registry

LEARNING = (
    *("--clusters=16", "--steps-per-update=8", "--bank=4", "--days=1", "--critic-first=0"),
    *("--evaluate-every=100000", "--learning-rate=0.02", "--rehearsal=0"),
)
CHECKING = ("--check-option=--suite-seeds=2", "--check-option=--twin-seeds=4")
BELIEVED = {
    "duration_s: 120": "duration_s: 1900",
    "rate_per_s: 4.0": "rate_per_s: 5.0\n      arrivals: gamma\n      cv: 0.3",
    "max_num_seqs: 4": "max_num_seqs: 2",
    "max: 3, start: 1": "max: 10, start: 6",
    "classes:\n  chat:\n    target": "guard: {scale_down_cooldown_s: 0, scale_down_step: 9, scale_up_step: 9}\nclasses:\n  chat:\n    target",
}
"""A fleet of some replicas, so that a head-room can be seen."""
STEPS, MANY = 768, 200_000
PATIENCE_S = 900.0
"""A busy machine is no failure."""
AS_ANY_PROCESS = "import os\nos.setpriority = os.sched_setscheduler = lambda *_: 0\n"
"""Of all that is started: beside busy tests the lowest priority is none at all."""


@dataclass
class Desk:
    """Where somebody works: scenario files, a record, a registry."""

    folder: Path

    @property
    def registry(self) -> Registry:
        return Registry(self.folder / "registry")

    @property
    def log(self) -> Path:
        return self.folder / "run" / "decisions.jsonl"

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "poolpilot", *arguments]
        path = os.pathsep.join([str(self.folder / "as-any-process"), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | {DATA_VARIABLE: "nowhere", "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.begin(*arguments)
        out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, err

    def finetune(self, *more: str, record: str = "run", out: str = "tuned", steps: int = STEPS) -> list[str]:
        common = [
            "--scenario",
            "believed.yaml",
            "--registry",
            "registry",
            "--out",
            out,
            "--steps",
            str(steps),
            "--json",
        ]
        learning = [word for option in LEARNING for word in ("--learn-option", option)]
        return ["finetune", "run", record, *common, *learning, *more]

    def unmoved(self) -> bool:
        """Whether the first version decides and nobody is tried."""
        state = self.registry.state()
        return (state.incumbent, state.on_trial, state.generation) == (self.registry.history()[0].version, "", 1)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Half an hour of a pool that is slower than believed, under a rule; a checkpoint that wastes decides."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    (desk.folder / "as-any-process").mkdir()
    (desk.folder / "as-any-process" / "sitecustomize.py").write_text(AS_ANY_PROCESS)
    believed = TINY
    for was, now in BELIEVED.items():
        assert was in believed
        believed = believed.replace(was, now)
    (desk.folder / "believed.yaml").write_text(believed)
    (desk.folder / "true.yaml").write_text(
        believed.replace("    gpu: L40S-48GB", "    gpu: L40S-48GB\n    time_factor: 1.2")
    )
    (desk.folder / "usual.yaml").write_text(TINY)
    suite = "schema: 1\nname: {}\nsummary: A usual day.\nscenarios:\n  - {{path: usual.yaml{}}}\n"
    (desk.folder / "mine.yaml").write_text(suite.format("mine", ""))
    (desk.folder / "half.yaml").write_text(suite.format("half", ", needs: data"))
    a_registry(desk.folder)
    code, out, err = desk.run(
        *("simulate", "--scenario", "believed.yaml", "--world", "true.yaml", "--record", "run/decisions.jsonl")
    )
    assert code == 0, err
    assert "190 ticks of tiny" in out
    return desk


def stopped_while_it_learns(desk: Desk, by: signal.Signals, *arguments: str) -> tuple[int, dict[str, object]]:
    """How a run ends that is told to stop once it has learned something."""
    process = desk.begin(*desk.finetune(*arguments, steps=MANY))
    progress, until = desk.folder / "tuned" / "learned" / PROGRESS_FILE, time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        now = read_progress(progress)
        if now is not None and now.state is LearnerState.LEARNING and now.steps > 0:
            process.send_signal(by)
            break
        time.sleep(0.05)
    else:
        process.terminate()  # and its step with it
    out, err = process.communicate(timeout=PATIENCE_S)
    assert out, err
    return process.returncode, json.loads(out)


@pytest.fixture(scope="module")
def stopped(desk: Desk) -> tuple[int, dict[str, object]]:
    return stopped_while_it_learns(desk, signal.SIGTERM)


def test_it_is_stopped_with_its_step_and_leaves_nothing_half(
    desk: Desk, stopped: tuple[int, dict[str, object]]
) -> None:
    code, said = stopped
    assert code == 128 + signal.SIGTERM
    assert said == {
        "step": "learn",
        "reason": "stopped by SIGTERM at `learn`: the incumbent goes on, and so does the same command",
    }
    progress = read_progress(desk.folder / "tuned" / "learned" / PROGRESS_FILE)
    assert progress is not None
    assert progress.state is LearnerState.STOPPED  # it kept its state, and was not killed
    assert progress.detail.endswith("asked to by SIGTERM; --resume goes on")
    assert desk.unmoved()
    assert len(desk.registry.versions()) == 1


@pytest.fixture(scope="module")
def ran(desk: Desk, stopped: tuple[int, dict[str, object]]) -> tuple[int, dict[str, object], str]:
    """The same command again, to its end."""
    code, out, err = desk.run(*desk.finetune("--suite", "mine.yaml", *CHECKING))
    assert out, err
    return code, json.loads(out), err


def test_it_goes_on_and_ends_in_a_candidate_with_its_evidence(
    desk: Desk, ran: tuple[int, dict[str, object], str]
) -> None:
    code, said, err = ran
    assert code == 0, said
    assert "the twin is refitted already" in " ".join(err.split())
    version = str(said["version"])
    evidence = desk.registry.evidence(version)
    assert tuple(evidence) == BEFORE_TRIAL
    assert {gate: own.verdict for gate, own in evidence.items()} == {
        gate: Verdict.UNKNOWN if gate == OFF_POLICY else Verdict.PASS for gate in BEFORE_TRIAL
    }
    assert said["lacks"] == []
    told = [(own["gate"], own["verdict"], own["reason"]) for own in said["evidence"]]  # type: ignore[attr-defined]
    assert told == [(own.gate, own.verdict, own.reason) for own in evidence.values()]
    assert f"have it tried beside the incumbent: poolpilot policies trial {version}" in str(said["reason"])


def test_nothing_decides_because_of_it(desk: Desk, ran: tuple[int, dict[str, object], str]) -> None:
    assert desk.unmoved()
    assert {own.version for own in desk.registry.versions()} == {desk.registry.incumbent(), ran[1]["version"]}


def test_again_it_comes_to_the_same_though_the_record_has_grown_and_a_gate_that_cannot_tell_ends_it(
    desk: Desk, ran: tuple[int, dict[str, object], str]
) -> None:
    refit = (desk.folder / "tuned" / "refit" / REFITTED).stat().st_mtime_ns
    with desk.log.open("a") as log:
        log.write('{"cut": ')
    code, out, err = desk.run(*desk.finetune("--gate", "suites", "--suite", "half.yaml", "--trial"))
    said = json.loads(out)
    assert code == 1, err
    assert said["version"] == ran[1]["version"]
    assert (desk.folder / "tuned" / "refit" / REFITTED).stat().st_mtime_ns == refit
    assert said["lacks"] == [
        f"suites: cannot tell: not whole: half/usual: no data folder at nowhere; say where it is by --data or {DATA_VARIABLE}"
    ]
    assert said["reason"] == f"{said['version']} is not let through: {said['lacks'][0]}"
    assert desk.registry.evidence(said["version"])[SUITES].verdict is Verdict.UNKNOWN
    assert desk.unmoved(), "not even tried"


def test_a_twin_that_does_not_do_the_record_again_ends_it(desk: Desk) -> None:
    billed = desk.folder / "billed" / "decisions.jsonl"
    billed.parent.mkdir()
    with billed.open("w") as log:
        for line in desk.log.read_text().splitlines()[:190]:
            document = json.loads(line)
            if document.get("since"):  # half as much again as machines of this price cost
                document["since"]["usd"] = [[1.5 * usd for usd in row] for row in document["since"]["usd"]]
            log.write(json.dumps(document) + "\n")
    code, out, err = desk.run(*desk.finetune(record="billed", out="refused"))
    said = json.loads(out)
    assert code == 3, err
    assert said["step"] == "refit"
    assert "the refitted twin does not reproduce the record" in said["reason"]
    report = json.loads((desk.folder / "refused" / "refit" / "refit.json").read_text())
    assert any(own.startswith("bill: ") for own in report["held_out"]["after"]["reasons"])
    assert sorted(own.name for own in (desk.folder / "refused").iterdir()) == [LOCK, "refit"]
    assert [own.name for own in (desk.folder / "refused" / "refit").iterdir()] == ["refit.json"]
    assert desk.unmoved()


def test_once_its_gates_let_it_through_it_is_on_trial_if_asked_and_the_incumbent_decides_on(
    desk: Desk, ran: tuple[int, dict[str, object], str]
) -> None:
    asked = desk.finetune("--gate", "suites", "--suite", "mine.yaml", *CHECKING, "--trial")
    incumbent = desk.registry.incumbent()
    code, out, err = desk.run(*asked)
    assert code == 0, err
    said = json.loads(out)
    assert (said["step"], said["version"], said["lacks"]) == ("trial", ran[1]["version"], [])
    assert f"{said['version']} is on trial: a sidecar with --policy registry:" in said["reason"]
    state = desk.registry.state()
    assert (state.incumbent, state.on_trial) == (incumbent, said["version"])
    assert [event.version for event in desk.registry.history() if event.kind == TRIAL] == [said["version"]]
