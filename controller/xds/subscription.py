"""What one Envoy has asked for, was sent, has taken and has refused, by type of resource. Pure.

The state-of-the-world protocol: each request names a type, the resources wanted, and the nonce of the answer that it
speaks of. Without an error it accepts that answer; with one it refuses it and keeps the one before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..actuators.envoy_config import Json


@dataclass(frozen=True, slots=True)
class Request:
    """What an Envoy says."""

    type_url: str
    names: frozenset[str] = frozenset()
    """Resources wanted; empty is all of the type."""
    nonce: str = ""
    """Of the answer that this speaks of; empty in a stream's first request of a type."""
    error: str | None = None
    """Why that answer was refused."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be sent."""

    type_url: str
    version: str
    nonce: str
    resources: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class Subscription:
    """One type of one Envoy."""

    names: frozenset[str]
    sent_nonce: str = ""
    sent: frozenset[tuple[str, str]] = frozenset()
    """Name and version of each resource of the last answer."""
    taken: frozenset[tuple[str, str]] = frozenset()
    """Of the last answer that was accepted."""
    refused: str | None = None
    """Why the last answer was not, if so."""


@dataclass(frozen=True, slots=True)
class Offered:
    """The resources of one type as they are to be now, by name, each with its version."""

    resources: Mapping[str, Json]
    versions: Mapping[str, str]

    def of(self, names: frozenset[str]) -> frozenset[tuple[str, str]]:
        """Name and version of those wanted; no names want all."""
        return frozenset((n, v) for n, v in self.versions.items() if not names or n in names)


def heard(known: Subscription | None, request: Request) -> Subscription:
    """What is known of a type after a request; an answer that was overtaken by another is nothing to go by."""
    if known is None or not request.nonce:
        return Subscription(request.names)
    if request.nonce != known.sent_nonce:
        return known
    if request.error is not None:
        return replace(known, names=request.names, refused=request.error)
    return replace(known, names=request.names, taken=known.sent, refused=None)


def due(known: Subscription, offered: Offered) -> bool:
    """Whether there is something new to send. What was refused is not sent again."""
    return not known.sent_nonce or known.sent != offered.of(known.names)


def answer(
    known: Subscription, type_url: str, offered: Offered, nonce: str, version: str
) -> tuple[Subscription, Answer]:
    """The answer, and what is known once it is sent."""
    sent = offered.of(known.names)
    chosen = tuple(offered.resources[name] for name, _ in sorted(sent))
    return replace(known, sent_nonce=nonce, sent=sent, refused=None), Answer(type_url, version, nonce, chosen)
