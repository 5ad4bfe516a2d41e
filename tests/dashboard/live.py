"""Dashboards over a real Valkey, in a thread of their own: the test's thread is the browser's."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from poolpilot.dashboard.app.following import Following
from poolpilot.dashboard.app.server import dashboard
from poolpilot.dashboard.reading.runs import RunReader
from poolpilot.dashboard.reading.sources import StoreSource
from poolpilot.telemetry.access import Access, serving
from poolpilot.telemetry.record import TickRecord
from poolpilot.telemetry.store import Store
from poolpilot.telemetry.valkey import embedded_valkey
from poolpilot.tests.dashboard.recorded import entries

PATIENCE_S = 60.0


class Stage:
    """One Valkey, and as many dashboards as are asked for. Use it as a context."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self.store_url = self._run(self._stack.enter_async_context(embedded_valkey())).url
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)

    def append(self, prefix: str, kept: Sequence[TickRecord]) -> None:
        """Ticks as a sidecar that leads appends them."""

        async def append_all() -> None:
            async with Store(self.store_url, prefix=prefix, timeout_s=PATIENCE_S) as store:
                for entry in entries(kept):
                    await store.append_tick(entry)

        self._run(append_all())

    @contextmanager
    def dashboard(
        self, prefix: str, runs: tuple[Path, ...] = (), access: Access | None = None, store_url: str = ""
    ) -> Iterator[str]:
        """The address of one that shows the ticks of a prefix."""
        stack = AsyncExitStack()

        async def start() -> str:
            store = Store(store_url or self.store_url, prefix=prefix, timeout_s=2.0)
            following = Following(StoreSource(store, f"redis://valkey {prefix}"), 3600.0, poll_s=0.1)
            url = await stack.enter_async_context(serving(dashboard(following, RunReader(runs), access), port=0))
            async with asyncio.timeout(PATIENCE_S):
                while not following.started and not following.trouble:
                    await asyncio.sleep(0.02)
            return url

        try:
            yield self._run(start())
        finally:
            self._run(stack.aclose())

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * PATIENCE_S)
