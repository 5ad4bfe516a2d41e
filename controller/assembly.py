"""Puts a sidecar together on this machine: replicas as local processes, Envoy by files, caps by files, a store.

A working folder holds everything of one cluster: `envoy/`, `caps/`, `logs/`, `roster.json`, `decisions.jsonl`,
`bill.json`, `standing.json`, `handover.json`. A sidecar that starts in a folder where another one died takes over its Envoy and its
replicas, and goes on with the weights, caps, counts and mode that it finds.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp

from ..agents.portfolio import PolicyFactory
from ..env.scenario import Scenario
from ..telemetry.access import Access, is_loopback, serving
from ..telemetry.store import DAY_S, Keeping, Lease, Store
from .actuators.caps import CapFiles
from .actuators.envoy_process import RunningEnvoy
from .api import api
from .choosing import PolicyChoice
from .fencing import Fence
from .front import Front
from .leadership import Leadership
from .preparing import prepare
from .settings import ControlSettings, StartError
from .term import Term
from .tick import Status

MISSED_TICKS_ALIVE: Final = 5
"""A sidecar whose last tick is older than this many ticks is not alive."""


async def steer(
    scenario: Scenario,
    make_policy: PolicyFactory | PolicyChoice,
    settings: ControlSettings,
    stopping: asyncio.Event,
    on_ready: Callable[[RunningEnvoy, str], None],
    on_waiting: Callable[[Lease, str], None] = lambda leader, address: None,
) -> Status:
    """Run one sidecar until `stopping`: it leads, or stands by while another one leads; how it was at the end.

    Where it leads and finds nothing, the replicas that the scenario starts with are brought up first, without a
    provisioning delay; scenario time begins, and `on_ready` is told Envoy's and the API's addresses, when they serve.
    `on_waiting` is told who leads instead, and the API's address. At the end all is stopped, unless another one waits to
    take over.

    Raises:
        StartError: the first replicas do not come up, or the folder is another sidecar's.
        EnvoyStartError: Envoy does not start.
        ServeError: Envoys elsewhere cannot be served.
        StoreError: the store does not answer at the start.
    """
    folder, cluster = settings.folder, scenario.cluster()
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        stack.enter_context(_sharing(folder, settings.shared_store))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        store = await stack.enter_async_context(
            Store(settings.store_url, prefix=settings.store_prefix, keep=_stream_keeping(scenario))
        )
        await store.ping()
        prepared = prepare(scenario, make_policy, cluster)
        leadership = Leadership(store, folder, lease_s=settings.lease_s)
        front = Front(leadership, settings.mode, CapFiles(folder / "caps"))
        tick_wall_s = scenario.tick_s / settings.speed_up
        access = Access(settings.api_token, is_loopback(settings.api_host))
        app = api(front.backing, MISSED_TICKS_ALIVE * tick_wall_s, access)
        address = await stack.enter_async_context(serving(app, settings.api_port, settings.api_host))
        status = Status(settings.mode, settings.goal or settings.mode)

        def term(fence: Fence) -> Coroutine[Any, Any, Status]:
            led = Term(scenario, prepared, settings, session, store, leadership, fence, front)
            return led.lead(stopping, lambda envoy: on_ready(envoy, address))

        while fence := await leadership.win(stopping, lambda leader: on_waiting(leader, address)):
            led = await leadership.lead(fence, partial(term, fence))
            front.leads(None)
            if led is not None:
                status = led
        return status


def _stream_keeping(scenario: Scenario) -> Keeping:
    """How much of the store's stream is kept."""
    own = scenario.control.record
    return Keeping(ticks=own.stream_ticks, bytes=int(own.stream_mb * 1e6), age_s=own.max_days * DAY_S)


@contextmanager
def _sharing(folder: Path, shared_store: bool) -> Iterator[None]:
    """Keep out, as long as the block lasts, whoever could not be in one election with this one (StartError).

    A store that only this process has elects nobody else.
    """
    with (folder / ".sidecars").open("ab") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared_store else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"{folder}: another sidecar runs in this folder; give both the same --store, or each its own folder"
            ) from None
        yield
