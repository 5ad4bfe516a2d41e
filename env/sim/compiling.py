"""How functions are compiled that go around the engine's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..compiled_cache import cached

Function = TypeVar("Function", bound=Callable[..., Any])


def inner(function: Function) -> Function:
    """As `engine_state.compiled`, but not callable from Python: unpacking that many arrays takes long to compile."""
    return cached(function, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def outer(function: Function) -> Function:
    """As `engine_state.compiled`, and lets other threads run meanwhile."""
    return cached(function, _nrt=False, nogil=True)
