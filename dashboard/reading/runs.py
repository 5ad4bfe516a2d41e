"""Folders of evaluations and of training runs, found below those that a reader names, read as files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from pyarrow import ArrowException, parquet
from scipy.stats import t as student

from ..figures.differences import DifferenceRow
from ..figures.training import CurveRow
from .documents import UNKNOWN, Cell, Table, Tone, cell, column, count, fixed, percent, table
from .event_files import EventFileError, scalars

SUMMARY, ROWS, MANIFEST, TENSORBOARD = "summary.json", "rows.parquet", "manifest.json", "tensorboard"
FORMAT: Final = 1
"""Of the summaries that are read."""
_DEPTH: Final = 3
_MOST_RUNS: Final = 200
_MOST_POINTS: Final = 2000
"""Of one curve; longer ones are thinned."""


class RunError(ValueError):
    """A folder cannot be shown; the message says which file and why."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation left."""

    name: str
    """Its folder, below what the reader named."""
    folder: Path
    changed_s: float
    summary: Mapping[str, Any]
    manifest: Mapping[str, Any]
    problem: str = ""
    """Why it cannot be shown."""

    @property
    def suites(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.summary.get("suites", {}))


@dataclass(frozen=True)
class Training:
    """What a training run left so far."""

    name: str
    folder: Path
    changed_s: float
    files: tuple[Path, ...]
    tags: tuple[str, ...] = field(default=())
    problem: str = ""


@dataclass(frozen=True)
class Runs:
    """All that was found."""

    evaluations: tuple[Evaluation, ...]
    """The newest first."""
    trainings: tuple[Training, ...]

    @property
    def problems(self) -> list[str]:
        """What cannot be shown, and why."""
        every = [run.problem for run in self.evaluations] + [run.problem for run in self.trainings]
        return [problem for problem in every if problem]

    def evaluation(self, name: str) -> Evaluation | None:
        """By its name; of no name the newest that can be shown."""
        able = [run for run in self.evaluations if not run.problem]
        if not name:
            return able[0] if able else None
        return next((run for run in able if run.name == name), None)


class RunReader:
    """Reads folders again only where a file changed."""

    def __init__(self, roots: Sequence[Path]) -> None:
        """`roots`: folders of runs, or folders that hold some."""
        self.roots = tuple(roots)
        self._evaluations: dict[Path, tuple[float, Evaluation]] = {}
        self._curves: dict[Path, tuple[int, list[tuple[str, int, float]]]] = {}

    def read(self) -> Runs:
        """What there is now."""
        evaluations, trainings = [], []
        for root, folder in _folders(self.roots):
            name = _name(root, folder)
            if (folder / SUMMARY).is_file():
                evaluations.append(self._evaluation(name, folder))
            files = tuple(sorted((folder / TENSORBOARD).glob("events.out.tfevents.*")))
            if files:
                trainings.append(self._training(name, folder, files))
        evaluations.sort(key=lambda run: -run.changed_s)
        trainings.sort(key=lambda run: -run.changed_s)
        return Runs(tuple(evaluations), tuple(trainings))

    def curves(self, runs: Iterable[Training], tags: Sequence[str]) -> list[CurveRow]:
        """The points of some tags of some runs, thinned to what a figure can show."""
        rows: list[CurveRow] = []
        for run in runs:
            points = [point for path in run.files for point in self._points(path)[0]]
            for tag in tags:
                own = sorted((step, value) for name, step, value in points if name == tag)
                stride = max(1, math.ceil(len(own) / _MOST_POINTS))
                kept = own[::stride] if not own or own[-1] in own[::stride] else [*own[::stride], own[-1]]
                rows += [{"run": run.name, "tag": tag, "step": step, "value": value} for step, value in kept]
        return rows

    def _evaluation(self, name: str, folder: Path) -> Evaluation:
        changed_s = _changed_s(folder / SUMMARY)
        known = self._evaluations.get(folder)
        if known is None or known[0] != changed_s:
            known = (changed_s, _read_evaluation(name, folder, changed_s))
            self._evaluations[folder] = known
        return known[1]

    def _training(self, name: str, folder: Path, files: tuple[Path, ...]) -> Training:
        tags: dict[str, None] = {}
        problem = ""
        for path in files:
            points, trouble = self._points(path)
            tags.update(dict.fromkeys(tag for tag, _, _ in points))
            problem = problem or trouble
        return Training(name, folder, max(map(_changed_s, files)), files, tuple(sorted(tags)), problem)

    def _points(self, path: Path) -> tuple[list[tuple[str, int, float]], str]:
        """Those of a file, and why there are no more of them."""
        try:
            size = path.stat().st_size
            known = self._curves.get(path)
            if known is not None and known[0] == size:
                return known[1], ""
            points: list[tuple[str, int, float]] = []
            self._curves[path] = (size, points)
            points += [(s.tag, s.step, s.value) for s in scalars(path) if math.isfinite(s.value)]
            return points, ""
        except (EventFileError, OSError) as error:
            return self._curves.get(path, (0, []))[1], str(error)


def _folders(roots: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Each root, and what lies below it, not too deep; with its root."""
    seen: set[Path] = set()
    for root in roots:
        level = [root]
        for _ in range(_DEPTH + 1):
            below: list[Path] = []
            for folder in level:
                if folder in seen or len(seen) > 50 * _MOST_RUNS:
                    continue
                seen.add(folder)
                yield root, folder
                try:
                    below += sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
                except OSError:
                    continue
            level = below


def _name(root: Path, folder: Path) -> str:
    return root.name if folder == root else str(Path(root.name) / folder.relative_to(root))


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read_evaluation(name: str, folder: Path, changed_s: float) -> Evaluation:
    try:
        summary = _json(folder / SUMMARY)
        if summary.get("format") != FORMAT or not isinstance(summary.get("suites"), dict):
            raise RunError(f"format {str(summary.get('format'))[:20]!r}, this build reads {FORMAT}")
        for suite in summary["suites"].values():
            for key in ("as_shipped", "frontier_means", "seeds"):
                if key not in suite:
                    raise RunError(f"a suite has no {key!r}; run poolpilot evaluate again")
        manifest = _json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    except (ValueError, OSError, RecursionError) as error:
        return Evaluation(name, folder, changed_s, {}, {}, f"{folder / SUMMARY}: {error}")
    return Evaluation(name, folder, changed_s, summary, manifest)


def _json(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise RunError("wanted a JSON object")
    return document


def policies_table(run: Evaluation, suite: str) -> Table:
    """As shipped: what each policy costs and holds on a suite."""
    document = run.summary["suites"][suite]
    reference = str(run.summary.get("reference", ""))
    columns = [
        column("Policy", number=False),
        column("Bill", "% of the reference's"),
        column("Bill", "$/h"),
        column("Worst class", "% within targets"),
        column("Shortfall", "points"),
        column("Targets", number=False),
        column("Lost", "requests"),
        column("Above bound", "%"),
    ]
    rows = [_policy_row(own, reference) for own in document["as_shipped"]["policies"]]
    said = (
        f"{len(document['scenarios'])} scenarios, {document['seeds']} seeds each; bills paired with those of {reference},"
        " 95 % intervals in small print. Compare bills only of policies that hold their targets."
    )
    return table(said, columns, rows, "This suite has no results.")


def _policy_row(own: Mapping[str, Any], reference: str) -> list[Cell]:
    held = bool(own.get("held"))
    name = str(own["policy"])
    return [
        cell(name, "reference" if name == reference else str(own.get("kind", ""))),
        _interval(own.get("bill_ratio"), 100.0, 1),
        cell(fixed(_mean(own.get("usd_per_hr")))),
        cell(percent(own.get("attainment"), 2)),
        _interval(own.get("shortfall"), 100.0, 2),
        cell("held" if held else "missed", tone="good" if held else "bad"),
        cell(count(own.get("lost"))),
        cell(percent(_mean(own.get("above_bound_frac")), 0)),
    ]


def _mean(estimate: Any) -> float | None:
    return estimate.get("mean") if isinstance(estimate, dict) else estimate


def _interval(estimate: Any, factor: float, places: int) -> Cell:
    mean = _mean(estimate)
    if mean is None:
        return cell(UNKNOWN)
    low, high = (estimate.get("low"), estimate.get("high")) if isinstance(estimate, dict) else (None, None)
    ends = "" if low is None or high is None else f"{fixed(low * factor, places)} to {fixed(high * factor, places)}"
    return cell(fixed(mean * factor, places), ends)


def differences(run: Evaluation, other: Evaluation, suite: str) -> list[DifferenceRow]:
    """What each policy costs and misses more than in another run, as shipped, pair by pair of the same worlds.

    Bills in percent (geometric mean), shortfalls in points; 95 % intervals over scenarios (Student's t of their means).

    Raises:
        RunError: rows cannot be read; says which.
    """
    mine, theirs = _shipped_rows(run, suite), _shipped_rows(other, suite)
    found: list[DifferenceRow] = []
    for policy in dict.fromkeys(key[0] for key in mine):
        pairs = [(mine[key], theirs[key], key[1]) for key in mine if key[0] == policy and key in theirs]
        for measure, unit, of in (("Bill", "%", _bill), ("Shortfall", "points", _shortfall)):
            by_scenario: dict[str, list[float]] = {}
            for own, base, scenario in pairs:
                by_scenario.setdefault(scenario, []).append(of(own, base))
            means = np.array([np.mean(values) for values in by_scenario.values()])
            if not means.size:
                continue
            mean, half = float(means.mean()), _half(means)
            low, high = (None, None) if half is None else (mean - half, mean + half)
            if measure == "Bill":
                mean, low, high = (
                    _of_log(mean),
                    low if low is None else _of_log(low),
                    high if high is None else _of_log(high),
                )
            found.append(
                {
                    "measure": measure,
                    "unit": unit,
                    "series": policy,
                    "against": other.name,
                    "mean": mean,
                    "low": low,
                    "high": high,
                }
            )
    return found


def _bill(own: tuple[float, float], base: tuple[float, float]) -> float:
    return math.log(own[0] / base[0])


def _shortfall(own: tuple[float, float], base: tuple[float, float]) -> float:
    return (own[1] - base[1]) * 100.0


def _of_log(ratio: float) -> float:
    return (math.exp(ratio) - 1.0) * 100.0


def _half(means: np.ndarray) -> float | None:
    n = len(means)
    if n < 2:
        return None
    return float(student.ppf(0.975, n - 1) * means.std(ddof=1) / math.sqrt(n))


def _shipped_rows(run: Evaluation, suite: str) -> dict[tuple[str, str, int, str], tuple[float, float]]:
    """Bill ($/h) and worst shortfall by policy, scenario, seed and world, as shipped."""
    path = run.folder / ROWS
    columns = ["suite", "scenario", "policy", "headroom", "seed", "world", "usd_per_hr", "worst_shortfall"]
    try:
        rows = parquet.read_table(path, columns=columns).to_pylist()
    except (ArrowException, OSError, KeyError) as error:
        raise RunError(f"{path}: {' '.join(str(error).split())[:120]}") from None
    return {
        (row["policy"], row["scenario"], row["seed"], str(row["world"])): (row["usd_per_hr"], row["worst_shortfall"])
        for row in rows
        if row["suite"] == suite and row["headroom"] == 1.0 and row["usd_per_hr"] > 0
    }


def differences_table(rows: Sequence[DifferenceRow], other: str) -> Table:
    """The same as a table."""
    columns = [column("Policy", number=False), column("Bill", "% more"), column("Shortfall", "points more")]
    names = list(dict.fromkeys(row["series"] for row in rows))
    cells = []
    for name in names:
        own = {row["measure"]: row for row in rows if row["series"] == name}
        cells.append([cell(name), *(_difference(own.get(measure)) for measure in ("Bill", "Shortfall"))])
    empty = f"No policy met the same worlds in both runs; wanted the same suite, seeds and versions as in {other}."
    return table(f"As shipped, against the same policy in {other}, on the same worlds.", columns, cells, empty)


def _difference(row: DifferenceRow | None) -> Cell:
    if row is None:
        return cell(UNKNOWN)
    low, high = row["low"], row["high"]
    ends = "" if low is None or high is None else f"{fixed(low, 2, signed=True)} to {fixed(high, 2, signed=True)}"
    tone: Tone = "" if low is None or high is None or low <= 0.0 <= high else ("bad" if row["mean"] > 0 else "good")
    return cell(fixed(row["mean"], 2, signed=True), ends, tone)
