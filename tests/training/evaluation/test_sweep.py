"""A sweep is carried on until it reaches to both sides of a level, comes closer, and ends."""

import pytest

from poolpilot.training.evaluation.jobs import Job
from poolpilot.training.evaluation.rows import Row
from poolpilot.training.evaluation.sweep import HIGHEST, LOWEST, WIDER, Sweep, in_order, next_headroom

from .planted import a_row


def runs(points: dict[float, tuple[float, float]]) -> dict[float, list[Row]]:
    """By head-room: bill, and share missed."""
    return {
        h: [a_row("rule", seed, usd, missed, headroom=h) for seed in range(2)] for h, (usd, missed) in points.items()
    }


@pytest.mark.parametrize(
    ("points", "tried"),
    [
        ({0.8: (8.0, 0.04), 1.25: (12.5, 0.002)}, 1.0),
        ({0.5: (5.0, 0.2), 0.8: (8.0, 0.04), 1.25: (12.5, 0.002), 2.0: (20.0, 0.0)}, 1.0),
        ({0.8: (8.0, 0.005), 1.25: (12.5, 0.002)}, round(0.8 / WIDER, 4)),
        ({0.8: (8.0, 0.05), 1.25: (12.5, 0.02)}, round(1.25 * WIDER, 4)),
        ({1.0: (8.0, 0.04), 1.03: (12.5, 0.002)}, None),
        ({0.8: (9.0, 0.04), 1.25: (8.0, 0.002)}, None),
        ({LOWEST: (1.0, 0.0), 1.0: (8.0, 0.0)}, None),
        ({1.0: (1.0, 0.3), HIGHEST: (8.0, 0.2)}, None),
    ],
    ids=[
        "halfway between two",
        "between the nearest",
        "less where all hold it",
        "more where none does",
        "near enough",
        "what holds it costs less anyway",
        "not below what makes sense",
        "nor above",
    ],
)
def test_the_next_head_room_tells_most(points: dict[float, tuple[float, float]], tried: float | None) -> None:
    assert next_headroom(runs(points), 0.99) == tried


def carried_on(rounds: int) -> list[float]:
    """The head-rooms tried of a policy that misses ten times fewer for every 0.5 more, from 0.8 and 1.25 on."""
    asked = [Job("suite", "s", "rule", h) for h in (0.8, 1.25)]
    sweep, tried, waiting = Sweep(asked, rounds, (0.99,)), [], list(asked)
    while waiting:
        job = waiting.pop(0)
        h = job.headroom
        tried.append(h)
        waiting += sweep.after(job, [a_row("rule", 0, 10.0 * h, 0.03 * 10.0 ** (-2.0 * (h - 0.8)), headroom=h)])
    return tried


def test_a_sweep_closes_in_on_the_level_and_ends() -> None:
    assert carried_on(0) == [0.8, 1.25]
    assert carried_on(1) == [0.8, 1.25, 1.0]
    last = carried_on(20)
    assert len(last) < 10
    assert last[-1] == pytest.approx(0.8 + 0.2386, abs=0.05)  # where it misses 1 %


def test_what_was_not_swept_is_left_alone() -> None:
    job = Job("suite", "s", "held-plan", 1.0)
    sweep = Sweep([job], 5)
    assert sweep.after(job, [a_row("held-plan", 0, 10.0, 0.5)]) == []


def test_rows_come_in_one_order_whatever_ended_first() -> None:
    asked = [Job("suite", s, p, h) for s in ("b", "a") for p in ("y", "x") for h in (0.8, 1.0)]
    done = [*reversed(asked), Job("suite", "a", "y", 0.9)]
    ordered = in_order(done, asked)
    assert [job for job in ordered if job.headroom != 0.9] == asked
    assert ordered[ordered.index(Job("suite", "a", "y", 0.8)) + 1].headroom == 0.9
