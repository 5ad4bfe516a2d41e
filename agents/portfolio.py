"""Policies by name: the rules with their knobs, and checkpoints. One place for sidecar, simulator and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Final

import numpy as np

from ..env.codec import BLENDED
from ..env.contract import Cluster, FloatArray, Policy
from ..env.scenario import Scenario
from .blend import Member, Portfolio, PortfolioError
from .learned import learned_policies
from .opponents import (
    cheapest_fit,
    integral,
    least_loaded,
    plan_periodic,
    plan_tracking,
    saturation,
    spot_fallback,
    threshold,
    workload_aware,
)
from .opponents.held_plan import HeldPlan
from .opponents.parts.filling import prepare
from .opponents.static_round_robin import StaticRoundRobin
from .registry import open_checkpoint
from .rules import KnobError, Knobs, Rule, RuleSpec
from .tuned import SHIPPED, TunedRule, read_tuned

PolicyFactory = Callable[[Cluster], Policy]
"""Makes a policy for a cluster, or for a batch of clusters."""

RULE_SPECS: Final[Mapping[str, RuleSpec]] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            cheapest_fit.SPEC,
            least_loaded.SPEC,
            workload_aware.SPEC,
            threshold.SPEC,
            saturation.SPEC,
            plan_periodic.SPEC,
            plan_tracking.SPEC,
            spot_fallback.SPEC,
        )
    }
)
"""The rules that have knobs, by name."""

STATIC: Final = "static-round-robin"
THRESHOLD: Final = "threshold"
PLAN_TRACKING: Final = "plan-tracking"
RULES: Final = (STATIC, *RULE_SPECS)
"""The rules that any scenario can be steered by."""
INTEGRAL: Final = integral.SUFFIX
"""Behind any of `RULE_SPECS`: with a slow integral controller on its head-room."""
BLENDED_RULES: Final = (f"{PLAN_TRACKING}{INTEGRAL}", "workload-aware", "cheapest-fit", "spot-fallback")
"""What a network blends unless somebody asks otherwise, the neutral one first."""
USUAL: Final = (STATIC, THRESHOLD, PLAN_TRACKING)
"""Those compared when nobody says which."""
HELD_PLAN: Final = "held-plan"
"""The rule for scenarios that carry a plan. Anything else names a checkpoint."""


class SettingError(ValueError):
    """A rule was given a setting that it cannot have."""


def base_of(name: str) -> str | None:
    """The rule inside, of a rule that is another one with a controller around it."""
    base = name.removesuffix(INTEGRAL)
    return base if base != name else None


def has_knobs(name: str) -> bool:
    """Whether it is a rule of `RULE_SPECS`, alone or with a controller around it."""
    return name.removesuffix(INTEGRAL) in RULE_SPECS


def spec_of(name: str) -> RuleSpec:
    """A rule with knobs, by name.

    Raises:
        KnobError: there is none of that name.
    """
    if not has_knobs(name):
        raise KnobError(
            f"no rule {name!r} that has knobs; there are {', '.join(RULE_SPECS)}, each also with {INTEGRAL} behind it"
        )
    inside = RULE_SPECS[name.removesuffix(INTEGRAL)]
    return inside if inside.name == name else _with_integral(inside)


def _with_integral(inside: RuleSpec) -> RuleSpec:
    def make(cluster: Cluster, knobs: Knobs) -> Rule:
        rule = inside.make(cluster, {name: knobs[name] for name in inside.defaults})
        return integral.Integral(cluster, rule, **{knob.name: knobs[knob.name] for knob in integral.KNOBS})

    return replace(
        inside,
        name=inside.name + INTEGRAL,
        summary=f"{inside.name}, with a slow integral controller on its head-room",
        source=f"{inside.source}; integral control: Åström and Murray, Feedback Systems, ch. 11",
        make=make,
        knobs=(*inside.knobs, *integral.KNOBS),
    )


@cache
def shipped_tuned() -> Mapping[str, TunedRule]:
    """The tuned rules that come with the package (TunedError if the file was spoilt)."""
    return MappingProxyType(read_tuned(SHIPPED, spec_of))


def tuned_knobs(name: str) -> dict[str, float]:
    """Every knob of a rule as it was tuned (KnobError if there is no such rule).

    One that was not has its defaults; with a controller around it, the rule inside is as tuned.
    """
    spec, tuned, inside = spec_of(name), shipped_tuned().get(name), base_of(name)
    if tuned is not None:
        return spec.settled(tuned.knobs)
    return spec.settled(tuned_knobs(inside) if inside else None)


def completed(name: str, knobs: Knobs) -> dict[str, float]:
    """A rule's knobs with those that `knobs` lacks as shipped (KnobError if there is no such rule)."""
    lacks = spec_of(name).defaults.keys() - knobs.keys()
    return {**tuned_knobs(name), **knobs} if lacks else dict(knobs)


def make_rule(name: str, knobs: Knobs | None = None, headroom: float = 1.0) -> Callable[[Cluster], Rule]:
    """A rule with knobs, by name.

    Args:
        name: one of `RULE_SPECS`.
        knobs: those left out are at their defaults; None: as shipped (`tuned_knobs`).
        headroom: times the head-room that its knobs give it.

    Raises:
        KnobError: no such rule, no such knob, or a value that it cannot take.
    """
    spec = spec_of(name)
    settled = spec.settled(tuned_knobs(name) if knobs is None else knobs, headroom)

    def made(cluster: Cluster) -> Rule:
        prepare()
        return spec.make(cluster, settled)

    return made


def portfolio_of(names: Sequence[str] = BLENDED_RULES) -> Portfolio:
    """Rules to blend by name, the neutral one first, with the knobs that they ship with.

    Raises:
        PortfolioError: another number of rules than are blended.
        KnobError: no such rule.
    """
    if len(names) != BLENDED:
        raise PortfolioError(f"rules {', '.join(names)}: {len(names)} of them, wanted {BLENDED}")
    return tuple(Member(name, tuned_knobs(name)) for name in names)


def policy_factory(
    name: str, setting: Sequence[float] | Knobs = (), miss_price: float | None = None, headroom: float = 1.0
) -> PolicyFactory:
    """A policy by name.

    Args:
        name: one of `RULES`, `HELD_PLAN`, a checkpoint's name or folder, or `registry:FOLDER` (`registry.naming`).
        setting: of held-plan what `held_setting` gives; of static-round-robin a replica count for each pool; of
            another rule knobs by name in place of those shipped.
        miss_price: what a checkpoint should act by instead of its card's.
        headroom: how far to either side of its setting, between bill and attainment: times a rule's head-room, times
            fixed counts, or times what a checkpoint thinks that classes need.

    Raises:
        SettingError: the setting does not fit the rule.
        KnobError: no such knob, or a value that it cannot take.
        CheckpointError: no such checkpoint, or one that does not fit this build.
    """
    if has_knobs(name):
        if not isinstance(setting, Mapping):
            if setting:
                raise SettingError(
                    f"{name}: setting {tuple(setting)}, wanted knobs by name: {', '.join(spec_of(name).defaults)}"
                )
            setting = {}
        return make_rule(name, completed(name, setting), headroom)
    if isinstance(setting, Mapping):
        if setting:
            raise SettingError(f"{name}: it has no knobs, got {', '.join(setting)}")
        setting = ()
    if name == STATIC:
        if not setting or min(setting) < 0:
            raise SettingError(f"{STATIC}: setting {tuple(setting)}, wanted a replica count of 0 or more for each pool")
        return lambda cluster: StaticRoundRobin(cluster, np.rint(headroom * padded(setting, cluster)))
    if name == HELD_PLAN:
        return lambda cluster: HeldPlan(cluster, *_held(setting, cluster, headroom))
    if setting:
        raise SettingError(f"{name}: a checkpoint takes no setting, got {tuple(setting)}")
    return learned_policies(open_checkpoint(name), make_rule, miss_price, headroom)


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


def _held(setting: Sequence[float], cluster: Cluster, headroom: float) -> tuple[FloatArray, FloatArray]:
    """Counts `[..., P]`, times `headroom`, and shares `[..., C, P]` out of a setting."""
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
    return np.rint(headroom * padded(setting[:pools], cluster)), shares


def padded(values: Sequence[float], cluster: Cluster) -> FloatArray:
    """`[..., P]` the values for the first pools, zero for padding; SettingError if there are too few or too many."""
    real = int(cluster.pool_mask.reshape(-1, cluster.pool_mask.shape[-1])[0].sum())
    if len(values) != real:
        raise SettingError(f"{len(values)} values {tuple(values)}, wanted {real}: one for each pool")
    out = np.zeros(cluster.max_replicas.shape)
    out[..., :real] = values
    return out
