"""Who may look, and what a page may do: token and session, the Host header, the security headers of every answer."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from ...telemetry.access import Access, is_loopback

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SESSION: Final = "poolpilot_session"
_SESSION_S: Final = 7 * 24 * 3600
_OPEN: Final = ("/healthz", "/login", "/assets/dashboard.css", "/assets/theme.css")
HEADERS: Final = {
    # Plotly sets styles as it draws, and makes pictures of figures as data: and blob:.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Door:
    """Lets in whoever may look."""

    def __init__(self, access: Access) -> None:
        """With a token everybody has to show it, on loopback too."""
        self._access = access

    @property
    def middlewares(self) -> tuple[Any, ...]:
        """Of the application, the outermost first."""
        return (_with_headers, self._guarded())

    def session(self) -> str:
        """What a browser shows instead of the token: made of it, and no way back."""
        token = self._access.token or ""
        return hmac.new(token.encode(), b"poolpilot dashboard session", hashlib.sha256).hexdigest()

    def admits(self, request: web.Request) -> bool:
        """Whether a request shows token or session."""
        if self._access.token is None:
            return True
        shown = request.cookies.get(SESSION, "")
        return self._access.grants(request) or hmac.compare_digest(
            shown.encode("utf-8", "replace"), self.session().encode()
        )

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """The token, once, from the form; then the browser has a session. SameSite keeps other pages from using it."""
        shown = (await request.post()).get("token", "")
        if not isinstance(shown, str) or not self._access.is_token(shown.strip()):
            raise web.HTTPSeeOther("/login?wrong=1")
        answer = web.HTTPSeeOther("/")
        answer.set_cookie(
            SESSION,
            self.session(),
            max_age=_SESSION_S,
            httponly=True,
            samesite="Strict",
            secure=request.secure,
            path="/",
        )
        raise answer

    def _guarded(self) -> Any:
        access = self._access

        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            if access.token is None and not _host_is_loopback(request):
                # A page elsewhere may let its own name lead to this machine, and read what is served here.
                raise web.HTTPForbidden(
                    text="asked by a name that is not this machine's own; wanted localhost, or a token\n"
                )
            if request.path in _OPEN or self.admits(request):
                return await handler(request)
            if "text/html" in request.headers.get("Accept", ""):
                raise web.HTTPSeeOther("/login")
            raise web.HTTPUnauthorized(
                text="wanted the header Authorization: Bearer TOKEN with this dashboard's token\n",
                headers={"WWW-Authenticate": "Bearer"},
            )

        return guarded


def _host_is_loopback(request: web.Request) -> bool:
    host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    return is_loopback(host)


@web.middleware
async def _with_headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        answer = await handler(request)
    except web.HTTPException as error:
        error.headers.update(HEADERS)
        raise
    if not answer.prepared:
        answer.headers.update(HEADERS)
    return answer
