"""Whether a record may be learned from at all: of this cluster, mostly sound, and of requests that there can be."""

from __future__ import annotations

from typing import Final

import numpy as np

from ...env.scenario import Scenario
from ...env.window import OUTPUT_SUM, PROMPT_SUM
from ...telemetry.record import Episode, Record
from ...telemetry.record.defects import SUSPECT
from .live import LiveError

MAY_BE_SUSPECT: Final = 0.5
"""Of a record's ticks; with more, it is not learned from at all."""
FEWEST_TOLD: Final = 5.0
"""Requests of a tick whose lengths are known; fewer say little of a mean."""


def trusted(record: Record, twin: Scenario | None = None) -> Record:
    """The record, if it may be learned from.

    Args:
        record: of the cluster that the twin is of.
        twin: the refitted scenario; without it nothing is said of cluster and lengths.

    Raises:
        LiveError: says what is wrong with it.
    """
    if twin is not None:
        for episode in record.episodes:
            _cluster(episode, twin)
    bad = {defect.where: defect for defect in record.defects if defect.kind in SUSPECT}
    ticks = sum(len(episode) for episode in record.episodes if episode.where in bad)
    if record.ticks and ticks > MAY_BE_SUSPECT * record.ticks:
        first = next(iter(bad.values()))
        raise LiveError(f"{ticks} of {record.ticks} recorded ticks are not to be learned from, such as {first}")
    if twin is not None:
        for episode in record.episodes:
            _lengths(episode, twin)
    return record


def _cluster(episode: Episode, twin: Scenario) -> None:
    """LiveError where an episode is of other pools or classes."""
    cluster = episode.sitting.cluster
    for what, seen, wanted in (
        ("pools", cluster.pool_names, twin.pool_names),
        ("classes", cluster.class_names, twin.class_names),
    ):
        if seen != wanted:
            raise LiveError(
                f"{episode.where}: a cluster with {what} {', '.join(seen)}, wanted {', '.join(wanted)} as in {twin.name}"
            )


def _lengths(episode: Episode, twin: Scenario) -> None:
    """LiveError where requests are said to have been served that are longer than what any pool takes."""
    cluster, since = episode.sitting.cluster, episode.since
    most = np.array([float(pool.engine.max_model_len) for pool in twin.pools.values()])
    takes = np.where(cluster.serves, most, 0.0).max(axis=1)
    tokens = since.tally[..., PROMPT_SUM].astype(np.float64) + since.tally[..., OUTPUT_SUM]
    known = episode.counted[:, None] & (since.told >= FEWEST_TOLD)
    mean = np.divide(tokens, since.told, out=np.zeros_like(tokens), where=known)
    for c in np.flatnonzero((mean > takes).any(axis=0)):
        t = int(np.argmax(mean[:, c]))
        raise LiveError(
            f"{episode.where}: tick {int(episode.tick[t])}: requests of {cluster.class_names[c]} of {mean[t, c]:.0f} tokens in"
            f" the mean were served, and no pool takes more than {takes[c]:.0f}: the record is not to be believed"
        )
