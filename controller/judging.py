"""What a tick says of the policy, for the ladder: its requests, its promises, and the rule's beside them. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ..env.contract import Cluster, Decision, FloatArray, Plan, ReasonCode, Snapshot
from ..env.window import FINISHED, LOST, MET
from .deciding import NEWS, Proposed, expected_attainment
from .ladder import Evidence

_OWN_FAILURES: Final = (ReasonCode.POLICY_ERROR, ReasonCode.POLICY_TIMEOUT, ReasonCode.NOT_FINITE)
"""Troubles of the policy's own making; the world's are not held against it."""
_NO_VETOES: Final = (ReasonCode.CANARY, ReasonCode.DRIFT, *NEWS)


def evidence(
    counts: FloatArray,
    snapshot: Snapshot,
    plan: Plan,
    proposed: Proposed,
    decision: Decision,
    up: FloatArray,
    cluster: Cluster,
) -> Evidence:
    """The evidence of one tick.

    Args:
        counts: `[C, W]` the tick's requests, as `env.window` lays them out.
        snapshot: what was seen.
        plan: whose capacities are believed.
        proposed: of the policy, with what the rule would do.
        decision: what came of it.
        up: `[P]` replicas that would serve had the rule decided all along.
        cluster: its targets.
    """
    trouble = proposed.trouble
    vetoes = [r for r in decision.reasons if r is not trouble and r.code not in _NO_VETOES]
    return Evidence(
        judged=counts[:, FINISHED] + counts[:, LOST],
        met=counts[:, MET],
        rule_attains=expected_attainment(snapshot, plan, replace(proposed.rule, replicas=up), cluster),
        rule_promises=expected_attainment(snapshot, plan, proposed.rule, cluster),
        policy_promises=expected_attainment(snapshot, plan, proposed.action, cluster),
        vetoes=len(vetoes),
        failed=trouble is not None and trouble.code in _OWN_FAILURES,
    )
