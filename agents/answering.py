"""What a network answered, beside the action that follows from it: for the record that it may learn from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ..env.contract import Action, Answer, Memory, Plan, Policy, Snapshot


@runtime_checkable
class Answering(Protocol):
    """A policy that can tell its network's answer. One that wraps another passes on what that one tells."""

    def decide_with_answer(
        self, snapshot: Snapshot, plan: Plan, memory: Memory
    ) -> tuple[Action, Memory, Answer | None]:
        """As `decide`, with the answer that the action follows from; None where no network was asked."""
        ...


def decide_with_answer(
    policy: Policy, snapshot: Snapshot, plan: Plan, memory: Memory
) -> tuple[Action, Memory, Answer | None]:
    """What any policy decides, with its network's answer; None where it has none."""
    if isinstance(policy, Answering):
        return policy.decide_with_answer(snapshot, plan, memory)
    action, memory = policy.decide(snapshot, plan, memory)
    return action, memory, None
