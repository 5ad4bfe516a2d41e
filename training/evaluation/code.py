"""The code that rows hang on: what running a job imports, directly or not, and the data that comes with it.

Rows of other code are not the same rows; but a change to training, tables or documents is no other code.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

ROOT = "training/evaluation/workers.py"
"""Where jobs are run from."""
DATA = ("env/perf/*.json", "env/market/*.csv")
"""What the simulator reads beside the scenario."""


def code_hash(package: Path, root: str = ROOT) -> str:
    """Short hash of the files that rows hang on, committed or not."""
    digest = hashlib.sha256()
    data = {path for pattern in DATA for path in package.glob(pattern)}
    for path in sorted(imported_from(package, package / root) | data):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def imported_from(package: Path, root: Path) -> set[Path]:
    """The package's files that importing `root` may load, itself among them: imports within functions count too."""
    found: set[Path] = set()
    waiting = [root]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imports(package, path)
    return found


def _imports(package: Path, path: Path) -> Iterator[Path]:
    above_it = (parent / "__init__.py" for parent in path.parents if parent.is_relative_to(package))
    yield from (package_file for package_file in above_it if package_file.is_file())
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level:  # only relative imports are ours
            above = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for name in (above, *(above / alias.name for alias in node.names)):
                for candidate in (name.with_suffix(".py"), name / "__init__.py"):
                    if candidate.is_file():
                        yield candidate
