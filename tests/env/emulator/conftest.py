"""Small replicas for these tests, and a way to serve one on a free port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web

from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.emulator.pacing import PacedSession
from poolpilot.env.emulator.process import address_of, bound_socket
from poolpilot.env.emulator.replica import EngineFlags, ReplicaSpec
from poolpilot.env.emulator.server import Server
from poolpilot.env.emulator.serving import warm_up
from poolpilot.env.emulator.session import Session
from poolpilot.env.perf.law import TOKENS_GRID, IterationLaw
from poolpilot.env.perf.power import draw_of

MODEL = "tiny"
LAW = IterationLaw(
    tokens_grid=TOKENS_GRID,
    linear_s=1e-3 * (9 + TOKENS_GRID / 4),
    attend_s_per_pair=0.0,
    kv_read_s_per_token=1e-6,
    seq_s=0.5e-3,
)


def a_spec(
    *, kv_blocks: int = 256, max_num_seqs: int = 8, token_budget: int = 64, max_model_len: int = 2048
) -> ReplicaSpec:
    """A replica whose iterations take about 10 ms."""
    flags = EngineFlags(max_num_seqs, token_budget, max_model_len)
    card, shape = gpu("L40S-48GB"), model("llama-2-13b")
    return ReplicaSpec(card, shape, 1, flags, LAW, kv_blocks * 16, (draw_of(card, shape, "fp8"),))


@dataclass(frozen=True)
class Served:
    """A replica being served in the test's own event loop."""

    url: str
    paced: PacedSession
    server: Server


@asynccontextmanager
async def served(
    spec: ReplicaSpec, *, speed_up: float = 50.0, stream_interval: int = 1, dev_mode: bool = False
) -> AsyncIterator[Served]:
    """Serve a replica on a free loopback port."""
    warm_up(spec)
    paced = PacedSession(Session(spec, stream_interval), speed_up)
    server = Server(spec, [MODEL], paced, dev_mode=dev_mode)
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    bound = bound_socket("127.0.0.1", 0)
    try:
        await web.SockSite(runner, bound).start()
        yield Served(address_of(bound), paced, server)
    finally:
        await runner.cleanup()


@pytest.fixture
async def replica() -> AsyncIterator[Served]:
    """A replica of 8 sequences, 50 times faster than real, with /sleep and /wake_up."""
    async with served(a_spec(), dev_mode=True) as running:
        yield running
