"""How functions are compiled that go around the engine's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

_INNER: dict[str, Any] = {"cache": True, "_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_OUTER: dict[str, Any] = {"cache": True, "_nrt": False, "nogil": True}
Function = TypeVar("Function", bound=Callable[..., Any])


def inner(function: Function) -> Function:
    """As `engine_state.compiled`, but not callable from Python: unpacking that many arrays takes long to compile."""
    kernel: Function = njit(**_INNER)(function)
    return kernel


def outer(function: Function) -> Function:
    """As `engine_state.compiled`, and lets other threads run meanwhile."""
    kernel: Function = njit(**_OUTER)(function)
    return kernel
