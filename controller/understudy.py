"""A policy that is asked beside the one that decides: it follows along, and what it does wrong hinders nobody."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from ..agents.answering import decide_with_answer
from ..env.contract import Action, Answer, Memory, Plan, Policy, Reason, ReasonCode, Snapshot
from .deciding import is_finite, misshapen, name_of


@dataclass(frozen=True)
class Reply:
    """What came of asking."""

    action: Action | None
    """None: there is none that could be used."""
    before: Memory
    """What it remembered when it was asked."""
    trouble: Reason | None = None
    """Why there is none."""
    answer: Answer | None = None
    """What its network answered."""

    @property
    def late(self) -> bool:
        """Whether it was only not in time: the machine may be at fault."""
        return self.trouble is not None and self.trouble.code is ReasonCode.POLICY_TIMEOUT


class Understudy:
    """One policy with its memory. It thinks in a thread of its own: one that hangs is left behind."""

    def __init__(self, policy: Policy) -> None:
        """It remembers nothing yet."""
        self.policy = policy
        self.memory: Memory = {}
        self._thinking: asyncio.Future[tuple[Action, Memory, Answer | None]] | None = None

    async def ask(self, snapshot: Snapshot, plan: Plan, like: Action, patience_s: float) -> Reply:
        """What it would do.

        Args:
            snapshot: what is seen.
            plan: the planner's.
            like: an action of the shape that is wanted.
            patience_s: of the wall.
        """
        before = self.memory
        if self._thinking is not None and not self._thinking.done():
            return Reply(None, before, self._reason(ReasonCode.POLICY_TIMEOUT, "still busy with an earlier tick"))
        work = asyncio.to_thread(decide_with_answer, self.policy, snapshot, plan, before)
        self._thinking = asyncio.ensure_future(work)
        await asyncio.wait({self._thinking}, timeout=patience_s)
        if not self._thinking.done():
            return Reply(None, before, self._reason(ReasonCode.POLICY_TIMEOUT, f"no answer in {patience_s:.2f} s"))
        try:
            action, memory, answer = self._thinking.result()
            wrong = misshapen(action, like)
        except Exception as error:  # noqa: BLE001  # whatever it does, traffic goes on
            return Reply(None, before, self._reason(ReasonCode.POLICY_ERROR, f"{type(error).__name__}: {error}"))
        if wrong:
            return Reply(None, before, self._reason(ReasonCode.POLICY_ERROR, wrong))
        if not is_finite(action):
            return Reply(None, before, self._reason(ReasonCode.NOT_FINITE, "numbers that are none"))
        self.memory = memory
        return Reply(action, before, answer=answer)

    def _reason(self, code: ReasonCode, detail: str) -> Reason:
        return Reason(code, name_of(self.policy), math.nan, math.nan, detail)
