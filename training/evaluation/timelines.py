"""Chosen runs tick by tick: what rows of an evaluation sum up, run again and written down (`env.timeline`).

A run hangs on its scenario, policy, head-room and seed alone, so that running it once more is the same run; only the few
that somebody wants to look at are kept in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from ...env.batch import Episode, one_cluster
from ...env.contract import Action
from ...env.timeline import TimelineRow, timeline_rows
from ..clairvoyant_plan import replayed, scheduled
from ..contenders import Steered
from ..days import scored_episode
from ..rollout import RunResult, Step, rollout
from .entrants import CHECKPOINT
from .jobs import Job, Plan, Stage, entry_of, world_hash

SECONDS_PER_HOUR: Final = 3600.0


class TimelinesError(ValueError):
    """A file holds no timelines; the message is one line."""


@dataclass(frozen=True, order=True)
class Timed:
    """One run of the evaluation: a job's, in one world."""

    suite: str
    scenario: str
    seed: int
    policy: str
    headroom: float = 1.0

    @property
    def job(self) -> Job:
        """The job that it is a run of."""
        return Job(self.suite, self.scenario, self.policy, self.headroom)


@dataclass(frozen=True)
class Timeline:
    """A run, tick by tick."""

    of: Timed
    world: str
    """As in the evaluation's rows: the same world, the same hash."""
    rows: Sequence[TimelineRow]


def record(timed: Timed, plan: Plan) -> Timeline:
    """Run it again, and write down every tick."""
    scenario = plan.scenarios[timed.suite, timed.scenario]
    episode = scored_episode(scenario, timed.seed, quickly=True)
    stage = Stage(scenario, [episode], [world_hash(episode)])
    noted = _Noted(episode, scenario.tick_s)
    _run(timed, plan, stage, noted)
    return Timeline(timed, stage.worlds[0], noted.rows)


def _run(timed: Timed, plan: Plan, stage: Stage, noted: _Noted) -> RunResult:
    entry = entry_of(timed.job, plan, stage)
    if isinstance(entry, Steered):
        make, foresight = entry.make, entry.foresight
    else:  # a plan with hindsight: first the head-room that it is judged at
        (best,) = replayed(stage.episodes, stage.scenario.tick_s)
        make, foresight = scheduled(stage.episodes, stage.scenario.tick_s, best.headroom), False
    (result,) = rollout(stage.episodes, make, stage.scenario.tick_s, foresight=foresight, on_step=noted.step)
    return result


class _Noted:
    """The rows of the only episode of a batch."""

    def __init__(self, episode: Episode, tick_s: float) -> None:
        self._cluster, self._tick_s = episode.world.cluster, tick_s
        self.rows: list[TimelineRow] = []

    def step(self, step: Step) -> None:
        # What there was, not what was seen of it: a gap in telemetry is no gap in the queue. Forecasts are the policy's.
        true = replace(step.true, forecast_per_s=step.seen.forecast_per_s)
        billed = float(step.outcome.bill.total_usd[0]) * SECONDS_PER_HOUR / self._tick_s
        c, p = len(self._cluster.class_names), len(self._cluster.pool_names)
        action = step.applied
        applied = Action(
            route=action.route[0, :c, :p],
            admit=action.admit[0, :c],
            batch_cap=action.batch_cap[0, :p],
            token_budget=action.token_budget[0, :p],
            replicas=action.replicas[0, :p],
        )
        self.rows += timeline_rows(self._cluster, one_cluster(true, 0, self._cluster), applied, billed)


def usual(document: Mapping[str, Any]) -> tuple[str, str, int]:
    """Suite, scenario and seed of the run that is shown where nobody chooses one: neither the best nor the worst.

    Of the first suite's scenarios it is the one whose ratio of bills is the median: that of the first checkpoint, else of the
    first policy that is not the reference, to the reference, both as shipped. Its first seed.
    """
    name, suite = next(iter(document["suites"].items()))
    policies = [own for own in suite["as_shipped"]["policies"] if own["policy"] != document["reference"]]
    learned = [own["policy"] for own in policies if own["kind"] == CHECKPOINT]
    looked_at = (learned or [own["policy"] for own in policies] or [document["reference"]])[0]
    ratios = sorted(
        (own["bill_ratio"]["mean"], own["scenario"])
        for own in suite["as_shipped"]["by_scenario"]
        if own["policy"] == looked_at
    )
    return name, ratios[(len(ratios) - 1) // 2][1], 0


_KEY: Final = ("suite", "scenario", "seed", "policy", "headroom", "world")
_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
SCHEMA: Final = pa.schema(
    [
        ("suite", _TEXT),
        ("scenario", _TEXT),
        ("seed", pa.int64()),
        ("policy", _TEXT),
        ("headroom", pa.float64()),
        ("world", _TEXT),
        ("time_s", pa.float64()),
        *((name, _TEXT) for name in ("kind", "name", "measure")),
        ("value", pa.float64()),
        *((name, _TEXT) for name in ("unit", "pool")),
    ]
)
"""Long form: a row for each tick, measure, and class, pool or the whole."""


def write_timelines(path: Path, timelines: Sequence[Timeline]) -> None:
    """Keep them as Parquet, in order; the whole file or nothing."""
    rows = [
        {**dict(zip(_KEY, (t.suite, t.scenario, t.seed, t.policy, t.headroom, own.world), strict=True)), **row}
        for own in timelines
        for t in (own.of,)
        for row in own.rows
    ]
    temporary = path.with_name(path.name + ".part")
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary, compression="zstd")
    temporary.replace(path)


def read_timelines(path: Path) -> list[Timeline]:
    """What `write_timelines` kept.

    Raises:
        TimelinesError: not Parquet, or with other columns.
    """
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise TimelinesError(f"{path}: not readable as Parquet: {str(error).splitlines()[0][:200]}") from None
    if table.schema.names != SCHEMA.names:
        raise TimelinesError(f"{path}: columns {', '.join(table.schema.names)}; wanted {', '.join(SCHEMA.names)}")
    found: dict[tuple[Any, ...], list[TimelineRow]] = {}
    for row in table.to_pylist():
        key = tuple(row.pop(name) for name in _KEY)
        found.setdefault(key, []).append(row)
    return [Timeline(Timed(*key[:5]), key[5], rows) for key, rows in found.items()]
