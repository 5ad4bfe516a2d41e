"""One leader among the sidecars of a cluster: a lease in the store, and a fence in the folder that they share.

The lease tells who leads and notices when that one is gone: it runs out unless it is renewed. The fence makes it true:
a new leader raises it before it acts, so that one which was only stopped, or lost the network, changes nothing when it
comes back (`fencing`). Of one that was killed on this machine the kernel tells at once, by a lock that dies with its
process, and nobody waits for its lease to run out. While the store does not answer nobody can be elected, and the leader goes on: the fence would
tell it if that were wrong.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from ..telemetry.store import Lease, Store, StoreError
from .fencing import Fence, Fenced, highest_token

_LOG: Final = logging.getLogger(__name__)
LEASE_S: Final = 3.0
"""How long a lease lasts unless it is renewed: the other acts when a killed leader's ran out."""
_RENEWALS: Final = 6
"""In the time of a lease; all but the last may fail."""
_LOOKS: Final = 12
"""In the time of a lease, of one who waits for it."""

T = TypeVar("T")


def own_name() -> str:
    """Names this process among all sidecars of a cluster, for people too; no two are alike."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


@dataclass
class Leadership:
    """One sidecar's part in the election."""

    store: Store
    folder: Path
    """What all sidecars of the cluster share, and its fence with it."""
    name: str = field(default_factory=own_name)
    lease_s: float = LEASE_S
    leader: Lease | None = field(default=None, init=False)
    """Who leads, as last heard."""
    standby: bool = field(default=False, init=False)
    """Whether another sidecar waits to take over, as last heard."""
    looked_at_s: float = field(default_factory=time.monotonic, init=False)
    """On the wall's monotonic clock, when it last looked who leads, answered or not."""
    trouble: str = field(default="", init=False)
    """What keeps the lease from being won or renewed, in words."""

    async def win(self, stopping: asyncio.Event, on_waiting: Callable[[Lease], None] = lambda _: None) -> Fence | None:
        """Wait until this one leads; the raised fence to act through, or None once `stopping` is set.

        `on_waiting` is told of each leader that this one waits behind.

        Raises:
            FenceError: the fence cannot be raised at all.
        """
        look_s, heard_of, not_before_s = self.lease_s / _LOOKS, "", 0.0
        while not stopping.is_set():
            self.looked_at_s = time.monotonic()
            try:
                # Only a look at first: what a store that hangs has not answered yet it does when it wakes, and a lease that
                # was asked for then would be had before the leader could renew its own.
                lease = await self.store.wait_behind(self.name, self.lease_s)
                self.trouble, self.leader = "", lease
                if lease is None:
                    if heard_of:  # the leader is to have one more chance before anybody takes its place
                        heard_of, not_before_s = "", time.monotonic() + self.lease_s / _RENEWALS
                    if time.monotonic() >= not_before_s and (fence := await self._taken()):
                        return fence
                elif self._died(lease.holder):
                    _LOG.warning("%s: the process of %s has ended", self.name, lease.holder)
                    await self.store.release(lease)
                    continue
                elif lease.holder != heard_of:
                    heard_of = lease.holder
                    on_waiting(lease)
            except StoreError as error:
                self._troubled(str(error))
                not_before_s = time.monotonic() + self.lease_s
            except Fenced as fenced:
                self._troubled(f"{fenced}; do all sidecars of {self.folder} have the same store and prefix?")
                not_before_s = time.monotonic() + self.lease_s
            await _sleep_unless(stopping, look_s)
        return None

    async def _taken(self) -> Fence | None:
        """Take the lease and raise the fence; None if somebody else was quicker."""
        lease = await self.store.acquire(self.name, self.lease_s, highest_token(self.folder))
        self.leader = lease
        return self._raised(lease) if lease.holder == self.name else None

    def _raised(self, lease: Lease) -> Fence:
        fence = Fence(self.folder, lease.token)
        fence.claim()
        _LOG.warning("%s leads now, fencing token %d", self.name, lease.token)
        return fence

    async def lead(self, fence: Fence, term: Callable[[], Awaitable[T]]) -> T | None:
        """Do a leader's work while the lease lasts; what came of it, or None when another one leads.

        When the lease is lost the fence is passed (`Fence.passed`), and the work is cancelled.
        """
        lease, over = Lease(self.name, fence.token), asyncio.Event()
        alive = self._mark(self.name).open("wb")
        fcntl.flock(alive, fcntl.LOCK_EX)
        keeping = asyncio.create_task(self._keep(lease, fence, over))
        working = asyncio.ensure_future(term())
        try:
            await asyncio.wait({keeping, working}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                working.cancel()
            try:
                return await working
            except (asyncio.CancelledError, Fenced):
                if not fence.passed:
                    raise
                _LOG.warning("%s leads no more: %s", self.name, self.trouble or "another sidecar took over")
                return None
        finally:
            working.cancel()
            # Not cancelled: a renewal that is under way must not reach the store after the lease was given back.
            over.set()
            await asyncio.gather(keeping, working, return_exceptions=True)
            if not fence.passed:
                await self._release(lease)
            self._mark(self.name).unlink(missing_ok=True)
            alive.close()

    def _mark(self, holder: str) -> Path:
        """The file that a leader keeps locked as long as it lives."""
        return self.folder / f".leader-{holder}"

    def _died(self, holder: str) -> bool:
        """Whether a leader was a process of this machine that has ended; its mark goes with it."""
        mark = self._mark(holder)
        if holder.partition(":")[0] != socket.gethostname():
            return False  # its locks may be invisible here
        try:
            with mark.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mark.unlink(missing_ok=True)
        except (FileNotFoundError, BlockingIOError):
            return False
        return True

    async def _keep(self, lease: Lease, fence: Fence, over: asyncio.Event) -> None:
        """Renew until the lease is another's, or the term is over."""
        while not over.is_set():
            try:
                renewal = await self.store.renew(lease, self.lease_s)
            except StoreError as error:
                self._troubled(str(error))
            else:
                self.trouble, self.standby = "", renewal.standby
                if not renewal.ours:
                    fence.pass_by(renewal.newest)
                    return
            await _sleep_unless(over, self.lease_s / _RENEWALS)

    async def _release(self, lease: Lease) -> None:
        try:
            await self.store.release(lease)
        except StoreError as error:
            _LOG.warning("%s: the lease could not be given back, it runs out by itself: %s", self.name, error)

    def _troubled(self, what: str) -> None:
        if what != self.trouble:
            _LOG.warning("%s: leadership: %s", self.name, what)
        self.trouble = what


async def _sleep_unless(stopping: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        pass
