"""Has the policy explore where it may: draws noise, keeps the account of what that costs, and stops when it is spent.

The account is a small file that is written before anything is drawn: what cannot be accounted for is not done. A file
that cannot be read leaves exploration off; nobody knows then what is left to spend.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..agents.answering import decide_with_answer
from ..agents.exploring import drawn_noise, held_over
from ..env.contract import (
    Action,
    Answer,
    Bill,
    BoolArray,
    Cluster,
    Decision,
    FloatArray,
    Memory,
    Mode,
    Plan,
    Policy,
    Reason,
    ReasonCode,
    SchemaError,
    Snapshot,
)
from ..env.guard import GuardState, Limits
from ..env.scenario.control import Exploration
from ..env.wire import from_json, to_json
from ..telemetry.record import Reach
from .deciding import Proposed, is_finite, misshapen
from .exploration import Account, Followed, accounted, follow, inside, opened, parted, spent, told
from .fencing import UNFENCED, Fence
from .reach import trusted

_LOG: Final = logging.getLogger(__name__)
FILE: Final = "exploration.json"
MAX_BYTES: Final = 1 << 16


@dataclass
class Explorer:
    """Of one sidecar; asked at every tick."""

    settings: Exploration
    """Enabled, with a budget."""
    cluster: Cluster
    limits: Limits
    tick_s: float
    share: float
    """Of each class's traffic that it may touch; 0 where it is given pools."""
    pools: BoolArray
    """`[P]` that it may scale and cap."""
    path: Path
    """Of the account."""
    plan: Plan
    """Whose load a new campaign's budget of requests is measured by."""
    rng: np.random.Generator
    fence: Fence = UNFENCED
    on_account: Callable[[Account, bool], None] = lambda account, exploring: None
    """Told at every tick what is spent, and whether there is noise."""
    trouble: str = ""
    """Why there is no exploring though there might be; empty where nothing is wrong."""
    stopped: str = ""
    """Why the campaign is over; empty while it is not."""
    waits: str = field(default="", init=False)
    """Why nothing is tried now although the campaign goes on; empty where nothing stands in its way."""
    account: Account = field(init=False)
    _readable: bool = field(default=True, init=False)
    _followed: Followed | None = field(default=None, init=False)
    _noise: Memory | None = field(default=None, init=False)
    _left: int = field(default=0, init=False)
    _asking: asyncio.Future[tuple[Action, Memory, Answer | None]] | None = field(default=None, init=False)
    _kept: Account | None = field(default=None, init=False)
    _plain: Action | None = field(default=None, init=False)
    _plain_reach: Reach | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Go on with the campaign's account, or open one."""
        new = opened(self.settings, self.plan, len(self.cluster.class_names))
        try:
            kept = read_account(self.path)
        except (OSError, ValueError) as error:
            self._readable, self.trouble, self.account = False, f"no exploration: {error}", new
            return
        goes_on = kept is not None and kept.campaign == self.settings.campaign
        goes_on = goes_on and kept is not None and kept.unexplained.shape == new.unexplained.shape
        self.account = self._kept = kept if goes_on and kept is not None else new
        self.stopped = spent(self.account, self.settings, self.tick_s)

    @property
    def told(self) -> str:
        """For people."""
        so_far = told(self.account, self.settings)
        if self.trouble or self.stopped:
            return self.trouble or f"{so_far}: over, {self.stopped}"
        return f"{so_far}: waits, {self.waits}" if self.waits else so_far

    def count(self, snapshot: Snapshot, plan: Plan, in_force: Action, bill: Bill, counts: FloatArray) -> None:
        """Before a decision: put on the account what came of the last one (arguments as for `exploration.accounted`)."""
        if self._followed is not None:
            self.account = accounted(self.account, self._followed, snapshot, plan, self.cluster, in_force, bill, counts)
        was = self.stopped
        self.stopped = spent(self.account, self.settings, self.tick_s)
        if self.stopped and not was:
            _LOG.warning("exploration stops: %s", self.told)

    async def explore(
        self,
        policy: Policy,
        proposed: Proposed,
        memory: Memory,
        reach: Reach,
        snapshot: Snapshot,
        plan: Plan,
        state: GuardState,
        patience_s: float,
    ) -> tuple[Proposed, Memory, Reach]:
        """The proposal with noise, what the policy was asked with, and how far it reaches; as they were where nothing is
        to be explored now.

        Args:
            policy: who proposed.
            proposed: without noise.
            memory: what it remembered.
            reach: how far it reaches.
            snapshot: what is seen.
            plan: the planner's.
            state: of the guard, before it looks.
            patience_s: of the wall.
        """
        self._plain, self._plain_reach = proposed.action, reach
        self.waits, noisy = "", None
        if self._may(proposed, reach):
            self.account = replace(self.account, ticks=self.account.ticks + 1)
            if self._keep():
                noisy = await self._with_noise(policy, proposed, memory, reach, snapshot, plan, state, patience_s)
        else:
            self._keep_what_was_counted()
        self.on_account(self.account, noisy is not None)
        if noisy is None:
            self._left = 0  # what is held is held without a gap
            return proposed, memory, reach
        if self._followed is None:
            self._followed = parted(state.applied, state, snapshot)
        return noisy

    def rests(self, proposed: Proposed, reach: Reach, why: str) -> None:
        """At a tick at which nothing is to be tried, whatever is left to spend: what is followed without noise goes on."""
        self._plain, self._plain_reach, self._left = trusted(proposed.action, reach), reach, 0
        self.waits = why
        self._keep_what_was_counted()
        self.on_account(self.account, False)

    def _keep_what_was_counted(self) -> None:
        if self._readable and self.account is not self._kept:
            self._keep()

    async def _with_noise(
        self,
        policy: Policy,
        proposed: Proposed,
        memory: Memory,
        reach: Reach,
        snapshot: Snapshot,
        plan: Plan,
        state: GuardState,
        patience_s: float,
    ) -> tuple[Proposed, Memory, Reach] | None:
        """As `explore`; None if nothing comes of it, or the guard has something against it."""
        asked = {**memory, **self._next_noise()}
        found = await self._ask(policy, snapshot, plan, asked, patience_s, proposed.action)
        if found is None:
            return None
        action, answer = found
        beside = Reach(Mode.CANARY, np.array(self.share), self.pools, proposed.action)
        own = reach if reach.mode is Mode.CANARY else beside
        if not inside(action, own, proposed.action, reach, snapshot, plan, self.cluster, self.limits, state):
            self.account = replace(self.account, refused_ticks=self.account.refused_ticks + 1)
            return None
        self.account = replace(self.account, explored_ticks=self.account.explored_ticks + 1)
        return replace(proposed, action=action, answer=answer, plain=proposed.action), asked, own

    def news(self, proposed: Proposed) -> tuple[Reason, ...]:
        """What the record says of a tick with noise."""
        if proposed.plain is None:
            return ()
        allowed = self.settings.usd or 0.0
        return (Reason(ReasonCode.EXPLORING, self.account.campaign, self.account.usd, allowed, self.told),)

    def decided(self, decision: Decision, snapshot: Snapshot, plan: Plan) -> None:
        """After a decision: what the policy without noise would have in the world now."""
        if self._followed is None or self._plain is None or self._plain_reach is None:
            return
        if decision.mode is Mode.ADVISE:  # neither fleet is steered any more
            self._followed = None
            return
        self._followed = follow(
            self._followed,
            self._plain,
            self._plain_reach,
            decision.applied,
            snapshot,
            plan,
            self.cluster,
            self.limits,
        )

    def _may(self, proposed: Proposed, reach: Reach) -> bool:
        """Whether there may be noise at this tick."""
        if self.stopped or not self._readable or reach.mode is Mode.ADVISE:
            return False
        # A trial compares two policies; noise on either would be a third.
        return proposed.trouble is None and proposed.answer is not None and proposed.incumbent is None

    def _next_noise(self) -> Memory:
        """New noise, or the one that is held."""
        if self._left > 0 and self._noise is not None:
            self._left -= 1
            return held_over(self._noise)
        self._noise = drawn_noise(self.cluster, self.settings.spread, self.rng)
        self._left = self.settings.hold_ticks - 1
        return self._noise

    async def _ask(
        self, policy: Policy, snapshot: Snapshot, plan: Plan, memory: Memory, patience_s: float, like: Action
    ) -> tuple[Action, Answer] | None:
        """What the policy would do with noise; None if it gives nothing usable in time."""
        if self._asking is not None and not self._asking.done():
            return None  # still busy with an earlier tick
        self._asking = work = asyncio.ensure_future(
            asyncio.to_thread(decide_with_answer, policy, snapshot, plan, memory)
        )
        await asyncio.wait({work}, timeout=patience_s)
        if not work.done():
            self.trouble = f"no exploration: no answer in {patience_s:.2f} s"
            return None
        try:
            action, _, answer = work.result()
        except Exception as error:  # noqa: BLE001  # noise must never be what fails a tick
            self.trouble = f"no exploration: {type(error).__name__}: {error}"
            return None
        if answer is None or misshapen(action, like) or not is_finite(action):
            self.trouble = "no exploration: what the policy answers with noise cannot be used"
            return None
        self.trouble = ""
        return action, answer

    def _keep(self) -> bool:
        """Write the account; whether that went well."""
        try:
            self.fence.write(self.path, account_text(self.account))
        except OSError as error:
            self.trouble = f"no exploration: its account cannot be kept: {error}"
            return False
        self._kept = self.account
        return True


def account_text(account: Account) -> bytes:
    """As it stands in its file."""
    return json.dumps(to_json(account), allow_nan=False).encode() + b"\n"


def read_account(path: Path) -> Account | None:
    """What `account_text` made; None if there is no file.

    Raises:
        ValueError: the file is something else; the message names it.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        document: Any = json.loads(text) if len(text) <= MAX_BYTES else None
        account = from_json(Account, document, "account")
        numbers = np.array(
            [account.allowed_requests, account.usd, account.expected_requests, account.unexplained_most, account.ticks]
        )
        if account.unexplained.ndim != 1 or not (numbers >= 0.0).all() or not (account.unexplained >= 0.0).all():
            raise SchemaError("account: wanted numbers of 0 or more")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}; delete it to begin a campaign anew") from None
    return account
