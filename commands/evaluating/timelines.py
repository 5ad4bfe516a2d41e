"""Which runs of `poolpilot evaluate` are kept tick by tick, and keeping them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from ...training.evaluation.jobs import Plan
from ...training.evaluation.timelines import Timed, Timeline, read_timelines, record, usual, write_timelines

TIMELINES: Final = "timelines.parquet"
NONE: Final = "none"
Shown = tuple[str, str, int]
"""Suite, scenario and seed."""


def timelines_asked(asked: Sequence[str], plan: Plan) -> list[Shown] | None:
    """The runs that `--timeline` names; None: whoever evaluates did not choose."""
    if not asked:
        return None
    if list(asked) == [NONE]:
        return []
    return list(dict.fromkeys(_shown(text, plan) for text in asked))


def _shown(text: str, plan: Plan) -> Shown:
    name, colon, tail = text.rpartition(":")
    seed = int(tail) if colon and tail.isdecimal() else 0
    if not (colon and tail.isdecimal()):
        name = text
    found = [suite for suite, scenario in plan.scenarios if scenario == name]
    if not found:
        known = ", ".join(dict.fromkeys(scenario for _, scenario in plan.scenarios))
        raise click.UsageError(f"--timeline {text}: no scenario {name} is evaluated; there are {known} (or {NONE})")
    if seed >= plan.seeds:
        raise click.UsageError(f"--timeline {text}: seed {seed}, wanted 0 to {plan.seeds - 1} (see --seeds)")
    return found[0], name, seed


def keep_timelines(
    folder: Path,
    plan: Plan,
    asked: list[Shown] | None,
    document: Mapping[str, Any],
    on_run: Callable[[int, int, str], None],
) -> list[Timeline]:
    """All that the folder then holds: every policy as shipped on what was asked for; what is there already is not run again."""
    path = folder / TIMELINES
    kept = {own.of: own for own in read_timelines(path)} if path.is_file() else {}
    shown = [usual(document)] if asked is None else asked
    wanted = [Timed(*run, policy) for run in shown for policy in plan.policies]
    left = [timed for timed in wanted if timed not in kept]
    for done, timed in enumerate(left):
        on_run(done, len(left), f"recording {timed.policy}: {timed.scenario}")
        kept[timed] = record(timed, plan)
    if left:
        write_timelines(path, list(kept.values()))
    return list(kept.values())
