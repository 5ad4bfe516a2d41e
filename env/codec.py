"""Between the contract and the network: what the agent sees, and what its numbers mean.

Scaling is fixed: no running statistics to store or to poison. A neutral output (all zeros) is the rule's proposal;
other outputs bend it within `BENDS`. One codec serves training, evaluation and the sidecar.

Symbols: `C` classes, `P` pools, `FC`/`FP`/`FG` features of a class, a pool, the whole; `...` optional leading axes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from .contract import FORECAST_HORIZON_S, Action, Cluster, Column, FloatArray, Memory, Plan, Snapshot

OBSERVATION_VERSION: Final = 1
"""Raised when a feature of the same name comes to mean something else. A column more in the contract that no feature
reads changes nothing for a network, so this is not the contract's version."""
CLASS_OUTPUTS: Final = 2
"""Per class: head-room, admission (deferrable classes only)."""
POOL_OUTPUTS: Final = 3
"""Per pool: replicas, routing tilt, batch cap."""

HEADROOM_BEND: Final = 0.30
"""A class's head-room is multiplied by exp(+-this)."""
REPLICA_BEND: Final = 0.25
"""A pool's need of replicas is multiplied by exp(+-this)."""
TILT_BEND: Final = 1.0
"""A pool's routing weights are multiplied by exp(+-this) before they are normalised again."""
CAP_BEND: Final = 0.7
"""A pool's batch cap is multiplied by exp(+-this), never above its start value."""
ADMIT_BEND: Final = 0.5
"""A deferrable class's admitted share moves by up to this."""
ROUNDING_SLACK: Final = 0.02
"""A need this little above a whole number of replicas is met by that number."""


@dataclass(frozen=True)
class Proposal:
    """A rule's proposal in the form that can be bent: the action, and the need it was rounded from."""

    action: Action
    need: FloatArray
    """`[..., C, P]` replicas that each class needs of each pool, before rounding up, head-room included."""


class Proposer(Protocol):
    """A rule whose proposals a network may bend."""

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """The rule's proposal now, and what it wants to remember."""
        ...


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
CLASS_FEATURES: Final = (
    "rate",
    *(f"forecast_{int(h)}s" for h in FORECAST_SEEN_S),
    "prompt_length",
    "output_length",
    "prompt_spread",
    "output_spread",
    "ttft_p95_of_target",
    "ttft_p50_of_target",
    "tpot_p95_of_target",
    "attainment_over_wanted",
    "wanted_attainment",
    "budget_left",
    "deferrable",
    "in_flight_of_load",
    "shed",
    "known",
)
POOL_FEATURES: Final = (
    "ready",
    "starting",
    "draining",
    "asleep",
    "target",
    "proposed",
    "need_over_proposed",
    "utilisation",
    "utilisation_with_starting",
    "room_up",
    "room_down",
    "running_of_cap",
    "waiting_of_cap",
    "cap_of_max",
    "budget_of_max",
    "kv_used",
    "gpu_util",
    "gpu_temp",
    "throttled",
    "power_known",
    "price_of_mean",
    "price_of_base",
    "usd_per_work",
    "spot",
    "preemptions",
    "cold_start",
    "tokens_per_s",
    "age",
    "known",
)
WHOLE_FEATURES: Final = ("miss_price", "rent_of_proposed", "utilisation", "waiting", "pending_share", "budget_room")


def observation_schema() -> str:
    """A short hash of everything that gives the observation and the outputs their meaning."""
    bends = (HEADROOM_BEND, REPLICA_BEND, TILT_BEND, CAP_BEND, ADMIT_BEND)
    meaning = repr(
        (OBSERVATION_VERSION, CLASS_FEATURES, POOL_FEATURES, WHOLE_FEATURES, CLASS_OUTPUTS, POOL_OUTPUTS, bends)
    )
    return hashlib.sha256(meaning.encode()).hexdigest()[:16]


def encode(
    snapshot: Snapshot,
    plan: Plan,
    proposal: Proposal,
    cluster: Cluster,
    miss_price: FloatArray,
    budget_left: FloatArray,
) -> Observation:
    """Lay a snapshot and a rule's proposal out as the network sees them; what is unknown is 0.

    Args:
        miss_price: `[...]` the price of a miss that the policy is asked to act by (see `reward`).
        budget_left: `[..., C]` allowance of misses left in the rolling window, 1 untouched, below 0 overdrawn.
    """
    need = proposal.need.sum(axis=-2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # what comes of absurd figures is bounded below
        pools = _pool_features(snapshot, plan, proposal, cluster, need)
        classes = _class_features(snapshot, plan, cluster, budget_left)
        whole = _whole_features(snapshot, proposal, cluster, need, miss_price)
    return Observation(
        classes=_bounded(classes) * cluster.class_mask[..., None],
        pools=_bounded(pools) * cluster.pool_mask[..., None],
        whole=_bounded(whole),
        class_mask=cluster.class_mask.astype(np.float64),
        pool_mask=cluster.pool_mask.astype(np.float64),
    )


def decode(class_output: FloatArray, pool_output: FloatArray, proposal: Proposal, cluster: Cluster) -> Action:
    """The action that the network's outputs mean: the rule's proposal, bent.

    Args:
        class_output: `[..., C, CLASS_OUTPUTS]` in [-1, 1]; beyond is cut.
        pool_output: `[..., P, POOL_OUTPUTS]` in [-1, 1].
    """
    by_class = np.clip(class_output, -1.0, 1.0)
    by_pool = np.clip(pool_output, -1.0, 1.0)
    base = proposal.action
    headroom = np.exp(HEADROOM_BEND * by_class[..., 0])
    need = (proposal.need * headroom[..., None]).sum(axis=-2) * np.exp(REPLICA_BEND * by_pool[..., 0])
    plain_need = proposal.need.sum(axis=-2)
    # The rule may hold more than its need (a cooldown, a floor): what it adds on top stays.
    on_top = base.replicas - np.minimum(whole_replicas(plain_need), cluster.max_replicas)
    tilted = base.route * np.exp(TILT_BEND * by_pool[..., 1])[..., None, :]
    total = tilted.sum(axis=-1, keepdims=True)
    # Back to the sum it had: without a tilt a factor of exactly 1, so that the rule's weights stay bit for bit.
    scale = np.divide(base.route.sum(axis=-1, keepdims=True), total, out=np.zeros_like(total), where=total > 0)
    admit = base.admit + ADMIT_BEND * by_class[..., 1]
    cap = base.batch_cap * np.exp(CAP_BEND * by_pool[..., 2])
    return Action(
        route=tilted * scale,
        admit=np.where(cluster.targets.deferrable, np.clip(admit, 0.0, 1.0), base.admit),
        batch_cap=np.clip(np.round(cap), 1.0, np.maximum(cluster.max_batch_cap, 1.0)),
        token_budget=base.token_budget,
        replicas=np.clip(np.minimum(whole_replicas(need), cluster.max_replicas) + on_top, 0.0, cluster.max_replicas),
    )


def whole_replicas(need: FloatArray) -> FloatArray:
    """The whole number of replicas that meets a need."""
    return np.ceil(np.maximum(need - ROUNDING_SLACK, 0.0))


def _class_features(snapshot: Snapshot, plan: Plan, cluster: Cluster, budget_left: FloatArray) -> FloatArray:
    targets, rate = cluster.targets, snapshot.arrival_rate_per_s
    ahead = np.log((snapshot.forecast_per_s + 0.05) / (rate[..., None] + 0.05)) / 2.0
    ttft_target = np.where(targets.deferrable, targets.deadline_s, targets.ttft_s)
    capacity = np.where(cluster.serves, plan.capacity_per_s, 0.0).max(axis=-1)
    features = {
        "rate": np.log1p(_ratio(rate, capacity)) / 3.0,
        **{f"forecast_{int(h)}s": ahead[..., FORECAST_HORIZON_S.index(h)] for h in FORECAST_SEEN_S},
        "prompt_length": np.log(snapshot.prompt_tokens_mean / 500.0) / 4.0,
        "output_length": np.log((snapshot.output_tokens_mean + 1.0) / 200.0) / 4.0,
        "prompt_spread": _ratio(snapshot.prompt_tokens_std, snapshot.prompt_tokens_mean) / 3.0,
        "output_spread": _ratio(snapshot.output_tokens_std, snapshot.output_tokens_mean) / 3.0,
        "ttft_p95_of_target": np.log(_ratio(snapshot.ttft_p95_s, ttft_target) + 1e-3) / 4.0,
        "ttft_p50_of_target": np.log(_ratio(snapshot.ttft_p50_s, ttft_target) + 1e-3) / 4.0,
        "tpot_p95_of_target": np.log(_ratio(snapshot.tpot_p95_s, targets.tpot_s) + 1e-3) / 2.0,
        "attainment_over_wanted": (snapshot.attainment - targets.attainment) * 10.0,
        "wanted_attainment": -np.log10(np.maximum(1.0 - targets.attainment, 1e-3)) / 3.0,
        "budget_left": budget_left / 2.0,
        "deferrable": targets.deferrable.astype(np.float64),
        "in_flight_of_load": np.log1p(_ratio(snapshot.in_flight, rate + 0.05)) / 5.0,
        "shed": _ratio(snapshot.shed_per_s, rate + 0.05),
        "known": snapshot.known("attainment").astype(np.float64),
    }
    return np.stack([features[name] for name in CLASS_FEATURES], axis=-1)


def _pool_features(
    snapshot: Snapshot, plan: Plan, proposal: Proposal, cluster: Cluster, need: FloatArray
) -> FloatArray:
    ready, starting = snapshot.ready, snapshot.starting
    price = np.where(snapshot.known("usd_per_hr"), snapshot.usd_per_hr, cluster.usd_per_hr)
    real = cluster.pool_mask
    mean_price = np.where(real, price, 0.0).sum(axis=-1, keepdims=True) / np.maximum(real.sum(-1, keepdims=True), 1)
    capacity = np.where(cluster.serves & cluster.class_mask[..., :, None], plan.capacity_per_s, 0.0)
    share = _ratio(capacity, capacity.max(axis=-1, keepdims=True)).max(axis=-2)
    usd_per_work = _ratio(price, share)
    best = np.where(real & (share > 0), usd_per_work, np.inf).min(axis=-1, keepdims=True)
    cap = np.maximum(snapshot.batch_cap, 1.0)
    room = np.maximum(cluster.max_replicas, 1.0)
    features = {
        "ready": np.log1p(ready) / 3.0,
        "starting": np.log1p(starting) / 3.0,
        "draining": np.log1p(snapshot.draining) / 3.0,
        "asleep": np.log1p(snapshot.asleep) / 3.0,
        "target": np.log1p(snapshot.target) / 3.0,
        "proposed": (proposal.action.replicas - snapshot.target) / 4.0,
        "need_over_proposed": need - proposal.action.replicas,
        "utilisation": _ratio(need, np.maximum(ready, 0.25)) - 0.7,
        "utilisation_with_starting": _ratio(need, np.maximum(ready + starting, 0.25)) - 0.7,
        "room_up": (cluster.max_replicas - snapshot.target) / room,
        "room_down": (snapshot.target - cluster.min_replicas) / room,
        "running_of_cap": _ratio(snapshot.running, cap * np.maximum(ready, 1.0)),
        "waiting_of_cap": np.log1p(_ratio(snapshot.waiting, np.maximum(ready, 1.0))) / 5.0,
        "cap_of_max": _ratio(snapshot.batch_cap, cluster.max_batch_cap),
        "budget_of_max": _ratio(snapshot.token_budget, cluster.max_token_budget),
        "kv_used": snapshot.kv_used_frac,
        "gpu_util": snapshot.gpu_util_frac,
        "gpu_temp": (snapshot.gpu_temp_c - 60.0) / 40.0,
        "throttled": snapshot.throttled,
        "power_known": snapshot.known("power_w").astype(np.float64),
        "price_of_mean": np.log(_ratio(price, mean_price) + 1e-3) / 2.0,
        "price_of_base": np.log(_ratio(price, cluster.usd_per_hr) + 1e-3),
        "usd_per_work": np.log(_ratio(usd_per_work, best) + 1e-3) / 2.0,
        "spot": cluster.spot.astype(np.float64),
        "preemptions": np.log1p(snapshot.preemptions_per_hr) / 2.0,
        "cold_start": np.log1p(snapshot.cold_start_s / 30.0) / 3.0,
        "tokens_per_s": np.log1p(snapshot.tokens_per_s) / 12.0,
        "age": np.log1p(snapshot.telemetry_age_s) / 6.0,
        "known": snapshot.known("running").astype(np.float64),
    }
    return np.stack([features[name] for name in POOL_FEATURES], axis=-1)


def _whole_features(
    snapshot: Snapshot, proposal: Proposal, cluster: Cluster, need: FloatArray, miss_price: FloatArray
) -> FloatArray:
    price = np.where(snapshot.known("usd_per_hr"), snapshot.usd_per_hr, cluster.usd_per_hr)
    known = {name: np.nan_to_num(getattr(snapshot, name)) for name in ("ready", "starting", "target", "waiting")}
    rent = (price * known["target"]).sum(axis=-1)
    proposed = (price * proposal.action.replicas).sum(axis=-1)
    budget = cluster.targets.budget_usd_per_hr
    features = {
        "miss_price": np.log10(np.maximum(miss_price, 1e-3)) / 2.0,
        "rent_of_proposed": np.log(_ratio(rent, proposed) + 1e-3),
        "utilisation": _ratio((price * need).sum(axis=-1), (price * known["ready"]).sum(axis=-1)) - 0.7,
        "waiting": np.log1p(known["waiting"].sum(axis=-1)) / 6.0,
        "pending_share": _ratio((price * known["starting"]).sum(axis=-1), rent),
        "budget_room": np.where(
            np.isfinite(budget), 1.0 - _ratio(rent, np.where(np.isfinite(budget), budget, 1.0)), 1.0
        ),
    }
    return np.stack([np.broadcast_to(features[name], rent.shape) for name in WHOLE_FEATURES], axis=-1)


def _ratio(over: FloatArray, under: FloatArray) -> FloatArray:
    """`over / under`, 0 where `under` is not positive; NaN stays NaN."""
    over, under = np.broadcast_arrays(np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64))
    return np.divide(over, under, out=np.where(np.isnan(under), np.nan, 0.0), where=under > 0)


def _bounded(features: FloatArray) -> FloatArray:
    return np.clip(np.nan_to_num(features, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)


BUDGET_WINDOW_S: Final = 1200.0
"""The allowance of misses is counted over about this long (exponentially forgotten)."""


def track_budget(snapshot: Snapshot, cluster: Cluster, memory: Memory) -> tuple[FloatArray, Memory]:
    """How much of the allowance of misses is left, and what must be remembered for it.

    Returns:
        `[..., C]` 1 untouched, 0 used up, below 0 overdrawn; and `done`, `missed` `[..., C]` and `budget_at_s`
        `[...]` to be merged into the memory. Zeros mean nothing was seen yet.
    """
    if "done" in memory:
        elapsed_s = np.clip(snapshot.time_s - memory["budget_at_s"], 0.0, BUDGET_WINDOW_S)
        done, missed = memory["done"], memory["missed"]
    else:
        elapsed_s = np.zeros(snapshot.time_s.shape)
        done = missed = np.zeros(cluster.class_mask.shape)
    fade = np.exp(-elapsed_s / BUDGET_WINDOW_S)[..., None]
    # Bounded, so that one impossible figure is not remembered for ever.
    seen = _within(snapshot, Snapshot.arrival_rate_per_s, unknown=0.0) * elapsed_s[..., None]
    done = done * fade + seen
    missed = missed * fade + seen * (1.0 - _within(snapshot, Snapshot.attainment, unknown=1.0))
    allowed = np.maximum(1.0 - cluster.targets.attainment, 1e-3) * done
    left = 1.0 - np.divide(missed, allowed, out=np.zeros_like(missed), where=allowed > 0)
    return left, {"done": done, "missed": missed, "budget_at_s": np.asarray(snapshot.time_s)}


def _within(snapshot: Snapshot, column: Column, unknown: float) -> FloatArray:
    bounded: FloatArray = np.clip(np.nan_to_num(getattr(snapshot, column.name), nan=unknown), 0.0, column.high)
    return bounded
