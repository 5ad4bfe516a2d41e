"""The guard between any policy and the world: hard limits that no network can cross, in training as in production.

Pure and batched. Whatever is proposed and whatever is seen, NaN and infinities included, what comes out obeys every
limit; a figure that cannot be (`Column.high`) counts as unknown. Where limits clash the order of precedence is:
minimum and maximum replicas, budget, held while telemetry is stale or impossible, the last replica that serves a class,
steps, drains and pending starts, floor for the present load, cooldown.

A pool of stale or impossible telemetry is masked: its count, batch cap and token budget stay (a hot GPU is derated all the
same), and no class's weight on it grows; weights may fall, since what is silent may be dead.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .contract import Action, BoolArray, Cluster, FloatArray, Plan, Reason, ReasonCode, Snapshot

FLOOR_FRAC = 0.8
"""A pool keeps at least this share of the replicas that its present load needs within target."""
HOT_CAP_FRAC = 0.5
"""A pool with a hot GPU runs at most this share of its largest batch."""
LEAST_TOKEN_BUDGET = 64.0
"""An engine with a smaller budget starves its own running sequences."""
_GOES_BY = ("ready", "starting", "draining", "target", "telemetry_age_s", "usd_per_hr", "gpu_temp_c")
"""The guard's own view of a pool: where one of these cannot be, nothing that the pool tells can be trusted."""


@dataclass(frozen=True)
class Limits:
    """The limits of one cluster (numbers) or of a batch of clusters (`[...]`)."""

    budget_usd_per_hr: FloatArray
    scale_up_step: FloatArray
    scale_down_step: FloatArray
    scale_down_cooldown_s: FloatArray
    stale_after_s: FloatArray
    hot_gpu_c: FloatArray
    min_admit_frac: FloatArray


@dataclass(frozen=True)
class GuardState:
    """What the guard remembers."""

    changed_at_s: FloatArray
    """`[..., P]` when the pool's wanted count last changed; -inf for never."""
    applied: Action
    """The last action that was let through."""


@dataclass(frozen=True)
class Change:
    """Where and how one rule changed the proposal."""

    code: ReasonCode
    subject: str
    """"pool" or "class": which axis the arrays run over."""
    mask: BoolArray
    wanted: FloatArray
    applied: FloatArray
    detail: str = ""
    """Which number it was, where a code may speak of several."""


@dataclass(frozen=True)
class Guarded:
    """What the guard lets through."""

    action: Action
    state: GuardState
    changes: tuple[Change, ...]


def first_state(plan: Plan, cluster: Cluster) -> GuardState:
    """The guard before its first tick: the plan counts as the last good action."""
    return GuardState(
        changed_at_s=np.full(cluster.max_replicas.shape, -np.inf),
        applied=Action(
            route=plan.route,
            admit=np.ones(cluster.class_mask.shape),
            batch_cap=plan.batch_cap,
            token_budget=cluster.max_token_budget,
            replicas=plan.replicas,
        ),
    )


def guard(
    proposed: Action, snapshot: Snapshot, plan: Plan, cluster: Cluster, limits: Limits, state: GuardState
) -> Guarded:
    """The nearest action to `proposed` that obeys every limit, and why it differs."""
    changes: list[Change] = []
    finite = _finite(proposed, state.applied, changes)
    current: FloatArray = np.round(snapshot.plausible("target", state.applied.replicas))
    masks = _masks(current, snapshot, limits)
    route = _servable(finite.route, plan, cluster, changes)
    route = _no_growth(route, masks, cluster, state.applied.route, changes)
    admit = _admitted(finite.admit, cluster, limits, changes)
    batch_cap, token_budget = _caps(finite, masks, snapshot, cluster, limits, state.applied, changes)
    replicas = _replicas(finite.replicas, route, current, masks, snapshot, plan, cluster, limits, state, changes)
    action = Action(route=route, admit=admit, batch_cap=batch_cap, token_budget=token_budget, replicas=replicas)
    changed_at_s = np.where(replicas != current, snapshot.time_s[..., None], state.changed_at_s)
    return Guarded(action=action, state=GuardState(changed_at_s, action), changes=tuple(changes))


def reasons(changes: tuple[Change, ...], cluster: Cluster) -> tuple[Reason, ...]:
    """The changes to a single cluster's action, one reason for each pool or class touched."""
    names = {"pool": cluster.pool_names, "class": cluster.class_names}
    return tuple(
        Reason(change.code, names[change.subject][i], float(change.wanted[i]), float(change.applied[i]), change.detail)
        for change in changes
        for i in np.flatnonzero(change.mask)
    )


def _note(
    changes: list[Change], code: ReasonCode, subject: str, wanted: FloatArray, applied: FloatArray, detail: str = ""
) -> FloatArray:
    """Record where `applied` differs from `wanted`, and hand `applied` on."""
    if not (wanted != applied).any():  # as a rule nothing differs, and telling so costs a tenth of what follows
        return applied
    same = np.isclose(wanted, applied, rtol=1e-9, atol=1e-9, equal_nan=True)
    mask: BoolArray = np.asarray(np.logical_not(same))
    if mask.any():
        changes.append(Change(code, subject, mask, wanted, applied, detail))
    return applied


def _finite(proposed: Action, last: Action, changes: list[Change]) -> Action:
    """Every number that is not finite becomes the last good one."""

    def repair(name: str, subject: str) -> FloatArray:
        new: FloatArray = np.asarray(getattr(proposed, name), dtype=np.float64)
        good = np.where(np.isfinite(new), new, getattr(last, name))
        if name == "route":
            bad_rows: BoolArray = np.asarray(~np.isfinite(new).all(axis=-1))
            good = np.where(bad_rows[..., None], last.route, new)
            unknown = np.where(bad_rows, np.nan, 0.0)
            _note(changes, ReasonCode.NOT_FINITE, subject, unknown, np.zeros(bad_rows.shape), name)
            return good
        return _note(changes, ReasonCode.NOT_FINITE, subject, new, good, name)

    return Action(
        route=repair("route", "class"),
        admit=repair("admit", "class"),
        batch_cap=repair("batch_cap", "pool"),
        token_budget=repair("token_budget", "pool"),
        replicas=repair("replicas", "pool"),
    )


def _servable(route: FloatArray, plan: Plan, cluster: Cluster, changes: list[Change]) -> FloatArray:
    """Rows of weights over the pools that can serve the class, scaled to sum to 1; padding stays zero.

    The reason's `wanted` is the weight that was proposed where it cannot be, 1 where none was left.
    """
    allowed = cluster.serves & cluster.pool_mask[..., None, :] & cluster.class_mask[..., :, None]
    asked = np.where(allowed, np.clip(route, 0.0, 1e6), 0.0)
    instead = np.where(allowed, np.where(np.isfinite(plan.route), np.maximum(plan.route, 0.0), 0.0), 0.0)
    instead = np.where(instead.sum(axis=-1, keepdims=True) > 0, instead, allowed.astype(np.float64))
    kept = np.where(asked.sum(axis=-1, keepdims=True) > 1e-9, asked, instead)
    empty = (asked.sum(axis=-1) <= 1e-9) & allowed.any(axis=-1)
    total = kept.sum(axis=-1, keepdims=True)
    weights: FloatArray = np.divide(kept, total, out=np.zeros_like(kept), where=total > 0)
    # What is routed right already is not divided again: it would change in its last digit.
    weights = np.where(np.abs(total - 1.0) < 1e-9, kept, weights)
    lost = np.where(empty, 1.0, np.abs(np.clip(route, -1e6, 1e6) - asked).sum(axis=-1))
    _note(changes, ReasonCode.ROUTE_UNSERVABLE, "class", lost, np.zeros_like(lost))
    return weights


def _masks(current: FloatArray, snapshot: Snapshot, limits: Limits) -> tuple[tuple[ReasonCode, BoolArray], ...]:
    """`[..., P]` pools that must stay as they are, by reason; none that is empty, for there is nothing to be told of it."""
    stale = snapshot.known("telemetry_age_s") & (snapshot.telemetry_age_s > limits.stale_after_s[..., None])
    impossible = np.zeros(current.shape, dtype=np.bool_)
    for name in _GOES_BY:
        values, high = getattr(snapshot, name), vars(Snapshot)[name].high
        impossible |= (values < 0.0) | (values > high)  # comparisons with NaN are False
    there = current > 0
    return (
        (ReasonCode.IMPOSSIBLE_TELEMETRY, impossible & there),
        (ReasonCode.STALE_TELEMETRY, stale & ~impossible & there),
    )


def _no_growth(
    route: FloatArray,
    masks: tuple[tuple[ReasonCode, BoolArray], ...],
    cluster: Cluster,
    last: FloatArray,
    changes: list[Change],
) -> FloatArray:
    """No weight grows on a masked pool; what it would have gained goes to the class's other pools, as proposed.

    A class that was to be sent to masked pools only stays where it was. The reason's `wanted` is the weight that would
    have been gained.
    """
    masked = np.logical_or.reduce([mask for _, mask in masks])[..., None, :]
    if not masked.any():
        return route
    gained = np.where(masked, np.maximum(route - last, 0.0), 0.0)
    others = np.where(masked, 0.0, route)
    total = others.sum(axis=-1, keepdims=True)
    held = np.where(masked, np.minimum(route, last), 0.0)
    left = 1.0 - held.sum(axis=-1, keepdims=True)
    spread = held + others * np.divide(left, total, out=np.zeros_like(total), where=total > 1e-9)
    before = np.where(cluster.serves, np.maximum(last, 0.0), 0.0)
    stays = np.abs(before.sum(axis=-1, keepdims=True) - 1.0) < 1e-9
    instead = np.where(total > 1e-9, spread, np.where(stays, before, route))
    limited: FloatArray = np.where((gained.sum(axis=-1) > 1e-9)[..., None], instead, route)
    for code, mask in masks:
        was = np.where(mask[..., None, :], gained, 0.0).sum(axis=-1)
        now = np.where(mask[..., None, :], np.maximum(limited - last, 0.0), 0.0).sum(axis=-1)
        _note(changes, code, "class", was, np.minimum(was, now), "route")
    return limited


def _admitted(admit: FloatArray, cluster: Cluster, limits: Limits, changes: list[Change]) -> FloatArray:
    """Shares in 0..1; a class with a latency target is let in at least as far as the user said."""
    inside = _note(changes, ReasonCode.ADMIT_RANGE, "class", admit, np.clip(admit, 0.0, 1.0))
    least = np.where(cluster.targets.deferrable, 0.0, limits.min_admit_frac[..., None])
    return _note(changes, ReasonCode.ADMIT_INTERACTIVE, "class", inside, np.maximum(inside, least))


def _caps(
    action: Action,
    masks: tuple[tuple[ReasonCode, BoolArray], ...],
    snapshot: Snapshot,
    cluster: Cluster,
    limits: Limits,
    last: Action,
    changes: list[Change],
) -> tuple[FloatArray, FloatArray]:
    """Whole caps and budgets between what keeps an engine alive and its start values; those of masked pools stay."""
    most = np.maximum(cluster.max_batch_cap, 1.0)
    cap = np.clip(np.round(action.batch_cap), 1.0, most)
    cap = _note(changes, ReasonCode.CAP_RANGE, "pool", np.round(action.batch_cap), cap, "batch_cap")
    wanted = np.round(action.token_budget)
    for code, mask in masks:
        if mask.any():
            held = np.where(mask, np.clip(np.round(last.batch_cap), 1.0, most), cap)
            cap = _note(changes, code, "pool", cap, held, "batch_cap")
            held = np.where(mask, np.round(last.token_budget), wanted)
            wanted = _note(changes, code, "pool", wanted, held, "token_budget")
    hot = snapshot.known("gpu_temp_c") & (snapshot.gpu_temp_c > limits.hot_gpu_c[..., None])
    derated = np.maximum(np.floor(cluster.max_batch_cap * HOT_CAP_FRAC), 1.0)
    cap = _note(changes, ReasonCode.HOT_GPU, "pool", cap, np.where(hot, np.minimum(cap, derated), cap))
    least = np.minimum(np.maximum(cap, LEAST_TOKEN_BUDGET), cluster.max_token_budget)
    budget = np.clip(wanted, least, cluster.max_token_budget)
    return cap, _note(changes, ReasonCode.CAP_RANGE, "pool", wanted, budget, "token_budget")


def _replicas(
    proposed: FloatArray,
    route: FloatArray,
    current: FloatArray,
    masks: tuple[tuple[ReasonCode, BoolArray], ...],
    snapshot: Snapshot,
    plan: Plan,
    cluster: Cluster,
    limits: Limits,
    state: GuardState,
    changes: list[Change],
) -> FloatArray:
    """The wanted counts within all limits; `current` are those that were wanted until now."""
    low = np.where(cluster.pool_mask, cluster.min_replicas, 0.0)
    high = np.where(cluster.pool_mask, cluster.max_replicas, 0.0)
    wanted: FloatArray = np.asarray(np.round(np.clip(proposed, -1e6, 1e6)))
    wanted = _note(changes, ReasonCode.MIN_REPLICAS, "pool", wanted, np.maximum(wanted, 0.0))
    wanted = _note(changes, ReasonCode.MAX_REPLICAS, "pool", wanted, np.minimum(wanted, high))

    up_to = np.minimum(current + limits.scale_up_step[..., None], high)
    wanted = _note(changes, ReasonCode.SCALE_STEP, "pool", wanted, np.minimum(wanted, up_to))
    ready: FloatArray = np.round(snapshot.plausible("ready", current))
    # Starts that are under way count as pending: asking again for the same load would rent it twice.
    pending = np.maximum(current, ready + limits.scale_up_step[..., None])
    wanted = _note(changes, ReasonCode.PENDING_STARTS, "pool", wanted, np.minimum(wanted, pending))

    down_to = np.minimum(np.maximum(current - limits.scale_down_step[..., None], 0.0), high)
    wanted = _note(changes, ReasonCode.SCALE_STEP, "pool", wanted, np.maximum(wanted, down_to))
    # Those on their way out count against the step: a pool drains no more at a time than it may lose at a time.
    leaving: FloatArray = np.round(snapshot.plausible("draining", 0.0))
    drained = np.minimum(current - np.clip(limits.scale_down_step[..., None] - leaving, 0.0, current), high)
    wanted = _note(changes, ReasonCode.DRAIN_FIRST, "pool", wanted, np.maximum(wanted, drained))
    cooling = snapshot.time_s[..., None] - state.changed_at_s < limits.scale_down_cooldown_s[..., None]
    held = np.where(cooling, np.maximum(wanted, np.minimum(current, high)), wanted)
    wanted = _note(changes, ReasonCode.SCALE_DOWN_COOLDOWN, "pool", wanted, held)

    floor = np.minimum(_floor(route, snapshot, plan), np.minimum(up_to, pending))
    wanted = _note(changes, ReasonCode.PLAN_FLOOR, "pool", wanted, np.maximum(wanted, floor))
    kept = _last_kept(wanted, np.minimum(ready, high), cluster)
    wanted = _note(changes, ReasonCode.LAST_REPLICA, "pool", wanted, kept)
    for code, mask in masks:
        wanted = _note(changes, code, "pool", wanted, np.where(mask, np.minimum(current, high), wanted), "replicas")
    wanted = _note(changes, ReasonCode.MIN_REPLICAS, "pool", wanted, np.maximum(wanted, low))
    if np.isinf(limits.budget_usd_per_hr).all():
        return wanted
    # Growth gives way before anything that runs; and what drains is paid for until it is gone, with nothing in its place.
    starting = np.round(snapshot.plausible("starting", 0.0))
    rented = leaving + np.maximum(ready, np.minimum(wanted, ready + starting))
    stay = np.maximum(low, np.minimum(wanted, np.maximum(current, rented)))
    affordable = _within_budget(wanted, stay, rented, snapshot, cluster, limits)
    wanted = _note(changes, ReasonCode.BUDGET, "pool", wanted, affordable, "growth")
    affordable = _within_budget(wanted, low, np.zeros_like(wanted), snapshot, cluster, limits)
    return _note(changes, ReasonCode.BUDGET, "pool", wanted, affordable)


def _last_kept(wanted: FloatArray, ready: FloatArray, cluster: Cluster) -> FloatArray:
    """Keep one replica in every pool that a class would otherwise be left without: others may not be ready yet."""
    serves = cluster.serves & cluster.pool_mask[..., None, :] & cluster.class_mask[..., :, None]
    staying = np.where(serves, np.minimum(wanted, ready)[..., None, :], 0.0).sum(axis=-1)
    left_alone = (staying < 1.0)[..., None] & serves
    needed = left_alone.any(axis=-2) & (ready >= 1.0)
    return np.where(needed, np.maximum(wanted, 1.0), wanted)


def _floor(route: FloatArray, snapshot: Snapshot, plan: Plan) -> FloatArray:
    """`[..., P]` replicas that the present load needs at least, by the plan's own capacities."""
    rate = snapshot.plausible("arrival_rate_per_s", np.zeros(()))
    load = rate[..., None] * route
    need = np.divide(load, plan.capacity_per_s, out=np.zeros_like(load), where=plan.capacity_per_s > 0)
    floor: FloatArray = np.floor(np.minimum(need.sum(axis=-2) * FLOOR_FRAC, 1e6))
    return floor


def _within_budget(
    wanted: FloatArray, low: FloatArray, rented: FloatArray, snapshot: Snapshot, cluster: Cluster, limits: Limits
) -> FloatArray:
    """Take replicas away, dearest first, until the rent is within budget or only `low` are left.

    The rent is that of what is wanted, and of what is `rented` already where that is more.
    """
    price = snapshot.plausible("usd_per_hr", cluster.usd_per_hr)
    wanted = wanted.copy()
    while True:
        over = (np.maximum(wanted, rented) * price).sum(axis=-1) > limits.budget_usd_per_hr * (1 + 1e-9)
        movable = (wanted > low) & over[..., None] & (price > 0)
        if not movable.any():
            return wanted
        dearest = np.argmax(np.where(movable, price, -1.0), axis=-1)[..., None]
        fewer = np.take_along_axis(wanted, dearest, axis=-1) - 1.0
        least = np.take_along_axis(low, dearest, axis=-1)
        chosen = np.take_along_axis(movable, dearest, axis=-1)
        old = np.take_along_axis(wanted, dearest, axis=-1)
        np.put_along_axis(wanted, dearest, np.where(chosen, np.maximum(fewer, least), old), axis=-1)
