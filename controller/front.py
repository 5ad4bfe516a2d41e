"""What the API shows of a sidecar that leads now, stands by then: one face for its whole life."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from prometheus_client import CollectorRegistry

from ..env.contract import Mode
from ..telemetry.exporter import SidecarMetrics, standby_registry
from .actuators.caps import CapFiles
from .api import LEADER, STANDBY, Backing, View
from .health import Health
from .leadership import Leadership
from .loop import Sidecar

_NOT_LEADING: Final = "this sidecar does not lead yet"


class Front:
    """Shows the present term, or that there is none: figures of the last one must not be acted on."""

    def __init__(self, leadership: Leadership, mode: Mode, caps: CapFiles) -> None:
        """Nothing is led yet; `mode` is the one that it will begin in."""
        self._leadership, self._mode, self._caps = leadership, mode, caps
        self._sidecar: Sidecar | None = None
        self._token = 0
        self._standby = standby_registry()
        self._metrics: SidecarMetrics | None = None

    @property
    def backing(self) -> Backing:
        """For the API."""
        return Backing(self.view, self.registry, self._caps.read, self._request_mode)

    def leads(self, sidecar: Sidecar | None, metrics: SidecarMetrics | None = None, token: int = 0) -> None:
        """A term begins, or, with None, is over."""
        self._sidecar, self._token = sidecar, token
        self._metrics = metrics

    def registry(self) -> CollectorRegistry:
        """Of the metrics, with what `/readyz` says now."""
        if self._metrics is not None:
            view = self.view()
            self._metrics.show_health(len(view.problems), len(view.health.warnings))
            return self._metrics.registry
        return self._standby

    def view(self) -> View:
        """As of now."""
        leadership = self._leadership
        leader = leadership.leader
        holder = leader.holder if leader else ""
        led = self._sidecar
        if led is not None:
            seen = _view(led)
            # A leader that cannot renew its lease goes on: the fence tells if another one was elected.
            health = seen.health.with_warnings((leadership.trouble,) if leadership.trouble else ())
            return replace(seen, leader=holder, fencing_token=self._token, health=health)
        role = LEADER if holder == leadership.name else STANDBY
        trouble = (leadership.trouble,) if leadership.trouble else ()
        # One that leads already and brings up the first replicas has no ticks yet: its patience for them is its own.
        age_s = 0.0 if role == LEADER else time.monotonic() - leadership.looked_at_s
        return View(
            age_s,
            decided=False,
            health=Health(problems=trouble),
            role=role,
            leader=holder,
            mode=self._mode,
            goal=self._mode,
        )

    def _request_mode(self, mode: Mode) -> str | None:
        return self._sidecar.request_mode(mode) if self._sidecar else _NOT_LEADING


def _view(sidecar: Sidecar) -> View:
    status = sidecar.status
    last = status.last
    return View(
        tick_age_s=time.monotonic() - status.last_tick_at_s,
        decided=last is not None,
        health=status.health,
        snapshot=last.snapshot if last else None,
        decision=last.decision if last else None,
        mode=status.mode,
        goal=status.goal,
        gate=status.gate,
        last_move=status.last_move,
        version=status.version,
        trial=status.trial,
        exploration=status.exploration,
        ticks=status.ticks,
        fallback_ticks=status.fallback_ticks,
    )
