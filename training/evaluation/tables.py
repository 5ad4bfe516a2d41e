"""Rows as arrays, suite by suite, checked to be whole and paired.

Symbols: `S` scenarios, `K` seeds, `H` head-rooms, `C` most classes of a scenario.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...env.contract import FloatArray
from .rows import Row

SHIPPED = 1.0
"""The head-room of a policy as it is shipped."""


class TableError(ValueError):
    """Rows that cannot be compared; the message is one line."""


@dataclass(frozen=True, eq=False)
class Runs:
    """One policy at one head-room on scenarios of a suite."""

    rows: tuple[tuple[Row, ...], ...]
    """`[S][K]`"""
    usd_per_hr: FloatArray
    """`[S, K]`"""
    reference_usd_per_hr: FloatArray
    """`[S, K]` usual bill of the world, whoever steers it (`env.batch.Episode.reference_usd`)."""
    met: FloatArray
    """`[S, K, C]` requests that met their targets; 0 where a scenario has fewer classes."""
    done: FloatArray
    """`[S, K, C]` those and the others that ended, lost ones included."""
    wanted: FloatArray
    """`[S, C]` attainment that each class wants."""

    def numbers(self, name: str) -> FloatArray:
        """`[S, K]` of a column; NaN where it is not known."""
        return np.array([[_number(row[name]) for row in own] for own in self.rows])


@dataclass(frozen=True, eq=False)
class SuiteRuns:
    """All rows of a suite."""

    name: str
    scenarios: tuple[str, ...]
    seeds: int
    kinds: dict[str, str]
    """Of each policy, in their order."""
    settings: dict[tuple[str, str], dict[float, Runs]]
    """By policy and scenario, `[1, ...]` of that scenario by head-room, from small to large. Not all scenarios need have the
    same ones."""

    @property
    def policies(self) -> tuple[str, ...]:
        """In their order."""
        return tuple(self.kinds)

    def headrooms(self, policy: str) -> list[float]:
        """Those that it was run at on every scenario, from small to large."""
        every = [set(self.settings[policy, scenario]) for scenario in self.scenarios]
        return sorted(set.intersection(*every))

    def at(self, policy: str, headroom: float) -> Runs:
        """On every scenario, at one of `headrooms`."""
        return _joined([self.settings[policy, scenario][headroom] for scenario in self.scenarios])

    def shipped(self, policy: str) -> Runs:
        """As it is shipped."""
        return self.at(policy, SHIPPED)

    def swept(self) -> bool:
        """Whether any policy was run at more than one head-room."""
        return any(len(own) > 1 for own in self.settings.values())


def suites_of(rows: Sequence[Row]) -> dict[str, SuiteRuns]:
    """The rows by suite; suites, scenarios and policies in the order in which they first come.

    Raises:
        TableError: a run that others have is missing, there twice, or was made in another world.
    """
    by_suite: dict[str, list[Row]] = {}
    for row in rows:
        by_suite.setdefault(row["suite"], []).append(row)
    return {name: _suite(name, own) for name, own in by_suite.items()}


def _suite(name: str, rows: Sequence[Row]) -> SuiteRuns:
    scenarios = tuple(dict.fromkeys(row["scenario"] for row in rows))
    seeds = sorted({int(row["seed"]) for row in rows})
    kinds = {row["policy"]: row["kind"] for row in rows}
    cells: dict[tuple[str, str, float], dict[int, Row]] = {}
    worlds: dict[tuple[str, int], str] = {}
    for row in rows:
        where = f"suite {name}, scenario {row['scenario']}, policy {row['policy']}, seed {row['seed']}"
        own = cells.setdefault((row["policy"], row["scenario"], float(row["headroom"])), {})
        if row["seed"] in own:
            raise TableError(f"{where}: there twice at head-room {row['headroom']:g}; wanted one row each")
        own[int(row["seed"])] = row
        if worlds.setdefault((row["scenario"], int(row["seed"])), row["world"]) != row["world"]:
            raise TableError(f"{where}: met another world than the others did; rows of different runs are mixed")
    settings: dict[tuple[str, str], dict[float, Runs]] = {}
    for (policy, scenario, headroom), by_seed in sorted(cells.items(), key=lambda item: item[0][2]):
        where = f"suite {name}, scenario {scenario}, policy {policy}"
        missing = [seed for seed in seeds if seed not in by_seed]
        if missing:
            raise TableError(f"{where}: no row for seed {missing[0]} at head-room {headroom:g}; wanted every seed")
        settings.setdefault((policy, scenario), {})[headroom] = _runs(tuple(by_seed[seed] for seed in seeds))
    for policy in kinds:
        for scenario in scenarios:
            if SHIPPED not in settings.get((policy, scenario), {}):
                raise TableError(
                    f"suite {name}, scenario {scenario}, policy {policy}: no rows at head-room {SHIPPED:g}, as it is"
                    " shipped; wanted every policy on every scenario"
                )
    return SuiteRuns(name, scenarios, len(seeds), kinds, settings)


def _runs(rows: tuple[Row, ...]) -> Runs:
    """One scenario's."""
    classes = [row["classes"] for row in rows]
    return Runs(
        rows=(rows,),
        usd_per_hr=_floats([[row["usd_per_hr"] for row in rows]]),
        reference_usd_per_hr=_floats([[row["reference_usd_per_hr"] for row in rows]]),
        met=_floats([[[c["met"] for c in own] for own in classes]]),
        done=_floats([[[c["finished"] + c["lost"] for c in own] for own in classes]]),
        wanted=_floats([[c["wanted"] for c in classes[0]]]),
    )


def _joined(every: Sequence[Runs]) -> Runs:
    width = max(runs.wanted.shape[-1] for runs in every)

    def wide(values: FloatArray) -> FloatArray:
        room = [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])]
        return np.pad(values, room)

    return Runs(
        rows=tuple(own for runs in every for own in runs.rows),
        usd_per_hr=np.concatenate([runs.usd_per_hr for runs in every]),
        reference_usd_per_hr=np.concatenate([runs.reference_usd_per_hr for runs in every]),
        met=np.concatenate([wide(runs.met) for runs in every]),
        done=np.concatenate([wide(runs.done) for runs in every]),
        wanted=np.concatenate([wide(runs.wanted) for runs in every]),
    )


def _floats(values: Sequence[object]) -> FloatArray:
    return np.array(values, dtype=np.float64)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
