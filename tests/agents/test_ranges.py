from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.agents.ranges import Gathered, RangesError, ranges_from_json
from poolpilot.env.codec import CLASS_FEATURES, POOL_FEATURES, WHOLE_FEATURES, Observation


def seen(rng: np.random.Generator, low: float, high: float, n_pools: int = 3) -> Observation:
    """One cluster of two classes and so many pools, features anywhere between two ends."""
    return Observation(
        classes=rng.uniform(low, high, (2, len(CLASS_FEATURES))),
        pools=rng.uniform(low, high, (n_pools, len(POOL_FEATURES))),
        whole=rng.uniform(low, high, len(WHOLE_FEATURES)),
        class_mask=np.ones(2),
        pool_mask=np.ones(n_pools),
    )


def gathered(low: float = -0.3, high: float = 0.5) -> Gathered:
    own, rng = Gathered(), np.random.default_rng(1)
    for _ in range(300):
        own.add(seen(rng, low, high))
    return own


@given(st.integers(0, 1000), st.floats(-0.9, 0.4), st.floats(0.1, 0.5))
def test_hardly_anything_of_what_was_gathered_lies_outside(seed: int, low: float, width: float) -> None:
    ranges = gathered(low, low + width).ranges()
    share, _ = ranges.outside(seen(np.random.default_rng(seed), low, low + width))
    assert share == 0.0, "the ends are slack enough for what lies between"


def test_what_lies_outside_is_counted_and_named() -> None:
    ranges = gathered().ranges()
    there = seen(np.random.default_rng(2), -0.3, 0.5)
    cold_start, power = POOL_FEATURES.index("cold_start"), POOL_FEATURES.index("power_known")
    there.pools[0, cold_start], there.pools[1, power] = 0.9, 0.7
    share, names = ranges.outside(there)
    total = 2 * len(CLASS_FEATURES) + 3 * len(POOL_FEATURES) + len(WHOLE_FEATURES) - 1
    assert share == pytest.approx(2 / total)
    assert names == ("cold_start", "power_known")


def test_the_price_of_a_miss_is_told_and_is_no_drift() -> None:
    there = seen(np.random.default_rng(2), -0.3, 0.5)
    there.whole[WHOLE_FEATURES.index("miss_price")] = 1.0
    assert gathered().ranges().outside(there) == (0.0, ())


def test_padding_is_not_looked_at() -> None:
    there = seen(np.random.default_rng(2), -0.3, 0.5)
    there.pools[2] = 1.0
    masked = replace(there, pool_mask=np.array([1.0, 1.0, 0.0]))
    assert gathered().ranges().outside(masked)[0] == 0.0
    own = Gathered()
    own.add(masked)
    assert own.counts["pools"].sum() == 2 * len(POOL_FEATURES)


def test_ranges_stand_on_a_card_and_come_back() -> None:
    ranges = gathered().ranges()
    again = ranges_from_json(ranges.as_json())
    assert again.observations == 300
    for part in ("classes", "pools", "whole"):
        np.testing.assert_allclose(again.low[part], ranges.low[part], atol=1e-4)
        np.testing.assert_allclose(again.high[part], ranges.high[part], atol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: d.pop("pools"), "wanted observations and classes, pools, whole"),
        (lambda d: d.update(observations=0), "observations: '0'"),
        (lambda d: d["pools"].pop("ready"), "observation_ranges.pools: wanted the features"),
        (lambda d: d["whole"].update(waiting=[0.5, 0.1]), "whole.waiting: .*wanted two rising numbers"),
        (lambda d: d["whole"].update(waiting=[float("nan"), 0.1]), "whole.waiting"),
        (lambda d: d["classes"].update(rate="x"), "classes.rate"),
    ],
)
def test_ranges_that_cannot_be_are_refused_by_name(spoil, said: str) -> None:  # type: ignore[no-untyped-def]
    document = gathered().ranges().as_json()
    spoil(document)
    with pytest.raises(RangesError, match=said):
        ranges_from_json(document)
