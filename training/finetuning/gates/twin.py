"""Gate (a): in the twin, on recorded days that were not learned from, the candidate beats the incumbent, clear of chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ....agents.portfolio import PolicyFactory
from ....agents.registry import TWIN, Verdict
from .days import Lived, TwinDay, lived, refuse_learned
from .finding import Finding
from .paired import Pairs, clear_of, told

LEAST_DAYS: Final = 2
"""From one day to the next more differs than from one draw of the machines to the next: one day shows nothing of it."""
FEWEST_SEEDS: Final = 4
MOST_SEEDS: Final = 32
REPLAYED_S: Final = 86_400.0
"""Seconds that the days come to in all, world by world, where nobody says how many: short ones are drawn more often."""


def seeds_for(days: Sequence[TwinDay]) -> int:
    """Worlds for each day, so that chance has a chance to show itself in few and short ones."""
    in_all_s = sum(day.scenario.duration_s for day in days)
    return int(np.clip(math.ceil(REPLAYED_S / in_all_s), FEWEST_SEEDS, MOST_SEEDS))


@dataclass(frozen=True)
class TwinRuns:
    """The same days under both."""

    days: tuple[TwinDay, ...]
    candidate: tuple[Lived, ...]
    incumbent: tuple[Lived, ...]

    @property
    def inputs(self) -> dict[str, str]:
        """Hashes of the days and of the worlds drawn from them."""
        return {
            f"{day.name}.{what}": value
            for day, own in zip(self.days, self.candidate, strict=True)
            for what, value in (("requests", day.fingerprint), ("worlds", " ".join(own.worlds)))
        }


def twin_runs(
    candidate: PolicyFactory,
    incumbent: PolicyFactory,
    days: Sequence[TwinDay],
    learned: Collection[str],
    seeds: int | None = None,
    on_day: Callable[[str], None] = lambda name: None,
) -> TwinRuns:
    """Both policies through the days.

    Args:
        candidate: to be judged.
        incumbent: who decides now.
        days: held out.
        learned: fingerprints of the days that the candidate was learned from.
        seeds: worlds for each day; None: as many as `seeds_for` says.
        on_day: told each that is done.

    Raises:
        DaysError: a day was learned from.
    """
    refuse_learned(days, learned)
    runs: list[tuple[Lived, Lived]] = []
    count = seeds or seeds_for(days)
    for day in days:
        worlds = day.worlds(count)
        runs.append((lived(day, candidate, worlds), lived(day, incumbent, worlds)))
        on_day(day.name)
    return TwinRuns(tuple(days), tuple(own for own, _ in runs), tuple(other for _, other in runs))


def twin_gate(runs: TwinRuns, twin_is_bad: str = "") -> Finding:
    """Whether the candidate beats the incumbent on the days.

    Args:
        runs: of both.
        twin_is_bad: why the twin does not reproduce the recorded days; then nothing in it proves anything.
    """
    if twin_is_bad:
        return Finding(TWIN, Verdict.UNKNOWN, f"the twin does not reproduce the record: {twin_is_bad}", {}, runs.inputs)
    if len(runs.days) < LEAST_DAYS:
        said = f"{len(runs.days)} held-out days, wanted at least {LEAST_DAYS}"
        return Finding(TWIN, Verdict.UNKNOWN, said, {}, runs.inputs)
    pairs = Pairs(
        tuple(day.name for day in runs.days),
        tuple(own.outcomes for own in runs.candidate),
        tuple(own.outcomes for own in runs.incumbent),
    )
    difference = pairs.interval()
    verdict = clear_of(difference, 0.0)
    words = {Verdict.PASS: "beats the incumbent", Verdict.FAIL: "is worse than the incumbent"}
    said = words.get(verdict, "cannot be told from the incumbent")
    reason = f"{said} on {len(runs.days)} held-out days: loss {told(difference)}"
    return Finding(TWIN, verdict, reason, pairs.figures(), runs.inputs)
