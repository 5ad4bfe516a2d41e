"""What the sidecar shows of a learner beside it, and of the exploration that it learns from, for Prometheus."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from .learner_progress import LearnerProgress, LearnerState, ProgressError, read_progress

_NOBODY: Final = LearnerProgress(LearnerState.STOPPED, "", 0, 0, math.nan)


class ExplorationMetrics:
    """What exploration has cost, and whether there is noise now."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Nothing is spent, and nothing allowed."""
        self._exploring = Gauge("poolpilot_exploring", "1 while the policy's answer has noise on it", registry=registry)
        self._usd = Gauge("poolpilot_exploration_usd", "Dollars of the campaign's budget", ["part"], registry=registry)
        self._requests = Gauge(
            "poolpilot_exploration_missed_requests",
            "Requests of the campaign's budget that miss because of it",
            ["part"],
            registry=registry,
        )
        self.show(exploring=False, usd=(0.0, 0.0), requests=(0.0, 0.0))

    def show(self, *, exploring: bool, usd: tuple[float, float], requests: tuple[float, float]) -> None:
        """Each pair is what is spent and what is allowed."""
        self._exploring.set(exploring)
        for gauge, (spent, allowed) in ((self._usd, usd), (self._requests, requests)):
            gauge.labels("spent").set(spent)
            gauge.labels("allowed").set(allowed)


class LearnerMetrics:
    """Gauges of the last progress that was read. `poolpilot_learner_age_seconds` tells whether it is still true."""

    def __init__(self, registry: CollectorRegistry, path: Path | None) -> None:
        """`path` is the learner's progress file; None where nobody could learn."""
        self._path = path
        self._state = Gauge("poolpilot_learner_state", "1 for what the learner does", ["state"], registry=registry)
        self._gauges = {
            name: Gauge(f"poolpilot_learner_{name}", doc, registry=registry)
            for name, doc in {
                "age_seconds": "Since the learner last told of itself; NaN where none ever did",
                "steps": "Steps in the twin that are done",
                "steps_wanted": "Steps in the twin that were asked for",
                "kl_nats": "Distance of what is learned from the incumbent, mean over observations",
                "kl_limit_nats": "The most that a candidate may have",
                "reward": "Of a tick in the twin, in usual bills",
                "attainment_ratio": "Share of the twin's requests that met their targets",
                "loss": "Of the best so far in the twin, on days that are not learned from",
                "incumbent_loss": "The same of the incumbent",
                "live_transitions": "Recorded steps with exploration that are learned from",
                "cpu_seconds": "Processor time that the learner has taken",
                "memory_bytes": "That the learner holds",
            }.items()
        }
        self.trouble = ""
        """Why the file could not be used at the last look."""

    def show(self, now_unix_s: float) -> None:
        """Read the file again; one that cannot be used is as none, and `trouble` says why."""
        progress: LearnerProgress | None = None
        self.trouble = ""
        try:
            progress = read_progress(self._path) if self._path is not None else None
        except (OSError, ProgressError) as error:
            self.trouble = str(error)
        for state in LearnerState:
            self._state.labels(state.value).set(progress is not None and progress.state is state)
        seen = progress or _NOBODY
        values = {
            "age_seconds": max(now_unix_s - seen.updated_unix_s, 0.0) if progress else math.nan,
            "steps": seen.steps,
            "steps_wanted": seen.steps_wanted,
            "kl_nats": seen.kl,
            "kl_limit_nats": seen.kl_limit,
            "reward": seen.reward,
            "attainment_ratio": seen.attainment,
            "loss": seen.loss,
            "incumbent_loss": seen.incumbent_loss,
            "live_transitions": seen.live_transitions,
            "cpu_seconds": seen.cpu_s,
            "memory_bytes": seen.memory_bytes,
        }
        for name, value in values.items():
            self._gauges[name].set(value)
