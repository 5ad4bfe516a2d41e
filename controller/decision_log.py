"""The record of ticks: what was seen, decided and applied, one JSON line a tick, enough to decide it all again.

Each sitting of the sidecar begins with a line that holds the cluster and its limits; every further line is one tick.
A line goes out in one write, whole or not at all. Only a crash can leave a half line, at the end of the file.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from ..env.contract import (
    SCALING_PARTS,
    SCHEMA_VERSION,
    Action,
    Cluster,
    Decision,
    Memory,
    Plan,
    ScalingCost,
    SchemaError,
    Snapshot,
    Targets,
)
from ..env.guard import GuardState, Limits
from ..env.wire import from_json, memory_from_json, memory_to_json, to_json
from .reach import Reach

_LOG: Final = logging.getLogger(__name__)
KIND: Final = "poolpilot-decision-log"
_HEAD: Final = f'{{"kind":"{KIND}"'.encode()


class DecisionLogError(ValueError):
    """A decision log cannot be used; the message names file, line and field."""


@dataclass(frozen=True)
class Sitting:
    """What does not change while a sidecar runs."""

    scenario: str
    """Its name."""
    cluster: Cluster
    limits: Limits


@dataclass(frozen=True)
class TickRecord:
    """All that went into one decision, and the decision."""

    sitting: Sitting
    snapshot: Snapshot
    plan: Plan
    memory: Memory
    """What whoever decided remembered, before it decided."""
    guard_state: GuardState
    """What the guard remembered, before it looked."""
    reach: Reach
    """What the policy could touch."""
    decision: Decision
    """Its policy name and hash are those of whoever decided."""
    fell_back: bool = False
    """The policy failed and the fallback decided; why is the first of the reasons."""
    scaling: tuple[ScalingCost, ...] = ()
    """Dollars since the tick before that scaling took, by the decision that caused them."""


class DecisionLog:
    """A log that is open for appending. Use it as a context, or close it."""

    def __init__(self, path: Path, sitting: Sitting) -> None:
        """Open or make the file and write down the sitting. A half line that a crash left at its end is cut off.

        Raises:
            DecisionLogError: the file is something else, or another process writes to it.
            OSError: it cannot be written.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # "a+": mending reads; every write still goes to the end.
        self._file = FileIO(path, "a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _mend(self._file, path)
        except BlockingIOError:
            self._file.close()
            raise DecisionLogError(f"{path}: another sidecar writes this log; give each its own") from None
        except DecisionLogError:
            self._file.close()
            raise
        self._write({"kind": KIND, "schema": SCHEMA_VERSION, **to_json(sitting)})

    def __enter__(self) -> Self:
        """The open log."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """No more ticks."""
        self._file.close()

    def append(self, record: TickRecord) -> None:
        """Add one tick; it is with the operating system when this returns."""
        document = {field: to_json(getattr(record, field)) for field in _PARTS}
        scaling = [to_json(cost) for cost in record.scaling]
        memory = memory_to_json(record.memory)
        self._write({**document, "memory": memory, "fell_back": record.fell_back, "scaling": scaling})

    def _write(self, document: dict[str, Any]) -> None:
        line = json.dumps(document, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        before = self.path.stat().st_size
        written = self._file.write(line)
        if written != len(line):
            self._file.truncate(before)  # half a line in the middle would spoil the log
            raise OSError(f"{self.path}: only {written} of {len(line)} bytes could be written; is the disk full?")


_PARTS: Final = {
    "snapshot": Snapshot,
    "plan": Plan,
    "guard_state": GuardState,
    "reach": Reach,
    "decision": Decision,
}
_TICK_FIELDS: Final = {*_PARTS, "memory", "fell_back", "scaling"}


def read_log(path: Path, report: Callable[[str], None] = _LOG.warning) -> Iterator[TickRecord]:
    """Every tick of a log, oldest first; `report` is told of a last line that was cut in half, which is left out.

    Raises:
        DecisionLogError: names file, line and field of the first thing that cannot be.
        OSError: the file cannot be read.
    """
    sitting: Sitting | None = None
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            if not line.endswith(b"\n"):
                report(f"{where}: cut in half after {len(line)} bytes; the tick is lost, the log is whole up to here")
                return
            document = _document(line, where)
            if "kind" in document:
                sitting = _sitting(document, where)
            elif sitting is None:
                raise DecisionLogError(f"{where}: wanted a line with kind {KIND!r} first")
            else:
                yield _record(document, sitting, where)


def _document(line: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DecisionLogError(f"{where}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise DecisionLogError(f"{where}: wanted a JSON object")
    return document


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _sitting(document: dict[str, Any], where: str) -> Sitting:
    seen = (document.pop("kind"), document.pop("schema", None))
    if seen != (KIND, SCHEMA_VERSION):
        raise DecisionLogError(f"{where}: kind {seen[0]!r} schema {seen[1]!r}, wanted {KIND!r} schema {SCHEMA_VERSION}")
    try:
        _exactly(document, {"scenario", "cluster", "limits"})
        if not isinstance(document["scenario"], str):
            raise SchemaError(f"scenario: {document['scenario']!r}, wanted its name")
        cluster = from_json(Cluster, document["cluster"], "cluster")
        _fit(cluster, cluster, "cluster")
        return Sitting(document["scenario"], cluster, _part("limits", Limits, document["limits"], cluster))
    except SchemaError as error:
        raise DecisionLogError(f"{where}: {error}") from None


def _record(document: dict[str, Any], sitting: Sitting, where: str) -> TickRecord:
    try:
        _exactly(document, _TICK_FIELDS)
        if not isinstance(document["fell_back"], bool):
            raise SchemaError(f"fell_back: {document['fell_back']!r}, wanted true or false")
        parts = {name: _part(name, kind, document[name], sitting.cluster) for name, kind in _PARTS.items()}
        memory = memory_from_json(document["memory"])
        scaling = _scaling(document["scaling"], sitting.cluster)
    except SchemaError as error:
        raise DecisionLogError(f"{where}: {error}") from None
    return TickRecord(sitting=sitting, memory=memory, fell_back=document["fell_back"], scaling=scaling, **parts)


def _scaling(document: Any, cluster: Cluster) -> tuple[ScalingCost, ...]:
    if not isinstance(document, list):
        raise SchemaError(f"scaling: {str(document)[:60]!r}, wanted a list of costs")
    costs = tuple(from_json(ScalingCost, cost, f"scaling[{i}]") for i, cost in enumerate(document))
    for i, cost in enumerate(costs):
        if cost.pool not in cluster.pool_names:
            raise SchemaError(f"scaling[{i}].pool: {cost.pool!r}, wanted one of {', '.join(cluster.pool_names)}")
        if cost.part not in SCALING_PARTS:
            raise SchemaError(f"scaling[{i}].part: {cost.part!r}, wanted one of {', '.join(SCALING_PARTS)}")
    return costs


def _part(name: str, kind: type[Any], document: Any, cluster: Cluster) -> Any:
    part = from_json(kind, document, name)
    if isinstance(part, Snapshot):
        if part.time_s.ndim:
            raise SchemaError(f"{name}: a batch of {part.time_s.shape}, wanted one moment")
        return part.check(cluster)
    _fit(part, cluster, name)
    return part


def _exactly(document: dict[str, Any], wanted: set[str]) -> None:
    for name in sorted(wanted ^ set(document)):
        raise SchemaError(f"{name}: {'missing' if name in wanted else 'unknown field'}")


_AXES: Final[dict[type, dict[str, str]]] = {
    Cluster: {
        "class_mask": "C",
        "serves": "CP",
        **dict.fromkeys(("pool_mask", "spot", "min_replicas", "max_replicas", "usd_per_hr", "cold_start_s"), "P"),
        **dict.fromkeys(("max_batch_cap", "max_token_budget"), "P"),
    },
    Targets: dict.fromkeys(("ttft_s", "tpot_s", "e2e_s", "deadline_s", "attainment"), "C"),
    Plan: {
        **dict.fromkeys(("replicas", "batch_cap"), "P"),
        **dict.fromkeys(("route", "capacity_per_s"), "CP"),
        **dict.fromkeys(("load_per_s", "attainment"), "C"),
    },
    Action: {"route": "CP", "admit": "C", **dict.fromkeys(("batch_cap", "token_budget", "replicas"), "P")},
    GuardState: {"changed_at_s": "P"},
    Reach: {"pools": "P"},
    Decision: {"expected_attainment": "C"},
}
"""The axes of arrays, by name; those that are not named are single numbers. `Snapshot.check` does its own."""


def _fit(value: Any, cluster: Cluster, where: str) -> None:
    """Whether every array in a dataclass has the cluster's shape. SchemaError names the first that has not."""
    sizes = {"C": len(cluster.class_names), "P": len(cluster.pool_names)}
    for field in fields(value):
        part = getattr(value, field.name)
        if is_dataclass(part):
            _fit(part, cluster, f"{where}.{field.name}")
        elif isinstance(part, np.ndarray):
            wanted = tuple(sizes[axis] for axis in _AXES.get(type(value), {}).get(field.name, ""))
            if part.shape != wanted:
                raise SchemaError(f"{where}.{field.name}: shape {part.shape}, wanted {wanted} for this cluster")


def _mend(file: FileIO, path: Path) -> None:
    """Cut off the half line that a crash left; refuse a file that is no decision log."""
    size = path.stat().st_size
    if size == 0:
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[: len(_HEAD)] != _HEAD[:size]:
            raise DecisionLogError(f"{path}:1: this file is no decision log, it does not begin with {_HEAD.decode()}")
        whole = content.rfind(b"\n") + 1
    if whole < size:
        _LOG.warning("%s: cut off the half line of %d bytes that a crash left at its end", path, size - whole)
        file.truncate(whole)
