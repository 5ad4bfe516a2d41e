"""What is better: one number for a policy on worlds. Tuning and the choice of a checkpoint go by it, and nothing else.

Symbol: `C` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..env.batch import Episode
from ..env.contract import FloatArray
from .rollout import RunResult, attainment_of

HELD: Final = 0.0025
"""A mean shortfall up to this counts as targets that are held."""
SHORTFALL_PRICE: Final = 40.0
"""In reference bills for all requests: one percent beyond `HELD` costs 40 % of the bill, more than any scaling saves."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy came to."""

    bill_ratio: float
    """The bill, in usual bills (`Episode.reference_usd`)."""
    shortfall: float
    """By how much a class misses its wanted attainment, on the mean over classes; one that reaches it counts 0."""


def outcome_of(results: Sequence[RunResult], episodes: Sequence[Episode]) -> Outcome:
    """The outcome on one scenario: attainment is that of all its episodes' requests together.

    Args:
        results: of one policy, in the order of `episodes`.
        episodes: worlds of one scenario.
    """
    bills = [
        float(result.bill.total_usd) / (max(episode.reference_usd, 1e-9) * len(result.replicas))
        for result, episode in zip(results, episodes, strict=True)
    ]
    reached = attainment_of(np.sum([result.tally for result in results], axis=0))
    return Outcome(float(np.mean(bills)), float(shortfall_of(reached, results[0].attainment_wanted)))


def shortfall_of(reached: FloatArray, wanted: FloatArray) -> FloatArray:
    """`[...]` from attainments `[..., C]`, those reached NaN where a class had no requests: it neither reaches nor misses
    its target. 0 where no class had any."""
    short = np.maximum(wanted - reached, 0.0)
    asked = ~np.isnan(short)
    mean: FloatArray = np.where(asked, short, 0.0).sum(axis=-1) / np.maximum(asked.sum(axis=-1), 1)
    return mean


def mean_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """Over scenarios, each counting the same: the geometric mean of bills, as a tenth saved is a tenth wherever it is.

    (An arithmetic mean of ratios would be that of the few worlds whose usual bill is far from what it takes.)
    """
    return Outcome(
        float(np.exp(np.mean(np.log([outcome.bill_ratio for outcome in outcomes])))),
        float(np.mean([outcome.shortfall for outcome in outcomes])),
    )


def loss(outcome: Outcome) -> float:
    """The less, the better: the bill, and a steep price of shortfall beyond what counts as held."""
    return outcome.bill_ratio + SHORTFALL_PRICE * max(0.0, outcome.shortfall - HELD)
