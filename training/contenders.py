"""Who can be compared: rules at their shipped knobs, fixed counts, checkpoints, and the marks that no policy can be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from ..agents.checkpoint import load_checkpoint
from ..agents.portfolio import (
    HELD_PLAN,
    PLAN_TRACKING,
    STATIC,
    PolicyFactory,
    SettingError,
    completed,
    has_knobs,
    held_setting,
    policy_factory,
    spec_of,
)
from ..agents.rules import Knobs
from ..env.batch import Episode
from ..env.scenario import Scenario
from .clairvoyant_plan import CLAIRVOYANT, replayed
from .rollout import RunResult, rollout
from .static_peak import HEADROOM, STATIC_PEAK, static_peak
from .tuning.counts import counts_for

PERFECT_FORECAST: Final = "perfect-forecast"
"""`FORETOLD` and its planner, told the true arrival rates of the next minutes: the mark for forecasting and timing."""
FORETOLD: Final = PLAN_TRACKING
MARKS = (CLAIRVOYANT, PERFECT_FORECAST)
"""No policies: they know what comes."""


class Contender(Protocol):
    """Whoever can be run on worlds of a scenario."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def knobs(self) -> Knobs:
        """What it is set to, where that can be said in numbers."""
        ...

    def run(
        self, episodes: Sequence[Episode], tick_s: float, on_tick: Callable[[int], None] | None = None
    ) -> list[RunResult]:
        """Every episode under it, in the order of `episodes`; `on_tick` is told the ticks done."""
        ...


@dataclass(frozen=True)
class Steered:
    """A policy: it sees what a sidecar would see."""

    name: str
    make: PolicyFactory
    knobs: Knobs = field(default_factory=dict)

    foresight: bool = False
    """It is told the true arrival rates of the next minutes: a mark."""

    def run(
        self, episodes: Sequence[Episode], tick_s: float, on_tick: Callable[[int], None] | None = None
    ) -> list[RunResult]:
        """See `Contender`."""
        return rollout(episodes, self.make, tick_s, on_tick, self.foresight)


@dataclass(frozen=True)
class Foreseeing:
    """A mark: each episode's own clairvoyant plan, replayed at the least head-room that meets its targets."""

    name: str = CLAIRVOYANT
    knobs: Knobs = field(default_factory=dict)

    def run(
        self, episodes: Sequence[Episode], tick_s: float, on_tick: Callable[[int], None] | None = None
    ) -> list[RunResult]:
        """See `Contender`."""
        return [own.result for own in replayed(episodes, tick_s)]


def contender(
    name: str,
    scenario: Scenario,
    headroom: float = 1.0,
    miss_price: float | None = None,
    knobs: Knobs | None = None,
    on_trial: Callable[[], None] | None = None,
) -> Contender:
    """Whoever is called `name`, set for a scenario.

    Args:
        name: a rule, `static-peak`, `held-plan`, a checkpoint's name or folder, or one of `MARKS`.
        scenario: fixed counts are searched or planned on its tuning days, a held plan is read from it.
        headroom: how far to either side of the setting, between bill and attainment (`policy_factory`); the clairvoyant
            plan finds its own.
        miss_price: what a checkpoint acts by instead of its card's.
        knobs: of a rule, in place of those shipped; left out ones stay as shipped.
        on_trial: told of every trial of a search.

    Raises:
        ValueError: no such policy, or a knob that it does not have; one line.
    """
    if name == CLAIRVOYANT:
        return Foreseeing()
    if name == PERFECT_FORECAST:
        own = completed(FORETOLD, knobs or {})
        make = policy_factory(FORETOLD, own, headroom=headroom)
        return Steered(name, make, spec_of(FORETOLD).settled(own, headroom), foresight=True)
    if has_knobs(name):
        own = completed(name, knobs or {})
        return Steered(name, policy_factory(name, own, headroom=headroom), spec_of(name).settled(own, headroom))
    if name == STATIC_PEAK:
        own_headroom = headroom * _headroom_alone(name, knobs)
        return Steered(name, static_peak(scenario, own_headroom), {"headroom": own_headroom})
    if knobs:
        raise SettingError(f"{name}: it has no knobs, got {', '.join(knobs)}")
    if name == HELD_PLAN:
        return Steered(name, policy_factory(name, held_setting(scenario), headroom=headroom))
    if name == STATIC:
        counts = counts_for(scenario, on_trial)
        return Steered(name, policy_factory(name, counts, headroom=headroom), _by_pool(counts, scenario))
    made = policy_factory(name, miss_price=miss_price, headroom=headroom)
    return Steered(load_checkpoint(name).name, made)


def rule_of(name: str) -> str | None:
    """The rule whose knobs a contender has, of a rule and of a mark that is one; None: it has none."""
    if name == PERFECT_FORECAST:
        return FORETOLD
    return name if has_knobs(name) else None


def _headroom_alone(name: str, knobs: Knobs | None) -> float:
    """The one knob of fixed counts for a peak."""
    own = {"headroom": HEADROOM, **(knobs or {})}
    if len(own) > 1 or not 0 < own["headroom"] < math.inf:
        raise SettingError(f"{name}: knobs {own}, wanted a headroom above 0 and nothing else")
    return own["headroom"]


def _by_pool(counts: Sequence[float], scenario: Scenario) -> Mapping[str, float]:
    return dict(zip(scenario.pool_names, counts, strict=True))
