"""The record of ticks: what was seen, decided and applied, one JSON line a tick, enough to decide it all again.

Each sitting of the sidecar begins with a line that holds the cluster, its limits and who may decide; every further line
is one tick. A line goes out in one write, whole or not at all. Only a crash can leave a half line, at the end of the
file. Sidecars that take turns in leading write one log: its fence keeps all but the leader out.

The store's stream holds the same JSON, field by field (`entry_of`, `read_entries`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from ..env.contract import (
    BILL_LAYERS,
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
from ..env.counterfactual import Comparison
from ..env.guard import GuardState, Limits
from ..env.wire import from_json, memory_from_json, memory_to_json, to_json
from ..telemetry.store import TickEntry
from .choosing import Decider, PolicyChoice
from .fencing import UNFENCED, Fence
from .reach import Reach

_LOG: Final = logging.getLogger(__name__)
KIND: Final = "poolpilot-decision-log"
_HEAD: Final = f'{{"kind":"{KIND}"'.encode()


class DecisionLogError(ValueError):
    """A decision log cannot be used; the message names file, line and field."""


@dataclass(frozen=True)
class Sat:
    """One who may decide in a sitting, and how to have it decide again."""

    name: str
    """As decisions name it."""
    policy_hash: str
    chosen: PolicyChoice

    @classmethod
    def of(cls, chosen: PolicyChoice, made: Decider) -> Self:
        """What was made of a choice."""
        return cls(made.name, made.policy_hash, chosen.settled())


@dataclass(frozen=True)
class Sitting:
    """What does not change while a sidecar leads."""

    scenario: str
    """Its name."""
    cluster: Cluster
    limits: Limits
    policies: tuple[Sat, ...] = ()
    """Policy and fallback, where a log can tell how to make them."""


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
    wall_s: float = 0.0
    """When it was recorded, in seconds since 1970."""
    comparison: Comparison | None = None
    """With the fallback rule; None in logs that were kept without it."""


class DecisionLog:
    """A log that is open for appending. Use it as a context, or close it."""

    def __init__(self, path: Path, sitting: Sitting, fence: Fence = UNFENCED) -> None:
        """Open or make the file and write down the sitting. A half line that a crash left at its end is cut off.

        Args:
            path: the file.
            sitting: what all its ticks share.
            fence: keeps leaders of the past from writing; without one nobody else may have the file open.

        Raises:
            Fenced: a newer leader took over.
            DecisionLogError: the file is something else, or another process writes to it.
            OSError: it cannot be written.
        """
        self.path, self._fence = path, fence
        path.parent.mkdir(parents=True, exist_ok=True)
        # "a+": mending reads; every write still goes to the end.
        self._file = FileIO(path, "a+")
        try:
            if fence.folder is None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with fence.held():
                _mend(self._file, path)
                self._write(_sitting_text(sitting))
        except BlockingIOError:
            self._file.close()
            raise DecisionLogError(f"{path}: another sidecar writes this log; give each its own") from None
        except BaseException:
            self._file.close()
            raise

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
        """Add one tick; it is with the operating system when this returns.

        Raises:
            Fenced: a newer leader took over.
            OSError: it cannot be written; the file is as it was.
        """
        self.append_entry(entry_of(record))

    def append_entry(self, entry: TickEntry) -> None:
        """Add one tick of this log's sitting, as `entry_of` makes it; raises as `append`."""
        line = "{" + ",".join(f'"{name}":{text}' for name, text in entry.fields.items()) + "}"
        with self._fence.held():
            self._write(line)

    def _write(self, text: str) -> None:
        line = text.encode() + b"\n"
        before = self.path.stat().st_size
        try:
            written = self._file.write(line)
        except OSError:
            with suppress(OSError):
                self._file.truncate(before)
            raise
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
_TICK_FIELDS: Final = {*_PARTS, "memory", "fell_back", "scaling", "wall_s"}


def entry_of(record: TickRecord) -> TickEntry:
    """A tick as JSON texts by field: of a log's line, and of the store's stream."""
    document = {field: to_json(getattr(record, field)) for field in _PARTS}
    document["memory"] = memory_to_json(record.memory)
    document["fell_back"] = record.fell_back
    document["scaling"] = [to_json(cost) for cost in record.scaling]
    document["wall_s"] = record.wall_s
    if record.comparison is not None:
        document["comparison"] = to_json(record.comparison)
    sitting = _sitting_text(record.sitting)
    name = hashlib.sha256(sitting.encode()).hexdigest()[:16]
    return TickEntry(name, sitting, {field: _text(value) for field, value in document.items()})


def _text(document: Any) -> str:
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


def _sitting_text(sitting: Sitting) -> str:
    return _text({"kind": KIND, "schema": SCHEMA_VERSION, **to_json(sitting)})


def read_entries(entries: Iterable[tuple[str, TickEntry]]) -> Iterator[TickRecord]:
    """Every tick of a store's stream, with its id in it.

    Raises:
        DecisionLogError: names entry and field of the first thing that cannot be.
    """
    sittings: dict[str, Sitting] = {}
    for where, entry in entries:
        if entry.sitting not in sittings:
            sittings[entry.sitting] = _sitting(_document(entry.sitting_json.encode(), f"{where}: sitting"), where)
        document = {name: _value(text.encode(), f"{where}: {name}") for name, text in entry.fields.items()}
        yield _record(document, sittings[entry.sitting], where)


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
    document = _value(line, where)
    if not isinstance(document, dict):
        raise DecisionLogError(f"{where}: wanted a JSON object")
    return document


def _value(text: bytes, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DecisionLogError(f"{where}: not JSON: {error}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _sitting(document: dict[str, Any], where: str) -> Sitting:
    seen = (document.pop("kind"), document.pop("schema", None))
    if seen != (KIND, SCHEMA_VERSION):
        raise DecisionLogError(f"{where}: kind {seen[0]!r} schema {seen[1]!r}, wanted {KIND!r} schema {SCHEMA_VERSION}")
    try:
        _exactly(document, {"scenario", "cluster", "limits", "policies"})
        if not isinstance(document["scenario"], str):
            raise SchemaError(f"scenario: {document['scenario']!r}, wanted its name")
        cluster = from_json(Cluster, document["cluster"], "cluster")
        _fit(cluster, cluster, "cluster")
        limits = _part("limits", Limits, document["limits"], cluster)
        return Sitting(document["scenario"], cluster, limits, _policies(document["policies"]))
    except SchemaError as error:
        raise DecisionLogError(f"{where}: {error}") from None


def _policies(document: Any) -> tuple[Sat, ...]:
    if not isinstance(document, list):
        raise SchemaError(f"policies: {str(document)[:60]!r}, wanted a list")
    return tuple(_sat(entry, f"policies[{i}]") for i, entry in enumerate(document))


def _sat(entry: Any, where: str) -> Sat:
    try:
        _exactly(entry, {"name", "policy_hash", "chosen"})
        chosen = entry["chosen"]
        _exactly(chosen, {"name", "setting", "knobs", "miss_price"})
        price = chosen["miss_price"]
        texts = (entry["name"], entry["policy_hash"], chosen["name"])
        numbers = (*chosen["setting"], *chosen["knobs"].values(), 0.0 if price is None else price)
        if not all(isinstance(text, str) for text in texts):
            raise SchemaError(f"{texts}, wanted names")
        if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
            raise SchemaError(f"{numbers}, wanted numbers")
        made = PolicyChoice(chosen["name"], tuple(chosen["setting"]), dict(chosen["knobs"]), price)
    except (SchemaError, TypeError, AttributeError) as error:
        raise SchemaError(f"{where}: {error}; wanted a policy, as it was chosen") from None
    return Sat(entry["name"], entry["policy_hash"], made)


def _record(document: dict[str, Any], sitting: Sitting, where: str) -> TickRecord:
    try:
        _exactly(document, _TICK_FIELDS | (document.keys() & {"comparison"}))
        if not isinstance(document["fell_back"], bool):
            raise SchemaError(f"fell_back: {document['fell_back']!r}, wanted true or false")
        parts = {name: _part(name, kind, document[name], sitting.cluster) for name, kind in _PARTS.items()}
        memory = memory_from_json(document["memory"])
        scaling = _scaling(document["scaling"], sitting.cluster)
        comparison = None
        if "comparison" in document:
            comparison = _part("comparison", Comparison, document["comparison"], sitting.cluster)
        wall_s = document["wall_s"]
        if not isinstance(wall_s, int | float) or isinstance(wall_s, bool):
            raise SchemaError(f"wall_s: {wall_s!r}, wanted seconds since 1970")
    except SchemaError as error:
        raise DecisionLogError(f"{where}: {error}") from None
    fell_back = document["fell_back"]
    return TickRecord(
        sitting=sitting,
        memory=memory,
        fell_back=fell_back,
        scaling=scaling,
        wall_s=float(wall_s),
        comparison=comparison,
        **parts,
    )


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


def _exactly(document: Mapping[str, Any], wanted: set[str]) -> None:
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
    Comparison: {
        **dict.fromkeys(("rule_up", "policy_up"), "P"),
        **dict.fromkeys(("rule_attainment", "policy_attainment"), "C"),
        **dict.fromkeys(("rule_usd", "policy_usd", "usd"), "PL"),
    },
}
"""The axes of arrays, by name; those that are not named are single numbers. `Snapshot.check` does its own."""


def _fit(value: Any, cluster: Cluster, where: str) -> None:
    """Whether every array in a dataclass has the cluster's shape. SchemaError names the first that has not."""
    sizes = {"C": len(cluster.class_names), "P": len(cluster.pool_names), "L": len(BILL_LAYERS)}
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
