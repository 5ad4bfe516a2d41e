"""What is compiled is kept, and not used any more when anything that went into it has changed."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numba
import pytest

from poolpilot.env import compiled_cache
from poolpilot.env.compiled_cache import CONSTANTS_FROM, compiled_sources

ENV = Path(compiled_cache.__file__).parent

SOURCE = """\
from poolpilot.env.compiled_cache import cached

def _twice(x):
    return 2 * x

twice = cached(_twice)
"""
NOT_COMPILED_IN = {"contract", "coverage"}
"""Imported by compiled modules for annotations, or for functions of theirs that are not compiled."""


def compiled_in(folder: Path, stamp: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Calls the module's function as a new process would; how often it was found, and how often it was compiled."""
    monkeypatch.setattr(compiled_cache, "STAMP", stamp)
    spec = importlib.util.spec_from_file_location("kept", folder / "kept.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lay_there = compiled_cache.is_kept(module.twice)
    assert module.twice(21) == 42
    stats = module.twice.stats
    assert lay_there == bool(stats.cache_hits)
    return sum(stats.cache_hits.values()), sum(stats.cache_misses.values())


def test_code_is_kept_until_any_compiled_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept.py").write_text(SOURCE)
    assert compiled_in(tmp_path, "one", monkeypatch) == (0, 1)
    assert compiled_in(tmp_path, "one", monkeypatch) == (1, 0)
    assert compiled_in(tmp_path, "two", monkeypatch) == (0, 1)
    assert compiled_in(tmp_path, "two", monkeypatch) == (1, 0)


def test_functions_of_others_are_kept_as_they_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_cache.cached(lambda: 1)
    assert numba.core.config.CACHE_LOCATOR_CLASSES == ""


def test_every_file_that_compiled_code_is_made_from_is_in_the_stamp() -> None:
    """Whatever module of `env` a compiled one imports is compiled itself, known for its constants, or only types."""
    sources = set(compiled_sources())
    assert {ENV / "sim/engine.py", ENV / "sim/routing.py", ENV / "sim/state.py", ENV / "perf/law.py"} <= sources
    for path in sources - {ENV / f"{name}.py" for name in CONSTANTS_FROM}:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            folder = path.parents[node.level - 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                imported = folder / (str(name).replace(".", "/") + ".py")
                known = imported in sources or imported.stem in NOT_COMPILED_IN
                assert known, f"{path.name} imports {name}: name it in CONSTANTS_FROM"


def test_a_stamp_is_the_same_in_every_process() -> None:
    command = "from poolpilot.env.compiled_cache import STAMP; print(STAMP)"
    seen = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True).stdout
    assert seen.strip() == compiled_cache.STAMP
