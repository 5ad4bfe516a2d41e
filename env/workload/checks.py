"""What is refused, and how it is said: one line that names field, row, value and what would be right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..contract import BoolArray


class WorkloadError(ValueError):
    """Requests, or the description they are made from, cannot be used; the message is one line."""


def check_array(field: str, values: object, dtype: np.dtype[np.generic], shape: tuple[int], why: str = "") -> None:
    """Raise `WorkloadError` unless `values` is an array of this type and shape."""
    if not isinstance(values, np.ndarray) or values.dtype != dtype:
        seen = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise WorkloadError(f"{field}: {seen}: wanted a NumPy array of {dtype}")
    if values.shape != shape:
        raise WorkloadError(f"{field}: shape {values.shape}: wanted {shape}{why}")


def check_rows(field: str, values: NDArray[np.generic], bad: BoolArray, wanted: str) -> None:
    """Raise `WorkloadError` that names the first `bad` row."""
    if bad.any():
        row = int(np.argmax(bad))
        raise WorkloadError(f"{field}: row {row}: {values[row]}: wanted {wanted}")
