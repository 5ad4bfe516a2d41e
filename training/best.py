"""Keeps the best checkpoint of a training run, by the criterion on scenarios that are not trained on.

At every evaluation the policy is scored at a few prices of a miss, side by side, and counts as good as at the best of
them. At the end `settle` searches the price at which the best policy holds its targets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .. import __version__
from ..agents.blend import portfolio_as_json, rules_of
from ..agents.checkpoint import load_checkpoint, write_card
from ..agents.portfolio import make_rule
from ..agents.ppo.export import export_checkpoint
from ..agents.ppo.network import SetNetwork
from ..env.contract import Cluster, FloatArray, Policy
from .acting import ActingNetwork
from .config import TrainConfig
from .criterion import Outcome, loss
from .environments import training_worlds
from .judging import Judge, PricedFactory
from .learner import LearnerPolicy
from .miss_price import HALVINGS, HEADROOMS, Settled, settle
from .run_folder import IMITATION
from .seen_ranges import WORLDS, add_ranges
from .setting import bending_of

CHOOSING_PRICES: Final = (0.03, 0.1, 0.35, 1.2)
"""What an evaluation tries: always the same, so that evaluations can be compared."""
SETTLING_PRICES: Final = (0.06, 0.25, 1.0)
"""What `settle` begins with for each head-room: fewer prices on more days say more."""
BEST_WEIGHTS: Final = "best.safetensors"
BEST: Final = "best.json"
EVALUATIONS: Final = "evaluations.json"


@dataclass
class BestCheckpoint:
    """Scores a policy when asked, and keeps it when it is the best so far."""

    folder: Path
    """The run's."""
    name: str
    judge: Judge
    config: TrainConfig
    best_loss: float = float("inf")
    best_steps: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    imitated: dict[str, Any] | None = None
    """How imitation went, for the card."""

    def __post_init__(self) -> None:
        """Go on from the best that an earlier part of the run has left; score the rule that zeros stand for."""
        self._rules = rules_of(self.config.portfolio, make_rule)
        self.neutral = self.judge.of_rule(lambda cluster: self._rules(cluster)[0])
        if (self.folder / BEST).is_file():
            kept = json.loads((self.folder / BEST).read_text())
            self.best_loss, self.best_steps = float(kept["loss"]), int(kept["steps"])
        if (self.folder / IMITATION).is_file():
            self.imitated = json.loads((self.folder / IMITATION).read_text())
        if (self.folder / EVALUATIONS).is_file():
            self.history = json.loads((self.folder / EVALUATIONS).read_text())

    @property
    def checkpoint(self) -> Path:
        """The folder of the checkpoint, once one was written."""
        return self.folder / "best"

    @property
    def exports(self) -> bool:
        """Whether the run's policies can be shipped: the study's other networks and actions cannot."""
        return self.config.shape == "set" and self.config.history == 1 and self.config.acting != "free"

    def __call__(self, policy: LearnerPolicy, steps: int) -> float:
        """The policy's least loss over the prices tried; kept when it is the best so far."""
        outcomes = self.judge.by_price(self.making(policy), CHOOSING_PRICES)
        losses = [loss(outcome) for outcome in outcomes]
        at = int(np.argmin(losses))
        self.history.append(
            {
                "steps": steps,
                "loss": losses[at],
                "miss_price": CHOOSING_PRICES[at],
                "bill_ratio": outcomes[at].bill_ratio,
                "shortfall": outcomes[at].shortfall,
                "neutral_loss": loss(self.neutral),
            }
        )
        _write(self.folder / EVALUATIONS, self.history)
        if losses[at] < self.best_loss:
            self.best_loss, self.best_steps = losses[at], steps
            self._keep(policy, CHOOSING_PRICES[at])
        return losses[at]

    def settle(
        self,
        policy: LearnerPolicy,
        prices: Sequence[float] = SETTLING_PRICES,
        halvings: int = HALVINGS,
        headrooms: Sequence[float] = HEADROOMS,
        judge: Judge | None = None,
    ) -> Settled:
        """Choose between the best weights so far and the policy's own, the last ones, by the head-room and the price at which
        each holds its targets for least; load them into `policy` and write all of it on the card.

        A run whose misses are priced by multipliers holds one point of the frontier: every price gives the same.

        Args:
            judge: of more days than those that chose the best: a few misses more or less move the answer by percents.
        """
        days = judge or self.judge
        last = {name: value.clone() for name, value in policy.network.state_dict().items()}
        weights = {self.best_steps: load_file(self.folder / BEST_WEIGHTS)}
        if self.history and self.history[-1]["steps"] != self.best_steps:
            weights[int(self.history[-1]["steps"])] = last
        found: list[Settled] = []
        for steps, own in weights.items():
            policy.network.load_state_dict(own)
            for headroom in headrooms:
                outcomes = partial(days.by_price, self.making(policy, headroom))
                found.append(replace(settle(outcomes, prices, halvings), headroom=headroom, steps=steps))
        settled = min(found, key=lambda one: loss(one.chosen.outcome))
        policy.network.load_state_dict(weights[settled.steps])
        self.best_steps = settled.steps
        if self.exports:
            self._export(policy, settled.chosen.miss_price)
            card = load_checkpoint(self.checkpoint).card
            write_card(
                self.checkpoint,
                {
                    **card,
                    "headroom": settled.headroom,
                    "frontier": {"monotone": settled.monotone, "points": settled.table()},
                    "settled_among": [
                        {"steps": one.steps, "headroom": one.headroom, **one.chosen.as_json()} for one in found
                    ],
                    "settled_on_days": len(days.days) // len(days.names),
                },
            )
            met = training_worlds(self.config.scenarios, quickly=True)
            add_ranges(self.checkpoint, met, min(WORLDS, max(len(days.days), 1)))
        return settled

    def making(self, policy: LearnerPolicy, headroom: float = 1.0) -> PricedFactory:
        """The policy as it is now, for rollouts."""

        def make(cluster: Cluster, miss_price: FloatArray) -> Policy:
            bending = replace(bending_of(self.config.acting)(cluster, self._rules(cluster)), headroom=headroom)
            return ActingNetwork(bending, policy.network, miss_price, self.config.history, self.config.hold)

        return make

    def _keep(self, policy: LearnerPolicy, miss_price: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().clone().contiguous() for k, v in policy.network.state_dict().items()}
        written = self.folder / (BEST_WEIGHTS + ".part")
        save_file(tensors, written)
        written.replace(self.folder / BEST_WEIGHTS)
        if self.exports:
            self._export(policy, miss_price)
        _write(self.folder / BEST, {"loss": self.best_loss, "steps": self.best_steps})

    def _export(self, policy: LearnerPolicy, miss_price: float) -> None:
        assert isinstance(policy.network, SetNetwork)
        export_checkpoint(policy.network, self.checkpoint, self._card(miss_price))

    def _card(self, miss_price: float) -> dict[str, Any]:
        return {
            "name": self.name,
            "summary": f"PPO over a blend of rules, {self.best_steps} steps on {', '.join(self.config.scenarios)}",
            "poolpilot": __version__,
            "torch": torch.__version__,
            "miss_price": miss_price,
            "portfolio": portfolio_as_json(self.config.portfolio),
            "steps": self.best_steps,
            "loss": self.best_loss,
            "neutral": _as_json(self.neutral),
            "chosen_on": list(self.judge.names),
            "imitation": self.imitated,
            "training": asdict(self.config),
        }


def _as_json(outcome: Outcome) -> dict[str, float]:
    return {"bill_ratio": outcome.bill_ratio, "shortfall": outcome.shortfall, "loss": loss(outcome)}


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(path.name + ".part")
    written.write_text(json.dumps(content, indent=2) + "\n")
    written.replace(path)
