"""What a policy costs at exactly an attainment, read off the frontier that its one head-room knob draws.

A setting is judged by the *budget used*: the misses of a class over those that it may have, of the worst class. At a
level of 99 % a class that wants 99 % or more may miss 1 %, one that wants 95 % may miss its 5 %. A setting holds the
level when it uses no more than the whole budget.

Symbols: `H` settings of the knob, `C` classes; `...` any leading axes.
"""

from __future__ import annotations

import numpy as np

from ...env.contract import FloatArray

LEVELS = (0.99, 0.95)
"""Attainments that costs are compared at."""
NEVER_HELD = "no setting of the sweep holds it"
ALWAYS_HELD = "every setting of the sweep holds it, so that what less would cost is not known"


def budget_used(met: FloatArray, done: FloatArray, wanted: FloatArray, level: float) -> FloatArray:
    """`[...]` misses of the worst class over those that `level` leaves it.

    Args:
        met: `[..., C]` requests that met their targets.
        done: `[..., C]` those and the others, lost ones included; a class without any counts as held.
        wanted: `[..., C]` attainment that each class wants, 0..1.
        level: 0..1, below 1; asks of each class the lower of it and what the class wants.

    A class that missed nothing is taken to have missed half a request: so few runs tell no more.
    """
    allowed = 1.0 - np.minimum(level, wanted)
    missed = np.maximum(done - met, 0.5)
    used = np.where(done > 0, missed / np.where(done > 0, done, 1.0) / allowed, 0.0)
    worst: FloatArray = used.max(axis=-1)
    return worst


def cost_at(used: FloatArray, usd_per_hr: FloatArray, at_most: bool = False) -> FloatArray:
    """`[...]` bill at exactly the whole budget, from the settings' `[..., H]` budgets used and bills; NaN if not known.

    The frontier is the settings that no other beats in both. Between the cheapest that holds the level and the next
    cheaper one on it, which does not, the bill is taken as straight in the logarithm of the misses. Beyond the sweep
    nothing is known: NaN where no setting holds the level, or where all do. Where some miss it but cost no less than one that
    holds it, that one's bill is the answer.

    With `at_most`, where all settings hold the level the bill of the cheapest is told: the cost is that or less.
    """
    holds = used <= 1.0
    held_usd = np.where(holds, usd_per_hr, np.inf)
    # Of equally cheap ones the one that misses least, so that its dearer twin below is not taken for the next.
    cheapest = held_usd.min(axis=-1, keepdims=True)
    upper_used = np.where(held_usd <= cheapest, used, np.inf).min(axis=-1)
    upper_usd = cheapest[..., 0]
    cheaper = ~holds & (usd_per_hr < cheapest)
    lower_used = np.where(cheaper, used, np.inf).min(axis=-1)
    lower_usd = np.where(cheaper & (used <= lower_used[..., None]), usd_per_hr, np.inf).min(axis=-1)
    between = np.isfinite(lower_used) & np.isfinite(upper_usd)
    with np.errstate(invalid="ignore", divide="ignore"):
        tiny = np.maximum(upper_used, 1e-12)
        share = np.where(between, np.log(lower_used) / (np.log(lower_used) - np.log(tiny)), 1.0)
        straight = np.where(between, lower_usd, 0.0) * (1.0 - share) + upper_usd * share
    known = holds.any(axis=-1) & (at_most | ~holds.all(axis=-1))
    cost: FloatArray = np.where(known, np.where(between, straight, upper_usd), np.nan)
    return cost


def neighbours(used: FloatArray, usd_per_hr: FloatArray) -> tuple[int | None, int | None]:
    """Places among `[H]` settings of the two that `cost_at` reads a cost off between: the cheaper, that misses the level,
    and the dearer, that holds it; None where there is none."""
    places = range(len(used))
    upper = min((h for h in places if used[h] <= 1.0), key=lambda h: (usd_per_hr[h], used[h]), default=None)
    below = [h for h in places if used[h] > 1.0 and (upper is None or usd_per_hr[h] < usd_per_hr[upper])]
    return min(below, key=lambda h: (used[h], usd_per_hr[h]), default=None), upper


def why_unknown(used: FloatArray) -> str:
    """Why `cost_at` is NaN for `[H]` settings; nothing if it is not."""
    holds = used <= 1.0
    if not holds.any():
        return f"{NEVER_HELD}: at best {float(used.min()):.2g} times the misses allowed"
    return ALWAYS_HELD if holds.all() else ""


def undominated(missed: FloatArray, usd_per_hr: FloatArray) -> list[int]:
    """Places of the settings `[H]` that no other beats in both, from the cheapest to the dearest: the lower envelope."""
    order = sorted(range(len(missed)), key=lambda h: (usd_per_hr[h], missed[h]))
    kept: list[int] = []
    for h in order:
        if not kept or missed[h] < missed[kept[-1]]:
            kept.append(h)
    return kept
