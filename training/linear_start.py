"""A start for the network that is better than the first rule: the few numbers that matter most, searched as the rules' knobs are.

Before the first step of PPO the network answers the same at every tick, but for what the linear layers past it add: a
head-room, another for work that may wait, its admission, how spot pools are favoured, how far each rule is trusted. Optuna looks for those of least loss in random worlds. It is what a tuned blend of the rules comes to; what PPO
makes of it beyond that is learned from what is seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
import torch

from ..agents.blend import portfolio_as_json, rules_of
from ..agents.portfolio import make_rule
from ..agents.ppo.network import SetNetwork
from ..env.bending import Bending
from ..env.codec import CLASS_FEATURES, POOL_FEATURES, observation_schema
from ..env.codec.outputs import DOUBT
from .acting import ActingNetwork
from .clusters import random_scenario
from .config import TrainConfig
from .criterion import HELD, SHORTFALL_PRICE, Outcome, mean_outcome
from .judging import Judge, PricedFactory
from .learner import LearnerPolicy
from .networks import HistoryNetwork
from .run_folder import LINEAR_START

SEARCH_SEED: Final = 2**33
"""Random clusters from here on are searched on; training and suites draw theirs elsewhere."""
WORLDS: Final = 64
MOST_SHORT: Final = 0.04
"""A world's shortfall counts to at most this: one that nobody can hold must not decide."""
NO_HOPE: Final = 0.04
"""A trial that is worse by this than the best one on the first half of the worlds is ended."""

CLASS_PARTS: Final = {"headroom": (0, "there"), "deferrable_headroom": (0, "deferrable"), "admit": (1, "there")}
"""Output of a class and the feature that it is proportional to."""
POOL_PARTS: Final = {
    "spot_replicas": (0, "spot"),
    "spot_tilt": (1, "spot"),
}
TRUSTS: Final = ("trust_1", "trust_2", "trust_3")
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "headroom": (-0.25, 0.15),
    "deferrable_headroom": (-0.2, 0.6),
    "admit": (-0.6, 0.1),
    "spot_replicas": (-0.2, 0.4),
    "spot_tilt": (-0.5, 0.3),
    "trust_1": (0.0, 0.6),
    "trust_2": (0.0, 1.0),
    "trust_3": (0.0, 0.6),
}
"""What is searched: outputs before the tanh, and the weights of the other rules. Nothing that would move every scale-down or
every batch: as constants those only cost."""
LEAST_TRUST: Final = 0.02
"""A smaller weight is none."""


@dataclass(frozen=True)
class LinearStart:
    """What a search came to."""

    numbers: Mapping[str, float]
    loss: float
    neutral_loss: float
    """Of the first rule as it is, on the same worlds."""
    outcome: Outcome
    neutral: Outcome
    trials: int
    worlds: int

    def as_json(self) -> dict[str, Any]:
        """For the card."""
        return {
            "numbers": dict(self.numbers),
            "worlds": self.worlds,
            "trials": self.trials,
            "loss": self.loss,
            "neutral_loss": self.neutral_loss,
            "bill_ratio": self.outcome.bill_ratio,
            "shortfall": self.outcome.shortfall,
            "neutral_bill_ratio": self.neutral.bill_ratio,
            "neutral_shortfall": self.neutral.shortfall,
        }


def put(network: SetNetwork, numbers: Mapping[str, float]) -> None:
    """Make the network answer by these numbers alone: its last layers are zeroed.

    Raises:
        KeyError: there is no such number.
    """
    if unknown := set(numbers) - set(RANGES):
        raise KeyError(f"{', '.join(sorted(unknown))}: wanted {', '.join(RANGES)}")
    with torch.no_grad():
        for last in network.last_layers():
            last.weight.zero_()
            last.bias.zero_()
        for straight, parts, names in (
            (network.class_straight, CLASS_PARTS, CLASS_FEATURES),
            (network.pool_straight, POOL_PARTS, POOL_FEATURES),
        ):
            straight.weight.zero_()
            for name, (output, feature) in parts.items():
                straight.weight[output, names.index(feature)] = numbers.get(name, 0.0)
        network.whole_head.bias.copy_(torch.tensor([_output_of(numbers.get(name, 0.0)) for name in TRUSTS]))


def _output_of(weight: float) -> float:
    """Before the tanh, the output of trust that gives a rule this weight."""
    if weight < LEAST_TRUST:
        return 0.0
    return float(np.arctanh(min(DOUBT + (1.0 - DOUBT) * weight, 0.999)))


def search(
    making: Callable[[SetNetwork], PricedFactory],
    trials: int,
    seed: int,
    worlds: int,
    on_trial: Callable[[], None] | None = None,
) -> LinearStart:
    """The numbers of least loss in random worlds; the first trial is the first rule as it is, the next ones half
    trust each other rule.

    Args:
        making: a policy out of a network, for rollouts.
        trials: how many settings are tried.
        seed: of the search.
        worlds: how many, an even number.
        on_trial: told of each.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    half = worlds // 2
    judges = [
        Judge([random_scenario(SEARCH_SEED + start + i) for i in range(half)], 0, 1) for start in range(0, worlds, half)
    ]
    network = SetNetwork()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=12))
    study.enqueue_trial(dict.fromkeys(RANGES, 0.0))
    for name in TRUSTS:
        study.enqueue_trial({**dict.fromkeys(RANGES, 0.0), name: 0.5})
    first_half: dict[int, float] = {}
    kept: dict[int, Outcome] = {}

    def tried(trial: optuna.Trial) -> float:
        put(network, {name: round(trial.suggest_float(name, *bounds), 4) for name, bounds in RANGES.items()})
        outcomes: list[Outcome] = []
        for judge in judges:
            outcomes += judge.by_scenario(making(network), [1.0])[0]
            if len(outcomes) == half:
                first_half[trial.number] = search_loss(outcomes)
                done = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
                if done and search_loss(outcomes) > first_half[study.best_trial.number] + NO_HOPE:
                    raise optuna.TrialPruned
        kept[trial.number] = mean_outcome(outcomes)
        return search_loss(outcomes)

    study.optimize(tried, n_trials=trials, callbacks=[lambda *_: on_trial() if on_trial else None])
    best, neutral = study.best_trial, study.trials[0]
    assert best.value is not None
    assert neutral.value is not None
    return LinearStart(
        numbers={name: round(value, 4) for name, value in best.params.items()},
        loss=best.value,
        neutral_loss=neutral.value,
        outcome=kept[best.number],
        neutral=kept[neutral.number],
        trials=trials,
        worlds=worlds,
    )


def searching(
    config: TrainConfig,
    folder: Path,
    keep: Callable[[dict[str, Any]], None],
    cache: Path | None = None,
    on_trial: Callable[[], None] | None = None,
) -> Callable[[LearnerPolicy], None]:
    """`search` for `ppo.train`: its result goes to `keep`, and to `linear_start.json` in the run's folder.

    Args:
        cache: a folder to keep it in, for other runs of the same rules, observation, seed and number of trials.
    """

    def start(policy: LearnerPolicy) -> None:
        rules = rules_of(config.portfolio, make_rule)

        def making(network: SetNetwork) -> PricedFactory:
            return lambda cluster, price: ActingNetwork(Bending(cluster, rules(cluster)), network, price)

        meaning = [config.search, config.seed, WORLDS, portfolio_as_json(config.portfolio), observation_schema()]
        name = f"linear-start-{hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:12]}.json"
        if cache and (cache / name).is_file():
            found = json.loads((cache / name).read_text())
            if on_trial:
                for _ in range(config.search):
                    on_trial()
        else:
            found = search(making, config.search, config.seed, WORLDS, on_trial).as_json()
        numbers = {k: v for k, v in found["numbers"].items() if config.acting == "blend" or k not in TRUSTS}
        network = policy.network.inner if isinstance(policy.network, HistoryNetwork) else policy.network
        put(network, numbers)
        document = json.dumps(found, indent=2) + "\n"
        (folder / LINEAR_START).write_text(document)
        if cache:
            cache.mkdir(parents=True, exist_ok=True)
            (cache / name).write_text(document)
        keep(found)

    return start


def search_loss(outcomes: list[Outcome]) -> float:
    """The criterion's, with each world's shortfall bounded."""
    short = np.mean([min(outcome.shortfall, MOST_SHORT) for outcome in outcomes])
    return mean_outcome(outcomes).bill_ratio + SHORTFALL_PRICE * max(0.0, float(short) - HELD)
