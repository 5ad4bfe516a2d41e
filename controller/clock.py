"""When the sidecar ticks: every `tick_s` of scenario time, which passes `speed_up` times faster than the wall's."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable


class Clock:
    """The decider's clock: scenario seconds since it was made, never backwards.

        clock = Clock(tick_s=10.0, speed_up=20.0)
        async for now_s in clock.ticks():     # every half second of the wall
            ...

    Ticks lie on a grid, so that their lateness does not add up. A tick that is still under way when the next ones are
    due makes those fall out; they are counted in `missed`.
    """

    def __init__(
        self,
        tick_s: float,
        speed_up: float = 1.0,
        wall: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        begins_at_s: float = 0.0,
    ) -> None:
        """Scenario time begins now.

        Args:
            tick_s: scenario seconds between two ticks.
            speed_up: scenario seconds that pass in one second of the wall.
            wall: seconds of the wall, never backwards.
            sleep: waits so many seconds of the wall.
            begins_at_s: scenario time now; above 0 where it goes on from an earlier clock.

        Raises:
            ValueError: a tick or speed-up that is not above zero.
        """
        if not tick_s > 0 or not speed_up > 0:
            raise ValueError(f"tick_s {tick_s}, speed_up {speed_up}; wanted both above 0")
        self.missed = 0
        """Ticks that fell out because one before took too long."""
        self._period_s, self._speed_up = tick_s / speed_up, speed_up
        self._wall, self._sleep = wall, sleep
        self._began_at_s, self._begins_at_s = wall(), begins_at_s
        self._ticking = False

    def now_s(self) -> float:
        """Scenario seconds since this clock was made, beyond where it began."""
        return self._begins_at_s + (self._wall() - self._began_at_s) * self._speed_up

    async def ticks(self) -> AsyncIterator[float]:
        """Scenario time at each tick, the first one at once. RuntimeError if somebody else is ticking by this clock."""
        if self._ticking:
            raise RuntimeError("this clock ticks already; two loops would act on top of each other")
        self._ticking = True
        try:
            first_s, tick = self._wall(), 0
            while True:
                due_s = first_s + tick * self._period_s
                while (early_s := due_s - self._wall()) > 0:
                    await self._sleep(early_s)
                yield self.now_s()
                following = max(tick + 1, math.ceil((self._wall() - first_s) / self._period_s))
                self.missed += following - tick - 1
                tick = following
        finally:
            self._ticking = False
