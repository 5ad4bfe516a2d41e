"""How one sidecar is run, as whoever starts it says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..env.contract import Mode
from ..env.scenario import Scenario
from ..telemetry.access import LOOPBACK
from .leadership import LEASE_S
from .xds.address import XdsAddress


class StartError(RuntimeError):
    """The sidecar cannot start; the message says what is missing."""


@dataclass(frozen=True)
class ControlSettings:
    """How one sidecar is run."""

    folder: Path
    """The working folder; made when it is not there."""
    scenario_file: Path
    """Of the world, or the scenario where there is none beside it: handed to emulated replicas."""
    store_url: str
    """Of Redis or Valkey."""
    store_prefix: str = "poolpilot"
    mode: Mode = Mode.ADVISE
    """To begin with; whoever sets another one than `advise` vouches for the gates below."""
    goal: Mode | None = None
    """As high as the mode may rise by itself; None: no higher than it begins."""
    steps_back: bool = True
    """Whether a breach lowers the mode; off only to compare policies, bad ones included."""
    speed_up: float = 1.0
    """Scenario seconds in a second of the wall; above 1 for emulated clusters only."""
    port: int = 0
    """Of Envoy; 0 takes a free one."""
    api_port: int = 0
    stream_interval: int = 1
    """Tokens that emulated replicas put into one event."""
    seed: int = 0
    """Draws provisioning delays."""
    world: Scenario | None = None
    """What is true of emulated replicas, while everybody believes the scenario: how long they take for everything, and to
    start. The same pools; None: the scenario."""
    leave_running: bool = False
    """At the end, leave Envoy and replicas to the next sidecar."""
    shared_store: bool = True
    """Whether other sidecars can reach the store: only then may several run in one folder, one leading."""
    lease_s: float = LEASE_S
    """Wall-clock seconds after which a leader that is gone is replaced."""
    api_host: str = LOOPBACK
    """Address of the API; any but loopback needs `api_token`."""
    api_token: str | None = None
    """Whoever shows it may change the mode; without one nobody may."""
    xds: XdsAddress | None = None
    """Where Envoys on other machines ask for their configuration; None serves none."""

    @property
    def asked(self) -> str:
        """What is asked of the mode, in words."""
        return f"{self.mode} up to {self.goal or self.mode}"
