"""What each reason of a decision means, in a sentence for people."""

from __future__ import annotations

import math
from typing import Final

from ...env.contract import Reason, ReasonCode
from .documents import number, percent

WHY: Final = {
    ReasonCode.MIN_REPLICAS: "the scenario's minimum of the pool",
    ReasonCode.MAX_REPLICAS: "the scenario's maximum of the pool",
    ReasonCode.SCALE_STEP: "no more replicas are started or stopped in one tick than the guard's step",
    ReasonCode.SCALE_DOWN_COOLDOWN: "the pool changed a moment ago; it shrinks again after the cooldown",
    ReasonCode.PENDING_STARTS: "replicas are on their way already; asking again would rent twice for one load",
    ReasonCode.BUDGET: "the rent has to stay within the budget",
    ReasonCode.PLAN_FLOOR: "the present load needs at least so many by the plan's capacities",
    ReasonCode.LAST_REPLICA: "it is the last that serves one of the classes",
    ReasonCode.HOT_GPU: "a GPU of the pool is too hot, so it runs a smaller batch",
    ReasonCode.DRAIN_FIRST: "those that were told to go have not gone yet",
    ReasonCode.STALE_TELEMETRY: "the pool's telemetry is too old to act on",
    ReasonCode.IMPOSSIBLE_TELEMETRY: "the pool's telemetry says what cannot be",
    ReasonCode.NOT_FINITE: "a proposed number was none",
    ReasonCode.ROUTE_UNSERVABLE: "the pool cannot serve the class",
    ReasonCode.CAP_RANGE: "caps stay between what keeps an engine alive and its start value",
    ReasonCode.ADMIT_RANGE: "the share let in stays within its limits",
    ReasonCode.ADMIT_INTERACTIVE: "only classes with a deadline may be put off",
    ReasonCode.POLICY_ERROR: "the policy failed, so the fallback rule decided",
    ReasonCode.POLICY_TIMEOUT: "the policy gave no answer in time, so the fallback rule decided",
    ReasonCode.MISSING_TELEMETRY: "what decisions rest on did not arrive: weights stay, the fallback rule decided the rest",
    ReasonCode.RESUMING: "a new sidecar found the cluster running and has not seen its traffic yet: all stays as it is",
    ReasonCode.STORE_GONE: "the tick before could not be recorded: the fallback rule decides until it can",
    ReasonCode.CANARY: "it is beyond what the canary may touch",
    ReasonCode.DRIFT: "the world has moved from the one the policy was trained in: the fallback rule has a share of what it wanted",
    ReasonCode.EXPLORING: "noise is on the policy's answer, within its budget and as far as the canary reaches",
    ReasonCode.PROMOTED: "the gate of the next mode passed",
    ReasonCode.STEPPED_BACK: "a breach of the mode's gate",
    ReasonCode.VERSION: "another version of the policy decides, or its trial began or ended",
}
"""Of every code."""
TROUBLES: Final = frozenset(
    {
        ReasonCode.POLICY_ERROR,
        ReasonCode.POLICY_TIMEOUT,
        ReasonCode.MISSING_TELEMETRY,
        ReasonCode.RESUMING,
        ReasonCode.STORE_GONE,
    }
)
"""Reasons for which the fallback decided instead of the policy."""
NEWS: Final = frozenset({ReasonCode.PROMOTED, ReasonCode.STEPPED_BACK, ReasonCode.VERSION})
_SHARES: Final = frozenset({ReasonCode.ROUTE_UNSERVABLE, ReasonCode.ADMIT_RANGE, ReasonCode.ADMIT_INTERACTIVE})


def why(reason: Reason) -> str:
    """The sentence of a reason; what it adds of its own is in it where it is more than the name of a number."""
    said = WHY[reason.code]
    own = reason.detail.strip()
    if reason.code in TROUBLES | NEWS and own:
        return f"{said} ({own})"
    return said


def of_what(reason: Reason) -> str:
    """Which number was changed, in words."""
    names = {
        "batch_cap": "batch cap",
        "token_budget": "token budget",
        "route": "weights",
        "growth": "replicas",
        "admit": "share let in",
    }
    if reason.code in TROUBLES | NEWS:
        return ""
    if reason.detail in names:
        return names[reason.detail]
    if reason.code in (ReasonCode.ADMIT_RANGE, ReasonCode.ADMIT_INTERACTIVE):
        return "share let in"
    if reason.code is ReasonCode.ROUTE_UNSERVABLE:
        return "weights"
    return "batch cap" if reason.code is ReasonCode.HOT_GPU else "replicas"


def from_to(reason: Reason) -> tuple[str, str]:
    """What was wanted and what was applied, as they are read; dashes where a reason is not of numbers."""
    if reason.code in TROUBLES | NEWS or math.isnan(reason.wanted):
        return "–", "–"
    if reason.code in _SHARES or of_what(reason) == "weights":
        return f"{percent(reason.wanted)} %", f"{percent(reason.applied)} %"
    return number(reason.wanted, 4), number(reason.applied, 4)
