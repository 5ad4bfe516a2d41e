"""Where Envoys may ask: not on a network without mutual TLS."""

from pathlib import Path

import pytest

from poolpilot.controller.xds.address import ServeError, XdsAddress, parse_address

PEM = Path("x.pem")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10.0.0.1:18000", ("10.0.0.1", 18000)), ("[::1]:5", ("::1", 5)), ("sidecar.local:1", ("sidecar.local", 1))],
)
def test_an_address(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "18000", "host:", ":1", "host:port", "host:70000"])
def test_no_address(text: str) -> None:
    with pytest.raises(ServeError, match="wanted HOST:PORT"):
        parse_address(text)


def test_a_network_wants_mutual_tls() -> None:
    with pytest.raises(ServeError, match=r"0\.0\.0\.0: whoever reaches this port"):
        XdsAddress("0.0.0.0", 1)
    with pytest.raises(ServeError, match="some are missing"):
        XdsAddress("127.0.0.1", 1, certificate=PEM)
    assert str(XdsAddress("::1", 7)) == "[::1]:7"
    assert XdsAddress("0.0.0.0", 1, PEM, PEM, PEM).port == 1
