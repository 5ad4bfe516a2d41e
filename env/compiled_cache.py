"""Compiled code that is kept on disk, and never used once it is out of date.

Numba keeps what it compiled beside the source, and compiles again when the function's own file changed: not when a
file changed whose functions or constants were compiled into it. Whoever upgrades in place, or edits `batching` and runs
`engine`, would go on with the old code. Here what is kept is also stamped with all sources that are compiled.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit
from numba.core import config as numba_config
from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator

config: Any = numba_config
Function = TypeVar("Function", bound=Callable[..., Any])

_ENV = Path(__file__).parent
_DECORATED = re.compile(r"^@(compiled|inlined|inner|outer|_compiled)\b", re.MULTILINE)
CONSTANTS_FROM = (
    "compiled_cache",
    "perf/capacity",
    "perf/law",
    "perf/power",
    "perf/roofline",
    "scenario/delays",
    "sim/compiling",
    "window",
)
"""Modules without compiled functions whose constants are compiled into others."""


def compiled_sources() -> tuple[Path, ...]:
    """Files of `env` that hold compiled functions, or constants for them."""
    constants = {_ENV / f"{name}.py" for name in CONSTANTS_FROM}
    files = sorted(path for path in _ENV.rglob("*.py") if path in constants or _DECORATED.search(path.read_text()))
    return tuple(files)


def _stamp_of_sources() -> str:
    digest = hashlib.sha256()
    for path in compiled_sources():
        digest.update(path.relative_to(_ENV).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


STAMP = _stamp_of_sources()


class _Stamped:
    """Adds the stamp to what must be the same for kept code to be used."""

    def get_source_stamp(self) -> tuple[object, ...]:
        own: tuple[object, ...] = super().get_source_stamp()  # type: ignore[misc]
        return (*own, STAMP)


class StampedProvided(_Stamped, UserProvidedCacheLocator):
    """In the folder that NUMBA_CACHE_DIR names."""


class StampedInTree(_Stamped, InTreeCacheLocator):
    """Beside the source."""


class StampedUserWide(_Stamped, UserWideCacheLocator):
    """In the user's cache folder, where the source's cannot be written."""


_LOCATORS = ",".join(f"{__name__}.{cls.__name__}" for cls in (StampedProvided, StampedInTree, StampedUserWide))


def cached(function: Function, **options: Any) -> Function:
    """`numba.njit` with these options, kept on disk under the stamp."""
    before = config.CACHE_LOCATOR_CLASSES
    config.CACHE_LOCATOR_CLASSES = _LOCATORS  # read when a function is decorated; others' functions keep their own
    try:
        kernel: Any = njit(cache=True, **options)(function)
    finally:
        config.CACHE_LOCATOR_CLASSES = before
    return cast(Function, kernel)


def is_kept(kernel: Callable[..., Any]) -> bool:
    """Whether code of a function that `cached` made lies on disk and is up to date."""
    known: Any = kernel
    return bool(known._cache._cache_file._load_index())  # numba tells it nowhere else; its version is pinned
