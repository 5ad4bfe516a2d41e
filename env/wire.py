"""JSON both ways for everything in `contract`: one document a value, units in the names, null for what is unknown.

Infinity is written as the string "inf", since JSON has no such number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from . import contract
from .contract import (
    CLASS_COLUMNS,
    FORECAST_HORIZON_S,
    POOL_COLUMNS,
    SCHEMA_VERSION,
    BoolArray,
    Column,
    FloatArray,
    Memory,
    SchemaError,
    Snapshot,
)

T = TypeVar("T")
G = TypeVar("G", np.float64, np.bool_)

MAX_DEPTH = 8
"""Deepest nesting of an array; the contract's deepest has five axes."""


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
    if "schema" in known:
        _check_schema(document, where)  # first: another version may have other fields
    needed = [name for name, field in known.items() if field.default is dataclasses.MISSING]
    _check_names(document, needed, list(known), where)
    values = {name: _read(hints[name], document[name], f"{where}.{name}") for name in known if name in document}
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


def _check_schema(document: Mapping[Any, Any], where: str) -> None:
    if "schema" not in document:
        raise SchemaError(f"{where}.schema: missing, this build reads {SCHEMA_VERSION}")
    seen = document["schema"]
    if isinstance(seen, bool) or seen != SCHEMA_VERSION:
        raise SchemaError(f"{where}.schema: {_short(seen)}, this build reads {SCHEMA_VERSION}")


def _check_names(document: Mapping[Any, Any], needed: list[str], known: list[str], where: str) -> None:
    for name in document:
        if name not in known:
            raise SchemaError(f"{where}.{_cut(str(name))}: unknown field; wanted {', '.join(known)}")
    for name in needed:
        if name not in document:
            raise SchemaError(f"{where}.{name}: missing")


def _nested(document: Any, item: Callable[[Any], Any], where: str, depth: int = 0) -> Any:
    """Nested lists with `item` applied to what is no list."""
    if depth > MAX_DEPTH:
        raise SchemaError(f"{where}: nested deeper than {MAX_DEPTH} lists, wanted an array")
    if isinstance(document, list):
        return [_nested(v, item, where, depth + 1) for v in document]
    return item(document)


def _float_array(document: Any, where: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    def number(value: Any) -> float:
        if value is None:
            return np.nan
        if isinstance(value, str) and value in ("inf", "-inf"):
            return float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SchemaError(f"{where}: {_short(value)}, wanted numbers")
        try:
            return float(value)
        except OverflowError:
            raise SchemaError(f"{where}: {_short(value)}, wanted numbers below 1.8e308") from None

    return _array(_nested(document, number, where), np.float64, document, where)


def _bool_array(document: Any, where: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    def truth(value: Any) -> bool:
        if not isinstance(value, bool):
            raise SchemaError(f"{where}: {_short(value)}, wanted true or false")
        return value

    return _array(_nested(document, truth, where), np.bool_, document, where)


def _array(rows: Any, dtype: type[G], document: Any, where: str) -> np.ndarray[Any, np.dtype[G]]:
    try:
        return np.asarray(rows, dtype=dtype)
    except ValueError:
        raise SchemaError(f"{where}: {_short(document)}, wanted an array of equal rows") from None


def _read(hint: Any, document: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin is np.ndarray:
        return _bool_array(document, where) if hint == BoolArray else _float_array(document, where)
    if origin is tuple:
        if not isinstance(document, list):
            raise SchemaError(f"{where}: {_short(document)}, wanted a list")
        inner = get_args(hint)[0]
        return tuple(_read(inner, v, f"{where}[{i}]") for i, v in enumerate(document))
    if dataclasses.is_dataclass(hint):
        return from_json(hint, document, where)  # type: ignore[arg-type]
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(document)
        except ValueError:
            raise SchemaError(f"{where}: {_short(document)}, wanted one of {[m.value for m in hint]}") from None
    if hint is float:
        value = _float_array(document, where)
        if value.ndim:
            raise SchemaError(f"{where}: {_short(document)}, wanted one number")
        return float(value)
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
    _check_schema(document, where)
    names = ["schema", "time_s", "classes", "pools", "forecast_per_s"]
    _check_names(document, names, names, where)
    time_s = _float_array(document["time_s"], f"{where}.time_s")
    if np.isnan(time_s).any():
        raise SchemaError(f"{where}.time_s: {_short(document['time_s'])}, wanted seconds")
    blocks = {
        block: _block(document[block], columns, time_s.shape, f"{where}.{block}")
        for block, columns in (("classes", CLASS_COLUMNS), ("pools", POOL_COLUMNS))
    }
    forecast = _float_array(document["forecast_per_s"], f"{where}.forecast_per_s")
    wanted = (*blocks["classes"].shape[:-1], len(FORECAST_HORIZON_S))
    if forecast.shape != wanted:
        raise SchemaError(f"{where}.forecast_per_s: shape {forecast.shape}, wanted {wanted}")
    return Snapshot(time_s=time_s, forecast_per_s=forecast, **blocks)


def _block(document: Any, columns: tuple[Column, ...], batch: tuple[int, ...], where: str) -> FloatArray:
    """`[*batch, N, len(columns)]` from one list a column."""
    if not isinstance(document, Mapping):
        raise SchemaError(f"{where}: {_short(document)}, wanted an object of columns")
    names = [c.name for c in columns]
    _check_names(document, names, names, where)
    arrays = {name: _float_array(document[name], f"{where}.{name}") for name in names}
    wanted = arrays[names[0]].shape
    for name, array in arrays.items():
        if array.ndim != len(batch) + 1 or array.shape[:-1] != batch:
            raise SchemaError(f"{where}.{name}: shape {array.shape}, wanted {(*batch, 'N')} as time_s is {batch}")
        if array.shape != wanted:
            raise SchemaError(f"{where}.{name}: shape {array.shape}, wanted {wanted} as {names[0]}")
    return np.stack(list(arrays.values()), axis=-1)


def _short(value: Any) -> str:
    try:
        return _cut(repr(value))
    except (ValueError, RecursionError):  # a number of very many digits, very deep lists
        return f"a {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
