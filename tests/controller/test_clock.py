import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.controller.clock import Clock


class Wall:
    """A wall clock that moves only when somebody sleeps or works."""

    def __init__(self) -> None:
        self.at_s = 5000.0

    def now(self) -> float:
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        self.at_s += seconds


async def ticked(ticks: AsyncIterator[float], wall: Wall, works_s: list[float]) -> list[float]:
    """The time at each tick, when the work at each takes so long."""
    times = []
    for work_s in works_s:
        times.append(await anext(ticks))
        wall.at_s += work_s
    return times


@pytest.mark.parametrize(
    ("speed_up", "works_s", "expected", "missed"),
    [
        (1.0, [0, 0, 0], [0, 10, 20], 0),
        (1.0, [3, 9.5, 0], [0, 10, 20], 0),
        (1.0, [10, 0, 0], [0, 10, 20], 0),
        (1.0, [25, 0, 0], [0, 30, 40], 2),
        (1.0, [30, 0], [0, 30], 2),
        (1.0, [1, 101, 1, 0], [0, 10, 120, 130], 10),
        (20.0, [0.1, 0.6, 0], [0, 10, 30], 1),
    ],
    ids=["idle", "busy", "just in time", "too long", "three ticks long", "stuck once", "faster than the wall"],
)
async def test_ticks_keep_to_the_grid_and_never_pile_up(
    speed_up: float, works_s: list[float], expected: list[float], missed: int
) -> None:
    wall = Wall()
    clock = Clock(10.0, speed_up, wall.now, wall.sleep)
    assert await ticked(clock.ticks(), wall, works_s) == pytest.approx(expected)
    assert clock.missed == missed


@given(
    st.lists(st.floats(0.0, 100.0), min_size=2, max_size=12), st.floats(0.01, 100.0), st.floats(0.1, 1000.0)
)  # fmt: skip
def test_the_next_tick_comes_after_the_work_and_within_one_more_tick(
    works_s: list[float], tick_s: float, speed_up: float
) -> None:
    wall = Wall()
    clock = Clock(tick_s, speed_up, wall.now, wall.sleep)
    times = asyncio.run(ticked(clock.ticks(), wall, works_s))
    slack_s = 1e-9 * (5000.0 + sum(works_s)) * speed_up  # the wall's own rounding
    for (before, after), work_s in zip(itertools.pairwise(times), works_s, strict=False):
        worked_s = work_s * speed_up
        assert max(worked_s, tick_s) - slack_s <= after - before <= worked_s + tick_s + slack_s


async def test_a_sleep_that_ends_early_is_slept_on() -> None:
    wall = Wall()

    async def impatient(seconds: float) -> None:
        wall.at_s += max(seconds * 0.7, 1e-6)

    ticks = Clock(10.0, 1.0, wall.now, impatient).ticks()
    assert await anext(ticks) == 0.0
    assert await anext(ticks) >= 10.0


async def test_two_loops_cannot_tick_by_one_clock() -> None:
    wall = Wall()
    clock = Clock(10.0, 1.0, wall.now, wall.sleep)
    first = clock.ticks()
    await anext(first)
    with pytest.raises(RuntimeError, match="ticks already"):
        await anext(clock.ticks())
    assert await anext(first) == 10.0


async def test_the_real_clock_ticks() -> None:
    clock = Clock(tick_s=1.0, speed_up=50.0)
    times = []
    async for now_s in clock.ticks():
        times.append(now_s)
        if len(times) == 4:
            break
    assert clock.missed == 0 or times[-1] >= 4.0
    assert all(now_s >= due_s for now_s, due_s in zip(times, (0.0, 1.0, 2.0, 3.0), strict=True))


@pytest.mark.parametrize(("tick_s", "speed_up"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (float("nan"), 1.0)])
def test_a_clock_that_would_not_move_is_refused(tick_s: float, speed_up: float) -> None:
    with pytest.raises(ValueError, match="wanted both above 0"):
        Clock(tick_s, speed_up)
