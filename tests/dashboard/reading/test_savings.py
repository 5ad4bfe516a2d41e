"""What was saved: sums that agree with the record, intervals that hold what they promise."""

from dataclasses import replace

import numpy as np
import pytest

from poolpilot.dashboard.figures.savings import ALL
from poolpilot.dashboard.reading.history import Filter
from poolpilot.dashboard.reading.savings import BLOCK_S, Savings, bars, saved, saving_points, savings_of
from poolpilot.dashboard.reading.ticks import SeenTick
from poolpilot.env.contract import BILL_LAYERS, Mode
from poolpilot.tests.dashboard.recorded import history, records


@pytest.fixture(scope="module")
def ticks() -> list[SeenTick]:
    return history(records(200), span_s=4000.0).ticks


def synthetic(saved_usd_per_hr: np.ndarray, span_s: float = 5.0) -> Savings:
    """Ticks at which one pool's idle layer differs by so much."""
    n = len(saved_usd_per_hr)
    policy = np.full((n, 1, len(BILL_LAYERS)), 0.001)
    rule = policy.copy()
    rule[:, 0, 2] += saved_usd_per_hr * span_s / 3600.0
    return Savings(
        wall_s=np.arange(n) * span_s, span_s=np.full(n, span_s), rule_usd=rule, policy_usd=policy, usd=policy,
        left_out=0, advised=False, rule="plan-tracking", policy="steady-hand", pools=("a",),
    )  # fmt: skip


def test_savings_are_the_records_sums(ticks: list[SeenTick]) -> None:
    savings = savings_of(ticks, Filter())
    assert savings is not None
    known = [
        t for t in ticks[1:] if t.comparison and np.isfinite(t.comparison.rule_usd + t.comparison.policy_usd).all()
    ]
    total = sum(float((t.comparison.rule_usd - t.comparison.policy_usd).sum()) for t in known if t.comparison)
    points = saving_points(savings)
    last = {row["series"]: row["usd"] for row in points}
    assert last.pop(ALL) == pytest.approx(total)
    assert sum(last.values()) == pytest.approx(total, abs=1e-5)
    assert savings.left_out == len(ticks) - len(known)
    by_bar: dict[str, float] = {}
    for row in bars(savings):
        by_bar[row["series"]] = by_bar.get(row["series"], 0.0) + row["usd_per_hr"]
    assert (by_bar["careful (fallback)"] - list(by_bar.values())[1]) * savings.hours == pytest.approx(total)


def test_pools_are_filtered_and_add_up(ticks: list[SeenTick]) -> None:
    every = savings_of(ticks, Filter())
    each = [savings_of(ticks, Filter(pools=(name,))) for name in ticks[-1].cluster.pool_names]
    assert every is not None
    assert all(
        one is not None and one.pools == (name,) for one, name in zip(each, ticks[-1].cluster.pool_names, strict=True)
    )
    assert every.rule_usd.sum() == pytest.approx(sum(one.rule_usd.sum() for one in each if one))


def test_a_steady_saving_has_a_narrow_interval_around_it() -> None:
    savings = synthetic(np.full(720, 2.0))
    rate = savings.rate((savings.rule_usd - savings.policy_usd).sum(axis=(1, 2)))
    assert rate.mean == pytest.approx(2.0)
    assert rate.low == pytest.approx(2.0)
    assert rate.high == pytest.approx(2.0)


def test_intervals_of_noise_hold_zero_as_often_as_they_promise() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        noise = np.repeat(rng.normal(size=72), 10)  # the same for 50 s: ticks are not independent
        rate = (s := synthetic(noise)).rate((s.rule_usd - s.policy_usd).sum(axis=(1, 2)))
        assert rate.low is not None
        assert rate.high is not None
        held += rate.low <= 0.0 <= rate.high
    assert 0.91 <= held / 400 <= 0.985


def test_the_interval_widens_with_the_sum() -> None:
    points = saving_points(synthetic(np.random.default_rng(1).normal(size=720)))
    widths = [
        point["high"] - point["low"] for point in points if point["high"] is not None and point["low"] is not None
    ]
    assert len(widths) == 720
    assert widths == sorted(widths)


def test_a_short_span_has_no_interval_and_says_what_is_missing() -> None:
    few = history(records(20)).ticks
    savings = savings_of(few, Filter())
    assert savings is not None
    assert savings.hours * 3600.0 < 5 * BLOCK_S
    assert {point["low"] for point in saving_points(savings)} == {None}
    assert any("more" in note for note in saved(few, Filter())["notes"])


def test_advice_is_called_advice() -> None:
    names = [card["name"] for card in saved(history(records(20, mode=Mode.ADVISE)).ticks, Filter())["cards"]]
    assert names[0] == "Advice would save"


@pytest.mark.parametrize("what", ["nothing", "no comparison", "one tick"])
def test_what_is_missing_is_said(ticks: list[SeenTick], what: str) -> None:
    few = {
        "nothing": [],
        "no comparison": [replace(t, comparison=None) for t in ticks[:3]],
        "one tick": [replace(ticks[0], span_s=np.nan)],
    }
    told = saved(few[what], Filter())
    assert told["empty"]
    assert told["cards"] == []
