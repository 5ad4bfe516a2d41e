"""What exploration may do and what it has cost: noise only where the guard has nothing against it, and a budget. Pure.

The measure is the policy itself without noise. Its fleet is followed beside the real one from the first draw on, as the
fallback rule's is (`comparing`), until nothing distinguishes the two any more. Of every tick it is counted

- in dollars: the measured bill less what that fleet would have cost; what was saved is not paid out again;
- in requests: those expected to miss because the real fleet carries less of the load than that fleet would; and, by class,
  what was measured beyond that: misses beyond the attainment expected of that fleet, added up and never below 0 (a CUSUM
  chart: E. S. Page, Biometrika 41 (1954)), of which the most that ever stood counts.

Symbols: `C` classes, `P` pools.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from ..env.contract import BILL_LAYERS, Action, Bill, BoolArray, Cluster, FloatArray, Plan, Snapshot
from ..env.guard import Change, GuardState, Limits, guard
from ..env.ledger import SECONDS_PER_HOUR
from ..env.scenario.control import Exploration
from ..env.window import FINISHED, LOST, MET
from ..telemetry.record import Reach
from . import shadow
from .comparing import Course, course_usd, steered, up_in
from .deciding import expected_attainment
from .reach import within

SAME_ROUTE: Final = 1e-6
"""Shares that differ by less send the same requests."""
_RENT: Final = [BILL_LAYERS.index(layer) for layer in ("compute", "software", "idle")]
"""Layers of the bill that a replica's price goes into."""


@dataclass(frozen=True)
class Account:
    """What a campaign has spent."""

    campaign: str
    allowed_requests: float
    """That may miss because of it: fixed when it began."""
    usd: float = 0.0
    expected_requests: float = 0.0
    """That miss because the fleet carries less."""
    unexplained: FloatArray = field(default_factory=lambda: np.zeros(0))
    """`[C]` measured beyond that, as it stands."""
    unexplained_most: float = 0.0
    """The most that ever stood, over all classes."""
    ticks: int = 0
    """At which it could have explored."""
    explored_ticks: int = 0
    refused_ticks: int = 0
    """At which the guard had something against a draw, and it was dropped."""

    @property
    def requests(self) -> float:
        """That missed because of it, as far as can be told."""
        return self.expected_requests + self.unexplained_most


def opened(settings: Exploration, plan: Plan, n_classes: int) -> Account:
    """A campaign before its first tick."""
    load_per_s = float(np.nansum(plan.load_per_s))
    allowed = (settings.attainment or 0.0) * load_per_s * settings.hours * SECONDS_PER_HOUR
    return Account(settings.campaign, allowed, unexplained=np.zeros(n_classes))


def spent(account: Account, settings: Exploration, tick_s: float) -> str:
    """Why the campaign is over; empty while it is not."""
    if account.usd >= (settings.usd or 0.0):
        return f"${account.usd:.3f} of ${settings.usd or 0.0:g} are spent"
    if account.requests >= account.allowed_requests:
        return f"{account.requests:.1f} of {account.allowed_requests:.1f} requests are spent"
    if account.ticks * tick_s >= settings.hours * SECONDS_PER_HOUR:
        return f"its {settings.hours:g} hours are over"
    return ""


def told(account: Account, settings: Exploration) -> str:
    """For people, as it stands."""
    return (
        f"campaign {account.campaign}: ${account.usd:.3f} of ${settings.usd or 0.0:g},"
        f" {account.requests:.1f} of {account.allowed_requests:.1f} requests"
    )


def inside(
    explored: Action,
    reach: Reach,
    plain: Action,
    plain_reach: Reach,
    snapshot: Snapshot,
    plan: Plan,
    cluster: Cluster,
    limits: Limits,
    state: GuardState,
) -> bool:
    """Whether the guard has nothing against an action with noise but what it has against the one without."""

    def changed(action: Action, own: Reach) -> dict[str, BoolArray]:
        done = guard(within(action, own, cluster), snapshot, plan, cluster, limits, state)
        return _masks(done.changes)

    before, after = changed(plain, plain_reach), changed(explored, reach)
    return all(code in before and not (mask & ~before[code]).any() for code, mask in after.items() if mask.any())


def _masks(changes: tuple[Change, ...]) -> dict[str, BoolArray]:
    """What was changed of which pools or classes, by code."""
    masks: dict[str, BoolArray] = {}
    for change in changes:
        key = f"{change.code} {change.subject}"
        masks[key] = change.mask | masks[key] if key in masks else change.mask
    return masks


@dataclass(frozen=True)
class Followed:
    """The fleet of the policy without noise."""

    course: Course
    at_s: float
    """As of when."""
    leaving: FloatArray
    """`[P]` replicas that it gave up and that may still be there: they finish what they have."""


def parted(in_force: Action, state: GuardState, snapshot: Snapshot) -> Followed:
    """As the first noise is drawn: both fleets are the same still."""
    course = Course(shadow.found(in_force.replicas), replace(state, applied=in_force))
    return Followed(course, float(snapshot.time_s), snapshot.plausible("draining", 0.0))


def accounted(
    account: Account,
    followed: Followed,
    snapshot: Snapshot,
    plan: Plan,
    cluster: Cluster,
    in_force: Action,
    bill: Bill,
    counts: FloatArray,
) -> Account:
    """With what came of the time since the tick before.

    Args:
        account: as of the tick before.
        followed: as of the tick before.
        snapshot: what is seen.
        plan: whose capacities are believed.
        cluster: its targets.
        in_force: what stood in the world since the tick before.
        bill: measured since then.
        counts: `[C, W]` of the requests since then (`env.window`).
    """
    now_s = float(snapshot.time_s)
    span_s = max(now_s - followed.at_s, 0.0)
    measured = bill.usd.sum(axis=1)
    # What the policy gave up without noise too is nothing that noise cost, for as long as the real ones take to go.
    leaving = np.minimum(followed.leaving, _departing(measured, snapshot, cluster, span_s))
    own = course_usd(followed.course, snapshot, plan, cluster, in_force, measured, span_s, leaving)
    more = _more_usd(measured, own, followed.course.state.applied.replicas + leaving, snapshot, cluster, span_s)
    cold_start_s = snapshot.plausible("cold_start_s", cluster.cold_start_s)
    applied = followed.course.state.applied
    up = np.minimum(up_in(followed.course, now_s, cold_start_s), applied.replicas)
    without = expected_attainment(snapshot, plan, replace(applied, replicas=up), cluster)
    real = replace(in_force, replicas=snapshot.plausible("ready", in_force.replicas))
    with_noise = expected_attainment(snapshot, plan, real, cluster)
    judged, met = counts[:, FINISHED] + counts[:, LOST], counts[:, MET]
    expected = judged * np.maximum(without - with_noise, 0.0)
    unexplained = np.maximum(account.unexplained + judged * without - met - expected, 0.0)
    return replace(
        account,
        usd=account.usd + more,
        expected_requests=account.expected_requests + float(expected.sum()),
        unexplained=unexplained,
        unexplained_most=max(account.unexplained_most, float(unexplained.sum())),
    )


def _more_usd(
    measured: FloatArray, own: FloatArray, rented: FloatArray, snapshot: Snapshot, cluster: Cluster, span_s: float
) -> float:
    """Dollars beyond those of the followed fleet, at least 0; where a bill is not known, the difference in rent."""
    total = float(measured.sum() - own.sum())
    if not np.isfinite(total):
        price = snapshot.plausible("usd_per_hr", cluster.usd_per_hr)
        there = sum(snapshot.plausible(state, 0.0) for state in ("ready", "starting", "draining"))
        total = float(((there - rented) * price).sum()) * span_s / SECONDS_PER_HOUR
    return max(total, 0.0)


def _departing(measured: FloatArray, snapshot: Snapshot, cluster: Cluster, span_s: float) -> FloatArray:
    """`[P]` replicas that were paid for and are not to stay, on the mean over the span; where the bill does not tell, those
    that drain now."""
    price = snapshot.plausible("usd_per_hr", cluster.usd_per_hr)
    stay = snapshot.plausible("ready", 0.0) + snapshot.plausible("starting", 0.0)
    rent = measured[:, _RENT].sum(axis=1)
    whole = price * span_s / SECONDS_PER_HOUR
    paid_for = np.divide(rent, whole, out=np.full_like(rent, np.nan), where=whole > 0)
    departing: FloatArray = np.where(
        np.isfinite(paid_for), np.maximum(paid_for - stay, 0.0), snapshot.plausible("draining", 0.0)
    )
    return departing


def follow(
    followed: Followed,
    plain: Action,
    reach: Reach,
    applied: Action,
    snapshot: Snapshot,
    plan: Plan,
    cluster: Cluster,
    limits: Limits,
) -> Followed | None:
    """The followed fleet after a decision; None once nothing distinguishes it from the real one.

    Args:
        followed: as of the tick before.
        plain: what the policy wants without noise.
        reach: how far it reaches.
        applied: what was decided for the real fleet.
        snapshot: what is seen.
        plan: for the guard.
        cluster: for the guard.
        limits: of the guard.
    """
    now_s, cold_start_s = float(snapshot.time_s), snapshot.plausible("cold_start_s", cluster.cold_start_s)
    wanted = within(plain, reach, cluster)
    course = steered(followed.course, wanted, snapshot, plan, cluster, limits, cold_start_s)
    own = course.state.applied
    same = (
        np.array_equal(own.replicas, applied.replicas)
        and np.array_equal(own.batch_cap, applied.batch_cap)
        and np.allclose(own.route, applied.route, atol=SAME_ROUTE)
        and np.allclose(own.admit, applied.admit, atol=SAME_ROUTE)
        and np.array_equal(up_in(course, now_s, cold_start_s), snapshot.plausible("ready", np.nan))
    )
    if same:
        return None
    still = np.minimum(followed.leaving, snapshot.plausible("draining", 0.0))
    given_up = np.maximum(followed.course.state.applied.replicas - own.replicas, 0.0)
    return Followed(course, now_s, still + given_up)
