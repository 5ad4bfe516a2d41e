"""The search for a rule's knobs: Optuna's tree-structured Parzen estimator, the same trials each time.

Two things end a trial early. Optuna's Wilcoxon pruner compares its losses with those of the best trial, scenario by
scenario, as a paired test. And a trial that would be worse than the best even if the scenarios that are left cost it
next to nothing cannot win.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

import numpy as np
import optuna

from ... import __version__
from ...agents.portfolio import spec_of
from ...agents.rules import Knob, Knobs, RuleSpec
from ...agents.tuned import Reached, TunedRule
from ...env.scenario import Scenario
from ...env.scenario.fingerprint import fingerprint
from ..criterion import Outcome, loss, mean_outcome
from ..days import TUNING_DAYS
from .ground import Ground, ground_of, scenarios_of

SEED: Final = 0
DIGITS: Final = 4
"""Knobs are tried, and shipped, with so many digits: more would say nothing."""
TRIALS_OF_ONE: Final = 24
"""Settings tried of a rule that is tuned for one scenario."""
_KNOBS: Final = "knobs"
_OUTCOME: Final = "outcome"


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    knobs: Mapping[str, float]
    outcome: Outcome
    by_defaults: Outcome
    trials: int
    pruned: int
    """Of the trials, those that were ended early."""

    def as_tuned(self, suite: str, ground: Ground) -> TunedRule:
        """For the file of tuned knobs."""
        return TunedRule(
            knobs=dict(self.knobs),
            trials=self.trials,
            seeds=len(ground[0].episodes[0]),
            suite=suite,
            suite_hash=fingerprint(*scenarios_of(ground)),
            reached=_reached(self.outcome),
            reached_by_defaults=_reached(self.by_defaults),
            versions={"poolpilot": __version__, "optuna": version("optuna"), "numpy": np.__version__},
        )


def search(
    spec: RuleSpec,
    ground: Ground,
    trials: int,
    on_trial: Callable[[], None] | None = None,
    start: Knobs | None = None,
) -> Found:
    """The knobs of least loss (`training.criterion`) over the ground's scenarios; the first trial is the defaults.

    Args:
        spec: the rule; a knob is searched from its `low` to its `high`.
        ground: scenarios and their days.
        trials: how many settings are tried.
        on_trial: told of each.
        start: what is tried second; knobs that it lacks are at their defaults.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        # Whatever the pruner's interface may become, here is the pinned version's.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.1)
    sampler = optuna.samplers.TPESampler(seed=SEED, multivariate=True)
    study = optuna.create_study(sampler=sampler, pruner=pruner, direction="minimize")
    study.enqueue_trial(spec.defaults)
    if start is not None:
        study.enqueue_trial(spec.settled(start))

    def told(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if on_trial:
            on_trial()

    study.optimize(lambda trial: _loss(trial, study, spec, ground), n_trials=trials, callbacks=[told])
    best, pruned = study.best_trial, study.get_trials(states=[optuna.trial.TrialState.PRUNED])
    return Found(
        knobs=best.user_attrs[_KNOBS],
        outcome=Outcome(*best.user_attrs[_OUTCOME]),
        by_defaults=Outcome(*study.trials[0].user_attrs[_OUTCOME]),
        trials=len(study.trials),
        pruned=len(pruned),
    )


def knobs_for(
    rule: str, scenario: Scenario, trials: int = TRIALS_OF_ONE, on_trial: Callable[[], None] | None = None
) -> Mapping[str, float]:
    """A rule's knobs tuned for one scenario, on days of it that are never scored (KnobError: no such rule)."""
    return search(spec_of(rule), ground_of([scenario], TUNING_DAYS), trials, on_trial).knobs


def _loss(trial: optuna.Trial, study: optuna.Study, spec: RuleSpec, ground: Ground) -> float:
    """One trial, scenario by scenario."""
    knobs = {knob.name: _suggested(trial, knob) for knob in spec.knobs}
    trial.set_user_attr(_KNOBS, knobs)
    whole = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    least = min((float(own.value) for own in whole if own.value is not None), default=float("inf"))
    outcomes: list[Outcome] = []
    scenarios = len(scenarios_of(ground))
    for days in ground:
        for outcome in days.outcomes(spec.name, knobs):
            trial.report(loss(outcome), len(outcomes))
            outcomes.append(outcome)
        if len(outcomes) < scenarios and (loss_at_least(outcomes, scenarios) > least or trial.should_prune()):
            raise optuna.TrialPruned
    mean = mean_outcome(outcomes)
    trial.set_user_attr(_OUTCOME, (mean.bill_ratio, mean.shortfall))
    return loss(mean)


LEAST_BILL_RATIO: Final = 0.25
"""No rule was seen to run any world for less than this share of its usual bill."""


def loss_at_least(outcomes: Sequence[Outcome], scenarios: int) -> float:
    """What the loss over so many scenarios will be at least, as far as bills go by `LEAST_BILL_RATIO`."""
    least = [Outcome(LEAST_BILL_RATIO, 0.0)] * (scenarios - len(outcomes))
    return loss(mean_outcome([*outcomes, *least]))


def _suggested(trial: optuna.Trial, knob: Knob) -> float:
    value = float(f"{trial.suggest_float(knob.name, knob.low, knob.high, log=knob.log):.{DIGITS}g}")
    return min(max(value, knob.low), knob.high)


def _reached(outcome: Outcome) -> Reached:
    return Reached(loss=loss(outcome), bill_ratio=outcome.bill_ratio, shortfall=outcome.shortfall)
