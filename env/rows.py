"""Single clusters of a batch: rows of values of the contract whose arrays have a leading batch axis."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np

from .contract import IntArray

T = TypeVar("T")


def rows_of(value: T, rows: IntArray | int) -> T:
    """A copy that holds only `rows` `[K]`, or one row without the batch axis; what has none (names) stays."""
    if isinstance(value, np.ndarray):
        return cast(T, value[rows])
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: rows_of(getattr(value, f.name), rows) for f in fields(value)})
    return value


def with_rows(value: T, rows: IntArray, others: T) -> T:
    """A copy in which `rows` `[K]` are those of `others`."""
    if isinstance(value, np.ndarray):
        copy: Any = np.array(value)
        copy[rows] = others
        return cast(T, copy)
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: with_rows(getattr(value, f.name), rows, getattr(others, f.name)) for f in fields(value)}
        return replace(value, **own)
    return value
