"""A policy does not decide by what did not arrive; the reason names what was looked for, where, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from poolpilot.controller.blindness import blind
from poolpilot.env.contract import ReasonCode, Snapshot, blank_snapshot
from poolpilot.telemetry.engine_page import EnginePage
from poolpilot.telemetry.readings import ReplicaReading

from .ticks import a_sitting

CLUSTER = a_sitting().cluster
N_CLASSES, N_POOLS = CLUSTER.serves.shape
PAGE = EnginePage(running=1.0, waiting=0.0, kv_used_frac=0.1, prompt_tokens_total=0.0, generation_tokens_total=0.0)
URL = "http://10.0.0.7:8000/metrics"


def seen(ready: list[float], age_s: list[float], rate: float = 1.0) -> Snapshot:
    snapshot = blank_snapshot(100.0, N_CLASSES, N_POOLS)
    snapshot.ready[:], snapshot.telemetry_age_s[:] = ready, age_s
    snapshot.arrival_rate_per_s[:] = rate
    return snapshot


def reading(pool: int, name: str, page: EnginePage | None, error: str = "") -> ReplicaReading:
    return ReplicaReading(CLUSTER.pool_names[pool], name, False, page, 40.0, None, error)


@dataclass(frozen=True)
class Look:
    """What `blind` asks of an observation."""

    snapshot: Snapshot
    readings: tuple[ReplicaReading, ...] = ()
    log_age_s: float = 0.0
    log_trouble: str = ""
    troubles: tuple[str, ...] = field(default=())


FRESH = seen([1.0] * N_POOLS, [1.0] * N_POOLS)


@pytest.mark.parametrize(
    ("look", "resumed", "expected"),
    [
        (Look(FRESH), False, None),
        (Look(seen([0.0] * N_POOLS, [np.nan] * N_POOLS)), False, None),
        (Look(FRESH, log_age_s=30.0, log_trouble="away"), False, None),
        (Look(seen([0.0, 1.0, 1.0], [99.0, 1.0, 1.0])), False, None),
        (Look(FRESH, log_age_s=31.0, log_trouble="/x.log: no such file"), False, ("missing_telemetry", "classes")),
        (Look(seen([1.0] * 3, [1.0, 31.0, 1.0]), (reading(1, "b", PAGE, URL),)), False, ("stale_telemetry", 1)),
        (Look(seen([1.0] * 3, [1.0, 31.0, 1.0]), (reading(1, "b", None, URL),)), False, ("missing_telemetry", 1)),
        (Look(seen([1.0] * 3, [1.0, 1.0, np.nan])), False, ("missing_telemetry", 2)),
        (Look(seen([1.0] * 3, [1.0, -4.0, 1.0]), (reading(1, "b", PAGE),)), False, ("stale_telemetry", 1)),
        (Look(seen([1.0] * 3, [1.0] * 3, np.nan)), True, ("resuming", "classes")),
        (Look(FRESH), True, None),
        (Look(seen([1.0] * 3, [1.0] * 3, np.nan)), False, None),
    ],
    ids=[
        "all there",
        "nothing runs",
        "a log that is away for a moment",
        "silent, and told to stop",
        "no log",
        "old pages",
        "never a page",
        "nobody was asked",
        "an age that cannot be",
        "running traffic not seen yet",
        "running traffic seen",
        "a fresh start",
    ],
)
def test_what_is_missing_has_its_reason(look: Look, resumed: bool, expected: tuple[str, str | int] | None) -> None:
    found = blind(look, CLUSTER, 30.0, resumed=resumed)  # type: ignore[arg-type]  # only what it asks for
    if expected is None:
        assert found is None
    else:
        assert found is not None
        code, subject = expected
        assert (found.code, found.subject) == (
            ReasonCode(code),
            CLUSTER.pool_names[subject] if isinstance(subject, int) else subject,
        )


def test_the_reason_says_what_was_looked_for_and_where() -> None:
    errors = [f"http://10.0.0.{i}:8000/metrics: no vllm:num_requests_running" for i in range(5)]
    readings = tuple(reading(0, f"a-{i}", None, error) for i, error in enumerate(errors))
    found = blind(Look(seen([5.0, 0.0, 0.0], [31.0, 0.0, 0.0]), readings), CLUSTER, 30.0, resumed=False)  # type: ignore[arg-type]
    assert found is not None
    assert (found.wanted, found.applied) == (31.0, 30.0)
    assert found.detail.startswith("no metrics page of 5 replicas: ")
    assert errors[0] in found.detail
    assert "and 2 more" in found.detail
