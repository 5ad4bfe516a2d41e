"""Policies by name: the rules with their settings, and checkpoints. One place for sidecar, simulator and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from ..env.contract import Cluster, FloatArray, Policy
from ..env.scenario import Scenario
from .checkpoint import load_checkpoint
from .learned import learned_policies
from .opponents.held_plan import HeldPlan
from .opponents.plan_tracking import PlanTracking
from .opponents.static_round_robin import StaticRoundRobin
from .opponents.threshold import Threshold
from .rules import Knobs, Rule

PolicyFactory = Callable[[Cluster], Policy]
"""Makes a policy for a cluster, or for a batch of clusters."""

STATIC: Final = "static-round-robin"
THRESHOLD: Final = "threshold"
PLAN_TRACKING: Final = "plan-tracking"
RULES: Final = (STATIC, THRESHOLD, PLAN_TRACKING)
"""The rules that any scenario can be steered by."""
HELD_PLAN: Final = "held-plan"
"""The rule for scenarios that carry a plan. Anything else names a checkpoint."""


class SettingError(ValueError):
    """A rule was given a setting that it cannot have."""


def policy_factory(name: str, setting: Sequence[float] = (), miss_price: float | None = None) -> PolicyFactory:
    """A policy by name.

    Args:
        name: one of `RULES`, `HELD_PLAN`, or a checkpoint's name or folder.
        setting: of held-plan what `held_setting` gives; of static-round-robin a replica count for each pool; of threshold the target concurrency (share of
            the batch cap), the stabilisation window in seconds, and for each pool whether it is used (1 or 0; left
            out: all are); of plan-tracking nothing, or head-room, burst and hold_s.
        miss_price: what a checkpoint should act by instead of its card's.

    Raises:
        SettingError: the setting does not fit the rule.
        CheckpointError: no such checkpoint, or one that does not fit this build.
    """
    if name == STATIC:
        if not setting or min(setting) < 0:
            raise SettingError(f"{STATIC}: setting {tuple(setting)}, wanted a replica count of 0 or more for each pool")
        return lambda cluster: StaticRoundRobin(cluster, padded(setting, cluster))
    if name == THRESHOLD:
        share, window_s, *used = setting or (0.5, 120.0)
        if not 0 < share <= 1 or window_s < 0:
            raise SettingError(f"{THRESHOLD}: share {share}, window {window_s}; wanted 0 < share <= 1 and window >= 0")
        return lambda cluster: Threshold(
            cluster,
            target_per_replica=np.maximum(share * cluster.max_batch_cap, 1.0),
            stabilisation_s=window_s,
            used=padded(used, cluster) > 0 if used else cluster.pool_mask,
        )
    if name == PLAN_TRACKING:
        if len(setting) not in (0, 3):
            raise SettingError(f"{PLAN_TRACKING}: setting {tuple(setting)}, wanted none, or head-room, burst, hold_s")
        if not setting:
            return PlanTracking
        headroom, burst, hold_s = setting
        return lambda cluster: PlanTracking(cluster, headroom, burst, hold_s)
    if name == HELD_PLAN:
        return lambda cluster: HeldPlan(cluster, *_held(setting, cluster))
    if setting:
        raise SettingError(f"{name}: a checkpoint takes no setting, got {tuple(setting)}")
    checkpoint = load_checkpoint(name)
    return learned_policies(checkpoint, make_rule, miss_price)


def make_rule(name: str, knobs: Knobs | None = None) -> Callable[[Cluster], Rule]:
    """A rule by name, with knobs instead of its own where they are given.

    Raises:
        SettingError: there is no such rule, or it has no such knob.
    """
    if name != PLAN_TRACKING:
        raise SettingError(f"no rule {name!r} that can be blended; there is {PLAN_TRACKING}")
    settled = {"headroom": 1.3, "burst": 0.5, "hold_s": 120.0}
    for knob, value in (knobs or {}).items():
        if knob not in settled:
            raise SettingError(f"{name}: no knob {knob!r}; its knobs are {', '.join(settled)}")
        settled[knob] = value
    return lambda cluster: PlanTracking(cluster, settled["headroom"], settled["burst"], settled["hold_s"])


def held_setting(scenario: Scenario) -> tuple[float, ...]:
    """The setting of `HELD_PLAN` on a scenario: the replicas that each pool starts with, then class by class the share of
    each pool.

    Raises:
        SettingError: a class has no shares.
    """
    counts = [float(pool.replicas.start) for pool in scenario.pools.values()]
    shares: list[float] = []
    for name, requests in scenario.classes.items():
        if requests.shares is None:
            raise SettingError(
                f"{HELD_PLAN}: {scenario.name} has no classes.{name}.shares; `poolpilot plan --scenario {scenario.name}"
                " --write FILE` makes a scenario that holds a plan"
            )
        shares += [requests.shares.get(pool, 0.0) for pool in scenario.pools]
    return (*counts, *shares)


def _held(setting: Sequence[float], cluster: Cluster) -> tuple[FloatArray, FloatArray]:
    """Counts `[..., P]` and shares `[..., C, P]` out of a setting."""
    classes, pools = (
        int(mask.reshape(-1, mask.shape[-1])[0].sum()) for mask in (cluster.class_mask, cluster.pool_mask)
    )
    if len(setting) != pools * (1 + classes) or min(setting) < 0:
        raise SettingError(
            f"{HELD_PLAN}: {len(setting)} values, wanted {pools * (1 + classes)} of 0 or more: a count for each of {pools}"
            f" pools, and a share of each pool for each of {classes} classes"
        )
    shares = np.zeros(cluster.serves.shape)
    shares[..., :classes, :pools] = np.reshape(setting[pools:], (classes, pools))
    return padded(setting[:pools], cluster), shares


def padded(values: Sequence[float], cluster: Cluster) -> FloatArray:
    """`[..., P]` the values for the first pools, zero for padding; SettingError if there are too few or too many."""
    real = int(cluster.pool_mask.reshape(-1, cluster.pool_mask.shape[-1])[0].sum())
    if len(values) != real:
        raise SettingError(f"{len(values)} values {tuple(values)}, wanted {real}: one for each pool")
    out = np.zeros(cluster.max_replicas.shape)
    out[..., :real] = values
    return out
