"""The kernel does what vLLM's own scheduler did, as recorded; `make test-vllm` records it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from poolpilot.tests.env.sim.vllm_comparison import (
    Iteration,
    disagreement,
    finishes_of_leaps,
    finishes_recorded,
    table,
)
from poolpilot.tests.env.sim.vllm_loads import LOADS, recording_of

DOC = Path(__file__).parents[3] / "docs" / "simulator.md"


@pytest.mark.parametrize("name", LOADS)
def test_every_iteration_is_the_one_of_vllm(name: str) -> None:
    _, recorded = recording_of(name)
    differs = disagreement(name, recorded)
    assert differs is None, differs


@pytest.mark.parametrize("name", LOADS)
def test_leaping_ends_every_request_when_vllm_did(name: str) -> None:
    _, recorded = recording_of(name)
    assert finishes_of_leaps(LOADS[name]) == finishes_recorded(recorded, LOADS[name])


def test_a_disagreement_names_load_iteration_and_both_sides() -> None:
    _, recorded = recording_of("light")
    changed = [list(values) for values in recorded]
    changed[7][2] = [count + 1 for count in changed[7][2]]
    differs = disagreement("light", changed)
    assert differs is not None
    assert differs.startswith("light: iteration 7: tokens\n  kernel Iteration(")
    assert "\n  vLLM   Iteration(" in differs


def test_the_loads_are_unlike_each_other() -> None:
    seen = {name: [Iteration(*values) for values in recording_of(name)[1]] for name in LOADS}
    assert len(seen) >= 10
    preempt = {name for name, its in seen.items() if sum(len(i.preempted) for i in its) > 10}
    assert {"kv_pressure", "priorities_under_kv_pressure", "first_chunk_suffices", "aborts", "everything"} <= preempt
    hit = {name for name, its in seen.items() if sum(i.prefix_hits for i in its) > 1000}
    assert hit == {name for name, load in LOADS.items() if load.prefix_caching}
    chunks = [count for i in seen["long_prompts"] for count in i.tokens if count > 1]
    assert sum(count > 256 for count in chunks) > 50
    crowds = {name: int(np.median([len(i.scheduled) for i in its])) for name, its in seen.items()}
    assert crowds["light"] <= 1
    assert crowds["saturated"] > 10
    # By priority a request may be thrown out that is not the last one of the batch.
    middle = 0
    for before, after in zip(seen["everything"], seen["everything"][1:], strict=False):
        middle += any(victim in before.scheduled[:-1] for victim in after.preempted)
    assert middle > 0


def test_the_page_shows_what_came_out() -> None:
    assert table() in DOC.read_text(encoding="utf-8")
