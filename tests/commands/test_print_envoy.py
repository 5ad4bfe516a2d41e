"""`poolpilot control --print-envoy`: what a real Envoy accepts, and what a person can read."""

import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from poolpilot.commands.control import control
from poolpilot.controller.actuators import envoy
from poolpilot.controller.actuators.envoy_config import ClassRoute, PoolBackends, RoutingTable
from poolpilot.controller.actuators.envoy_process import EnvoyFolder, envoy_binary

pytestmark = pytest.mark.e2e


def printed(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(control, ["--scenario", "two-models", "--folder", str(folder), "--print-envoy", *options])


def accepted(text: str, folder: Path) -> str:
    """What Envoy says of a configuration."""
    file = folder / "envoy.yaml"
    file.write_text(text)
    done = subprocess.run(
        [str(envoy_binary()), "--mode", "validate", "-c", str(file)], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_an_envoy_that_asks_sidecars(tmp_path: Path) -> None:
    result = printed(tmp_path, "--xds", "127.0.0.1:18000", "--xds-peer", "10.0.0.2:18000", "--port", "8080")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("# An Envoy for the scenario two-models")
    assert "OK" in accepted(result.output, tmp_path)
    document = yaml.safe_load(result.output)
    (sidecars,) = document["static_resources"]["clusters"]
    hosts = sidecars["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert [host["endpoint"]["address"]["socket_address"]["address"] for host in hosts] == ["127.0.0.1", "10.0.0.2"]
    assert document["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] == 8080
    assert "&id" not in result.output  # no references that a reader must follow


def test_our_own_envoy(tmp_path: Path) -> None:
    result = printed(tmp_path)
    assert result.exit_code == 0, result.output
    folder = EnvoyFolder(tmp_path / "envoy")
    folder.xds.mkdir(parents=True)
    assert str(folder.xds) in result.output
    envoy.write(folder.xds, RoutingTable((ClassRoute("chat", (("A", 1.0),)),), (PoolBackends("A", ()),), "chat"))
    assert "OK" in accepted(result.output, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--xds", "18000"), "'18000': wanted HOST:PORT"),
        (("--xds", "0.0.0.0:18000"), "listen on 127.0.0.1"),
        (("--xds", "127.0.0.1:1", "--xds-peer", "x"), "--xds-peer 'x': wanted HOST:PORT"),
        (("--xds-cert", __file__), "wanted with --xds only"),
        (("--xds", "0.0.0.0:1", *(f"--xds-{name}={__file__}" for name in ("cert", "key", "ca"))), "which one Envoy is"),
    ],
    ids=["no host", "open to all", "peer", "certificate alone", "every address"],
)
def test_what_it_cannot_print(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    result = printed(tmp_path, *options)
    assert result.exit_code == 2
    assert message in result.output


def test_it_changes_nothing(tmp_path: Path) -> None:
    assert printed(tmp_path).exit_code == 0
    assert list(tmp_path.iterdir()) == []
