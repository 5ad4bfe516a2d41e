"""What the sidecar tells over HTTP, and the one thing that can be asked of it there: another mode.

`/openapi.json` describes it all (`openapi`). Reading on loopback is free. A token, as `Authorization: Bearer TOKEN`, is
needed for whatever changes something, and at any other address for everything but the bare verdicts of `/healthz` and
`/readyz`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ..env.contract import Decision, Mode, Snapshot
from ..env.wire import to_json
from ..telemetry.access import Access
from .actuators.caps import Caps
from .health import WELL, Health
from .openapi import document

LEADER: Final = "leader"
STANDBY: Final = "standby"
_MAX_BODY_BYTES: Final = 4096
_OPEN: Final = ("/healthz", "/readyz")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class View:
    """The sidecar as of now."""

    tick_age_s: float
    """Seconds of the wall since the last tick ended; since the start before the first one. Of one that stands by: since
    it last looked who leads."""
    decided: bool
    """Whether a first decision is in force, or recorded where the sidecar only advises."""
    health: Health = WELL
    """What is wrong, in words."""
    snapshot: Snapshot | None = None
    decision: Decision | None = None
    role: str = LEADER
    leader: str = ""
    """Who leads, as last heard."""
    fencing_token: int = 0
    mode: Mode = Mode.ADVISE
    goal: Mode = Mode.ADVISE
    gate: str = ""
    """What the next mode waits for."""
    last_move: str = ""
    version: str = ""
    """That decides, where the policy is a registry's."""
    trial: str = ""
    """Of a candidate beside it, and how far it has come."""
    exploration: str = ""
    """What its campaign has spent, and whether it is over; empty where there is none."""
    ticks: int = 0
    fallback_ticks: int = 0

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it is not ready; nothing if it is."""
        if self.role == STANDBY:
            return (*self.health.problems, f"standing by: {self.leader or 'nobody'} leads")
        return self.health.problems if self.decided else (*self.health.problems, "no decision yet")


@dataclass(frozen=True)
class Backing:
    """What stands behind the API. Nothing of it may wait."""

    view: Callable[[], View]
    """Called once a request."""
    registry: Callable[[], CollectorRegistry]
    """Of the metrics."""
    caps: Callable[[str], Caps | None] = field(default=lambda pool: None)
    """Of a pool; None where there are none, or no such pool."""
    request_mode: Callable[[Mode], str | None] = field(default=lambda mode: "this sidecar has one mode only")
    """Ask for a mode: None if it is in force or under way, else why it is not to be had."""


def api(backing: Backing, alive_within_s: float, access: Access | None = None) -> web.Application:
    """The application.

    Args:
        backing: what to tell.
        alive_within_s: a last tick older than this means that the sidecar hangs.
        access: who may ask what; left out: reading on loopback.
    """
    routes = _Routes(backing, alive_within_s, access or Access())
    app = web.Application(middlewares=[_errors_as_json, routes.guarded], client_max_size=_MAX_BODY_BYTES)
    app.router.add_get("/healthz", routes.healthz)
    app.router.add_get("/readyz", routes.readyz)
    app.router.add_get("/metrics", routes.metrics)
    app.router.add_get("/v1/status", routes.status)
    app.router.add_get("/v1/snapshot", routes.snapshot)
    app.router.add_get("/v1/decision", routes.decision)
    app.router.add_get("/v1/caps/{pool}", routes.caps)
    app.router.add_put("/v1/mode", routes.mode)
    app.router.add_get("/openapi.json", routes.openapi)
    return app


@dataclass(frozen=True)
class _Routes:
    backing: Backing
    alive_within_s: float
    access: Access

    @property
    def guarded(self) -> Any:
        """Asks for the token where one is needed."""
        access = self.access

        @web.middleware
        async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
            changes = request.method not in ("GET", "HEAD", "OPTIONS", "TRACE")
            private = not access.loopback and request.path not in _OPEN
            known = request.match_info.http_exception is None  # what is not there is told to anybody
            if (known and changes) or private:
                if access.token is None:
                    return _error("no token was set for this sidecar, so nothing can be changed: --api-token-file", 403)
                if not access.grants(request):
                    answer = _error("wanted the header Authorization: Bearer TOKEN with this sidecar's token", 401)
                    answer.headers["WWW-Authenticate"] = "Bearer"
                    return answer
            return await handler(request)

        return ask

    async def healthz(self, request: web.Request) -> web.Response:
        """Alive."""
        age_s = self.backing.view().tick_age_s
        stuck = f"last tick {age_s:.1f} s ago, wanted {self.alive_within_s:g} s at most"
        return self._verdict(request, () if age_s <= self.alive_within_s else (stuck,))

    async def readyz(self, request: web.Request) -> web.Response:
        """Useful."""
        now = self.backing.view()
        return self._verdict(request, now.problems, now.health.warnings)

    async def metrics(self, request: web.Request) -> web.Response:
        """For Prometheus."""
        return web.Response(
            body=generate_latest(self.backing.registry()), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def status(self, request: web.Request) -> web.Response:
        """In numbers and words."""
        return _json(_status(self.backing.view()), 200)

    async def snapshot(self, request: web.Request) -> web.Response:
        """The latest."""
        return _latest("snapshot", self.backing.view().snapshot)

    async def decision(self, request: web.Request) -> web.Response:
        """The latest."""
        return _latest("decision", self.backing.view().decision)

    async def caps(self, request: web.Request) -> web.Response:
        """What engines may do that read their caps here."""
        pool = request.match_info["pool"]
        try:
            found = self.backing.caps(pool)
        except (OSError, ValueError) as error:
            return _error(f"pool {pool[:60]!r}: {error}", 404)
        if found is None:
            return _error(f"pool {pool[:60]!r}: no such pool, or no caps for it yet", 404)
        return _json(asdict(found), 200)

    async def mode(self, request: web.Request) -> web.Response:
        """Another mode."""
        view = self.backing.view()
        try:
            mode = _mode_in(await request.read())
        except ValueError as error:
            return _error(str(error), 400)
        if view.role == STANDBY:
            return _error(f"this sidecar stands by; ask the one that leads: {view.leader or 'nobody'}", 503)
        refusal = self.backing.request_mode(mode)
        if refusal is not None:
            return _error(refusal, 409)
        return _json(_status(self.backing.view()), 200)

    async def openapi(self, request: web.Request) -> web.Response:
        """What can be asked."""
        return _json(document(loopback=self.access.loopback), 200)

    def _verdict(self, request: web.Request, problems: tuple[str, ...], warnings: tuple[str, ...] = ()) -> web.Response:
        """Yes or no by the problems; what is wrong is for those who may know."""
        told = self.access.loopback or self.access.grants(request)
        said = {"problems": list(problems) if told else [], "warnings": list(warnings) if told else []}
        return _json({"ok": not problems, **said}, 503 if problems else 200)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The server's own refusals (no such path, no such method, too large) in the shape of all others."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        answer = _error(f"{request.method} {request.path[:200]}: {error.reason}", error.status)
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer


def _mode_in(body: bytes) -> Mode:
    """The mode that a request's body asks for; ValueError says what is wrong."""
    wanted = f'wanted {{"mode": one of {", ".join(mode.value for mode in Mode)}}}'
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError(f"not JSON; {wanted}") from None
    if not isinstance(asked, dict) or set(asked) != {"mode"}:
        raise ValueError(wanted)
    try:
        return Mode(asked["mode"])
    except (ValueError, TypeError):
        raise ValueError(f"mode: {str(asked['mode'])[:60]!r}; {wanted}") from None


def _status(view: View) -> dict[str, Any]:
    return {
        "role": view.role,
        "leader": view.leader,
        "fencing_token": view.fencing_token,
        "mode": view.mode.value,
        "goal": view.goal.value,
        "gate": view.gate,
        "last_move": view.last_move,
        "version": view.version,
        "trial": view.trial,
        "exploration": view.exploration,
        "ticks": view.ticks,
        "fallback_ticks": view.fallback_ticks,
        "tick_age_s": view.tick_age_s,
        "ready": not view.problems,
        "problems": list(view.problems),
        "warnings": list(view.health.warnings),
    }


def _latest(what: str, value: Snapshot | Decision | None) -> web.Response:
    if value is None:
        return _error(f"no {what} yet; the first one comes with the first tick", 503)
    return _json(to_json(value), 200)


def _error(message: str, status: int) -> web.Response:
    return _json({"error": message}, status)


def _json(body: dict[str, Any], status: int) -> web.Response:
    text = json.dumps(body, allow_nan=False)
    return web.Response(
        text=text, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )
