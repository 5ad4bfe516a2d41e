"""An audit from end to end: replay, bill, match, and, where the simulation can be relied on, what others would have spent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ..env.scenario import Scenario
from ..training.matching import Match, Verdict, match
from .as_it_was import AS_IT_WAS, Replay, price_of, replayed, scenario_of, usual_shares
from .description import Description
from .findings import Finding, findings, when_it_does_not_match
from .instead import Asked, Compared, compared, runs_of
from .measured import Measured, Spent, spent, with_routing

REPLAYS: Final = 3
"""Draws of the load that the match rests on."""
LEAST_ERROR_FRAC: Final = 0.05
MOST_ERROR_FRAC: Final = 0.30
"""How far true speeds are drawn around the performance model's: as far as the replay was off, within these."""
NOTE_POOL: Final = (
    "Inside a pool each request goes to the replica with the fewest in flight; engines batch as vLLM schedules, without"
    " prefix caching unless `engine` says so."
)
NOTE_LIMITS: Final = (
    "Policies may use the described pools only, from `min` to `max` replicas (left out: none to as many as were up at a time);"
    " starts take what `cold_start` says (left out: docs/scenarios.md)."
)
NOTE_HINDSIGHT: Final = (
    "The plan for the peak and the choice of the rule knew the load, though not the draws that are scored; the learned policy"
    " and all rules see the past only while they run."
)
NOTE_PRICES: Final = "Prices are the description's; discounts, storage and people are not in the bill."


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found."""

    description: Description
    scenario: Scenario
    """The fleet and its load, for `poolpilot simulate` and the others."""
    measured: Measured
    spent: Spent
    replay: Replay
    match: Match
    compared: Compared | None
    """None where the simulation does not match: then nothing is promised."""
    findings: tuple[Finding, ...]
    error_frac: float
    """How far true speeds were drawn around the model's for the comparison."""

    @property
    def covered_frac(self) -> float:
        """Share of the replayed tokens inside the performance model's calibrated range."""
        return float(np.nanmean([result.covered_frac for result in self.replay.results]))

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Everything that was assumed, one line each."""
        guessed = self.spent.guessed_layers
        split = (f"Not measured, so taken from the replay: the split into {' and '.join(guessed)}.",) if guessed else ()
        drawn = (
            f"True speeds are drawn within {100 * self.error_frac:.0f} % of the performance model's, as far as the replay"
            " was off."
        )
        return (
            *self.measured.notes,
            *split,
            *_starts(self.measured),
            NOTE_POOL,
            NOTE_PRICES,
            *((NOTE_LIMITS, NOTE_HINDSIGHT, drawn) if self.compared else ()),
        )


def _starts(measured: Measured) -> tuple[str, ...]:
    """Which starts were seen."""
    seen = [
        f"{name} {start_s:.0f} s"
        for name, start_s in zip(measured.pool_names, measured.start_s, strict=True)
        if start_s >= 0
    ]
    return (f"Starts take what they were seen to take on the mean: {', '.join(seen)}.",) if seen else ()


OnTick = Callable[[str, int], None]


def audit(
    description: Description, measured: Measured, asked: Asked, on_tick: OnTick = lambda name, ticks: None
) -> Audit:
    """Audit what was measured. `on_tick` is told what runs and how many ticks of it are done.

    Raises:
        ValueError: the description or whoever takes part cannot be used; one line.
    """
    scenario = scenario_of(description, measured)
    measured = with_routing(measured, usual_shares(scenario, measured))
    replay = replayed(scenario, measured, range(min(REPLAYS, asked.seeds)), lambda ticks: on_tick(AS_IT_WAS, ticks))
    bill = spent(
        measured,
        price_of(scenario, measured),
        scenario.tariff(),
        scenario.network.bytes_per_token,
        replay.split,
    )
    found = match(measured.observed(bill.total_usd), replay.observed)
    whole = Audit(description, scenario, measured, bill, replay, found, None, (), 0.0)
    if found.verdict is Verdict.BAD:
        return replace(whole, findings=when_it_does_not_match(found, replay))
    error_frac = error_of(found)
    others = compared(scenario_of(description, measured, error_frac), measured, bill.total_usd, asked, on_tick)
    return replace(whole, compared=others, error_frac=error_frac, findings=findings(measured, bill, others, found))


def error_of(found: Match) -> float:
    """How far true speeds may be off: the largest error of a time that follows from speed alone."""
    off = [size for name in ("tpot_mean_s", "e2e_mean_s", "tpot_p50_s") if np.isfinite(size := found.worst(name))]
    return float(np.clip(max(off, default=MOST_ERROR_FRAC), LEAST_ERROR_FRAC, MOST_ERROR_FRAC))


def ticks_of(scenario_ticks: int, asked: Asked) -> int:
    """Ticks of all runs together: for a progress bar."""
    return scenario_ticks * (1 + runs_of(asked))
