"""What the sidecar tells about itself over HTTP: alive, ready, metrics, the latest snapshot and decision. Read only."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ..env.contract import Decision, Snapshot
from ..env.wire import to_json

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class View:
    """The sidecar as of now."""

    tick_age_s: float
    """Seconds of the wall since the last tick ended; since the start before the first one."""
    decided: bool
    """Whether a first decision is in force, or recorded where the sidecar only advises."""
    troubles: tuple[str, ...] = ()
    """What keeps decisions from reaching the world or the record, in words: Envoy, store."""
    snapshot: Snapshot | None = None
    decision: Decision | None = None


def api(view: Callable[[], View], registry: CollectorRegistry, alive_within_s: float) -> web.Application:
    """The application. Everything is answered from `view`, which is called once a request and must not wait.

    - `/healthz`: 200 while ticks come, 503 when the last one is older than `alive_within_s`: restart it.
    - `/readyz`: 200 when decisions are made and reach the world, else 503 and why.
    - `/metrics`: the registry, as Prometheus reads it.
    - `/v1/snapshot`, `/v1/decision`: the latest, as `env.wire` writes it; 503 before there is one.
    """
    app = web.Application()

    async def healthz(request: web.Request) -> web.Response:
        age_s = view().tick_age_s
        stuck = (
            () if age_s <= alive_within_s else (f"last tick {age_s:.1f} s ago, wanted {alive_within_s:g} s at most",)
        )
        return _verdict(stuck)

    async def readyz(request: web.Request) -> web.Response:
        now = view()
        return _verdict(now.troubles if now.decided else (*now.troubles, "no decision yet"))

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def snapshot(request: web.Request) -> web.Response:
        return _latest("snapshot", view().snapshot)

    async def decision(request: web.Request) -> web.Response:
        return _latest("decision", view().decision)

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/v1/snapshot", snapshot)
    app.router.add_get("/v1/decision", decision)
    return app


@asynccontextmanager
async def serving(app: web.Application, port: int, host: str = LOOPBACK) -> AsyncIterator[str]:
    """Serve while the context lasts; gives the address, such as `http://127.0.0.1:8790`.

    Args:
        app: what to serve.
        port: 0 takes a free one.
        host: anything but loopback shows the cluster's state to whoever can reach it: there is no login.

    Raises:
        OSError: the port is taken, or the host is not this machine's.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0]
        name = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        yield f"http://{name}:{bound[1]}"
    finally:
        await runner.cleanup()


def _verdict(problems: tuple[str, ...]) -> web.Response:
    return _json({"ok": not problems, "problems": list(problems)}, 503 if problems else 200)


def _latest(what: str, value: Snapshot | Decision | None) -> web.Response:
    if value is None:
        return _json({"error": f"no {what} yet; the first one comes with the first tick"}, 503)
    return _json(to_json(value), 200)


def _json(document: dict[str, Any], status: int) -> web.Response:
    text = json.dumps(document, allow_nan=False)
    return web.Response(
        text=text, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )
