"""What the sidecar shows of a registry's versions, for Prometheus: who decides, and how a candidate's trial stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Gauge


class VersionMetrics:
    """Gauges; without a registry, or without a trial, NaN or not there."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Nobody decides yet."""
        self._info = Gauge(
            "poolpilot_version_info",
            "1 for the registry's version that decides (incumbent) and for one on trial (candidate)",
            ["version", "role"],
            registry=registry,
        )
        self._turn = Gauge("poolpilot_trial_turn", "1 while it is the candidate's turn", registry=registry)
        self._blocks = Gauge("poolpilot_trial_blocks", "Blocks of a candidate's trial that are done", registry=registry)
        self._suffered = Gauge(
            "poolpilot_trial_suffered_ratio",
            "Share of a trial's requests that missed their targets beyond what the incumbent misses",
            registry=registry,
        )
        self._waits = Gauge(
            "poolpilot_trial_waiting_seconds",
            "For so long a candidate's trial has waited for the mode active; 0 while turns are taken, NaN without a trial",
            registry=registry,
        )
        self._difference = Gauge(
            "poolpilot_trial_difference",
            "Candidate less incumbent, more is better: attainment by class, or the share of the bill that is saved",
            ["measure", "end"],
            registry=registry,
        )
        self.show("", "", False, None)

    def show(
        self, incumbent: str, candidate: str, turn: bool, trial: Mapping[str, Any] | None, waits_s: float = 0.0
    ) -> None:
        """As of now.

        Args:
            incumbent: version that decides; empty where there is no registry.
            candidate: version on trial; empty where none is.
            turn: whether the candidate decides now.
            trial: its figures so far, as its evidence has them.
            waits_s: for so long it has waited for the mode `active`; 0 while turns are taken.
        """
        self._info.clear()
        self._difference.clear()
        for version, role in ((incumbent, "incumbent"), (candidate, "candidate")):
            if version:
                self._info.labels(version, role).set(1)
        self._turn.set(turn)
        self._blocks.set(math.nan if trial is None else len(trial["blocks"]))
        self._suffered.set(math.nan if trial is None else trial["suffered_frac"])
        self._waits.set(math.nan if trial is None else waits_s)
        for measure, bounds in (trial["measures"] if trial is not None else {}).items():
            for end in ("low", "mean", "high"):
                value = bounds[end]
                self._difference.labels(measure, end).set(math.nan if value is None else value)
