"""A session in real time: a timer that sleeps until there is something to tell, and tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..sim.engine_state import NEVER_PS, PS_PER_S
from .cap_file import Caps
from .session import Figures, News, Session, Ticket

Listener = Callable[[News], None]
"""Is called in the event loop when there is news of a request."""


class PacedSession:
    """A session on the running event loop's clock, on which `speed_up` simulated seconds pass in each real one."""

    def __init__(self, session: Session, speed_up: float = 1.0) -> None:
        """Time starts now."""
        self.session = session
        self._loop = asyncio.get_running_loop()
        self._start_s = self._loop.time()
        self._ps_per_s = speed_up * PS_PER_S
        self._listeners: dict[Ticket, Listener] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ps = NEVER_PS
        self._all_ended: asyncio.Event = asyncio.Event()
        self._all_ended.set()

    def now_ps(self) -> int:
        """Simulated time."""
        return int((self._loop.time() - self._start_s) * self._ps_per_s)

    def submit(
        self,
        prompt_tokens: int,
        output_tokens: int,
        streams: bool,
        listener: Listener,
        priority: int = 0,
        block_keys: Sequence[int] = (),
    ) -> Ticket:
        """Queue a request; `listener` hears of it until its end or `abort`. Raises TooLong."""
        ticket = self.session.submit(self.now_ps(), prompt_tokens, output_tokens, streams, priority, block_keys)
        self._listeners[ticket] = listener
        self._all_ended.clear()
        self._plan()
        return ticket

    def abort(self, ticket: Ticket) -> None:
        """Forget a request, ended or not."""
        if self._listeners.pop(ticket, None) is not None:
            self.session.abort(self.now_ps(), ticket)
            self._tell()

    def apply(self, caps: Caps) -> None:
        """Change the limits of a batch."""
        self.session.set_limits(self.now_ps(), caps.batch_cap, caps.token_budget)
        self._tell()

    def sleep(self, level: int) -> None:
        """Abort what is in flight; hold what comes."""
        self.session.sleep(self.now_ps(), level)
        self._tell()

    def wake_up(self) -> None:
        """Go on."""
        self.session.wake_up(self.now_ps())
        self._tell()

    def figures(self) -> Figures:
        """What an outsider sees now."""
        figures = self.session.figures(self.now_ps())
        self._plan()
        return figures

    @property
    def in_flight(self) -> int:
        """Requests whose end was not told yet."""
        return len(self._listeners)

    async def all_ended(self) -> None:
        """Returns when nothing is in flight."""
        await self._all_ended.wait()

    def _tell(self) -> None:
        for news in self.session.advance(self.now_ps()):
            listener = self._listeners.get(news.ticket)
            if news.reason is not None:
                self._listeners.pop(news.ticket, None)
            if listener is not None:
                listener(news)
        if not self._listeners:
            self._all_ended.set()
        self._plan()

    def _plan(self) -> None:
        due_ps = self.session.due_ps
        if self._timer is not None:
            if due_ps == self._timer_ps:
                return
            self._timer.cancel()
            self._timer = None
        if due_ps != NEVER_PS:
            self._timer_ps = due_ps
            self._timer = self._loop.call_at(self._start_s + due_ps / self._ps_per_s, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._tell()
