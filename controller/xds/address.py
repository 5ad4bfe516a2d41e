"""Where a sidecar serves Envoys on other machines, and whom it believes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path


class ServeError(RuntimeError):
    """Envoys on other machines cannot be served; the message says why."""


@dataclass(frozen=True, slots=True)
class XdsAddress:
    """Where to listen, and by what to be believed.

    Raises:
        ServeError: it would be open to a network without asking who is there, or a file for that is missing.
    """

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    certificate: Path | None = None
    """PEM files for mutual TLS: ours, its key, and the authority of those who may ask; all or none."""
    key: Path | None = None
    authority: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what is unsafe or half given."""
        given = [self.certificate, self.key, self.authority]
        if any(given) and not all(given):
            raise ServeError("mutual TLS wants a certificate, its key and an authority; some are missing")
        if not any(given) and not _loopback(self.host):
            raise ServeError(
                f"{self.host}: whoever reaches this port can read the routing and forge the log; give a certificate, its "
                "key and an authority, or listen on 127.0.0.1"
            )

    def __str__(self) -> str:
        """As gRPC wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, an IPv6 host in brackets.

    Raises:
        ServeError: it is none.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ServeError(f"{text!r}: wanted HOST:PORT")
    return host, int(port)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
