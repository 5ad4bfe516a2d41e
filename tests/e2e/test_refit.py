"""The twin is refitted to what a sidecar recorded of servers that are not as it believes, while it runs, and it is told so:
`poolpilot control` and `finetune refit` as people run them, real Envoy, real Valkey, emulated replicas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from poolpilot.agents.checkpoint import shipped_checkpoints
from poolpilot.benchmarks.refit_live import TRUE_RATES, Asked, estimates, measured
from poolpilot.benchmarks.two_pools import LONGER, SLOWER
from poolpilot.controller.decision_replay import replay as decide_again
from poolpilot.env.contract import ReasonCode
from poolpilot.env.scenario import load_scenario
from poolpilot.telemetry.record import read_log

pytestmark = pytest.mark.e2e

TRUST, ERROR = "poolpilot_policy_trust_ratio", "poolpilot_twin_error_ratio"
OUTSIDE = "poolpilot_outside_range_ratio"
DRIFT = {"outside_frac": 0.005, "outside_frac_most": 0.5, "twin_error": 0.05, "twin_error_most": 1.0, "over_s": 60.0}
"""Sooner than by default: here are minutes in place of days."""


async def test_what_differs_is_found_in_the_sidecars_own_record_and_it_trusts_its_policy_less(tmp_path: Path) -> None:
    asked = Asked(460.0, 6.0, next(iter(shipped_checkpoints())), control={"drift": DRIFT})
    result = await measured(asked, tmp_path)
    assert set(result["requests"]) <= {"served", "shed"}
    # Seven minutes tell less than a day: intervals are wide, and what lies in them is what is true.
    found, believed = estimates(result["refit"]), load_scenario(str(tmp_path / "believed.yaml"))
    own, slower = found["time_factors"]["a100"], found["time_factors"]["l40s"]
    assert own is not None
    assert slower is not None
    assert own["value"] == pytest.approx(1.0, rel=0.15)
    assert slower["value"] == pytest.approx(SLOWER, rel=0.15)
    assert slower["low"] > 1.0, "it is known to be slower"
    started = found["cold_start_s"]["l40s"]
    assert started is not None
    cold_start_s = believed.cold_start("l40s").mean_s
    assert started["value"] > cold_start_s
    assert near(started, LONGER * cold_start_s)
    for name, rate in TRUE_RATES.items():
        own = found["rate_per_s"][name]
        assert own is not None
        assert own["value"] == pytest.approx(rate, rel=0.35)
        assert near(own, rate)
    # What it says of itself before it was told: these swings are faster than any in training.
    before, after = result["before"], result["after"]
    assert 0.0 < before[OUTSIDE] < DRIFT["outside_frac_most"]
    assert before[TRUST] == pytest.approx(trust(before[OUTSIDE], "outside_frac"))
    assert "outside the range it was trained on" in drift_in(before)
    # And after: the refit's word counts, being the worse one.
    assert "the twin is off by" in drift_in(after)
    assert "poolpilot finetune refit" in drift_in(after)
    assert after[TRUST] == pytest.approx(min(trust(after[ERROR], "twin_error"), trust(after[OUTSIDE], "outside_frac")))
    assert after[TRUST] < before[TRUST]
    # Such decisions say so, and can be decided again.
    ticks = list(read_log(tmp_path / "run" / "decisions.jsonl", lambda _: None))
    assert ticks[-1].reach.trust == pytest.approx(after[TRUST])
    blended = [tick for tick in ticks if ReasonCode.DRIFT in {reason.code for reason in tick.decision.reasons}]
    assert blended
    assert decide_again(ticks).differences == ()


def near(found: Mapping[str, float], true: float) -> bool:
    """Within twice its 95 % interval, which misses what is true once in twenty runs, and twice as wide once in ten thousand."""
    return abs(found["value"] - true) < found["high"] - found["low"]


def trust(value: float, threshold: str) -> float:
    """By the thresholds of this stage."""
    begins, ends = DRIFT[threshold], DRIFT[f"{threshold}_most"]
    return min(max((ends - value) / (ends - begins), 0.0), 1.0)


def drift_in(told: Mapping[str, Any]) -> str:
    """The warning of drift."""
    (drift,) = (warning for warning in told["warnings"] if warning.startswith("drift: "))
    return str(drift)
