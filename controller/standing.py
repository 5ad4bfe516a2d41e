"""What stands in the world and in the sidecar's favour, kept in a small file: a restart goes on from it, not from the plan.

Nothing of it is needed for traffic: Envoy, replicas and caps go on by themselves. It tells the next sidecar what weights,
caps and counts are in force, so that it changes nothing that needs no change, and on which rung the last one stood.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..env.contract import SCHEMA_VERSION, Action, Cluster, Mode, SchemaError
from ..env.wire import from_json, to_json
from .fencing import UNFENCED, Fence
from .ladder import Ladder, standing_on

FILE: Final = "standing.json"
MAX_BYTES: Final = 1 << 20


class StandingError(ValueError):
    """The file is not one of ours, or of another cluster; the message names file and field."""


@dataclass(frozen=True)
class Standing:
    """What the next sidecar needs to know."""

    class_names: tuple[str, ...]
    pool_names: tuple[str, ...]
    asked: str
    """The mode that the sidecar was told to begin with, and to rise to."""
    mode: Mode
    goal: Mode
    was_active: bool
    wait_ticks: int
    breaches: int
    last_breach: str
    in_force: Action
    """Weights, admission, caps and counts as they were last brought about."""
    rest: Action
    """What a canary leaves the rest at."""
    schema: int = SCHEMA_VERSION

    def ladder(self) -> Ladder:
        """The ladder, with the evidence of its rung to be gathered anew."""
        return replace(
            standing_on(self.mode, self.class_names, self.goal),
            was_active=self.was_active,
            wait_ticks=self.wait_ticks,
            breaches=self.breaches,
            last_breach=self.last_breach,
        )


def standing(cluster: Cluster, asked: str, ladder: Ladder, in_force: Action, rest: Action) -> Standing:
    """What there is to keep now."""
    return Standing(
        class_names=cluster.class_names,
        pool_names=cluster.pool_names,
        asked=asked,
        mode=ladder.mode,
        goal=ladder.goal,
        was_active=ladder.was_active,
        wait_ticks=ladder.wait_ticks,
        breaches=ladder.breaches,
        last_breach=ladder.last_breach,
        in_force=in_force,
        rest=rest,
    )


class Keeper:
    """Writes the file whenever something in it changed."""

    def __init__(self, path: Path, cluster: Cluster, asked: str, fence: Fence = UNFENCED) -> None:
        """Nothing is written before `keep`. `fence` keeps leaders of the past from writing."""
        self._fence = fence
        self._path, self._cluster, self._asked = path, cluster, asked
        self._written = b""

    def keep(self, ladder: Ladder, in_force: Action, rest: Action) -> None:
        """Have the file say what stands now; OSError if it cannot be written, Fenced if a newer leader took over."""
        kept = standing(self._cluster, self._asked, ladder, in_force, rest)
        text = json.dumps(to_json(kept), allow_nan=False).encode() + b"\n"
        if text != self._written:
            self._fence.write(self._path, text)
            self._written = text


def read(path: Path, cluster: Cluster) -> Standing | None:
    """What the last sidecar left; None if there was none.

    Raises:
        StandingError: the file is broken, or of a cluster with other pools or classes.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        document: Any = json.loads(text) if len(text) <= MAX_BYTES else None
        kept = from_json(Standing, document, "standing")
        _check(kept, cluster)
    except (ValueError, RecursionError) as error:
        raise StandingError(f"{path}: {error}; delete it to start as if no sidecar had run in this folder") from None
    return kept


def _check(kept: Standing, cluster: Cluster) -> None:
    for name in ("class_names", "pool_names"):
        if getattr(kept, name) != getattr(cluster, name):
            seen, wanted = ", ".join(getattr(kept, name)), ", ".join(getattr(cluster, name))
            raise SchemaError(f"{name}: {seen}, wanted {wanted} as in the scenario")
    shapes = {"route": cluster.serves.shape, "admit": cluster.class_mask.shape}
    for part in ("in_force", "rest"):
        action = getattr(kept, part)
        for field in fields(Action):
            values = getattr(action, field.name)
            shape = shapes.get(field.name, cluster.pool_mask.shape)
            if values.shape != shape or not (np.isfinite(values) & (values >= 0)).all():
                raise SchemaError(f"{part}.{field.name}: {values.tolist()}, wanted numbers from 0 of shape {shape}")
