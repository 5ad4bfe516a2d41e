"""What is wrong is sorted by whether the sidecar can decide and act all the same."""

from dataclasses import replace

import numpy as np
import pytest

from poolpilot.controller.health import WELL, Health, of_sight
from poolpilot.env.contract import Snapshot

from .ticks import a_sitting, sat_through

STALE_AFTER_S = 30.0


def seen(*ages_s: float, ready: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Snapshot:
    """A snapshot with telemetry of these ages."""
    (record,) = sat_through(a_sitting(), 1, seed=3)
    pools = record.snapshot.pools.copy()
    for column, values in (("telemetry_age_s", ages_s), ("ready", ready)):
        pools[:, vars(Snapshot)[column].index] = values[: len(pools)]
    return replace(record.snapshot, pools=pools)


def test_all_seen_is_well() -> None:
    assert of_sight(seen(1.0, 1.0, 1.0), "", 0.0, (), STALE_AFTER_S) == WELL


@pytest.mark.parametrize(
    ("trouble", "age_s", "ready"), [("no file", 5.0, True), ("no file", 31.0, False), ("", 31.0, True)]
)
def test_without_the_record_of_requests_nothing_can_be_decided_for_long(
    trouble: str, age_s: float, ready: bool
) -> None:
    health = of_sight(seen(1.0, 1.0, 1.0), trouble, age_s, (), STALE_AFTER_S)
    assert (not health.problems) is ready
    assert bool(health.troubles) is bool(trouble)


@pytest.mark.parametrize(
    ("ages_s", "up", "ready"),
    [
        ((31.0, 1.0, 1.0), (1.0, 1.0, 1.0), True),
        ((31.0, 31.0, 31.0), (1.0, 1.0, 1.0), False),
        ((np.nan, np.nan, np.nan), (1.0, 1.0, 1.0), False),
        ((31.0, np.nan, np.nan), (1.0, 0.0, 0.0), False),
        ((np.nan, np.nan, np.nan), (0.0, 0.0, 0.0), True),
    ],
    ids=["one pool silent", "all silent", "never heard", "all that serve silent", "nothing is up yet"],
)
def test_one_silent_pool_is_held_and_nothing_can_be_decided_when_all_are(
    ages_s: tuple[float, ...], up: tuple[float, ...], ready: bool
) -> None:
    assert (not of_sight(seen(*ages_s, ready=up), "", 0.0, (), STALE_AFTER_S).problems) is ready


def test_a_source_that_is_old_is_a_warning() -> None:
    old = ("price of l4: 7201 s old", "proxy: no page")
    assert of_sight(seen(1.0, 1.0, 1.0), "", 0.0, old, STALE_AFTER_S) == Health(warnings=old)


def test_troubles_of_two_places_stand_together_the_worse_first() -> None:
    both = Health(("routing: down",), ("caps of a: full",)).and_also(Health(("no log",), ("price: old",)))
    assert both.troubles == ("routing: down", "no log", "caps of a: full", "price: old")
