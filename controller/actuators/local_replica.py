"""One replica as a local process, from the wait for its machine to its end."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp

from ..fencing import UNFENCED, Fence, Fenced
from .child import Child, ReplicaCommand, free_port, last_words, log_end, says_port_taken
from .envoy_config import Endpoint
from .replicas import Replica, Stage
from .roster import Listed, started_ticks
from .sleep_mode import SleepFailed, Sleeping, is_asleep, put_to_sleep, wake_up

_LOG: Final = logging.getLogger(__name__)
_PORT_ATTEMPTS: Final = 5
_LEAST_SILENCES: Final = 3
"""A replica that hangs was asked in vain at least so often."""
_PROBE_S: Final = 2.0
"""A replica that takes longer to say how it is has not said it."""

_UNEXPECTED_END: Final = (Stage.READY, Stage.DRAINING, Stage.FALLING_ASLEEP, Stage.ASLEEP, Stage.WAKING)
"""Stages in which a process that ends was not told to, and nothing else waits for it."""

InFlight = Callable[[Endpoint], Awaitable[int | None]]
"""Requests that a replica still has; None if it does not say."""


class ReplicaFailed(RuntimeError):
    """A replica exited, or did not become ready."""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Where and how patiently local replicas are run. Patience is in seconds of the wall, however fast time runs."""

    log_dir: Path
    """Each replica's output goes to `NAME.log` here."""
    roster: Path | None = None
    """File that lists the running replicas: with it they outlive this process, however it ends, and the next one finds
    them again; without it they die with this process."""
    host: str = "127.0.0.1"
    speed_up: float = 1.0
    """Provisioning delays pass this much faster than on the wall's clock."""
    ahead_s: float = 0.0
    """So long before its delay is over the process of an emulated replica is started, and it is held back until then: what a
    busy machine takes to start it is no part of its cold start."""
    poll_s: float = 0.1
    """Between two looks at a health check or at the requests in flight."""
    ready_within_s: float = 900.0
    """A process that has not answered its health check by then is given up."""
    grace_s: float = 1.0
    """A draining replica is empty for this long before it is stopped: a request may still be on its way to it."""
    drain_within_s: float = 900.0
    """A draining replica is told to stop by then, whatever it has; it may still finish within `shutdown_within_s`."""
    shutdown_within_s: float = 60.0
    """Longer than the engine's own shutdown timeout; then it is killed."""
    watch_every_s: float = 2.0
    """Between two looks at the health check of a replica that serves."""
    hung_after_s: float = 30.0
    """One that serves and has not answered its health check for so long hangs: it is killed, and replaced."""
    first_backoff_s: float = 1.0
    """Before a failed replica is replaced; doubled with each further failure in a row."""
    most_backoff_s: float = 60.0
    fence: Fence = UNFENCED
    """Keeps leaders of the past from starting, stopping and listing replicas."""


class Watcher(Protocol):
    """Who is told what happens to a replica, at once and in order. It changes no replica while it is told."""

    def changed(self, name: str, left: Stage, entered: Stage | None) -> None:
        """It enters another stage; None is the end of its life."""
        ...

    def running(self, name: str) -> None:
        """A process of it was started."""
        ...

    def may_sleep(self, name: str) -> bool:
        """Whether it is to sleep, now that nothing is left for it to do, and not to stop."""
        ...

    def hurries(self) -> bool:
        """Whether everything is being stopped: one that does not say what it still has is not waited for."""
        ...

    def failed(self, name: str, what: str) -> None:
        """It died or never became ready; told before the change of stage, and to be replaced after it."""
        ...


class LocalReplica:
    """A replica and its process.

    At any moment at most one task works for it (start, watch, leave or end); whoever changes its course cancels that task.
    """

    def __init__(
        self,
        name: str,
        pool: str,
        settings: LocalSettings,
        in_flight: InFlight,
        watcher: Watcher,
        session: aiohttp.ClientSession,
        sleeping: Sleeping | None = None,
    ) -> None:
        """It is born WAITING; nothing happens before `start` or `resume`."""
        self.now = Replica(name, pool, Stage.WAITING)
        self.child: Child | None = None
        self.log = settings.log_dir / f"{name}.log"
        self._settings, self._in_flight, self._watcher = settings, in_flight, watcher
        self._session, self._sleeping = session, sleeping
        self._started_ticks = 0
        self._gone = False
        self._work: asyncio.Task[None] | None = None

    @property
    def work(self) -> asyncio.Task[None] | None:
        """What is under way for it; None if nothing is."""
        return None if self._work is None or self._work.done() else self._work

    def start(self, command: ReplicaCommand, delay_s: float, provision_s: Callable[[], float]) -> None:
        """Wait `delay_s` of the wall, then for the machine (`provision_s` in scenario seconds), then load and serve."""
        if delay_s <= 0:
            self._enter(Stage.PROVISIONING)
        self._do(self._be_born(command, delay_s, provision_s))

    def resume(self, listed: Listed) -> None:
        """Take over a running process. ProcessLookupError if it is gone by now."""
        self.child, self._started_ticks = Child(listed.pid), listed.started_ticks
        self.now = replace(self.now, endpoint=listed.endpoint)
        self._enter(Stage.STOPPING if listed.stopping else Stage.LOADING)
        self._do(self._end() if listed.stopping else self._come_back())

    def drain(self) -> None:
        """Out of routing, and not to be stopped before `release`."""
        self._stop_work()
        self._enter(Stage.DRAINING)

    def revive(self) -> None:
        """Back from DRAINING."""
        self._serve()

    def wake(self) -> None:
        """Back from ASLEEP."""
        self._enter(Stage.WAKING)
        self._do(self._wake_up())

    def release(self) -> None:
        """Nobody sends it requests any more: when it is empty, stop it or put it to sleep."""
        if self.now.stage == Stage.DRAINING and self._work is None:
            self._do(self._leave())

    def cancel(self) -> None:
        """Give up its start, or what it sleeps for."""
        if self.now.stage == Stage.WAKING and self._watcher.may_sleep(self.now.name):
            self._do(self._fall_asleep())
        elif self.child is not None and self.child.running:
            self._do(self._stop())
        else:
            self._finish()

    def forget(self) -> None:
        """Leave its process as it is and do nothing more for it."""
        self._gone = True
        self._stop_work()
        if self.child:
            self.child.forget()

    def kill(self) -> None:
        """End it at once, without waiting."""
        self._stop_work()
        if self.child:
            with self._settings.fence.held():
                self.child.kill()

    def bury(self) -> None:
        """After `kill`: see it go."""
        if self.child:
            self.child.wait_now()
        self._finish()

    def listed(self) -> Listed | None:
        """What the roster is to know of it; None while it has no process."""
        at = self.now.endpoint
        if self.child is None or not self.child.running or at is None:
            return None
        stopping = self.now.stage == Stage.STOPPING
        return Listed(self.now.name, self.now.pool, self.child.pid, self._started_ticks, at.host, at.port, stopping)

    async def requests(self) -> int | None:
        """Requests that it still has; None if it does not say."""
        endpoint = self.now.endpoint
        if endpoint is None:
            return None
        try:
            async with asyncio.timeout(_PROBE_S):
                return await self._in_flight(endpoint)
        except Exception as error:  # noqa: BLE001  # whatever goes wrong in asking, it has not been answered
            _LOG.warning("%s: requests in flight: %s", self.now.name, error or type(error).__name__)
            return None

    # From birth to readiness

    async def _be_born(self, command: ReplicaCommand, delay_s: float, provision_s: Callable[[], float]) -> None:
        if self.now.stage == Stage.WAITING:
            await asyncio.sleep(delay_s)
            self._enter(Stage.PROVISIONING)
        try:
            due_s = _wall_s() + provision_s() / self._settings.speed_up
            await asyncio.sleep(max(due_s - self._settings.ahead_s - _wall_s(), 0.0))
            self._enter(Stage.LOADING)
            await self._load(command)
            await asyncio.sleep(max(due_s - _wall_s(), 0.0))
        except Fenced:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the replica is not there and is still wanted
            await self._give_up(f"{error}" if isinstance(error, ReplicaFailed) else f"{type(error).__name__}: {error}")
        else:
            if self.child:
                self.child.exited.add_done_callback(self._on_exit)
            self._serve()

    async def _load(self, command: ReplicaCommand) -> None:
        """Start the process and return when it serves. ReplicaFailed or OSError if it does not."""
        deadline_s = _wall_s() + self._settings.ready_within_s
        for attempt in range(_PORT_ATTEMPTS):
            # A server without SO_REUSEADDR cannot have a port that was kept free; the second attempt is for it.
            endpoint = Endpoint(self._settings.host, free_port(self._settings.host, keep_free=attempt == 0))
            since = log_end(self.log)
            child = self._launch(command, endpoint)
            if await self._healthy(child, endpoint, deadline_s):
                return
            if not says_port_taken(self.log, since):
                raise ReplicaFailed(f"exited with status {child.exited.result()} before it was ready")
            _LOG.info("%s: port %d is taken by another process; trying a new one", self.now.name, endpoint.port)
        raise ReplicaFailed(f"each of {_PORT_ATTEMPTS} free ports was taken by another process before it listened")

    def _launch(self, command: ReplicaCommand, endpoint: Endpoint) -> Child:
        dies = self._settings.roster is None
        # Started and listed in one step: a new leader finds it, or it never was.
        with self._settings.fence.held():
            child = Child.launch(command.fill(endpoint), command.environment, self.log, die_with_parent=dies)
            self.child, self._started_ticks = child, started_ticks(child.pid) or 0
            self.now = replace(self.now, endpoint=endpoint)
            self._watcher.running(self.now.name)
        return child

    async def _healthy(self, child: Child, endpoint: Endpoint, deadline_s: float) -> bool:
        """Wait until it answers 200 on /health; False if it exits first. ReplicaFailed after `deadline_s`."""
        while child.running:
            if await _answers(self._session, endpoint):
                return child.running  # the port of a dead one may have been answered by another
            if _wall_s() > deadline_s:
                raise ReplicaFailed(f"not ready within {self._settings.ready_within_s:g} s")
            await asyncio.wait([child.exited], timeout=self._settings.poll_s)
        return False

    async def _come_back(self) -> None:
        child, endpoint = self.child, self.now.endpoint
        assert child is not None
        assert endpoint is not None
        try:
            if not await self._healthy(child, endpoint, _wall_s() + self._settings.ready_within_s):
                raise ReplicaFailed("died while it was taken over")
        except ReplicaFailed as error:
            await self._give_up(str(error))
            return
        child.exited.add_done_callback(self._on_exit)
        # Its health check says that all is well, whether it sleeps or not.
        if await is_asleep(self._session, endpoint):
            await self._sleep_on()
        else:
            self._serve()

    def _serve(self) -> None:
        self._enter(Stage.READY)
        self._do(self._watch())

    # From readiness to the end

    async def _watch(self) -> None:
        """Look at its health while it serves. One that hangs is killed: its clients would wait for it for ever."""
        child, endpoint, patience_s = self.child, self.now.endpoint, self._settings.hung_after_s
        assert child is not None
        assert endpoint is not None
        answered_s, silences = _wall_s(), 0
        # Several looks as well as the time: after a pause of our own one look may seem to have lasted for ever.
        while (silent_s := _wall_s() - answered_s) < patience_s or silences < _LEAST_SILENCES:
            await asyncio.sleep(self._settings.watch_every_s)
            if await _answers(self._session, endpoint):
                answered_s, silences = _wall_s(), 0
            else:
                silences += 1
        with self._settings.fence.held():
            self._report(f"hangs: it runs and does not answer its health check for {silent_s:.0f} s; killing it")
            self._enter(Stage.STOPPING)
            child.kill()
        await asyncio.wait([child.exited])
        self._finish()

    def _on_exit(self, exited: asyncio.Future[int | None]) -> None:
        if not self._gone and self.now.stage in _UNEXPECTED_END:
            self._report(f"exited with status {exited.result()} while {self.now.stage}")
            self._finish()

    async def _give_up(self, what: str) -> None:
        """Report a failed start, and see to it that nothing of it is left."""
        self._report(what)
        if self.child is not None and self.child.running:
            await self._stop()
        else:
            self._finish()

    async def _leave(self) -> None:
        """Wait until it has been empty for the grace time, or for too long; then stop it."""
        settings = self._settings
        deadline_s, empty_since_s, silences = _wall_s() + settings.drain_within_s, math.inf, 0
        while (now_s := _wall_s()) < deadline_s:
            requests = await self.requests()
            empty_since_s = min(empty_since_s, now_s) if requests == 0 else math.inf
            silences = silences + 1 if requests is None else 0
            if _wall_s() - empty_since_s >= settings.grace_s:
                break
            if silences >= _LEAST_SILENCES and self._watcher.hurries():
                # What it has it may finish after SIGTERM, as long as `shutdown_within_s`.
                _LOG.warning("%s: does not say what it still has; stopping it", self.now.name)
                await self._stop()
                return
            await asyncio.sleep(settings.poll_s)
        else:
            _LOG.warning("%s: not empty within %g s; stopping it", self.now.name, settings.drain_within_s)
            await self._stop()
            return
        if self._watcher.may_sleep(self.now.name):
            await self._fall_asleep()
        else:
            await self._stop()

    # Asleep

    async def _fall_asleep(self) -> None:
        assert self.now.endpoint is not None
        assert self._sleeping is not None
        self._settings.fence.check()
        self._enter(Stage.FALLING_ASLEEP)
        try:
            await put_to_sleep(self._session, self.now.endpoint, self._sleeping.level)
        except SleepFailed as error:
            _LOG.error("%s: cannot be put to sleep: %s; stopping it", self.now.name, error)
            await self._stop()
        else:
            await self._sleep_on()

    async def _sleep_on(self) -> None:
        """Sleep until somebody wakes it, or it slept for too long."""
        self._enter(Stage.ASLEEP)
        keep_s = math.inf if self._sleeping is None else self._sleeping.keep_s
        if math.isfinite(keep_s):
            await asyncio.sleep(keep_s / self._settings.speed_up)
            await self._stop()

    async def _wake_up(self) -> None:
        assert self.now.endpoint is not None
        try:
            self._settings.fence.check()
            await wake_up(self._session, self.now.endpoint)
        except SleepFailed as error:
            await self._give_up(str(error))
        else:
            self._serve()

    # The end

    async def _stop(self) -> None:
        """From here there is no way back."""
        with self._settings.fence.held():
            # Written down before the signal: nobody who adopts it takes it for one that serves.
            self._enter(Stage.STOPPING)
            if self.child:
                self.child.terminate()
        await self._end()

    async def _end(self) -> None:
        """Wait for a process that was told to stop; kill it if it takes too long."""
        if self.child:
            patience_s = self._settings.shutdown_within_s
            done, _ = await asyncio.wait([self.child.exited], timeout=patience_s)
            if not done:
                _LOG.warning("%s: still there %g s after SIGTERM; killing it", self.now.name, patience_s)
                with self._settings.fence.held():
                    self.child.kill()
                await asyncio.wait([self.child.exited])
        self._finish()

    def _report(self, what: str) -> None:
        words = last_words(self.log, 0) if self.log.exists() else ""
        self._watcher.failed(self.now.name, f"replica {self.now.name}: {what}; {self.log}: {words or 'empty'}")

    # Bookkeeping

    def _enter(self, stage: Stage) -> None:
        left = self.now.stage
        self.now = replace(self.now, stage=stage)
        self._watcher.changed(self.now.name, left, stage)

    def _finish(self) -> None:
        if not self._gone:
            self._gone = True
            self._stop_work()
            self._watcher.changed(self.now.name, self.now.stage, None)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        self._stop_work()
        self._work = asyncio.create_task(work, name=self.now.name)
        self._work.add_done_callback(self._leave_to_leader)

    def _leave_to_leader(self, done: asyncio.Task[None]) -> None:
        """A newer leader's replica is none of our business any more; anything else that failed is told as ever."""
        error = None if done.cancelled() else done.exception()
        if isinstance(error, Fenced):
            _LOG.warning("%s: left to the sidecar that leads now: %s", self.now.name, error)
        elif error is not None:
            _LOG.error("%s: %s: %s", self.now.name, type(error).__name__, error)

    def _stop_work(self) -> None:
        if self._work is not None and self._work is not asyncio.current_task():
            self._work.cancel()
        self._work = None


async def _answers(session: aiohttp.ClientSession, endpoint: Endpoint) -> bool:
    limit = aiohttp.ClientTimeout(total=_PROBE_S)
    try:
        url = f"http://{endpoint.host}:{endpoint.port}/health"
        async with session.get(url, timeout=limit, allow_redirects=False) as response:
            return response.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


def _wall_s() -> float:
    return asyncio.get_running_loop().time()
