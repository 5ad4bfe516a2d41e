"""The planner beside the ticks: a new plan is made in a thread of its own, and no tick waits for it."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ..agents.planner.replan import Replanner
from ..env.contract import Plan, Snapshot

_LOG: Final = logging.getLogger(__name__)


class Plans:
    """The newest plan, and the next one while it is being made."""

    def __init__(self, planner: Replanner, first: Plan, at_s: float) -> None:
        """`first` counts as made at `at_s`."""
        self._planner, self._plan, self._planned_at_s = planner, first, at_s
        self._planning: asyncio.Task[Plan] | None = None

    def newest(self) -> Plan:
        """The newest plan; one that is still being made is not waited for."""
        if self._planning and self._planning.done():
            try:
                self._plan = self._planning.result()
            except (RuntimeError, ValueError) as error:
                _LOG.warning("no new plan: %s", error)
            self._planning = None
        return self._plan

    def again(self, snapshot: Snapshot) -> None:
        """Start a new plan off the tick's path, where one is due."""
        if self._planning is None and self._planner.due(self._plan, self._planned_at_s, snapshot):
            self._planned_at_s = float(snapshot.time_s)
            self._planning = asyncio.create_task(asyncio.to_thread(self._planner.again, self._plan, snapshot))
