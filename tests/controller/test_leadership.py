"""One leader among several sidecars, by a real Valkey and real files: whoever loses the lease acts no more."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
import redis.asyncio as redis

from poolpilot.controller.fencing import Fence, Fenced, highest_token
from poolpilot.controller.leadership import Leadership, own_name
from poolpilot.telemetry.store import Store
from poolpilot.telemetry.valkey import EmbeddedValkey, embedded_valkey

pytestmark = pytest.mark.e2e
LEASE_S = 0.6
PATIENCE_S = 60.0


@pytest_asyncio.fixture
async def server() -> AsyncIterator[EmbeddedValkey]:
    async with embedded_valkey() as running:
        yield running


class Sidecars:
    """Several of them, of one cluster."""

    def __init__(self, url: str, folder: Path, stack: AsyncExitStack) -> None:
        self.url, self.folder, self.stack = url, folder, stack
        self.stopping = asyncio.Event()

    async def join(self, lease_s: float = LEASE_S) -> Leadership:
        store = await self.stack.enter_async_context(Store(self.url, timeout_s=2.0))
        return Leadership(store, self.folder, lease_s=lease_s)

    async def won(self, leadership: Leadership) -> Fence:
        async with asyncio.timeout(PATIENCE_S):
            fence = await leadership.win(self.stopping)
        assert fence is not None
        return fence


@pytest_asyncio.fixture
async def sidecars(server: EmbeddedValkey, tmp_path: Path) -> AsyncIterator[Sidecars]:
    async with AsyncExitStack() as stack:
        yield Sidecars(server.url, tmp_path, stack)


async def forever() -> str:
    await asyncio.Event().wait()
    return "never"


def test_no_two_sidecars_have_one_name() -> None:
    assert len({own_name() for _ in range(100)}) == 100
    assert str(os.getpid()) in own_name()
    assert " " not in own_name()


async def test_the_second_waits_behind_the_first_and_follows_when_it_ends(sidecars: Sidecars) -> None:
    first, second = await sidecars.join(), await sidecars.join()
    told: list[str] = []
    fence = await sidecars.won(first)
    ended = asyncio.Event()

    async def term() -> str:
        await ended.wait()
        return "done"

    leading = asyncio.create_task(first.lead(fence, term))
    waiting = asyncio.create_task(second.win(sidecars.stopping, lambda lease: told.append(lease.holder)))
    async with asyncio.timeout(PATIENCE_S):
        while not first.standby:
            await asyncio.sleep(0.02)
    assert not waiting.done()
    assert told == [first.name]
    ended.set()
    assert await leading == "done"
    async with asyncio.timeout(PATIENCE_S):
        next_fence = await waiting
    assert next_fence is not None
    assert next_fence.token > fence.token
    with pytest.raises(Fenced):
        fence.check()


async def test_a_leader_that_cannot_renew_in_time_is_cancelled_when_another_one_leads(
    sidecars: Sidecars, server: EmbeddedValkey
) -> None:
    first, second = await sidecars.join(), await sidecars.join()
    fence = await sidecars.won(first)
    leading = asyncio.create_task(first.lead(fence, forever))
    async with redis.Redis.from_url(server.url) as client:
        await client.delete("poolpilot:lease")  # as if it had run out while the first one was stopped
        newer = await second.store.acquire(second.name, 60.0)
    if newer.holder != second.name:
        pytest.skip("the first one renewed in between")
    async with asyncio.timeout(PATIENCE_S):
        assert await leading is None
    assert fence.passed
    with pytest.raises(Fenced):
        fence.check()


async def test_work_that_is_fenced_ends_the_term(sidecars: Sidecars) -> None:
    first = await sidecars.join()
    fence = await sidecars.won(first)

    async def writes_too_late() -> None:
        Fence(sidecars.folder, fence.token + 1).claim()
        fence.write(sidecars.folder / "file", b"too late")

    assert await first.lead(fence, writes_too_late) is None
    assert not (sidecars.folder / "file").exists()


async def test_an_error_of_the_work_is_not_taken_for_a_lost_lease(sidecars: Sidecars) -> None:
    first, second = await sidecars.join(), await sidecars.join(lease_s=60.0)
    fence = await sidecars.won(first)

    async def fails() -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        await first.lead(fence, fails)
    await sidecars.won(second)  # the lease was given back: nobody waits for it to run out


async def test_while_the_store_hangs_the_leader_goes_on_and_nobody_else_leads(
    sidecars: Sidecars, server: EmbeddedValkey
) -> None:
    first, second = await sidecars.join(), await sidecars.join()
    fence = await sidecars.won(first)
    leading = asyncio.create_task(first.lead(fence, forever))
    waiting = asyncio.create_task(second.win(sidecars.stopping))
    await asyncio.sleep(LEASE_S / 2)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not (first.trouble and second.trouble):
                await asyncio.sleep(0.05)
        fence.write(sidecars.folder / "file", b"goes on")
        assert not waiting.done()
        assert not leading.done()
    finally:
        os.kill(server.pid, signal.SIGCONT)
    async with asyncio.timeout(PATIENCE_S):
        while first.trouble:
            await asyncio.sleep(0.05)
    assert not leading.done(), "the one that led lost its lease to a store that was only slow"
    sidecars.stopping.set()
    assert await waiting is None
    leading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leading


async def test_a_store_that_lost_its_memory_hands_out_a_higher_token_than_the_folder_has_seen(
    sidecars: Sidecars, server: EmbeddedValkey
) -> None:
    Fence(sidecars.folder, 41).claim()
    fence = await sidecars.won(await sidecars.join())
    assert (fence.token, highest_token(sidecars.folder)) == (42, 42)


_KILLED_WHILE_IT_LEADS = """
import asyncio, os, signal, sys
from pathlib import Path
from poolpilot.controller.leadership import Leadership
from poolpilot.telemetry.store import Store

async def main() -> None:
    async with Store(sys.argv[1], timeout_s=5.0) as store:
        leadership = Leadership(store, Path(sys.argv[2]), lease_s=3600.0)
        fence = await leadership.win(asyncio.Event())

        async def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        await leadership.lead(fence, die)

asyncio.run(main())
"""


async def test_nobody_waits_for_the_lease_of_a_process_that_was_killed(sidecars: Sidecars) -> None:
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _KILLED_WHILE_IT_LEADS, sidecars.url, str(sidecars.folder)
    )
    assert await asyncio.wait_for(killed.wait(), PATIENCE_S) == -signal.SIGKILL
    second = await sidecars.join(lease_s=3600.0)
    held = await second.store.leader()
    assert held is not None
    assert str(killed.pid) in held.holder
    fence = await sidecars.won(second)
    assert fence.token == held.token + 1
    assert list(sidecars.folder.glob(".leader-*")) == []


async def test_a_leader_that_lives_keeps_its_lease_whatever_files_lie_about(sidecars: Sidecars) -> None:
    first, second = await sidecars.join(), await sidecars.join()
    fence = await sidecars.won(first)
    leading = asyncio.create_task(first.lead(fence, forever))
    waiting = asyncio.create_task(second.win(sidecars.stopping))
    (sidecars.folder / f".leader-{own_name()}").touch()
    await asyncio.sleep(2 * LEASE_S)
    assert not waiting.done()
    assert not leading.done()
    leading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leading
    async with asyncio.timeout(PATIENCE_S):
        assert await waiting is not None
