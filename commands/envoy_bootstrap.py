"""`poolpilot control --print-envoy`: the configuration that an Envoy is started with, for people to read and keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from ..controller.actuators.envoy_bootstrap import Certificates, ProxySettings, bootstrap
from ..controller.actuators.envoy_config import Endpoint
from ..controller.actuators.envoy_process import EnvoyFolder

ADMIN_PORT: Final = 9901
USUAL_PORT: Final = 10000
_CERTIFICATES: Final = Certificates("/etc/poolpilot/envoy.crt", "/etc/poolpilot/envoy.key", "/etc/poolpilot/ca.crt")
_OWN: Final = """\
# Envoy as `poolpilot control` starts it on this machine for the scenario {scenario}: clusters, endpoints and routes come
# from the files in {xds}, which the sidecar replaces as it decides, and the access log tells
# it what each class of request met. Kept as {bootstrap}.
"""
_ASKING: Final = """\
# An Envoy for the scenario {scenario}, yours to keep and to change: it asks {sidecars} for clusters, endpoints and
# routes (ADS) and sends its access log there. Without a sidecar it goes on with what it was told last.
# Start it with: envoy -c FILE --concurrency 1     (more workers divide what least-request sees of the load)
"""
_MUTUAL: Final = """\
# It shows the certificate below and believes sidecars by that authority: put the three files there, or name others.
"""


class _Plain(yaml.SafeDumper):
    """Writes everything out, where YAML would refer to what stands above."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def own_envoy(scenario: str, folder: Path, port: int) -> str:
    """What the sidecar of a working folder starts its own Envoy with."""
    at = EnvoyFolder(folder.resolve() / "envoy")
    head = _OWN.format(scenario=scenario, xds=at.xds, bootstrap=at.path / "bootstrap.json")
    return head + _text(ProxySettings(str(at.xds), str(at.access_log), port=port))


def asking_envoy(scenario: str, sidecars: tuple[Endpoint, ...], port: int, *, mutual_tls: bool) -> str:
    """What an Envoy anywhere is started with to ask sidecars, the one that leads and those that may."""
    names = " or ".join(f"{s.host}:{s.port}" for s in sidecars)
    head = _ASKING.format(scenario=scenario, sidecars=names) + (_MUTUAL if mutual_tls else "")
    settings = ProxySettings(
        host="0.0.0.0",
        port=port or USUAL_PORT,
        admin_port=ADMIN_PORT,
        sidecars=sidecars,
        certificates=_CERTIFICATES if mutual_tls else None,
    )
    return head + _text(settings)


def _text(settings: ProxySettings) -> str:
    return yaml.dump(bootstrap(settings), Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
