"""Training in miniature: it learns something, stops and goes on where it was, and leaves no pickles."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from poolpilot.agents.checkpoint import load_checkpoint
from poolpilot.agents.portfolio import policy_factory
from poolpilot.env.batch import ClusterBatch
from poolpilot.env.scenario import load_scenario
from poolpilot.training.averaging import Averaged
from poolpilot.training.best import BestCheckpoint
from poolpilot.training.config import TrainConfig
from poolpilot.training.days import CHOOSING_SEED
from poolpilot.training.judging import Judge
from poolpilot.training.ppo import new_model, policy_of, train
from poolpilot.training.run_files import STATE_WEIGHTS
from poolpilot.training.run_folder import TrainError, load_state, save_state
from poolpilot.training.setting import training_env, training_sources
from poolpilot.training.vec_env import ClusterVecEnv
from poolpilot.training.worlds import episode_of

from .clusters import tiny

UPDATE = 8 * 16


def a_config(folder: Path, **changes: object) -> TrainConfig:
    """Eight clusters, sixteen ticks an update."""
    config = TrainConfig(
        scenarios=(str(tiny(folder)),),
        steps=2 * UPDATE,
        clusters=8,
        steps_per_update=16,
        batch_size=64,
        epochs=2,
        width=16,
        bank=8,
        evaluate_every=UPDATE,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def nothing(steps: int, figures: dict[str, float]) -> None:
    """Nobody watches."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / STATE_WEIGHTS)


def a_learner(config: TrainConfig):  # type: ignore[no-untyped-def]
    return new_model(config, ClusterVecEnv(training_env(config, training_sources(config))))


class Run:
    """A finished run of a few hundred steps."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.folder, self.config = folder / "run", a_config(folder, **changes)
        self.shown: list[tuple[int, dict[str, float]]] = []
        self.keeper = self.a_keeper()
        self.policy = train(self.config, self.folder, False, lambda n, f: self.shown.append((n, f)), self.keeper)

    def a_keeper(self) -> BestCheckpoint:
        """Scores on one day."""
        judge = Judge([load_scenario(self.config.scenarios[0])], CHOOSING_SEED, 1)
        return BestCheckpoint(self.folder, "trained", judge, self.config)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("training"))


def test_training_moves_the_policy_and_says_how_it_goes(run: Run) -> None:
    steps = [n for n, _ in run.shown]
    assert steps == [UPDATE, 2 * UPDATE]
    for _, figures in run.shown:
        assert all(np.isfinite(value) for value in figures.values())
        assert 0.0 <= figures["attainment"] <= 1.0
        assert figures["attainment_interactive"] == figures["attainment"]  # there is nothing else in it
        assert "attainment_deferrable" not in figures
        assert figures["bill_of_reference"] > 0.0
    before = a_learner(run.config).policy.state_dict()
    after = run.policy.state_dict()
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert any(name.startswith("network") for name in moved)
    assert "log_std" in moved


def test_the_log_tells_reward_bill_attainment_vetoes_bends_and_blend(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(run.folder / "tensorboard"))
    log.Reload()
    told = set(log.Tags()["scalars"])
    assert {
        "cluster/reward",
        "cluster/bill_of_reference",
        "cluster/attainment",
        "cluster/attainment_interactive",
        "cluster/difficulty",
        "bends/headroom",
        "bends/tilt",
        "bends/hold",
        "blend/rule_0",
        "blend/rule_3",
        "evaluation/loss",
    } <= told
    weights = [log.Scalars(f"blend/rule_{k}")[-1].value for k in range(4)]
    assert sum(weights) == pytest.approx(1.0, abs=1e-5)


def test_a_run_folder_holds_no_pickles(run: Run) -> None:
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    logs = [path for path in files if path.name.startswith("events.out.tfevents")]
    assert len(logs) == 1
    assert {path.suffix for path in files if path not in logs} <= {".json", ".safetensors", ".onnx"}, files
    assert {"arguments.json", "state.json", "state.safetensors", "evaluations.json"} <= {p.name for p in files}
    for path in files:
        assert path.read_bytes()[:2] not in (b"PK", b"\x80\x04", b"\x80\x02"), f"{path} is a pickle or a zip"


def test_the_best_checkpoint_loads_and_decides(run: Run) -> None:
    checkpoint = load_checkpoint(run.folder / "best")
    history = json.loads((run.folder / "evaluations.json").read_text())
    assert checkpoint.name == "trained"
    assert checkpoint.card["loss"] == min(entry["loss"] for entry in history) == run.keeper.best_loss
    assert checkpoint.card["training"]["steps"] == run.config.steps
    assert len(checkpoint.card["portfolio"]) == 4
    scenario = load_scenario(run.config.scenarios[0])
    batch = ClusterBatch([episode_of(scenario, seed, 1.0) for seed in (1, 2)], scenario.tick_s)
    policy = policy_factory(str(run.folder / "best"))(batch.cluster)
    snapshot = batch.snapshot()
    action, _ = policy.decide(snapshot, batch.plan, {})
    outcome, applied, _ = batch.advance(action, snapshot)
    assert applied.replicas.shape == (2, 2)
    assert np.isfinite(outcome.bill.total_usd).all()


def test_a_run_goes_on_where_it_stopped(run: Run, tmp_path: Path) -> None:
    """The state survives the disk to the last bit, and more steps are added to those done."""
    model = a_learner(run.config)
    averaged = Averaged(policy_of(model).network, run.config.average)
    load_state(model, run.folder, averaged)
    assert averaged.seen == 3  # two updates and the end
    assert model.num_timesteps == 2 * UPDATE
    saved = {name.removeprefix("policy."): t for name, t in weights(run.folder).items() if name.startswith("policy.")}
    loaded = policy_of(model).state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    save_state(model, tmp_path, averaged)
    again = weights(tmp_path)
    assert again.keys() == weights(run.folder).keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights(run.folder).items())
    counters = [json.loads((folder / "state.json").read_text()) for folder in (tmp_path, run.folder)]
    assert counters[0] == counters[1]


def test_resuming_adds_steps_and_keeps_the_history(tmp_path: Path) -> None:
    first = Run(tmp_path, constraint="multipliers")
    scores, shown = [entry["loss"] for entry in first.keeper.history], []
    kept = json.loads((first.folder / "state.json").read_text())["multipliers"]
    assert kept["values"][0] != 0.3  # they have followed the misses
    keeper = first.a_keeper()
    assert (keeper.best_loss, keeper.best_steps) == (first.keeper.best_loss, first.keeper.best_steps)
    train(replace(first.config, steps=3 * UPDATE), first.folder, True, lambda n, _: shown.append(n), keeper)
    assert shown == [3 * UPDATE]
    assert json.loads((first.folder / "state.json").read_text())["timesteps"] == 3 * UPDATE
    history = json.loads((first.folder / "evaluations.json").read_text())
    assert [entry["loss"] for entry in history][: len(scores)] == scores
    assert [entry["steps"] for entry in history] == [0, UPDATE, 2 * UPDATE, 3 * UPDATE]


def never(policy: object, steps: int) -> float:
    """Nothing may be trained, let alone scored."""
    raise AssertionError("a refused run was started")


@pytest.mark.parametrize(
    ("changes", "resume", "words"),
    [
        ({}, False, "holds a run already"),
        ({"seed": 7}, True, "seed was 0, now 7"),
        ({"learning_rate": 1.0}, True, r"learning_rate was 0\.\d+, now 1\.0"),
        ({"scenarios": ("mixed-chat",)}, True, "scenarios was"),
    ],
    ids=["another run's folder", "other seed", "other rate", "other scenarios"],
)
def test_a_run_that_does_not_fit_its_folder_is_refused(
    run: Run, changes: dict[str, object], resume: bool, words: str
) -> None:
    with pytest.raises(TrainError, match=words) as refused:
        train(replace(run.config, **changes), run.folder, resume, nothing, never)  # type: ignore[arg-type]
    assert str(run.folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="nothing to resume"):
        train(a_config(tmp_path), tmp_path / "run", True, nothing, never)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.safetensors", b"not tensors"),
        ("state.json", b"{"),
        ("state.json", b"[]"),
        ("arguments.json", b"{"),
        ("state.json", b'{"timesteps": 3}'),
    ],
    ids=["weights", "counters", "a list", "arguments", "no optimizer"],
)
def test_a_broken_state_is_refused_in_one_line(run: Run, tmp_path: Path, file: str, content: bytes) -> None:
    for name in ("state.safetensors", "state.json", "arguments.json"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    (tmp_path / file).write_bytes(content)
    with pytest.raises(TrainError) as refused:
        train(run.config, tmp_path, True, nothing, never)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)
