"""Ticks as JSON: of a line of the decision log and of an entry of the store's stream, the same fields in both.

A log's first line, and any later one with a `kind`, holds a sitting; every other line is one tick. Every line names the
version of this format (`record`), and of what is in it (`schema`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from ...env.contract import (
    SCALING_PARTS,
    SCHEMA_VERSION,
    Action,
    Answer,
    Cluster,
    Decision,
    FloatArray,
    Plan,
    ScalingCost,
    SchemaError,
    Snapshot,
)
from ...env.counterfactual import Comparison
from ...env.guard import GuardState, Limits
from ...env.window import TALLY_WIDTH, empty_tally
from ...env.wire import from_json, memory_from_json, memory_to_json, to_json
from ..store import TickEntry
from .shapes import fit
from .ticks import Chosen, Reach, Sat, Since, Sitting, TickRecord

KIND: Final = "poolpilot-decision-log"
HEAD: Final = f'{{"kind":"{KIND}"'.encode()
"""What every log begins with."""
RECORD_VERSION: Final = 1
"""Of the fields of a tick and of a sitting."""
_MOST: Final = 1e15
"""No count, no sum and no time is that large."""
_USD_DIGITS: Final = 10
"""Digits after the point of a tick's dollars: 1e-10 $ of a week's ticks is nothing."""


class DecisionLogError(ValueError):
    """A decision log cannot be used; the message names file, line and field."""


class OtherVersion(DecisionLogError):
    """A line of another version of the format."""


_PARTS: Final = {
    "snapshot": Snapshot,
    "plan": Plan,
    "guard_state": GuardState,
    "reach": Reach,
    "decision": Decision,
}
_MAYBE: Final[dict[str, type[Any]]] = {"answer": Answer, "in_force": Action, "comparison": Comparison}
_TICK_FIELDS: Final = {*_PARTS, *_MAYBE, "record", "memory", "fell_back", "scaling", "wall_s", "since"}


# Writing


def entry_of(record: TickRecord) -> TickEntry:
    """A tick as JSON texts by field: of a log's line, and of the store's stream."""
    document: dict[str, Any] = {"record": RECORD_VERSION}
    document |= {field: to_json(getattr(record, field)) for field in _PARTS}
    document["memory"] = memory_to_json(record.memory)
    document["fell_back"] = record.fell_back
    document["scaling"] = [to_json(cost) for cost in record.scaling]
    document["wall_s"] = record.wall_s
    document |= {field: to_json(getattr(record, field)) for field in _MAYBE}
    document["since"] = None if record.since is None else _since_to_json(record.since)
    sitting = sitting_text(record.sitting)
    name = hashlib.sha256(sitting.encode()).hexdigest()[:16]
    return TickEntry(name, sitting, {field: _text(value) for field, value in document.items()})


def line_of(entry: TickEntry) -> str:
    """A tick as a log's line."""
    return "{" + ",".join(f'"{name}":{text}' for name, text in entry.fields.items()) + "}"


def sitting_text(sitting: Sitting) -> str:
    """A sitting as a log's line."""
    return _text({"kind": KIND, "record": RECORD_VERSION, "schema": SCHEMA_VERSION, **to_json(sitting)})


def _text(document: Any) -> str:
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


def _since_to_json(since: Since) -> dict[str, Any]:
    dollars = {name: np.round(getattr(since, name), _USD_DIGITS) for name in ("usd", "class_usd", "idle_usd")}
    return {
        "span_s": since.span_s,
        **{name: to_json(values) for name, values in dollars.items()},
        # Most of a tally is zeros: by class, which columns are not, and what they hold.
        "tally": [[np.flatnonzero(row).tolist(), row[np.flatnonzero(row)].tolist()] for row in since.tally],
        "told": to_json(since.told),
    }


# Reading


def document_of(line: bytes, where: str) -> dict[str, Any]:
    """A line as JSON; DecisionLogError names it if it is none."""
    document = _value(line, where)
    if not isinstance(document, dict):
        raise DecisionLogError(f"{where}: wanted a JSON object")
    return document


def document_of_entry(entry: TickEntry, where: str) -> dict[str, Any]:
    """An entry of the stream as a line's JSON; DecisionLogError names the field that is none."""
    return {name: _value(text.encode(), f"{where}: {name}") for name, text in entry.fields.items()}


def _value(text: bytes, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DecisionLogError(f"{where}: not JSON: {error}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def sitting_of(document: dict[str, Any], where: str) -> Sitting:
    """The sitting that a line holds.

    Raises:
        OtherVersion: it is of another version, or of another kind.
        DecisionLogError: names the first field that cannot be.
    """
    seen = (document.pop("kind", None), document.pop("record", None), document.pop("schema", None))
    if seen != (KIND, RECORD_VERSION, SCHEMA_VERSION):
        raise OtherVersion(
            f"{where}: kind {seen[0]!r} record {seen[1]!r} schema {seen[2]!r},"
            f" wanted {KIND!r} record {RECORD_VERSION} schema {SCHEMA_VERSION}"
        )
    try:
        _exactly(document, {"scenario", "cluster", "limits", "policies", "tick_s", "speed_up"})
        if not isinstance(document["scenario"], str):
            raise SchemaError(f"scenario: {document['scenario']!r}, wanted its name")
        cluster = from_json(Cluster, document["cluster"], "cluster")
        fit(cluster, cluster, "cluster")
        limits: Limits = _part("limits", Limits, document["limits"], cluster)
        tick_s, speed_up = document["tick_s"], document["speed_up"]
        if tick_s is not None:
            _number("tick_s", tick_s, "seconds above 0", above=0.0)
        _number("speed_up", speed_up, "a number above 0", above=0.0)
        return Sitting(
            document["scenario"],
            cluster,
            limits,
            _policies(document["policies"]),
            float("nan") if tick_s is None else float(tick_s),
            float(speed_up),
        )
    except SchemaError as error:
        raise DecisionLogError(f"{where}: {error}") from None


def record_of(document: dict[str, Any], sitting: Sitting, where: str) -> TickRecord:
    """The tick that a line holds.

    Raises:
        OtherVersion: it is of another version.
        DecisionLogError: names the first field that cannot be.
    """
    if "record" in document and document["record"] != RECORD_VERSION:
        raise OtherVersion(f"{where}: record {str(document['record'])[:60]}, this build reads {RECORD_VERSION}")
    cluster = sitting.cluster
    try:
        _exactly(document, _TICK_FIELDS)
        if not isinstance(document["fell_back"], bool):
            raise SchemaError(f"fell_back: {document['fell_back']!r}, wanted true or false")
        parts: dict[str, Any] = {name: _part(name, kind, document[name], cluster) for name, kind in _PARTS.items()}
        parts |= {
            name: None if document[name] is None else _part(name, kind, document[name], cluster)
            for name, kind in _MAYBE.items()
        }
        memory = memory_from_json(document["memory"])
        scaling = _scaling(document["scaling"], cluster)
        since = None if document["since"] is None else _since(document["since"], cluster)
        _number("wall_s", document["wall_s"], "seconds since 1970")
    except SchemaError as error:
        raise DecisionLogError(f"{where}: {error}") from None
    return TickRecord(
        sitting=sitting,
        memory=memory,
        fell_back=document["fell_back"],
        scaling=scaling,
        wall_s=float(document["wall_s"]),
        since=since,
        **parts,
    )


def _number(name: str, value: Any, wanted: str, above: float | None = None) -> None:
    plain = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST
    if not plain or (above is not None and not value > above):
        raise SchemaError(f"{name}: {str(value)[:60]!r}, wanted {wanted}")


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
        made = Chosen(chosen["name"], tuple(chosen["setting"]), dict(chosen["knobs"]), price)
    except (SchemaError, TypeError, AttributeError) as error:
        raise SchemaError(f"{where}: {error}; wanted a policy, as it was chosen") from None
    return Sat(entry["name"], entry["policy_hash"], made)


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


def _since(document: Any, cluster: Cluster) -> Since:
    _exactly(document, {"span_s", "usd", "class_usd", "idle_usd", "tally", "told"})
    tally = _tally(document["tally"], len(cluster.class_names))
    plain = from_json(Since, {**document, "tally": []}, "since")
    since = Since(plain.span_s, plain.usd, plain.class_usd, plain.idle_usd, tally, plain.told)
    fit(since, cluster, "since")
    if not 0.0 <= since.span_s < _MOST:
        raise SchemaError(f"since.span_s: {since.span_s}, wanted seconds of 0 or more")
    return since


def _tally(document: Any, n_classes: int) -> FloatArray:
    """`[C, W]`"""
    tally = empty_tally(n_classes)
    if not isinstance(document, list) or len(document) != n_classes:
        raise SchemaError(
            f"since.tally: {str(document)[:60]!r}, wanted a pair of lists for each of {n_classes} classes"
        )
    for c, pair in enumerate(document):
        where = f"since.tally[{c}]"
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(side, list) for side in pair)):
            raise SchemaError(f"{where}: {str(pair)[:60]!r}, wanted columns and what they hold")
        columns, values = pair
        if len(columns) != len(values):
            raise SchemaError(f"{where}: {len(columns)} columns and {len(values)} values, wanted as many")
        for column, value in zip(columns, values, strict=True):
            if not isinstance(column, int) or isinstance(column, bool) or not 0 <= column < TALLY_WIDTH:
                raise SchemaError(f"{where}: column {str(column)[:60]!r}, wanted 0 to {TALLY_WIDTH - 1}")
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            if not plain or not 0.0 <= value < _MOST:
                raise SchemaError(f"{where}: {str(value)[:60]!r} in column {column}, wanted a count of 0 or more")
            tally[c, column] = value
    return tally


def _part(name: str, kind: type[Any], document: Any, cluster: Cluster) -> Any:
    part = from_json(kind, document, name)
    if isinstance(part, Snapshot):
        if part.time_s.ndim:
            raise SchemaError(f"{name}: a batch of {part.time_s.shape}, wanted one moment")
        return part.check(cluster)
    fit(part, cluster, name)
    return part


def _exactly(document: Any, wanted: set[str]) -> None:
    if not isinstance(document, Mapping):
        raise SchemaError(f"{str(document)[:60]!r}, wanted an object")
    for name in sorted(wanted ^ set(document)):
        raise SchemaError(f"{name}: {'missing' if name in wanted else 'unknown field'}")
