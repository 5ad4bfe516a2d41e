"""The twin of a cluster refitted to its record: every figure with its interval, and how well the twin then does the recorded
days again, those that were fitted and those that were not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ...env.beliefs import mean_load
from ...env.scenario import Scenario
from ...env.workload.load import load_workload
from ...env.workload.requests import Workload
from ...telemetry.envoy_log import RequestRecord
from ...telemetry.record import Defect, Record
from ...telemetry.record.defects import DefectKind
from ..matching import TOLERANCES, Match, Verdict, match
from ..observed import Observed, mean_of
from .estimates import Estimate
from .machines import PriceMoves, cold_starts, loss_rate, price_moves
from .requests import requests_in_log, requests_of
from .speeds import Speeds, speeds_of
from .stretches import RefitError, Stretch, fitted, stretches_of
from .traffic import Traffic, returning_share, traffic_of
from .twin import Run, longest_tokens, observed, recorded, simulated, with_factors

_MOST_ERROR: Final = 3.0
"""One figure that is far off does not drown all others."""
SEEDS: Final = (1, 2, 3)
"""Of the runs that a recorded stretch is held against, on their mean."""
MOST_TICKS: Final = 6000
"""Speeds are fitted to so many ticks at most, the newest: five rounds of a week would take an hour."""
BELIEVED_SEED: Final = 1_000_000
"""Of the day that tells what the scenario believed of its traffic."""


@dataclass(frozen=True)
class Judged:
    """Stretches in the twin, under the scenario as it was and as it was refitted."""

    stretches: tuple[Stretch, ...]
    measured: Observed
    simulated_before: Observed
    simulated_after: Observed
    before: Match
    after: Match


@dataclass(frozen=True)
class Refit:
    """What the record says of the world, and how far the twin can be trusted."""

    scenario: Scenario
    """Refitted: times, cold starts, losses, retries. Its workload is still the one that was believed."""
    speeds: Speeds
    cold_starts: dict[str, Estimate | None]
    traffic: dict[str, Traffic | None]
    returning: Estimate | None
    losses: dict[str, Estimate | None]
    """Per replica and hour: preemptions of spot pools, crashes of others."""
    prices: dict[str, PriceMoves | None]
    fitted: Judged
    """All stretches that were fitted, together."""
    held_out: Judged
    """All that no fit has looked at, together: they decide."""
    each: tuple[Judged, ...]
    """Stretch by stretch."""
    requests: tuple[Workload, ...]
    """Of each of `each`."""
    defects: tuple[Defect, ...]

    @property
    def verdict(self) -> Verdict:
        """How well the refitted twin does the held-out stretches again."""
        return self.held_out.after.verdict

    @property
    def reproduces(self) -> bool:
        """Whether anything may be learned in this twin."""
        return self.verdict is not Verdict.BAD

    @property
    def error(self) -> float:
        """One figure of how far the twin is off on what was held out, for those who watch it."""
        return twin_error(self.held_out.after)


def twin_error(own: Match) -> float:
    """Mean size of a match's errors, each over that from which its figure is bad; NaN where nothing was compared."""
    sizes = [min(abs(f.error) / TOLERANCES[f.figure].rough, _MOST_ERROR) for f in own.figures]
    return float(np.mean(sizes)) if sizes else math.nan


def refit(
    record: Record,
    scenario: Scenario,
    access_log: Sequence[RequestRecord] = (),
    seed: int = 0,
    progress: Callable[[str], None] = lambda what: None,
) -> Refit:
    """Fit the twin to a record, and judge it.

    Args:
        record: of one cluster, that of the scenario.
        scenario: what was believed.
        access_log: Envoy's, over the same time: then requests are as they were, and not only as many and as long.
        seed: draws what the record does not tell, and the bootstrap's resamples.
        progress: told what is being done.

    Raises:
        RefitError: too little to fit, or of another cluster.
        ValueError: the scenario cannot be simulated.
    """
    stretches, suspect = stretches_of(record)
    _of_one_cluster(stretches, scenario)
    rng = np.random.default_rng(np.random.SeedSequence((seed, 0x2EF17)))
    own = [s.episode.between(s.warm, len(s.episode)) for s in fitted(stretches)]
    retry_after_s = scenario.world.retry_after_s
    returning = returning_share(own, retry_after_s, rng)
    back = returning.value if returning is not None else 1.0
    starts = cold_starts(own, scenario)
    lost = {
        name: loss_rate(own, p, pool.spot.preemptions_per_hr if pool.spot else pool.crashes_per_hr)
        for p, (name, pool) in enumerate(scenario.pools.items())
    }
    prices = {
        name: price_moves(own, p, pool.price.usd_per_hr, rng) for p, (name, pool) in enumerate(scenario.pools.items())
    }
    believed = _believed_traffic(scenario)
    traffic = {
        name: traffic_of(own, c, back, retry_after_s, believed[c], rng) for c, name in enumerate(scenario.class_names)
    }
    started = with_starts(scenario, starts)
    longest = longest_tokens(scenario)
    requests = [
        requests_in_log(access_log, s.episode, longest, back, rng)
        if access_log
        else requests_of(s.episode, longest, back, retry_after_s, rng)
        for s in stretches
    ]
    pairs = list(zip(stretches, requests, strict=True))
    frozen = frozenset(d.subject for d in suspect if d.kind is DefectKind.FROZEN_TELEMETRY)
    speeds = speeds_of(started, _newest([p for p in pairs if not p[0].held_out]), seed, rng, progress, frozen)
    # Speeds are fitted to smooth traffic, whose snapshots scatter less; days have the bursts that queues are made of.
    uneven = np.array([1.0 if own is None else own.unevenness for own in traffic.values()])
    if (uneven != 1.0).any() and not access_log:
        bursts = np.random.default_rng(np.random.SeedSequence((seed, 0xB0257)))
        requests = [requests_of(s.episode, longest, back, retry_after_s, bursts, uneven) for s in stretches]
        pairs = list(zip(stretches, requests, strict=True))
    after = with_losses(with_factors(started, {name: e.value for name, e in speeds.factors.items()}), lost)
    runs: list[_Runs] = []
    for stretch, load in pairs:
        progress(f"held against {stretch.name}")
        before = simulated(scenario, stretch, load, SEEDS)
        runs.append(_Runs(stretch, recorded(stretch.episode), before, simulated(after, stretch, load, SEEDS)))
    return Refit(
        scenario=with_returning(after, returning),
        speeds=speeds,
        cold_starts=starts,
        traffic=traffic,
        returning=returning,
        losses=lost,
        prices=prices,
        fitted=_judged([own for own in runs if not own.stretch.held_out]),
        held_out=_judged([own for own in runs if own.stretch.held_out]),
        each=tuple(_judged([own]) for own in runs),
        requests=tuple(requests),
        defects=record.defects,
    )


@dataclass(frozen=True)
class _Runs:
    stretch: Stretch
    real: Run
    before: list[Run]
    """One for each of `SEEDS`."""
    after: list[Run]


def _judged(runs: Sequence[_Runs]) -> Judged:
    measured = observed([(own.real, own.stretch) for own in runs])
    old, new = (
        mean_of([observed([(getattr(own, when)[s], own.stretch) for own in runs]) for s in range(len(SEEDS))])
        for when in ("before", "after")
    )
    return Judged(tuple(own.stretch for own in runs), measured, old, new, match(measured, old), match(measured, new))


def with_starts(scenario: Scenario, starts: dict[str, Estimate | None]) -> Scenario:
    """The scenario whose cold starts take as long as was measured."""
    pools = {}
    for name, pool in scenario.pools.items():
        own = starts.get(name)
        if own is not None and own.believed > 0:
            factor = own.value / own.believed
            pool = pool.model_copy(update={"cold_start": pool.cold_start.scaled(factor, scenario.weight_bytes(name))})
        pools[name] = pool
    return scenario.model_copy(update={"pools": pools})


def with_losses(scenario: Scenario, lost: dict[str, Estimate | None]) -> Scenario:
    """The scenario whose machines go as often as was seen, where that is not what was believed."""
    pools = {}
    for name, pool in scenario.pools.items():
        own = lost.get(name)
        if own is not None and own.differs:
            if pool.spot is not None and pool.spot.availability is None:
                spot = pool.spot.model_copy(update={"preemptions_per_hr": own.value})
                pool = pool.model_copy(update={"spot": spot})
            elif pool.spot is None:
                pool = pool.model_copy(update={"crashes_per_hr": own.value})
        pools[name] = pool
    return scenario.model_copy(update={"pools": pools})


def with_returning(scenario: Scenario, returning: Estimate | None) -> Scenario:
    """The scenario whose clients try again as often as was seen: a share q that comes back each time tries q / (1 - q) times
    on the mean."""
    world = scenario.world
    if returning is None or returning.holds(1.0):
        return scenario
    tries = returning.value / max(1.0 - returning.value, 1e-3)
    give_up_s = min(world.give_up_after_s, max(world.retry_after_s * tries, 1.0))
    return scenario.model_copy(update={"world": world.model_copy(update={"give_up_after_s": give_up_s})})


def _newest(pairs: Sequence[tuple[Stretch, Workload]]) -> list[tuple[Stretch, Workload]]:
    chosen: list[tuple[Stretch, Workload]] = []
    for pair in reversed(pairs):
        if chosen and sum(p[0].ticks for p in chosen) + pair[0].ticks > MOST_TICKS:
            break
        chosen.insert(0, pair)
    return chosen


def _of_one_cluster(stretches: Sequence[Stretch], scenario: Scenario) -> None:
    for stretch in stretches:
        cluster = stretch.episode.sitting.cluster
        for what, seen, wanted in (
            ("pools", cluster.pool_names, scenario.pool_names),
            ("classes", cluster.class_names, scenario.class_names),
        ):
            if seen != wanted:
                raise RefitError(
                    f"{stretch.episode.where}: a cluster with {what} {', '.join(seen)}, wanted {', '.join(wanted)} as in"
                    f" scenario {scenario.name}"
                )


def _believed_traffic(scenario: Scenario) -> list[tuple[float, float, float]]:
    """Of each class: requests per second, mean prompt and output tokens, of a day such as the scenario tells."""
    day = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, BELIEVED_SEED, scenario.base_dir)
    rate, prompt, output = mean_load(day, scenario.duration_s)
    return [(float(rate[c]), float(prompt[c]), float(output[c])) for c in range(len(rate))]
