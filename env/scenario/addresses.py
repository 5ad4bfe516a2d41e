"""Where a server of the user's own listens, as a scenario file says it."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_ADDRESS: Final = re.compile(r"http://([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?):([0-9]{1,5})/?")


class Address(NamedTuple):
    """A host, by name or IPv4 address, and a TCP port."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """The address in `http://host:port`.

    Raises:
        ValueError: naming the text and what would be right.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or not 1 <= int(found[2]) <= 65535:
        raise ValueError(
            f"{text!r}: wanted http://HOST:PORT with a name or an IPv4 address; the proxy speaks plain HTTP to replicas"
        )
    return Address(found[1], int(found[2]))
