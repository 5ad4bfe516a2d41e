"""Keeps the best checkpoint of a training run, by a score on worlds that are not trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from .. import __version__
from ..agents.blend import DEFAULT_PORTFOLIO, portfolio_as_json
from ..agents.checkpoint import load_checkpoint
from ..agents.portfolio import PLAN_TRACKING, PolicyFactory, policy_factory
from ..agents.ppo.export import export_checkpoint
from ..agents.ppo.policy import MaskedSetPolicy
from ..env.batch import Episode
from ..env.scenario import load_scenario
from .ppo import TrainConfig
from .rollout import RunResult, rollout
from .worlds import episode_of

EVALUATION_SEED = 2_000_000
"""Seeds from here on choose the best checkpoint; they are neither trained on, nor tuned on, nor scored later."""


def score(results: Sequence[RunResult], episodes: Sequence[Episode], miss_price: float) -> float:
    """Minus the bill over the usual bill, minus the price of misses: the objective of `env.reward`, per tick."""
    values = []
    for result, episode in zip(results, episodes, strict=True):
        ticks = len(result.replicas)
        bill = float(result.bill.total_usd) / (episode.reference_usd * ticks)
        missed = np.nan_to_num(1.0 - result.attainment) / np.maximum(1.0 - result.attainment_wanted, 1e-3)
        values.append(-bill - miss_price * float(missed.sum()))
    return float(np.mean(values))


@dataclass
class BestCheckpoint:
    """Scores a policy when asked, and keeps it when it is the best so far."""

    folder: Path
    name: str
    scenarios: Sequence[str]
    seeds: int
    miss_price: float
    config: TrainConfig
    best_score: float = float("-inf")
    best_steps: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Go on from a best checkpoint that an earlier part of the run has left."""
        self._episodes: list[tuple[float, list[Episode]]] = []
        for name in self.scenarios:
            scenario = load_scenario(name)
            drawn = [episode_of(scenario, EVALUATION_SEED + i, self.miss_price) for i in range(self.seeds)]
            self._episodes.append((scenario.tick_s, drawn))
        self.rule_score = self._scored(policy_factory(PLAN_TRACKING))
        if (self.folder / "card.json").is_file():
            card = load_checkpoint(self.folder).card
            self.best_score, self.best_steps = float(card["score"]), int(card["steps"])
        if self._evaluations.is_file():
            self.history = json.loads(self._evaluations.read_text())

    def __call__(self, policy: MaskedSetPolicy, steps: int) -> float:
        """The policy's score; exported to `folder` when it is the best."""
        candidate = self.folder.with_name(self.folder.name + ".candidate")
        self._export(policy, candidate, steps, score=None)
        value = self._scored(policy_factory(str(candidate), miss_price=self.miss_price))
        self.history.append({"steps": steps, "score": value, "rule_score": self.rule_score})
        self._evaluations.write_text(json.dumps(self.history, indent=2) + "\n")
        if value > self.best_score:
            self.best_score, self.best_steps = value, steps
            self._export(policy, self.folder, steps, score=value)
        return value

    @property
    def _evaluations(self) -> Path:
        return self.folder.parent / "evaluations.json"

    def _scored(self, make: PolicyFactory) -> float:
        return float(
            np.mean([score(rollout(drawn, make, tick_s), drawn, self.miss_price) for tick_s, drawn in self._episodes])
        )

    def _export(self, policy: MaskedSetPolicy, folder: Path, steps: int, score: float | None) -> None:
        card = {
            "name": self.name,
            "summary": f"PPO over a blend of rules, {steps} steps on {', '.join(self.config.scenarios)}",
            "poolpilot": __version__,
            "miss_price": self.miss_price,
            "portfolio": portfolio_as_json(DEFAULT_PORTFOLIO),
            "steps": steps,
            "score": score,
            "rule_score": self.rule_score,
            "evaluated_on": list(self.scenarios),
            "training": asdict(self.config),
        }
        export_checkpoint(policy.network, folder, card)
