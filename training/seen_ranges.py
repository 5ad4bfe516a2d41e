"""What a checkpoint sees in worlds such as it was trained in, for its card: a sidecar tells from it when the world has moved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from ..agents.checkpoint import load_checkpoint, write_card
from ..agents.learned import LearnedPolicy, learned_policies
from ..agents.portfolio import make_rule
from ..agents.ranges import CARD_FIELD, Gathered, Ranges
from ..env.contract import Cluster
from .rollout import rollout
from .worlds import TrainingWorlds

WORLDS: Final = 24
"""Drawn to see in; 24 random clusters of an hour are 200,000 rows of a pool."""
SEED: Final = 2**40
"""The first of them."""


def seen_ranges(folder: Path, worlds: TrainingWorlds, count: int = WORLDS, seed: int = SEED) -> Ranges:
    """The ranges of what a checkpoint's network sees while it decides in `count` worlds.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    checkpoint = load_checkpoint(folder)
    gathered = Gathered()
    make = learned_policies(checkpoint, make_rule)

    def watched(cluster: Cluster) -> LearnedPolicy:
        return replace(make(cluster), watch=gathered.add)

    rollout([worlds(seed + n) for n in range(count)], watched, max(worlds.ticks_s))
    return gathered.ranges()


def add_ranges(folder: Path, worlds: TrainingWorlds | None = None, count: int = WORLDS) -> Ranges:
    """Measure a checkpoint's ranges and write them on its card, in place of those before.

    Args:
        folder: the checkpoint's.
        worlds: in which it was trained; left out: random clusters, as the shipped checkpoints were.
        count: how many of them to see.
    """
    found = seen_ranges(folder, worlds or TrainingWorlds(quickly=True), count)
    write_card(folder, {**load_checkpoint(folder).card, CARD_FIELD: found.as_json()})
    return found
