"""Two policies on the same worlds: differences of one number a run, and whether they are clear of chance.

The number is the criterion's loss (`training.criterion`): the bill in usual bills, and a steep price of shortfall beyond what
counts as held. A candidate that saves money by missing targets has a higher loss, not a lower one.

Symbols: `S` scenarios or days, `K` seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....agents.registry import Verdict
from ....env.contract import FloatArray
from ...criterion import Outcome, loss
from ...evaluation.bootstrap import BOOTSTRAP_DRAWS, Interval, hierarchical, interval, resamples


@dataclass(frozen=True)
class Pairs:
    """Runs of both on the same worlds."""

    names: tuple[str, ...]
    """`S`"""
    candidate: tuple[tuple[Outcome, ...], ...]
    """`[S][K]`"""
    incumbent: tuple[tuple[Outcome, ...], ...]

    @property
    def losses(self) -> FloatArray:
        """`[S, K]` the candidate's less the incumbent's; below 0 is better."""
        return _values(self.candidate, loss) - self.incumbent_losses

    @property
    def incumbent_losses(self) -> FloatArray:
        """`[S, K]`"""
        return _values(self.incumbent, loss)

    def interval(self) -> Interval:
        """Of the mean difference over scenarios and seeds, both drawn again."""
        return hierarchical(self.losses, resamples(*self.losses.shape))

    def interval_over_seeds(self, seed: int = 0) -> Interval:
        """Of the mean difference over these very scenarios: their seeds alone are drawn again."""
        losses = self.losses
        rng = np.random.default_rng(seed)
        drawn = rng.integers(losses.shape[1], size=(BOOTSTRAP_DRAWS, *losses.shape))
        means = np.take_along_axis(losses[None], drawn, axis=2).mean(axis=(1, 2))
        return interval(float(losses.mean()), means)

    def figures(self) -> dict[str, object]:
        """JSON-ready: the difference, and what it is made of, scenario by scenario."""
        bills = [_values(own, lambda o: o.bill_ratio) for own in (self.candidate, self.incumbent)]
        short = [_values(own, lambda o: o.shortfall) for own in (self.candidate, self.incumbent)]
        return {
            "loss_difference": self.interval().as_json(),
            "bill_ratio": hierarchical(bills[0] / np.maximum(bills[1], 1e-9), resamples(*bills[0].shape)).as_json(),
            "shortfall_difference": hierarchical(short[0] - short[1], resamples(*short[0].shape)).as_json(),
            "seeds": self.losses.shape[1],
            "by_scenario": [
                {
                    "name": name,
                    "loss_difference": float(self.losses[s].mean()),
                    "bill_ratio": float((bills[0][s] / np.maximum(bills[1][s], 1e-9)).mean()),
                    "shortfall": float(short[0][s].mean()),
                    "shortfall_incumbent": float(short[1][s].mean()),
                }
                for s, name in enumerate(self.names)
            ],
        }


def clear_of(interval: Interval, line: float) -> Verdict:
    """Whether a difference that should be small is known to be below a line, above it, or neither."""
    if interval.high < line:
        return Verdict.PASS
    return Verdict.FAIL if interval.low > line else Verdict.UNKNOWN


def told(interval: Interval) -> str:
    """For people."""
    return f"{interval.mean:+.4f} (between {interval.low:+.4f} and {interval.high:+.4f})"


def _values(outcomes: Sequence[Sequence[Outcome]], of: object) -> FloatArray:
    assert callable(of)
    return np.array([[float(of(run)) for run in runs] for runs in outcomes])
