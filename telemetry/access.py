"""Who may ask a server of ours, and how it is served: the sidecar's API and the dashboard alike."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

LOOPBACK: Final = "127.0.0.1"
LEAST_TOKEN_CHARS: Final = 16
_TOKEN: Final = re.compile(r"[!-~]+")


class TokenError(ValueError):
    """There is no usable token; the message says where it was looked for and what would be right."""


@dataclass(frozen=True)
class Access:
    """Who may ask what."""

    token: str | None = None
    """Without one nothing can be changed."""
    loopback: bool = True
    """Whether only this machine can ask."""

    def __post_init__(self) -> None:
        """Refuse a token that is easily guessed or cannot be sent, and an open door (TokenError)."""
        if self.token is None:
            if not self.loopback:
                raise TokenError("an address that others can reach needs a token: give it one in a file")
        elif len(self.token) < LEAST_TOKEN_CHARS or not _TOKEN.fullmatch(self.token):
            raise TokenError(
                f"token of {len(self.token)} characters: wanted at least {LEAST_TOKEN_CHARS} printable ASCII ones"
                " without spaces, such as `openssl rand -hex 16` makes"
            )

    def grants(self, request: web.Request) -> bool:
        """Whether the request shows the token in its header."""
        kind, _, shown = request.headers.get("Authorization", "").partition(" ")
        return kind.lower() == "bearer" and self.is_token(shown.strip())

    def is_token(self, shown: str) -> bool:
        """Whether this is the token; compared in a time that tells nothing."""
        if self.token is None:
            return False
        return hmac.compare_digest(shown.encode("utf-8", "replace"), self.token.encode())


def read_token(path: Path) -> str:
    """The token in a file's only line. TokenError or OSError if there is none."""
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if not text or len(text.split()) != 1:
        raise TokenError(f"{path}: wanted one line with one token in it")
    return text


def is_loopback(host: str) -> bool:
    """Whether an address to listen at can be reached from this machine only; of names only localhost is known to be."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@asynccontextmanager
async def serving(app: web.Application, port: int, host: str = LOOPBACK) -> AsyncIterator[str]:
    """Serve while the context lasts; gives the address, such as `http://127.0.0.1:8790`.

    Args:
        app: what to serve.
        port: 0 takes a free one.
        host: the application must know by its `Access` whether others than this machine can reach it.

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
