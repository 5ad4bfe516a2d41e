"""What others would have spent on the same load: the plan for its peak, the best tuned rule, the shipped policy.

Paired: every one meets the same worlds as the fleet's own steps did. Dollars are the measured bill times the ratio of the
two simulated ones, so that what the simulation gets wrong of both falls out.

Symbols: `K` seeds, `C` classes, `P` pools, `L` layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..agents.portfolio import PolicyFactory
from ..env.batch import Episode
from ..env.contract import BILL_LAYERS, IDLE_PARTS, FloatArray
from ..env.scenario import Scenario
from ..training.contenders import contender
from ..training.criterion import HELD, loss, outcome_of, shortfall_of
from ..training.days import TUNING_SEED
from ..training.evaluation.bootstrap import Interval, bootstrap, exponential
from ..training.rollout import RunResult, attainment_of, rollout
from ..training.static_peak import HEADROOM, planned_for_peak
from .as_it_was import AS_IT_WAS, as_it_was, episodes_of, steered_free, unguarded
from .measured import Measured

PLAN: Final = "plan for the peak"
PLAN_WORDS: Final = (
    f"fixed counts that the planner chooses for {HEADROOM:g} times the busiest minute, held all the time"
)
LEAST_RATIO: Final = 1e-6


@dataclass(frozen=True, eq=False)
class Option:
    """One way to have run the same load."""

    name: str
    kind: str
    """`as it was`, `plan`, `rule` or `checkpoint`."""
    words: str
    """What it is, for people."""
    ratio: Interval
    """Its bill over that of the fleet's own steps, geometric mean over seeds."""
    usd: Interval
    """Of the audited stretch."""
    attainment: Mapping[str, Interval]
    """By class."""
    shortfall: float
    """By how much a class misses its wanted attainment, on the mean (`training.criterion`)."""
    usd_by_layer: Mapping[str, float]
    usd_idle_by_part: Mapping[str, float]
    usd_by_pool: Mapping[str, float]
    usd_by_class: Mapping[str, float]
    mean_replicas: Mapping[str, float]
    covered_frac: float
    """Share of its tokens inside the calibrated range."""
    results: tuple[RunResult, ...]

    @property
    def holds(self) -> bool:
        """Whether every class reaches what it wants, as far as counts."""
        return self.shortfall <= HELD


@dataclass(frozen=True, eq=False)
class Compared:
    """All options on the same worlds."""

    own: Option
    """The fleet's own steps."""
    others: tuple[Option, ...]
    best: Option
    """The cheapest that holds its targets; where none does, the one that comes nearest."""
    rules_tried: Mapping[str, float]
    """The loss of each rule on worlds that are not scored: the least was chosen."""
    seeds: int


@dataclass(frozen=True)
class Asked:
    """Who takes part."""

    rules: tuple[str, ...]
    policy: str
    seeds: int


OnTick = Callable[[str, int], None]
"""Told what runs and how many ticks of it are done."""


def compared(
    scenario: Scenario, measured: Measured, spent_usd: float, asked: Asked, on_tick: OnTick = lambda name, ticks: None
) -> Compared:
    """Run everybody.

    Raises:
        ValueError: no such rule or policy; one line.
    """
    tick_s = scenario.tick_s
    free = unguarded(scenario)
    seeds = range(asked.seeds)
    theirs = rollout(
        steered_free(episodes_of(free, measured, seeds)), as_it_was(free, measured), tick_s, _told(on_tick, AS_IT_WAS)
    )
    scored = episodes_of(scenario, measured, seeds)
    tried = _rules_tried(scenario, measured, asked.rules, on_tick)
    rule = min(tried, key=lambda name: tried[name])
    entrants: list[tuple[str, str, str, list[RunResult]]] = [
        (PLAN, "plan", PLAN_WORDS, _planned(scored, planned_for_peak(_another(scenario, measured)), tick_s, on_tick))
    ]
    entrants.append(
        (rule, "rule", "the rule that did best on other draws of this load", _run(rule, scenario, scored, on_tick))
    )
    entrants.append(
        (asked.policy, "checkpoint", "the learned policy that ships", _run(asked.policy, scenario, scored, on_tick))
    )
    own = _option(AS_IT_WAS, "as it was", "the fleet's own counts and shares, simulated", theirs, theirs, spent_usd)
    others = tuple(_option(name, kind, words, results, theirs, spent_usd) for name, kind, words, results in entrants)
    holding = [option for option in others if option.holds]
    best = (
        min(holding, key=lambda own: own.usd.mean)
        if holding
        else min(others, key=lambda own: (own.shortfall, own.usd.mean))
    )
    return Compared(own, others, best, tried, asked.seeds)


def runs_of(asked: Asked) -> int:
    """How many runs over the stretch there will be: for a progress bar."""
    return 4 + len(asked.rules)


def _another(scenario: Scenario, measured: Measured) -> Episode:
    """A draw of the load that is not scored."""
    (episode,) = episodes_of(scenario, measured, [TUNING_SEED])
    return episode


def _planned(scored: Sequence[Episode], make: PolicyFactory, tick_s: float, on_tick: OnTick) -> list[RunResult]:
    return rollout(scored, make, tick_s, _told(on_tick, PLAN))


def _run(name: str, scenario: Scenario, episodes: Sequence[Episode], on_tick: OnTick) -> list[RunResult]:
    return contender(name, scenario).run(episodes, scenario.tick_s, _told(on_tick, name))


def _rules_tried(scenario: Scenario, measured: Measured, rules: Sequence[str], on_tick: OnTick) -> dict[str, float]:
    """The loss of each rule on one draw that is not scored."""
    episodes = [_another(scenario, measured)]
    return {name: loss(outcome_of(_run(name, scenario, episodes, on_tick), episodes)) for name in rules}


def _told(on_tick: OnTick, name: str) -> Callable[[int], None]:
    return lambda ticks: on_tick(name, ticks)


def _option(
    name: str, kind: str, words: str, results: Sequence[RunResult], theirs: Sequence[RunResult], spent_usd: float
) -> Option:
    first = results[0]
    bills = np.array([float(result.bill.total_usd) for result in results])
    own_bills = np.array([float(result.bill.total_usd) for result in theirs])
    ratio = exponential(bootstrap(np.log(np.maximum(bills / own_bills, LEAST_RATIO))))
    reached = np.stack([result.attainment for result in results])  # `[K, C]`
    together = attainment_of(np.sum([result.tally for result in results], axis=0))
    usd = np.mean([result.bill.usd for result in results], axis=0)  # `[P, C, L]`
    idle = np.mean([result.bill.idle_usd for result in results], axis=0)  # `[P, C, parts]`
    scale = ratio.mean * spent_usd / float(usd.sum()) if usd.sum() > 0 else 0.0
    return Option(
        name=name,
        kind=kind,
        words=words,
        ratio=ratio,
        usd=Interval(*(spent_usd * value for value in (ratio.mean, ratio.low, ratio.high))),
        attainment={own: _reached(reached[:, c], float(together[c])) for c, own in enumerate(first.class_names)},
        shortfall=float(shortfall_of(together, first.attainment_wanted)),
        usd_by_layer=dict(zip(BILL_LAYERS, (scale * usd.sum(axis=(0, 1))).tolist(), strict=True)),
        usd_idle_by_part=dict(zip(IDLE_PARTS, (scale * idle.sum(axis=(0, 1))).tolist(), strict=True)),
        usd_by_pool=dict(zip(first.pool_names, (scale * usd.sum(axis=(1, 2))).tolist(), strict=True)),
        usd_by_class=dict(zip(first.class_names, (scale * usd.sum(axis=(0, 2))).tolist(), strict=True)),
        mean_replicas=_means([result.replicas.mean(axis=0) for result in results], first.pool_names),
        covered_frac=float(np.nanmean([result.covered_frac for result in results])),
        results=tuple(results),
    )


def _reached(values: FloatArray, together: float) -> Interval:
    """Of all seeds' requests together, with the interval over seeds."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Interval(together, float("nan"), float("nan"))
    own = bootstrap(known)
    return Interval(together, min(own.low, together), max(own.high, together))


def _means(values: Sequence[FloatArray], names: Sequence[str]) -> dict[str, float]:
    return dict(zip(names, np.mean(values, axis=0).tolist(), strict=True))
