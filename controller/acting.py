"""Brings an action about, part by part: caps, replicas, routing. What one part cannot do hinders no other, and is told.

Every part reads back what is and changes only what differs, so that the same action may be brought about at every tick. A
part that fails is tried again with backoff; meanwhile what it last brought about counts as in force.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np

from ..env.contract import Action
from ..env.scenario import Scenario
from .actuators.caps import CapFiles
from .actuators.envoy import EnvoyRejected
from .actuators.envoy_config import Endpoint, RoutingTable
from .actuators.replicas import CausedSeconds, PoolReplicas, RentedSeconds
from .fencing import UNFENCED, Fence, Fenced
from .health import WELL, Health
from .routing import routing_table

_LOG: Final = logging.getLogger(__name__)
FIRST_BACKOFF_S: Final = 1.0
MOST_BACKOFF_S: Final = 15.0
"""Seconds of the wall between two tries of a part that fails; a part that works again is found within this."""


class Routing(Protocol):
    """Whoever makes the proxy follow a table."""

    async def apply(self, table: RoutingTable) -> object:
        """Make the proxy run `table`; an exception says why it does not."""
        ...


class Replicas(Protocol):
    """Whoever brings pools to their counts."""

    def states(self) -> dict[str, PoolReplicas]:
        """Every pool as of now."""
        ...

    def usage(self) -> dict[str, RentedSeconds]:
        """Replica-seconds by pool since the start."""
        ...

    def caused(self) -> tuple[CausedSeconds, ...]:
        """Of the time that `usage` told last: starting and draining by decision, since this was last asked."""
        ...

    async def apply(self, targets: Mapping[str, int], tick: int) -> None:
        """Bring pools to their counts; what that causes is charged to the decision of `tick`."""
        ...

    def release(self, routed: Collection[Endpoint]) -> None:
        """Routing holds exactly `routed` now: those that drain outside it may stop."""
        ...


@dataclass(frozen=True)
class Acted:
    """What came of an action."""

    in_force: Action
    """Each part as it was last brought about."""
    health: Health
    """What could not be done: routing that does not follow is a problem, the rest can wait."""


@dataclass
class _Tries:
    """How often a part failed in a row, and when it may be tried again."""

    failures: int = 0
    again_at_s: float = -np.inf
    trouble: str = ""
    endpoints_follow: bool = True
    """Of routing: it has the present replicas, at least."""


@dataclass
class Hands:
    """All actuators of one cluster."""

    scenario: Scenario
    replicas: Replicas
    routing: Routing
    """Of our own proxy."""
    caps: CapFiles
    speed_up: float = 1.0
    """Scenario seconds in a second of the wall."""
    fence: Fence = UNFENCED
    elsewhere: Routing | None = None
    """Of proxies that others run; what they do not follow keeps ours from nothing."""
    wall: Callable[[], float] = time.monotonic
    _tries: dict[str, _Tries] = field(default_factory=dict, init=False)

    async def apply(self, action: Action, in_force: Action, tick: int) -> Acted:
        """Caps first, then replicas, then routing; replicas that left all routing may then stop.

        Args:
            action: what to bring about.
            in_force: what is.
            tick: the decision's, to be charged with what it causes.

        Raises:
            Fenced: another sidecar acts now.
        """
        self.fence.check()
        names = self.scenario.pool_names
        caps, budgets = in_force.batch_cap.copy(), in_force.token_budget.copy()
        health = WELL
        for p, name in enumerate(names):
            cap, budget = int(action.batch_cap[p]), int(action.token_budget[p])

            async def set_caps(name: str = name, cap: int = cap, budget: int = budget) -> None:
                self.caps.apply(name, cap, budget, self.fence.token)

            trouble = await self._tried(f"caps of {name}", set_caps)
            if trouble:
                health = health.with_warnings((trouble,))
            else:
                caps[p], budgets[p] = cap, budget
        targets = {name: int(count) for name, count in zip(names, action.replicas, strict=True)}
        replicas = in_force.replicas
        trouble = await self._tried("replicas", lambda: self.replicas.apply(targets, tick))
        if trouble:
            health = health.with_warnings((trouble,))
        else:
            replicas = action.replicas
        states = self.replicas.states()
        ready = {name: pool.endpoints for name, pool in states.items()}
        route, admit = in_force.route, in_force.admit
        table = routing_table(self.scenario, action, ready, self.speed_up)
        trouble = await self._tried("routing", lambda: self.routing.apply(table))
        if trouble:
            health = health.with_problems((trouble,))
        else:
            route, admit = action.route, action.admit
        left = self._has_let_go("routing")
        if (others := self.elsewhere) is not None:
            trouble = await self._tried("routing elsewhere", lambda: others.apply(table))
            if trouble:
                health = health.with_warnings((trouble,))
            left = left and self._has_let_go("routing elsewhere")
        if left:
            self.replicas.release(frozenset(e for endpoints in ready.values() for e in endpoints))
        for name, pool in states.items():
            if pool.last_failure:  # the actuator replaces it; the sidecar itself stays ready
                _LOG.warning("%s: %s", name, pool.last_failure)
        done = replace(in_force, route=route, admit=admit, batch_cap=caps, token_budget=budgets, replicas=replicas)
        return Acted(done, health)

    def _has_let_go(self, part: str) -> bool:
        """Whether a part that routes sends nothing any more to replicas that left."""
        return self._tries[part].endpoints_follow

    async def _tried(self, part: str, do: Callable[[], Awaitable[object]]) -> str:
        """Try a part, unless it failed just now; why it did not come about, or nothing."""
        tries = self._tries.setdefault(part, _Tries())
        now_s = self.wall()
        if now_s < tries.again_at_s:
            tries.endpoints_follow = False  # as of now
            return f"{tries.trouble} (failed {tries.failures} times, again in {tries.again_at_s - now_s:.0f} s)"
        try:
            await do()
        except Fenced:
            raise  # another sidecar acts now
        except Exception as error:  # noqa: BLE001  # whatever one part does, the others go on
            _LOG.warning("%s: %s: %s", part, type(error).__name__, error)
            tries.failures += 1
            # The first failure is tried again at the next tick.
            wait_s = min(MOST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(tries.failures - 2, 30))
            tries.again_at_s = self.wall() + wait_s if tries.failures > 1 else -np.inf
            tries.trouble = f"{part}: {error}"
            tries.endpoints_follow = isinstance(error, EnvoyRejected) and error.endpoints_follow
            return tries.trouble
        self._tries[part] = _Tries()
        return ""
