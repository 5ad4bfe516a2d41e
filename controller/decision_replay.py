"""Decides a decision log again: the same inputs must give the same decisions, to the last bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..env.contract import Decision, Policy
from ..env.wire import to_json
from ..telemetry.record import Sitting, TickRecord
from .choosing import PolicyChoice
from .deciding import NEWS, Proposed, conclude


class ReplayError(ValueError):
    """A log cannot be decided again here; the message says by whom it was decided, and what is missing."""


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
    decided: Mapping[str, int]
    """Ticks by who decided them, as `name hash`."""
    fell_back: int
    """Ticks that the fallback decided because the policy did not."""


def logged_policy(decision: Decision, sitting: Sitting) -> Policy:
    """Who decided, made again from what the log says of it.

    Raises:
        ReplayError: the log does not tell, or this build makes another policy of it.
    """
    who = f"{decision.policy_name} {decision.policy_hash}".strip()
    for sat in sitting.policies:
        # A checkpoint that could not be read at the start has no hash in the sitting.
        if sat.name == decision.policy_name and sat.policy_hash in (decision.policy_hash, ""):
            made = PolicyChoice.of(sat.chosen).make(sitting.cluster)
            if made.policy_hash != decision.policy_hash:
                raise ReplayError(
                    f"tick {decision.tick} was decided by {who}, and {sat.chosen.name} is {made.policy_hash} here: it was"
                    " trained or tuned anew since; go back to the version of then"
                )
            return made
    told = ", ".join(f"{sat.name} {sat.policy_hash}" for sat in sitting.policies) or "nobody"
    raise ReplayError(f"tick {decision.tick} was decided by {who}, and the log tells only how to make {told}")


def replay(records: Iterable[TickRecord], policy_of: Callable[[Decision, Sitting], Policy] = logged_policy) -> Replay:
    """Propose and guard each logged tick again, from its own logged inputs, and compare.

    Args:
        records: such as `read_log` yields.
        policy_of: makes the policy that a decision names (its name and hash), for the logged cluster. Asked once for
            each policy of each sitting. Another policy here shows where the two would have differed.

    Raises:
        ReplayError: by `logged_policy`.
    """
    policies: dict[tuple[str, str, int], Policy] = {}
    kept: list[object] = []  # keeps each sitting alive, so that its id stays its own
    ticks, differences, fell_back = 0, list[Difference](), 0
    decided: Counter[str] = Counter()
    for record in records:
        decision, sitting = record.decision, record.sitting
        key = (decision.policy_name, decision.policy_hash, id(sitting))
        if key not in policies:
            kept.append(sitting)
            policies[key] = policy_of(decision, sitting)
        ticks, fell_back = ticks + 1, fell_back + record.fell_back
        decided[f"{decision.policy_name} {decision.policy_hash}".strip()] += 1
        differences += _replayed(record, policies[key])
    return Replay(ticks, tuple(differences), dict(decided), fell_back)


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
