"""From what a scenario says of a pool's prices and machines to what happens in one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..scenario.market import Availability, Moves, Price
from .files import read_availability, read_prices
from .series import SeriesError, StepSeries


def prices(pool: str, price: Price, duration_s: float, base_dir: Path) -> StepSeries:
    """Dollars per hour of one replica of `pool` over a run.

    Raises:
        SeriesError: the file cannot be used.
    """
    with _told_where(f"pools.{pool}.price.series"):
        return _prices(price, duration_s, base_dir)


def machines(pool: str, availability: Availability, duration_s: float, base_dir: Path) -> tuple[StepSeries, float]:
    """Replicas that can be had over a run, and how many are taken away per replica and hour of the whole series.

    Raises:
        SeriesError: the file cannot be used.
    """
    with _told_where(f"pools.{pool}.spot.availability"):
        return _machines(availability, duration_s, base_dir)


@contextmanager
def _told_where(field: str) -> Iterator[None]:
    try:
        yield
    except SeriesError as error:
        raise SeriesError(f"{field}: {error}") from None


def _prices(price: Price, duration_s: float, base_dir: Path) -> StepSeries:
    own = price.series
    if own is None:
        return StepSeries(np.zeros(1), np.array([price.usd_per_hr]), duration_s)
    if own.path is None:
        whole = _written(own.steps)
    else:
        whole = read_prices(base_dir / own.path, price.kind, own.region, own.instance)
    whole = StepSeries(whole.from_s, whole.values * own.scale, whole.end_s)
    return _part(whole, own, duration_s, base_dir)


def _machines(own: Availability, duration_s: float, base_dir: Path) -> tuple[StepSeries, float]:
    whole = _written(own.steps) if own.path is None else read_availability(base_dir / own.path, own.trace)
    # Half a replica is none; what is a rounding error below a whole one is one.
    replicas = np.floor(whole.values * own.scale + 1e-9)
    whole = StepSeries(whole.from_s, replicas, whole.end_s).without_repeats()
    return _part(whole, own, duration_s, base_dir), whole.losses_per_hr() * own.speedup


def _written(steps: tuple[tuple[float, float], ...] | None) -> StepSeries:
    columns = np.array(steps, dtype=np.float64).T
    return StepSeries(columns[0], columns[1], float(columns[0, -1])).without_repeats()


def _part(whole: StepSeries, own: Moves, duration_s: float, base_dir: Path) -> StepSeries:
    if own.offset_s > whole.end_s:
        where = "steps" if own.path is None else base_dir / own.path
        raise SeriesError(f"{where}: offset_s {own.offset_s:g}: wanted one within its {whole.end_s:g} s")
    return whole.window(own.offset_s, duration_s, own.speedup)
