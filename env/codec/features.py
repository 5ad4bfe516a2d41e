"""What the network sees of a snapshot, of the minutes before, and of the rules' proposals.

Symbols: `C` classes, `P` pools, `K` rules of a portfolio, `FC`/`FP`/`FG` features of a class, a pool, the whole; `...`
optional leading axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..contract import FORECAST_HORIZON_S, Cluster, FloatArray, Plan, Snapshot
from .outputs import BLENDED
from .past import Past, unanswered
from .proposal import Proposal


@dataclass(frozen=True)
class Observation:
    """What the network sees; every value lies in [-1, 1]."""

    classes: FloatArray
    """`[..., C, FC]`"""
    pools: FloatArray
    """`[..., P, FP]`"""
    whole: FloatArray
    """`[..., FG]`"""
    class_mask: FloatArray
    """`[..., C]` 1 for a class, 0 for padding."""
    pool_mask: FloatArray
    """`[..., P]`"""


FORECAST_SEEN_S: Final = (60.0, 180.0, 300.0, 600.0)
"""Which forecast steps the network sees. A step more would be another observation, which no trained network fits."""
OTHERS: Final = range(1, BLENDED)
CLASS_FEATURES: Final = (
    "rate",
    "rate_of_minute",
    "rate_of_20_minutes",
    *(f"forecast_{int(h)}s" for h in FORECAST_SEEN_S),
    "prompt_length",
    "output_length",
    "prompt_spread",
    "output_spread",
    "ttft_target",
    "tpot_target",
    "ttft_p95_of_target",
    "ttft_p50_of_target",
    "tpot_p95_of_target",
    "attainment_over_wanted",
    "wanted_attainment",
    "budget_left",
    "hour_left",
    "deferrable",
    "backlog_of_deadline",
    "in_flight_of_load",
    "in_flight_rise",
    "shed",
    "utilisation",
    "utilisation_with_starting",
    "waiting",
    "known",
    "there",
)
POOL_FEATURES: Final = (
    "ready",
    "starting",
    "draining",
    "asleep",
    "target",
    "proposed",
    *(f"proposed_by_{k}" for k in OTHERS),
    "need_over_proposed",
    "utilisation",
    "utilisation_with_starting",
    "pending_until_ready",
    "unanswered",
    "unanswered_of_15_minutes",
    "room_up",
    "room_down",
    "running_of_cap",
    "waiting_of_cap",
    "waiting_rise",
    "cap_of_max",
    "budget_of_max",
    "kv_used",
    "gpu_util",
    "gpu_temp",
    "throttled",
    "power_known",
    "price_of_mean",
    "price_of_base",
    "price_of_15_minutes",
    "usd_per_work",
    "spot",
    "preemptions",
    "cold_start",
    "cold_start_of_horizon",
    "deferrable_share",
    "misses_left",
    "tokens_per_s",
    "age",
    "known",
    "there",
)
WHOLE_FEATURES: Final = (
    "miss_price",
    "rent_of_proposed",
    *(f"rent_proposed_by_{k}" for k in OTHERS),
    "utilisation",
    "waiting",
    "pending_share",
    "budget_room",
)


def encode(
    snapshot: Snapshot,
    plan: Plan,
    proposals: Sequence[Proposal],
    cluster: Cluster,
    miss_price: FloatArray,
    past: Past,
) -> Observation:
    """Lay a snapshot and the rules' proposals out as the network sees them; what is unknown is 0.

    Args:
        proposals: `K`, the neutral one first.
        miss_price: `[...]` the price of a miss that the policy is asked to act by (see `reward`).
        past: what `look_back` says of the minutes before.
    """
    need = proposals[0].need.sum(axis=-2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # what comes of absurd figures is bounded below
        price = np.where(snapshot.known("usd_per_hr"), snapshot.usd_per_hr, cluster.usd_per_hr)
        load = _Load(
            need=need,
            of_ready=_ratio(need, np.maximum(snapshot.ready, 0.25)) - 0.7,
            with_starting=_ratio(need, np.maximum(snapshot.ready + snapshot.starting, 0.25)) - 0.7,
            waiting=np.log1p(_ratio(snapshot.waiting, np.maximum(snapshot.ready, 1.0))) / 5.0,
        )
        pools = _pool_features(snapshot, plan, proposals, cluster, price, load, past)
        classes = _class_features(snapshot, plan, proposals[0], cluster, load, past)
        whole = _whole_features(snapshot, proposals, cluster, price, need, miss_price)
    return Observation(
        classes=_bounded(classes) * cluster.class_mask[..., None],
        pools=_bounded(pools) * cluster.pool_mask[..., None],
        whole=_bounded(whole),
        class_mask=cluster.class_mask.astype(np.float64),
        pool_mask=cluster.pool_mask.astype(np.float64),
    )


@dataclass(frozen=True)
class _Load:
    """How busy the pools are, `[..., P]` each."""

    need: FloatArray
    of_ready: FloatArray
    with_starting: FloatArray
    waiting: FloatArray


def _class_features(
    snapshot: Snapshot, plan: Plan, proposal: Proposal, cluster: Cluster, load: _Load, past: Past
) -> FloatArray:
    targets, rate, in_flight = cluster.targets, snapshot.arrival_rate_per_s, snapshot.in_flight
    deferrable = targets.deferrable
    ahead = np.log((snapshot.forecast_per_s + 0.05) / (rate[..., None] + 0.05)) / 2.0
    ttft_target = np.where(deferrable, targets.deadline_s, targets.ttft_s)
    capacity = np.where(cluster.serves, plan.capacity_per_s, 0.0).max(axis=-1)
    # What the class meets on its way, in the mean over its routes.
    met = proposal.action.route @ _bounded(np.stack([load.of_ready, load.with_starting, load.waiting], axis=-1))
    features = {
        "rate": np.log1p(_ratio(rate, capacity)) / 3.0,
        "rate_of_minute": np.log((rate + 0.05) / (past.rate_soon_per_s + 0.05)) / 2.0,
        "rate_of_20_minutes": np.log((rate + 0.05) / (past.rate_long_per_s + 0.05)) / 2.0,
        **{f"forecast_{int(h)}s": ahead[..., FORECAST_HORIZON_S.index(h)] for h in FORECAST_SEEN_S},
        "prompt_length": np.log(snapshot.prompt_tokens_mean / 500.0) / 4.0,
        "output_length": np.log((snapshot.output_tokens_mean + 1.0) / 200.0) / 4.0,
        "prompt_spread": _ratio(snapshot.prompt_tokens_std, snapshot.prompt_tokens_mean) / 3.0,
        "output_spread": _ratio(snapshot.output_tokens_std, snapshot.output_tokens_mean) / 3.0,
        "ttft_target": np.log(ttft_target) / 6.0,
        "tpot_target": np.log(targets.tpot_s / 0.05) / 3.0,
        "ttft_p95_of_target": np.log(_ratio(snapshot.ttft_p95_s, ttft_target) + 1e-3) / 4.0,
        "ttft_p50_of_target": np.log(_ratio(snapshot.ttft_p50_s, ttft_target) + 1e-3) / 4.0,
        "tpot_p95_of_target": np.log(_ratio(snapshot.tpot_p95_s, targets.tpot_s) + 1e-3) / 2.0,
        "attainment_over_wanted": (snapshot.attainment - targets.attainment) * 10.0,
        "wanted_attainment": -np.log10(np.maximum(1.0 - targets.attainment, 1e-3)) / 3.0,
        "budget_left": past.budget_left / 2.0,
        "hour_left": past.hour_left / 2.0,
        "deferrable": deferrable.astype(np.float64),
        # By Little's law the time that requests spend in the system.
        "backlog_of_deadline": _ratio(_ratio(in_flight, past.rate_long_per_s + 0.05), targets.deadline_s),
        "in_flight_of_load": np.log1p(_ratio(in_flight, rate + 0.05)) / 5.0,
        "in_flight_rise": np.log((in_flight + 1.0) / (past.in_flight + 1.0)) / 2.0,
        "shed": _ratio(snapshot.shed_per_s, rate + 0.05),
        "utilisation": met[..., 0],
        "utilisation_with_starting": met[..., 1],
        "waiting": met[..., 2],
        "known": snapshot.known("attainment").astype(np.float64),
        "there": np.ones(rate.shape),
    }
    return np.stack([features[name] for name in CLASS_FEATURES], axis=-1)


def _pool_features(
    snapshot: Snapshot,
    plan: Plan,
    proposals: Sequence[Proposal],
    cluster: Cluster,
    price: FloatArray,
    load: _Load,
    past: Past,
) -> FloatArray:
    ready, starting, target = snapshot.ready, snapshot.starting, snapshot.target
    real = cluster.pool_mask
    mean_price = np.where(real, price, 0.0).sum(axis=-1, keepdims=True) / np.maximum(real.sum(-1, keepdims=True), 1)
    capacity = np.where(cluster.serves & cluster.class_mask[..., :, None], plan.capacity_per_s, 0.0)
    share = _ratio(capacity, capacity.max(axis=-1, keepdims=True)).max(axis=-2)
    usd_per_work = _ratio(price, share)
    best = np.where(real & (share > 0), usd_per_work, np.inf).min(axis=-1, keepdims=True)
    cap = np.maximum(snapshot.batch_cap, 1.0)
    room = np.maximum(cluster.max_replicas, 1.0)
    cold_start_s = np.where(snapshot.known("cold_start_s"), snapshot.cold_start_s, cluster.cold_start_s)
    proposed = [proposal.action.replicas for proposal in proposals]
    missing = unanswered(snapshot)
    # Of the classes that need the pool, the mean in proportion to their need.
    of_class = np.stack([cluster.targets.deferrable, np.clip(past.budget_left, -2.0, 2.0)], axis=-1)
    needing = _ratio(proposals[0].need.swapaxes(-1, -2) @ of_class, load.need[..., None])

    features = {
        "ready": np.log1p(ready) / 3.0,
        "starting": np.log1p(starting) / 3.0,
        "draining": np.log1p(snapshot.draining) / 3.0,
        "asleep": np.log1p(snapshot.asleep) / 3.0,
        "target": np.log1p(target) / 3.0,
        "proposed": (proposed[0] - target) / 4.0,
        **{f"proposed_by_{k}": (proposed[k] - target) / 4.0 for k in OTHERS},
        "need_over_proposed": load.need - proposed[0],
        "utilisation": load.of_ready,
        "utilisation_with_starting": load.with_starting,
        # Below 0: it should be there by now.
        "pending_until_ready": np.where(starting > 0, (cold_start_s - past.pending_s) / FORECAST_HORIZON_S[-1], 0.0),
        "unanswered": _ratio(missing, target),
        "unanswered_of_15_minutes": _ratio(missing - past.unanswered, np.maximum(target, 1.0)),
        "room_up": (cluster.max_replicas - target) / room,
        "room_down": (target - cluster.min_replicas) / room,
        "running_of_cap": _ratio(snapshot.running, cap * np.maximum(ready, 1.0)),
        "waiting_of_cap": load.waiting,
        "waiting_rise": np.log((snapshot.waiting + 1.0) / (past.waiting + 1.0)) / 3.0,
        "cap_of_max": _ratio(snapshot.batch_cap, cluster.max_batch_cap),
        "budget_of_max": _ratio(snapshot.token_budget, cluster.max_token_budget),
        "kv_used": snapshot.kv_used_frac,
        "gpu_util": snapshot.gpu_util_frac,
        "gpu_temp": (snapshot.gpu_temp_c - 60.0) / 40.0,
        "throttled": snapshot.throttled,
        "power_known": snapshot.known("power_w").astype(np.float64),
        "price_of_mean": np.log(_ratio(price, mean_price) + 1e-3) / 2.0,
        "price_of_base": np.log(_ratio(price, cluster.usd_per_hr) + 1e-3),
        "price_of_15_minutes": np.log(_ratio(price, past.usd_per_hr) + 1e-3) * 2.0,
        "usd_per_work": np.log(_ratio(usd_per_work, best) + 1e-3) / 2.0,
        "spot": cluster.spot.astype(np.float64),
        "preemptions": np.log1p(snapshot.preemptions_per_hr) / 2.0,
        "cold_start": np.log1p(cold_start_s / 30.0) / 3.0,
        "cold_start_of_horizon": cold_start_s / FORECAST_HORIZON_S[-1],
        "deferrable_share": needing[..., 0],
        "misses_left": needing[..., 1] / 2.0,
        "tokens_per_s": np.log1p(snapshot.tokens_per_s) / 12.0,
        "age": np.log1p(snapshot.telemetry_age_s) / 6.0,
        "known": snapshot.known("running").astype(np.float64),
        "there": np.ones(target.shape),
    }
    return np.stack([features[name] for name in POOL_FEATURES], axis=-1)


def _whole_features(
    snapshot: Snapshot,
    proposals: Sequence[Proposal],
    cluster: Cluster,
    price: FloatArray,
    need: FloatArray,
    miss_price: FloatArray,
) -> FloatArray:
    seen = np.stack([snapshot.target, snapshot.ready, snapshot.starting, snapshot.waiting], axis=-1)
    seen = np.where(np.isnan(seen), 0.0, seen)
    proposed = np.stack([need, *(proposal.action.replicas for proposal in proposals)], axis=-1)
    usd_per_hr = (price[..., None, :] @ np.concatenate([seen[..., :3], proposed], axis=-1))[..., 0, :]
    target, ready, starting, needed, own, *others = np.moveaxis(usd_per_hr, -1, 0)
    budget = cluster.targets.budget_usd_per_hr
    features = {
        "miss_price": np.broadcast_to(miss_price_feature(miss_price), target.shape),
        "rent_of_proposed": np.log(_ratio(target, own) + 1e-3),
        **{f"rent_proposed_by_{k}": np.log(_ratio(others[k - 1], own) + 1e-3) for k in OTHERS},
        "utilisation": _ratio(needed, ready) - 0.7,
        "waiting": np.log1p(seen[..., 3].sum(axis=-1)) / 6.0,
        "pending_share": _ratio(starting, target),
        "budget_room": np.where(np.isfinite(budget), 1.0 - target / budget, 1.0),
    }
    return np.stack([features[name] for name in WHOLE_FEATURES], axis=-1)


def miss_price_feature(miss_price: FloatArray) -> FloatArray:
    """How the network is told the price of a miss; all else in an observation is the same at any price."""
    return _bounded(np.log10(np.maximum(miss_price, 1e-3)) / 2.0)


def _ratio(over: FloatArray, under: FloatArray) -> FloatArray:
    """`over / under`, 0 where `under` is not positive; NaN where `under` is.

    Every other feature is one: division where nothing may be divided by, and choosing afterwards, takes half the time.
    """
    return np.where(under > 0, over / under, 0.0 * under)


def _bounded(features: FloatArray) -> FloatArray:
    cut = np.clip(features, -1.0, 1.0)
    return np.where(np.isnan(cut), 0.0, cut)
