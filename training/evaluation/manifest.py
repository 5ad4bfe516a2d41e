"""What was run: everything that rows hang on, so that they can be made again and never be mixed with others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ... import __version__
from ...env.scenario import Scenario
from ...env.scenario.fingerprint import fingerprint
from .code import code_hash
from .entrants import Listed

FORMAT = 1
PACKAGE = Path(__file__).resolve().parents[2]
VERSIONS = ("numpy", "numba", "scipy", "highspy", "onnxruntime", "pyarrow")
IDENTITY = ("format", "poolpilot", "code", "suites", "policies", "headrooms", "refine", "seeds", "tuned", "bound")
"""Rows of runs that differ in one of these are not the same rows."""


def manifest_of(
    scenarios: Mapping[tuple[str, str], Scenario],
    skipped: Mapping[str, Mapping[str, str]],
    policies: Sequence[Listed],
    headrooms: Sequence[float],
    refine: int,
    seeds: int,
    tuned: bool,
    bound: bool,
    command: str,
) -> dict[str, Any]:
    """The document, JSON-ready."""
    suites: dict[str, dict[str, Any]] = {}
    for (suite, name), scenario in scenarios.items():
        own = suites.setdefault(suite, {"scenarios": {}, "skipped": dict(skipped.get(suite, {}))})
        own["scenarios"][name] = fingerprint(scenario)
    return {
        "format": FORMAT,
        "command": command,
        "poolpilot": __version__,
        "commit": commit_of(PACKAGE),
        "code": code_hash(PACKAGE),
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in VERSIONS},
        "suites": suites,
        "policies": {listed.name: listed.as_json() for listed in policies},
        "headrooms": sorted({1.0, *headrooms}),
        "refine": refine,
        "seeds": seeds,
        "tuned": tuned,
        "bound": bound,
    }


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In a few words how a run differs from another one; nothing if it is the same."""
    for name in IDENTITY:
        before, after = old.get(name), new[name]
        if before != after:
            return f"{name}: {_changed(before, after)}"
    return ""


def commit_of(package: Path) -> str | None:
    """The commit that the package is checked out at, with `+` if files of it were changed since; None outside git."""
    if not (package / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=package, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _changed(before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(set(before) | set(after)):
            if before.get(key) != after.get(key):
                return f"{key}: {_changed(before.get(key), after.get(key))}"
    return f"{_shown(before)} there, {_shown(after)} now"


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
