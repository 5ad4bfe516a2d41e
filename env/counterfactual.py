"""What a fleet would have cost that somebody else had steered, from what was measured of the one that there was. Pure.

The measured bill tells, pool by pool, how long replicas were busy for each replica's worth of load (a load over the
plan's capacity for it), how much of that was useful, and what energy and bytes cost. A fleet of other counts and weights
is charged at the same: what it rents by price, what of that its own load would keep busy, the rest idle. A fleet that is
the measured one gets the measured bill.

Symbols: `C` classes, `P` pools, `L` layers of the bill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .contract import BILL_LAYERS, Action, FloatArray, Plan, Snapshot
from .ledger import SECONDS_PER_HOUR

_COMPUTE, _SOFTWARE, _IDLE, _ENERGY, _NETWORK = range(len(BILL_LAYERS))
USD_DECIMALS: Final = 9
"""Of a tick's dollars by pool and layer, as they are kept: a record is no ledger."""


@dataclass(frozen=True)
class Comparison:
    """One tick beside the same tick under the fallback rule. Dollars are those since the tick before."""

    rule: Action
    """What the rule would do: its proposal, within the guard, over the fleet that it would have by now."""
    rule_up: FloatArray
    """`[P]` replicas that would serve."""
    rule_attainment: FloatArray
    """`[C]` share expected within target with these."""
    rule_usd: FloatArray
    """`[P, L]`"""
    policy_up: FloatArray
    """`[P]` the same of the policy: where it acts, of what was applied; where it advises, of what it advised."""
    policy_attainment: FloatArray
    """`[C]`"""
    policy_usd: FloatArray
    """`[P, L]`"""
    usd: FloatArray
    """`[P, L]` as measured of the fleet that there was; NaN where the split is not known."""


@dataclass(frozen=True)
class Fleet:
    """What is up and where load goes, over a span of time."""

    rented: FloatArray
    """`[P]` replicas paid for, those that start included."""
    up: FloatArray
    """`[P]` of these, those that serve."""
    worth: FloatArray
    """`[P]` the load in replicas' worth, as `worth_of` tells it."""


def worth_of(snapshot: Snapshot, plan: Plan, action: Action) -> FloatArray:
    """`[P]` how many replicas the present load fills under an action's weights, by the plan's capacities."""
    rate = snapshot.plausible("arrival_rate_per_s", plan.load_per_s)
    load = (rate * action.admit)[:, None] * action.route
    filled = np.divide(load, plan.capacity_per_s, out=np.zeros_like(load), where=plan.capacity_per_s > 0)
    worth: FloatArray = filled.sum(axis=0)
    return worth


def fleet_usd(
    measured_usd: FloatArray, measured: Fleet, other: Fleet, usd_per_hr: FloatArray, span_s: float
) -> FloatArray:
    """`[P, L]` dollars of another fleet over the same span.

    Args:
        measured_usd: `[P, L]` of the measured fleet; NaN where a pool's split is not known.
        measured: that fleet.
        other: the fleet to charge.
        usd_per_hr: `[P]` price of one replica.
        span_s: how long.

    A pool that tells nothing (it was not up, had no load, or hides its split) is charged at the mean over the others. Where
    none tells, the layers of rent are NaN.
    """
    if span_s <= 0.0:
        return np.zeros_like(measured_usd)
    hours = span_s / SECONDS_PER_HOUR
    rent = usd_per_hr * hours
    compute, busy_usd = measured_usd[:, _COMPUTE], measured_usd[:, _COMPUTE] + measured_usd[:, _SOFTWARE]
    busy_per_worth = _rate(busy_usd, rent * measured.worth)
    useful_frac = np.minimum(_rate(compute, busy_usd), 1.0)
    usd_per_rented_hr = _rate(measured_usd[:, _ENERGY], measured.rented * hours)
    busy = rent * np.minimum(np.where(other.worth > 0, busy_per_worth * other.worth, 0.0), other.up)
    total = other.worth.sum()
    share = other.worth / total if total > 0 else np.zeros_like(other.worth)
    usd = np.empty_like(measured_usd)
    usd[:, _COMPUTE] = np.where(busy == 0.0, 0.0, busy * useful_frac)
    usd[:, _SOFTWARE] = busy - usd[:, _COMPUTE]
    usd[:, _IDLE] = rent * other.rented - busy
    usd[:, _ENERGY] = np.where(other.rented > 0, usd_per_rented_hr * other.rented * hours, 0.0)
    usd[:, _NETWORK] = np.nansum(measured_usd[:, _NETWORK]) * share
    return usd


def _rate(part: FloatArray, whole: FloatArray) -> FloatArray:
    """`[P]` part over whole; the mean over all pools that tell where one does not; NaN where none does."""
    known = np.isfinite(part) & (whole > 1e-12)
    mean = part[known].sum() / whole[known].sum() if known.any() else np.nan
    rate: FloatArray = np.full_like(part, mean)
    np.divide(part, whole, out=rate, where=known)
    return rate
