"""A sidecar's record without a world: random ticks, decided by a real rule and guard, written as a sidecar writes them."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from poolpilot.controller.decision_log import DecisionLog
from poolpilot.dashboard.reading.history import History
from poolpilot.dashboard.reading.sources import of_entry
from poolpilot.dashboard.reading.ticks import RawTick
from poolpilot.env.contract import Mode
from poolpilot.telemetry.record import Chosen, Sat, Sitting, TickRecord, entry_of
from poolpilot.telemetry.store import TickEntry
from poolpilot.tests.controller.ticks import a_sitting, sat_through

NASTY = "<script>alert(1)</script>"
TICK_S = 10.0
"""Between two ticks of `records`."""


def sitting(nasty: bool = False) -> Sitting:
    """Of a policy and its fallback; with a class and a pool that are named as an attacker would."""
    own = a_sitting()
    policies = tuple(Sat(name, f"{name}-hash", Chosen("plan-tracking")) for name in ("fragile", "careful"))
    cluster = own.cluster
    if nasty:
        cluster = replace(
            cluster,
            class_names=(NASTY, *cluster.class_names[1:]),
            pool_names=(f"{NASTY}<img src=x onerror=alert(2)>", *cluster.pool_names[1:]),
        )
    return replace(own, cluster=cluster, policies=policies)


def records(
    n_ticks: int, *, mode: Mode = Mode.ACTIVE, nasty: bool = False, until_s: float | None = None, seed: int = 3
) -> list[TickRecord]:
    """Ticks of which the last one is at `until_s` (since 1970; now, if left out)."""
    last_s = time.time() if until_s is None else until_s
    made = list(sat_through(sitting(nasty), n_ticks, seed, mode))
    return [replace(record, wall_s=last_s - (n_ticks - 1 - i) * TICK_S) for i, record in enumerate(made)]


def entries(kept: Sequence[TickRecord]) -> list[TickEntry]:
    """As the store takes them."""
    return [entry_of(record) for record in kept]


def raw_ticks(kept: Sequence[TickRecord]) -> Iterator[RawTick]:
    """As a source hands them out."""
    for i, entry in enumerate(entries(kept)):
        yield of_entry("record", str(i + 1), entry)


def history(kept: Sequence[TickRecord], span_s: float = 3600.0) -> History:
    """All of them, read."""
    made = History(span_s)
    made.add(raw_ticks(kept))
    return made


def write_log(path: Path, kept: Sequence[TickRecord]) -> None:
    """A decision log of them."""
    with DecisionLog(path, kept[0].sitting) as log:
        for record in kept:
            log.append(record)
