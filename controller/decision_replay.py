"""Decides a decision log again: the same inputs must give the same decisions, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..env.contract import Cluster, Decision, Policy
from ..env.wire import to_json
from .deciding import NEWS, Proposed, conclude
from .decision_log import TickRecord


@dataclass(frozen=True)
class Difference:
    """One figure of one tick that came out otherwise."""

    tick: int
    field: str
    """Such as `applied.route[0][1]`."""
    logged: str
    replayed: str


@dataclass(frozen=True)
class Replay:
    """What deciding again gave."""

    ticks: int
    differences: tuple[Difference, ...]


def replay(records: Iterable[TickRecord], policy_of: Callable[[Decision, Cluster], Policy]) -> Replay:
    """Propose and guard each logged tick again, from its own logged inputs, and compare.

    Args:
        records: such as `read_log` yields.
        policy_of: makes the policy that a decision names (its name and hash), for the logged cluster. Asked once for
            each policy of each sitting. Another policy here shows where the two would have differed.
    """
    policies: dict[tuple[str, str, int], Policy] = {}
    kept: list[object] = []  # keeps each sitting alive, so that its id stays its own
    ticks, differences = 0, list[Difference]()
    for record in records:
        decision, sitting = record.decision, record.sitting
        key = (decision.policy_name, decision.policy_hash, id(sitting))
        if key not in policies:
            kept.append(sitting)
            policies[key] = policy_of(decision, sitting.cluster)
        ticks += 1
        differences += _replayed(record, policies[key])
    return Replay(ticks, tuple(differences))


def _replayed(record: TickRecord, policy: Policy) -> Iterator[Difference]:
    logged = record.decision
    try:
        action, _ = policy.decide(record.snapshot, record.plan, record.memory)
    except Exception as error:  # noqa: BLE001  # whatever a policy raises, it is a difference like any other
        yield Difference(logged.tick, "proposed", "an action", f"{type(error).__name__}: {error}")
        return
    trouble = logged.reasons[0] if record.fell_back and logged.reasons else None
    news = tuple(reason for reason in logged.reasons if reason.code in NEWS)
    again, _ = conclude(
        Proposed(action, logged.policy_name, logged.policy_hash, action, trouble),
        record.snapshot,
        record.plan,
        record.sitting.cluster,
        record.sitting.limits,
        record.guard_state,
        logged.tick,
        record.reach,
        news,
        logged.fencing_token,
    )
    for field, before, after in _unequal(to_json(logged), to_json(again), ""):
        yield Difference(logged.tick, field, before, after)


def _unequal(logged: Any, replayed: Any, where: str) -> Iterator[tuple[str, str, str]]:
    """Every leaf in which two JSON documents differ."""
    if isinstance(logged, dict) and isinstance(replayed, dict) and set(logged) == set(replayed):
        for name in logged:
            yield from _unequal(logged[name], replayed[name], f"{where}.{name}" if where else name)
    elif isinstance(logged, list) and isinstance(replayed, list) and len(logged) == len(replayed):
        for i, (before, after) in enumerate(zip(logged, replayed, strict=True)):
            yield from _unequal(before, after, f"{where}[{i}]")
    elif logged != replayed:
        yield where, repr(logged), repr(replayed)
