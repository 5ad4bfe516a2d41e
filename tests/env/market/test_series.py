"""Step series: the part that a run sees, how fast it passes, and how often machines go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.market.load import machines, prices
from poolpilot.env.market.series import SeriesError, StepSeries
from poolpilot.env.scenario.market import Availability, Price, PriceSeries

SERIES = StepSeries(np.array([0.0, 100.0, 200.0, 500.0]), np.array([4.0, 2.0, 3.0, 1.0]), 600.0)


@pytest.mark.parametrize(
    ("offset_s", "duration_s", "speedup", "expected"),
    [
        (0.0, 150.0, 1.0, [(0, 4), (100, 2)]),
        (150.0, 100.0, 1.0, [(0, 2), (50, 3)]),
        (200.0, 300.0, 1.0, [(0, 3)]),
        (550.0, 1000.0, 1.0, [(0, 1)]),
        (0.0, 60.0, 10.0, [(0, 4), (10, 2), (20, 3), (50, 1)]),
    ],
    ids=["from the start", "from within", "a step at the end does not happen", "the last holds", "faster"],
)
def test_a_run_sees_its_part(
    offset_s: float, duration_s: float, speedup: float, expected: list[tuple[float, float]]
) -> None:
    part = SERIES.window(offset_s, duration_s, speedup)
    assert list(zip(part.from_s.tolist(), part.values.tolist(), strict=True)) == expected


@given(st.floats(0.0, 700.0), st.floats(1.0, 2000.0), st.floats(0.1, 20.0))
def test_a_part_says_what_the_whole_says(offset_s: float, duration_s: float, speedup: float) -> None:
    part = SERIES.window(offset_s, duration_s, speedup)
    assert part.from_s[0] == 0.0
    for share in np.linspace(0.0, 0.999, 23):
        at_s = share * duration_s
        mine = part.values[np.searchsorted(part.from_s, at_s, side="right") - 1]
        nearest = np.abs(SERIES.from_s - (offset_s + at_s * speedup)).min()
        theirs = SERIES.values[np.searchsorted(SERIES.from_s, offset_s + at_s * speedup, side="right") - 1]
        assert mine == theirs or nearest < 1e-6


def test_losses_per_machine_hour() -> None:
    machine_hr = (4 * 100 + 2 * 100 + 3 * 300 + 1 * 100) / 3600.0
    assert SERIES.losses_per_hr() == pytest.approx((2 + 2) / machine_hr)
    assert StepSeries(np.zeros(1), np.zeros(1), 100.0).losses_per_hr() == 0.0


def test_machines_are_whole_and_at_their_own_pace(tmp_path: Path) -> None:
    (tmp_path / "zone.csv").write_text("t_s,nodes_available\n0,8\n3600,4\n7200,4\n")
    own = Availability(path=Path("zone.csv"), scale=0.3, speedup=2.0, offset_s=600.0)
    series, rate = machines("zone", own, 3600.0, tmp_path)
    assert list(zip(series.from_s.tolist(), series.values.tolist(), strict=True)) == [(0, 2), (1500, 1)]
    # One of two machines goes in the three machine-hours of the file, which pass twice as fast.
    assert rate == pytest.approx(2.0 / 3.0)


def test_a_price_without_a_series_is_constant(tmp_path: Path) -> None:
    series = prices("zone", Price(usd_per_hr=2.5), 100.0, tmp_path)
    assert (series.from_s.tolist(), series.values.tolist()) == ([0.0], [2.5])


def test_a_run_cannot_begin_behind_the_series(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("t_s,usd_per_hr\n0,1\n100,2\n")
    price = Price(usd_per_hr=1.0, series=PriceSeries(path=Path("prices.csv"), offset_s=101.0))
    with pytest.raises(
        SeriesError, match=r"^pools\.zone\.price\.series: .*prices\.csv: offset_s 101: wanted one within its 100 s"
    ):
        prices("zone", price, 100.0, tmp_path)
