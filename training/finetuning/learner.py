"""Learns beside what serves: from the incumbent's weights, in the refitted twin and from recorded steps, near the incumbent.

Everything is in one folder: the arguments, the state to resume from, TensorBoard's figures, the scores, and in the end the
candidate, a checkpoint. Nothing here reaches traffic: a candidate goes through the gates.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure

from ... import __version__
from ...agents.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from ...agents.ppo.export import export_checkpoint, load_network
from ...env.scenario import Scenario
from ...env.spaces import SpaceLayout
from ...telemetry.learner_progress import LearnerProgress, LearnerState
from ..averaging import Averaged
from ..curriculum import LEVELS, LevelledWorlds
from ..days import CHOOSING_SEED
from ..environments import check_room
from ..judging import Judge
from ..ppo import LAST_RATE
from ..progress import Progress
from ..run_folder import load_state, prepare, save_state
from ..setting import measure_baselines, training_env
from ..suites import load_suite
from ..vec_env import ClusterVecEnv
from ..worlds import TrainingWorlds
from .anchored import COEFFICIENT_START, AnchoredPolicy, AnchoredPPO, adapted
from .bounds import Bounds, held_bytes
from .live import Transitions
from .recorded import RecordedSteps
from .scoring import Scoring
from .settings import AROUND_THE_TWIN, GOES_ON, FinetuneConfig

ANCHOR: Final = "anchor.json"
CANDIDATE: Final = "candidate"
ELSEWHERE: Final = {"train": 1, "stress": 4}
"""Suites on whose clusters and bad days a candidate must not have forgotten what the incumbent knows, and the days of each
scenario: the worse the days, the more of them tell as much."""
ELSEWHERE_SEED: Final = CHOOSING_SEED + 100_000
"""Of their first day: neither those that chose the incumbent, which flatter it, nor those of the gates."""
DISTANCE_SAMPLE: Final = 960
"""Observations of a rollout that the distance is measured on while learning."""

Tell = Callable[[LearnerProgress], None]
"""Told how far the learner has come, at every update."""


@dataclass(frozen=True)
class Learned:
    """What came of a run, or of a part of it."""

    candidate: Path | None
    """A checkpoint's folder; None if nothing better was found, or learning has not come to its end."""
    finished: bool
    reason: str
    """One line."""
    figures: dict[str, Any]
    """JSON-ready."""


def learn(
    config: FinetuneConfig,
    incumbent: Checkpoint,
    twin: Scenario,
    recorded: Transitions | None,
    folder: Path,
    resume: bool,
    bounds: Bounds,
    tell: Tell,
) -> Learned:
    """Learn until `config.steps`, or until a bound is reached; the state is kept at every update.

    Args:
        config: `scenarios` names the twin; `portfolio` and `width` are the incumbent's.
        incumbent: what it starts from and stays near.
        twin: the refitted scenario.
        recorded: steps with exploration, if there are any.
        folder: the run's.
        resume: go on with the run that is there.
        bounds: looked at at every update.
        tell: told of progress.

    Raises:
        TrainError: the folder holds another run, or none to resume.
        BoundError: memory has run out.
        CheckpointError: the incumbent has no weights to start from.
        ValueError: the twin has too many classes or pools to learn in.
    """
    torch.set_num_threads(1)
    prepare(config, folder, resume)
    source = TrainingWorlds(
        (twin,),
        AROUND_THE_TWIN,
        config.bank,
        config.seed,
        quickly=True,
        random_frac=config.rehearsal,
        difficulty=LEVELS[-1],
        tick_s=twin.tick_s,
    )
    check_room(source, SpaceLayout())
    worlds = LevelledWorlds({1.0: source}, twin.tick_s)
    started = load_network(incumbent)
    suites = ELSEWHERE if config.rehearsal > 0.0 else {}
    elsewhere = {suite: Judge(load_suite(suite).scenarios, ELSEWHERE_SEED, days) for suite, days in suites.items()}
    scoring = Scoring(folder, incumbent, config, Judge((twin,), CHOOSING_SEED, config.days), elsewhere)
    env = ClusterVecEnv(training_env(config, worlds), None, config.hold)
    model = _new_model(config, env)
    model.set_logger(configure(str(folder / "tensorboard"), ["tensorboard"]))
    policy = _policy_of(model)
    policy.start_from(started)
    averaged = Averaged(policy.network, config.average)
    if resume:
        load_state(model, folder, averaged)
        env.seed(config.seed + model.num_timesteps)
    else:
        save_state(model, folder, averaged)
    if recorded is not None and config.live_weight > 0.0:
        model.learn_more = RecordedSteps(recorded, config.live_weight, config.hold, config.seed, incumbent.miss_price)
    told = _Telling(config, incumbent, bounds, scoring, recorded, tell)
    if model.num_timesteps >= config.steps and _is_of(folder / CANDIDATE, config):
        reason = _bettered(config, scoring)
        told(LearnerState.DONE, model.num_timesteps, {}, reason)
        return Learned(folder / CANDIDATE, True, reason, told.figures())
    told(LearnerState.LEARNING, model.num_timesteps, {})
    if config.baseline and model.num_timesteps < config.steps:
        measure_baselines(config, worlds)
    anchoring = _Anchoring(config, folder, scoring, bounds, told)
    progress = Progress(config, folder, worlds, env, averaged, anchoring.take, scoring)
    left = config.steps - model.num_timesteps
    if left > 0:
        model.learn(left, callback=CallbackList([progress, anchoring]), reset_num_timesteps=False)
        save_state(model, folder, averaged)
    if model.num_timesteps < config.steps:
        reason = f"stopped after {model.num_timesteps} of {config.steps} steps: {anchoring.stopped}; {GOES_ON}"
        told(LearnerState.STOPPED, model.num_timesteps, {}, reason)
        return Learned(None, False, reason, told.figures())
    if scoring.probes is None:  # resumed after its last step
        scoring.probe(env.reset())
    with averaged.at_work(policy.network):
        scoring(policy, model.num_timesteps)
    scoring.settle()
    return _concluded(config, incumbent, scoring, folder, told, model.num_timesteps)


def _concluded(
    config: FinetuneConfig,
    incumbent: Checkpoint,
    scoring: Scoring,
    folder: Path,
    told: _Telling,
    steps: int,
) -> Learned:
    best, before = scoring.best, scoring.incumbent_score
    if not scoring.improved:
        reason = f"nothing better than the incumbent was found in the twin: its loss is {before.loss:.4f}"
        told(LearnerState.DONE, steps, {}, reason)
        return Learned(None, True, reason, told.figures())
    card = {name: value for name, value in incumbent.card.items() if name not in ("files", "observation_schema")}
    for stale in ("evaluation", "frontier", "slopes", "neutral", "imitation"):
        card.pop(stale, None)
    name = f"{incumbent.name.split('+')[0]}+tuned"
    export_checkpoint(
        scoring.best_network(),
        folder / CANDIDATE,
        {
            **card,
            "name": name,
            "summary": f"{incumbent.name}, fine-tuned for {best.steps} steps in the twin {', '.join(config.scenarios)}",
            "poolpilot": __version__,
            "torch": torch.__version__,
            "miss_price": best.miss_price,
            "headroom": incumbent.headroom * best.headroom,
            "steps": best.steps,
            "loss": best.loss,
            "finetuned": {
                "incumbent": config.incumbent,
                "record": list(config.record),
                "recorded_until_unix_s": config.recorded_until_unix_s,
                "incumbent_score": asdict(before),
                "score": asdict(best),
                "live_transitions": told.live,
                "kl_limit": config.kl_limit,
            },
            "training": asdict(config),
        },
    )
    load_checkpoint(folder / CANDIDATE)
    reason = _bettered(config, scoring)
    told(LearnerState.DONE, steps, {}, reason)
    return Learned(folder / CANDIDATE, True, reason, told.figures())


def _is_of(folder: Path, config: FinetuneConfig) -> bool:
    """Whether a candidate is there that so many steps came to: who asks again is handed the same, whatever the record has
    grown to since."""
    try:
        return bool(dict(load_checkpoint(folder).card["training"])["steps"] == config.steps)
    except (CheckpointError, KeyError, TypeError, ValueError):
        return False


def _bettered(config: FinetuneConfig, scoring: Scoring) -> str:
    best, before = scoring.best, scoring.incumbent_score
    return (
        f"loss {best.loss:.4f} after {best.steps} steps, the incumbent's {before.loss:.4f};"
        f" {best.kl:.2f} nats from it, at most {config.kl_limit:g}; head-room {best.headroom:g} times its"
    )


class _Telling:
    """Tells of progress, with the latest figures."""

    def __init__(
        self,
        config: FinetuneConfig,
        incumbent: Checkpoint,
        bounds: Bounds,
        scoring: Scoring,
        recorded: Transitions | None,
        tell: Tell,
    ) -> None:
        self._bounds, self._scoring, self._tell = bounds, scoring, tell
        self.live = 0 if recorded is None or config.live_weight <= 0.0 else int(recorded.explored.sum())
        self._now = LearnerProgress(
            LearnerState.LEARNING,
            incumbent.policy_hash,
            0,
            config.steps,
            time.time(),
            kl_limit=config.kl_limit,
            live_transitions=self.live,
        )

    def __call__(self, state: LearnerState, steps: int, figures: dict[str, float], detail: str = "") -> None:
        now = self._now
        self._now = replace(
            self._now,
            state=state,
            steps=steps,
            updated_unix_s=time.time(),
            loss=self._scoring.best.loss,
            incumbent_loss=self._scoring.incumbent_score.loss,
            cpu_s=self._bounds.spent_s,
            memory_bytes=held_bytes(),
            detail=detail,
            reward=figures.get("reward", now.reward),
            attainment=figures.get("attainment", now.attainment),
            kl=figures.get("kl", now.kl),
        )
        self._tell(self._now)

    def figures(self) -> dict[str, Any]:
        """For people and programs: the last look, and the scores."""
        now = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self._now).items()}
        scores = {"incumbent": asdict(self._scoring.incumbent_score), "best": asdict(self._scoring.best)}
        return {**now, "scores": scores}


class _Anchoring(BaseCallback):
    """Measures the distance from the incumbent, adapts its penalty, and stops where a bound is reached."""

    def __init__(self, config: FinetuneConfig, folder: Path, scoring: Scoring, bounds: Bounds, told: _Telling) -> None:
        super().__init__()
        self.config, self.folder, self.scoring, self.bounds, self.told = config, folder, scoring, bounds, told
        self.stopped = ""
        self._figures: dict[str, float] = {}
        kept = folder / ANCHOR
        self._coefficient = float(json.loads(kept.read_text())["coefficient"]) if kept.is_file() else COEFFICIENT_START

    def take(self, steps: int, figures: dict[str, float]) -> None:
        """What `Progress` tells, before this one's own look."""
        self._figures = figures

    def _on_training_start(self) -> None:
        model = self.model
        assert isinstance(model, AnchoredPPO)
        model.ent_coef = self._coefficient

    def _on_step(self) -> bool:
        return not self.stopped

    def _on_rollout_end(self) -> None:
        model = self.model
        assert isinstance(model, AnchoredPPO)
        policy = _policy_of(model)
        seen = np.asarray(model.rollout_buffer.observations, dtype=np.float32)
        flat = seen.reshape(-1, seen.shape[-1])
        self.scoring.probe(flat)
        some = torch.as_tensor(flat[:: max(len(flat) // DISTANCE_SAMPLE, 1)])
        with torch.no_grad():
            nats = policy.distance(policy.network, some)
        distance = float(nats.mean())
        if not policy.critic_only:
            self._coefficient = model.ent_coef = adapted(self._coefficient, distance, self.config.kl_target)
            written = self.folder / (ANCHOR + ".part")
            written.write_text(json.dumps({"coefficient": self._coefficient, "kl": distance}) + "\n")
            written.replace(self.folder / ANCHOR)
        self.logger.record("anchor/kl", distance)
        self.logger.record("anchor/kl_max", float(nats.max()))
        self.logger.record("anchor/coefficient", self._coefficient)
        self.logger.record("bounds/cpu_s", self.bounds.spent_s)
        self.logger.record("bounds/memory_mb", held_bytes() / 1e6)
        self.told(LearnerState.LEARNING, self.num_timesteps, {**self._figures, "kl": distance})
        self.stopped = self.bounds.reason_to_stop()


def _new_model(config: FinetuneConfig, env: ClusterVecEnv) -> AnchoredPPO:
    layout = env.clusters.layout
    return AnchoredPPO(
        AnchoredPolicy,
        env,
        learning_rate=lambda left: config.learning_rate * (LAST_RATE + (1.0 - LAST_RATE) * left),
        n_steps=config.steps_per_update,
        batch_size=min(config.batch_size, config.clusters * config.steps_per_update),
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        ent_coef=COEFFICIENT_START,
        max_grad_norm=0.5,
        target_kl=0.05,
        policy_kwargs={"max_classes": layout.max_classes, "max_pools": layout.max_pools, "width": config.width},
        seed=config.seed,
        device="cpu",
    )


def _policy_of(model: AnchoredPPO) -> AnchoredPolicy:
    policy = model.policy
    assert isinstance(policy, AnchoredPolicy)
    return policy
