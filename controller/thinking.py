"""Asks the policy within a tick's patience; whoever cannot be asked, or does not answer, is stood in for by the fallback."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final

from ..env.contract import Memory, Plan, Policy, Reason, ReasonCode, Snapshot
from .deciding import Minds, Proposed, fall_back, is_finite, misshapen, name_of, propose
from .handover import Remembered

_LOG: Final = logging.getLogger(__name__)

POLICY_SHARE_OF_TICK: Final = 0.5
"""A policy that takes longer than this share of a tick is not waited for: the fallback decides."""


class Thinker:
    """The policy and the fallback rule, and what both remember."""

    def __init__(self, policy: Policy, fallback: Policy) -> None:
        """Nobody remembers anything yet."""
        self.policy, self.fallback = policy, fallback
        self._minds = Minds(policy={}, fallback={})
        self._recalled = False
        """What the policy remembers is of an earlier term, and it has not decided since."""
        self._thinking: asyncio.Future[tuple[Proposed, Minds]] | None = None

    def remembered(self) -> tuple[Remembered, Remembered]:
        """Policy and fallback, with what both remember now."""
        minds = ((self.policy, self._minds.policy), (self.fallback, self._minds.fallback))
        policy, fallback = (
            Remembered(name_of(who), str(getattr(who, "policy_hash", "")), memory) for who, memory in minds
        )
        return policy, fallback

    def recall(self, policy: Memory, fallback: Memory) -> None:
        """Go on from what both remembered in an earlier term. Whoever cannot go on from it begins without."""
        self._minds = Minds(policy, fallback)
        self._recalled = True

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
        if self._recalled:
            self._try_fallback(snapshot, plan)
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
                if proposed.trouble and self._recalled:
                    _LOG.warning("%s: cannot go on from what it remembered: %s", name_of(self.policy), proposed.trouble)
                    self._minds = Minds({}, self._minds.fallback)
                self._recalled = False
                return proposed, before.fallback if proposed.trouble else before.policy
        action, memory = self.fallback.decide(snapshot, plan, before.fallback)
        self._minds = Minds(before.policy, memory)
        if trouble is None:
            trouble = Reason(ReasonCode.POLICY_TIMEOUT, name_of(self.policy), math.nan, math.nan, late)
        return fall_back(self.fallback, action, trouble), before.fallback

    def _try_fallback(self, snapshot: Snapshot, plan: Plan) -> None:
        """See whether the fallback can go on from what it remembers of an earlier term: nobody stands in for it."""
        try:
            action, _ = self.fallback.decide(snapshot, plan, self._minds.fallback)
            instead, _ = self.fallback.decide(snapshot, plan, {})
            if not misshapen(action, instead) and is_finite(action):
                return
            why = "its action is none"
        except Exception as error:  # noqa: BLE001  # whatever it is, it is to decide
            why = f"{type(error).__name__}: {error}"
        _LOG.warning("%s: cannot go on from what it remembered: %s", name_of(self.fallback), why)
        self._minds = Minds(self._minds.policy, {})
