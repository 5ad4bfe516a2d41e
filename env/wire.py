"""JSON both ways for everything in `contract`: one document a value, units in the names, null for what is unknown.

Infinity is written as the string "inf", since JSON has no such number.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from . import contract
from .contract import CLASS_COLUMNS, FORECAST_HORIZON_S, POOL_COLUMNS, SCHEMA_VERSION, Memory, SchemaError, Snapshot

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """A JSON-ready copy of any contract value (dicts, lists, numbers, strings, None)."""
    if isinstance(value, Snapshot):
        return _snapshot_to_json(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return _array_to_json(value.tolist())
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic):
        return _array_to_json(value.item())
    if isinstance(value, float):
        return _array_to_json(value)
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    return value


def from_json(kind: type[T], document: Any, where: str = "") -> T:
    """The contract value of type `kind` that `to_json` wrote.

    Raises:
        SchemaError: names the field, what was seen and what was wanted.
    """
    where = where or kind.__name__
    if kind is Snapshot:
        return _snapshot_from_json(document, where)  # type: ignore[return-value]
    if not isinstance(document, Mapping):
        raise SchemaError(f"{where}: {_short(document)}, wanted an object")
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind, vars(contract))
    for name in document:
        if name not in known:
            raise SchemaError(f"{where}.{name}: unknown field; wanted {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name not in document:
            if field.default is dataclasses.MISSING:
                raise SchemaError(f"{where}.{name}: missing")
            continue
        values[name] = _read(hints[name], document[name], f"{where}.{name}")
    if values.get("schema", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise SchemaError(f"{where}.schema: {values['schema']}, this build reads {SCHEMA_VERSION}")
    return kind(**values)


def memory_to_json(memory: Memory) -> dict[str, Any]:
    """A policy's memory as JSON."""
    return {name: to_json(np.asarray(value)) for name, value in memory.items()}


def memory_from_json(document: Any, where: str = "memory") -> Memory:
    """A policy's memory from JSON; SchemaError names the entry that is no array of numbers."""
    if not isinstance(document, Mapping):
        raise SchemaError(f"{where}: {_short(document)}, wanted an object")
    return {str(k): _float_array(v, f"{where}.{k}") for k, v in document.items()}


def _array_to_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_array_to_json(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def _float_array(document: Any, where: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(v) for v in value]
        if value is None:
            return np.nan
        if value in ("inf", "-inf"):
            return float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SchemaError(f"{where}: {_short(value)}, wanted numbers")
        return value

    try:
        return np.asarray(plain(document), dtype=np.float64)
    except ValueError as error:
        raise SchemaError(f"{where}: {_short(document)}, wanted an array of equal rows ({error})") from None


def _read(hint: Any, document: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin is np.ndarray:
        if "bool" in str(get_args(hint)[1]):
            array = np.asarray(document)
            if array.dtype != np.bool_ and array.size:
                raise SchemaError(f"{where}: {_short(document)}, wanted true or false")
            return array.astype(np.bool_)
        return _float_array(document, where)
    if origin is tuple:
        if not isinstance(document, list):
            raise SchemaError(f"{where}: {_short(document)}, wanted a list")
        inner = get_args(hint)[0]
        return tuple(_read(inner, v, f"{where}[{i}]") for i, v in enumerate(document))
    if origin in (Union, types.UnionType):
        inner = next(a for a in get_args(hint) if a is not type(None))
        return None if document is None else _read(inner, document, where)
    if dataclasses.is_dataclass(hint):
        return from_json(hint, document, where)  # type: ignore[arg-type]
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(document)
        except ValueError:
            raise SchemaError(f"{where}: {_short(document)}, wanted one of {[m.value for m in hint]}") from None
    if hint is float:
        return float(_float_array(document, where))
    if not isinstance(document, hint) or (hint is int and isinstance(document, bool)):
        raise SchemaError(f"{where}: {_short(document)}, wanted {hint.__name__}")
    return document


def _snapshot_to_json(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "schema": SCHEMA_VERSION,
        "time_s": to_json(snapshot.time_s),
        "classes": {c.name: to_json(getattr(snapshot, c.name)) for c in CLASS_COLUMNS},
        "pools": {c.name: to_json(getattr(snapshot, c.name)) for c in POOL_COLUMNS},
        "forecast_per_s": to_json(snapshot.forecast_per_s),
    }


def _snapshot_from_json(document: Any, where: str) -> Snapshot:
    if not isinstance(document, Mapping):
        raise SchemaError(f"{where}: {_short(document)}, wanted an object")
    if document.get("schema") != SCHEMA_VERSION:
        raise SchemaError(f"{where}.schema: {document.get('schema')}, this build reads {SCHEMA_VERSION}")
    blocks = {}
    for block, columns in (("classes", CLASS_COLUMNS), ("pools", POOL_COLUMNS)):
        part = document.get(block)
        names = [c.name for c in columns]
        if not isinstance(part, Mapping) or set(part) != set(names):
            raise SchemaError(f"{where}.{block}: wanted exactly the columns {', '.join(names)}")
        arrays = [_float_array(part[name], f"{where}.{block}.{name}") for name in names]
        if len({a.shape for a in arrays}) != 1:
            raise SchemaError(f"{where}.{block}: columns of unequal length")
        blocks[block] = np.stack(arrays, axis=-1)
    forecast = _float_array(document.get("forecast_per_s"), f"{where}.forecast_per_s")
    wanted = (*blocks["classes"].shape[:-1], len(FORECAST_HORIZON_S))
    if forecast.shape != wanted:
        raise SchemaError(f"{where}.forecast_per_s: shape {forecast.shape}, wanted {wanted}")
    return Snapshot(
        time_s=_float_array(document.get("time_s"), f"{where}.time_s"),
        classes=blocks["classes"],
        pools=blocks["pools"],
        forecast_per_s=forecast,
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
