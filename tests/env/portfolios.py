"""Portfolios of unlike rules for the tests of what blends and bends them."""

from __future__ import annotations

import numpy as np

from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.env.codec import BLENDED, CLASS_OUTPUTS, POOL_OUTPUTS, WHOLE_OUTPUTS, Outputs, Past, Proposal
from poolpilot.env.contract import Cluster

from .clusters import Situation

KNOBS = ((1.3, 0.5, 120.0), (1.0, 0.2, 60.0), (1.8, 0.9, 300.0), (2.5, 0.0, 900.0))
"""Head-room, burst and hold of each rule."""


def unlike_rules(cluster: Cluster) -> tuple[PlanTracking, ...]:
    """`BLENDED` rules that propose unlike things."""
    return tuple(PlanTracking(cluster, *knobs) for knobs in KNOBS)


def proposals_of(at: Situation) -> tuple[Proposal, ...]:
    """What each of them proposes at its first tick."""
    return tuple(rule.propose(at.snapshot, at.plan, {})[0] for rule in unlike_rules(at.cluster))


def unlike_proposals(at: Situation, seed: int) -> tuple[Proposal, ...]:
    """Proposals drawn at random, that follow no rule but those of proposals."""
    rng = np.random.default_rng(seed)
    return tuple(_a_proposal(at, rng) for _ in range(BLENDED))


def _a_proposal(at: Situation, rng: np.random.Generator) -> Proposal:
    first, cluster = proposals_of(at)[0], at.cluster
    weights = np.where(cluster.serves, rng.uniform(0.0, 1.0, cluster.serves.shape), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    action = type(first.action)(
        route=np.divide(weights, total, out=np.zeros_like(weights), where=total > 0),
        admit=rng.uniform(0.0, 1.0, cluster.class_mask.shape),
        batch_cap=np.round(rng.uniform(1.0, np.maximum(cluster.max_batch_cap, 1.0))),
        token_budget=cluster.max_token_budget,
        replicas=np.round(rng.uniform(0.0, cluster.max_replicas)),
    )
    return Proposal(action, np.where(cluster.serves, rng.uniform(0.0, 3.0, cluster.serves.shape), 0.0))


def neutral(at: Situation) -> Outputs:
    """Zeros."""
    return outputs(at, None)


def outputs(at: Situation, seed: int | None) -> Outputs:
    """Any in [-1.5, 1.5], or neutral ones."""
    *batch, c, p = at.cluster.serves.shape
    shapes = ((*batch, c, CLASS_OUTPUTS), (*batch, p, POOL_OUTPUTS), (*batch, WHOLE_OUTPUTS))
    if seed is None:
        return Outputs(*(np.zeros(shape) for shape in shapes))
    rng = np.random.default_rng(seed)
    return Outputs(*(rng.uniform(-1.5, 1.5, shape) for shape in shapes))


def a_past(at: Situation, seed: int) -> Past:
    """Minutes before that were like nothing in particular, some of them unknown."""
    rng = np.random.default_rng(seed)
    classes, pools = at.cluster.class_mask.shape, at.cluster.pool_mask.shape

    def drawn(shape: tuple[int, ...]) -> np.ndarray:
        return np.where(rng.random(shape) < 0.2, np.nan, rng.uniform(0.0, 8.0, shape))

    return Past(
        budget_left=rng.uniform(-2.0, 1.0, classes),
        hour_left=rng.uniform(-2.0, 1.0, classes),
        rate_soon_per_s=drawn(classes),
        rate_long_per_s=drawn(classes),
        in_flight=drawn(classes),
        waiting=drawn(pools),
        unanswered=drawn(pools),
        usd_per_hr=drawn(pools),
        pending_s=rng.uniform(0.0, 400.0, pools),
    )
