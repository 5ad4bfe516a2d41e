"""Follows a source of ticks, keeps the newest hour of them, and tells whoever listens that there is a new one."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

from ..reading.history import History
from ..reading.sources import Source, SourceError
from ..reading.timelines import period_of, speed_of

_LOG: Final = logging.getLogger(__name__)
POLL_S: Final = 0.5
"""Between two looks at the source: a tenth of a usual tick."""
_FIRST_BACKOFF_S, _MOST_BACKOFF_S = 1.0, 10.0


class Following:
    """What is known of a sidecar, as its record grows."""

    def __init__(self, source: Source, span_s: float, poll_s: float = POLL_S) -> None:
        """`span_s` of ticks are kept; nothing is read yet."""
        self.source, self.history = source, History(span_s)
        self.trouble = ""
        """Why nothing can be read now; empty while all is well."""
        self.leader: str | None = None
        self.started = False
        """Whether the source answered once."""
        self._poll_s = poll_s
        self._changed = asyncio.Condition()
        self._version = 0

    async def run(self) -> None:
        """Follow until cancelled. A source that is gone is asked again, ever more patiently."""
        backoff_s, last_id = _FIRST_BACKOFF_S, None
        while True:
            try:
                raws = await (
                    self.source.recent(self.history.span_s) if last_id is None else self.source.after(last_id)
                )
                leader = await self.source.leader()
            except SourceError as error:
                await self._tell(trouble=str(error), started=self.started)
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2.0, _MOST_BACKOFF_S)
                continue
            backoff_s = _FIRST_BACKOFF_S
            if raws:
                last_id = raws[-1].id
                await asyncio.to_thread(self.history.add, raws)
            changed = raws or leader != self.leader or self.trouble or not self.started
            self.leader = leader
            if changed:
                await self._tell(trouble="", started=True)
            if not raws:
                await asyncio.sleep(self._poll_s)

    async def changes(self, most_wait_s: float) -> AsyncIterator[dict[str, Any] | None]:
        """The state now and at each change; None where nothing changed for `most_wait_s`."""
        seen = -1
        while True:
            if seen == self._version:
                with suppress(TimeoutError):
                    async with asyncio.timeout(most_wait_s), self._changed:
                        await self._changed.wait_for(partial(self._is_newer, seen))
            if seen == self._version:
                yield None
            else:
                seen = self._version
                yield self.state()

    def _is_newer(self, version: int) -> bool:
        return self._version != version

    def state(self) -> dict[str, Any]:
        """In a few words and numbers, for a page's head and filters."""
        newest, ticks = self.history.newest, self.history.ticks
        told: dict[str, Any] = {
            "source": self.source.name,
            "trouble": self.trouble or self.history.skipped,
            "started": self.started,
            "leader": self.leader,
            "ticks": len(ticks),
            "history_s": self.history.span_s,
            "tick": None,
        }
        if newest is None:
            return told
        period_s = period_of(ticks)
        return {
            **told,
            "tick": newest.id,
            "number": newest.decision.tick,
            "wall_s": newest.wall_s,
            "period_s": None if math.isnan(period_s) else period_s,
            "speed": speed_of(ticks),
            "scenario": newest.sitting.scenario,
            "mode": newest.decision.mode.value,
            "policy": newest.decision.policy_name,
            "policy_hash": newest.decision.policy_hash[:8],
            "fallback": newest.fallback,
            "fell_back": newest.fell_back,
            "classes": list(newest.cluster.class_names),
            "pools": list(newest.cluster.pool_names),
        }

    async def _tell(self, *, trouble: str, started: bool) -> None:
        if trouble and trouble != self.trouble:
            _LOG.warning("%s", trouble)
        elif not trouble and self.trouble:
            _LOG.warning("%s answers again", self.source.name)
        self.trouble, self.started = trouble, started
        async with self._changed:
            self._version += 1
            self._changed.notify_all()
