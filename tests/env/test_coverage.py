"""How much of a pool's traffic lies inside the calibrated range."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.beliefs import believed_ranges
from poolpilot.env.contract import FloatArray
from poolpilot.env.coverage import CalibratedRanges, covered_frac, unknown_ranges
from poolpilot.env.scenario import load_scenario

NAN = float("nan")


def bounds(low: float, high: float) -> FloatArray:
    return np.array([[low, high]])


RANGES = CalibratedRanges(
    calibrated=np.array([True]),
    tokens=bounds(1.0, 4096.0),
    sequences=bounds(2.0, 64.0),
    context_tokens=bounds(32.0, 2000.0),
    kv_tokens=np.array([10_000.0]),
)
FIGURES = {
    "replicas": 2.0,
    "running": 20.0,
    "kv_used_frac": 0.5,
    "token_budget": 2048.0,
    "prompt_tokens_per_s": 300.0,
    "output_tokens_per_s": 100.0,
}


def share(ranges: CalibratedRanges = RANGES, **figures: float) -> float:
    columns = {name: np.array([value]) for name, value in {**FIGURES, **figures}.items()}
    return float(covered_frac(ranges, **columns)[0])


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({}, 1.0),
        ({"running": 200.0, "kv_used_frac": 1.0}, 0.75),
        ({"running": 2.0, "kv_used_frac": 0.1}, 0.75),
        ({"running": 4.0, "kv_used_frac": 0.9}, 0.75),
        ({"kv_used_frac": 0.01}, 0.75),
        ({"token_budget": 8192.0}, 0.25),
        ({"token_budget": 8192.0, "running": 200.0}, 0.0),
        ({"running": 0.0, "kv_used_frac": 0.0}, 1.0),
        ({"prompt_tokens_per_s": 0.0, "output_tokens_per_s": 0.0}, NAN),
        ({"running": NAN}, NAN),
        ({"kv_used_frac": NAN}, NAN),
        ({"prompt_tokens_per_s": NAN}, NAN),
        ({"replicas": 0.0, "running": 0.0}, NAN),
    ],
    ids=[
        "inside", "larger batch", "smaller batch", "longer context", "shorter context", "larger prompts", "all outside",
        "nothing at the moment", "no traffic", "batch unknown", "context unknown", "traffic unknown", "no replica",
    ],
)  # fmt: skip
def test_share(figures: dict[str, float], expected: float) -> None:
    assert share(**figures) == pytest.approx(expected, nan_ok=True)


def test_nothing_of_a_gpu_without_measurements_is_inside_and_of_an_unknown_law_nothing_is_known() -> None:
    assert share(replace(RANGES, calibrated=np.array([False]))) == 0.0
    assert np.isnan(share(unknown_ranges(1)))


@given(st.lists(st.floats(0, 1e6), min_size=6, max_size=6))
def test_a_share_lies_between_none_and_all(values: list[float]) -> None:
    figures = dict(zip(FIGURES, values, strict=True))
    seen = share(**figures)
    assert np.isnan(seen) or 0.0 <= seen <= 1.0


def test_a_scenario_knows_which_of_its_pools_were_measured() -> None:
    ranges = believed_ranges(load_scenario("cheap-gpus"))
    names = list(load_scenario("cheap-gpus").pools)
    assert dict(zip(names, ranges.calibrated.tolist(), strict=True)) == {"l4": False, "a10g": False, "l40s": True}
    assert (ranges.tokens[:, 0] <= 2).all()
    assert (ranges.kv_tokens > 10_000).all()
