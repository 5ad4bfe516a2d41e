"""Asks the policy within a tick's patience; whoever cannot be asked, or does not answer, is stood in for by the fallback."""

from __future__ import annotations

import asyncio
import math
from typing import Final

from ..env.contract import Memory, Plan, Policy, Reason, ReasonCode, Snapshot
from .deciding import Minds, Proposed, fall_back, name_of, propose

POLICY_SHARE_OF_TICK: Final = 0.5
"""A policy that takes longer than this share of a tick is not waited for: the fallback decides."""


class Thinker:
    """The policy and the fallback rule, and what both remember."""

    def __init__(self, policy: Policy, fallback: Policy) -> None:
        """Nobody remembers anything yet."""
        self.policy, self.fallback = policy, fallback
        self._minds = Minds(policy={}, fallback={})
        self._thinking: asyncio.Future[tuple[Proposed, Minds]] | None = None

    def memory(self, *, of_fallback: bool) -> Memory:
        """What the one who decides next remembers."""
        return self._minds.fallback if of_fallback else self._minds.policy

    def take(self, policy: Policy, memory: Memory) -> None:
        """Have another policy decide from now on, which remembers `memory`; the fallback goes on remembering."""
        self.policy, self._minds, self._thinking = policy, Minds(memory, self._minds.fallback), None

    async def propose(
        self, snapshot: Snapshot, plan: Plan, patience_s: float, trouble: Reason | None
    ) -> tuple[Proposed, Memory]:
        """What is proposed, and what whoever proposes it remembered before.

        Args:
            snapshot: what is seen.
            plan: the planner's.
            patience_s: of the wall, for the policy's answer.
            trouble: why the policy is not to be asked now; None asks it.
        """
        before = self._minds
        late = f"no answer in {patience_s:.2f} s"
        if trouble is None and self._thinking is not None and not self._thinking.done():
            late = "still busy with an earlier tick"  # a second one beside it would only take its time and a thread
        elif trouble is None:
            work = asyncio.to_thread(propose, self.policy, self.fallback, snapshot, plan, before)
            self._thinking = asyncio.ensure_future(work)
            await asyncio.wait({self._thinking}, timeout=patience_s)
            if self._thinking.done():
                proposed, self._minds = self._thinking.result()
                return proposed, before.fallback if proposed.trouble else before.policy
        action, memory = self.fallback.decide(snapshot, plan, before.fallback)
        self._minds = Minds(before.policy, memory)
        if trouble is None:
            trouble = Reason(ReasonCode.POLICY_TIMEOUT, name_of(self.policy), math.nan, math.nan, late)
        return fall_back(self.fallback, action, trouble), before.fallback
