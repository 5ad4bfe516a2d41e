"""Whether a policy still sees the world that it was trained in, and how far it is trusted if not. Pure.

Two things tell: how much of what its network sees lies outside the range that it was trained on (`agents.ranges`, on the
checkpoint's card), and how far the simulated twin is off what was recorded since (`poolpilot finetune refit --tell`). Either
lowers the trust in the policy, by straight lines: above one threshold the fallback rule gets a share of every decision, above
a second one all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ..env.scenario.control import Drifting

_OFFER: Final = "refit the twin (poolpilot finetune refit), and fine-tune or train again"


@dataclass(frozen=True)
class Drift:
    """How far the world has moved away, as of a tick."""

    outside_frac: float = math.nan
    """Share of what the network sees that lies outside its range, on the mean over the last while; NaN: not known."""
    features: tuple[str, ...] = ()
    """Which features lie outside most now."""
    twin_error: float = math.nan
    """Of the twin that the policy was trained in, on what was recorded since; NaN: nobody told."""
    trust: float = 1.0
    """The policy's share of a decision; the fallback rule has the rest."""
    at_s: float = math.nan

    @property
    def drifts(self) -> bool:
        """Whether the policy is trusted less than fully."""
        return self.trust < 1.0

    def in_words(self) -> str:
        """What is wrong and what helps; empty where nothing is."""
        if not self.drifts:
            return ""
        said = []
        if not math.isnan(self.outside_frac):
            named = f" ({', '.join(self.features)})" if self.features else ""
            said.append(
                f"{self.outside_frac:.0%} of what the policy sees is outside the range it was trained on{named}"
            )
        if not math.isnan(self.twin_error):
            said.append(f"the twin is off by {self.twin_error:.0%} of what counts as bad")
        return f"drift: {'; '.join(said)}; the fallback rule has {1.0 - self.trust:.0%} of every decision; {_OFFER}"


def drifted(
    before: Drift,
    now_s: float,
    outside_frac: float,
    features: Sequence[str],
    twin_error: float,
    limits: Drifting,
) -> Drift:
    """The drift after one more tick.

    Args:
        before: as of the tick before.
        now_s: on the decider's clock.
        outside_frac: of what the network saw at this tick; NaN where it was not asked, or its card tells no range.
        features: that lie outside most.
        twin_error: the newest that was told; NaN for none.
        limits: thresholds, and over how long the mean goes.
    """
    mean, named = before.outside_frac, before.features
    if not math.isnan(outside_frac):
        # A mean that begins counts as if nothing had been outside before: one odd tick is no drift.
        since_s = 0.0 if math.isnan(before.at_s) else max(now_s - before.at_s, 0.0)
        kept = math.exp(-since_s / limits.over_s)
        mean = kept * (0.0 if math.isnan(mean) else mean) + (1.0 - kept) * outside_frac
        named = tuple(features)
    trust = min(
        _trust(mean, limits.outside_frac, limits.outside_frac_most),
        _trust(twin_error, limits.twin_error, limits.twin_error_most),
    )
    return replace(before, outside_frac=mean, features=named, twin_error=twin_error, trust=trust, at_s=now_s)


def _trust(value: float, begins: float, ends: float) -> float:
    """1 up to where it begins, 0 from where it ends, straight between; of what is not known, 1."""
    if math.isnan(value) or value <= begins:
        return 1.0
    return max(0.0, (ends - value) / (ends - begins))
