"""Whole suites: not worse is let through, worse is not, and half a suite is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from poolpilot.agents.registry import Verdict
from poolpilot.training.finetuning.gates.suites import CANDIDATE, INCUMBENT, judged, suites_gate
from poolpilot.training.suites.suite import Skipped, Suite

from .judged import STARVING, a_scenario, made


def a_suite(*skipped: Skipped) -> Suite:
    names = ("usual", "other")
    scenarios = tuple(a_scenario(300.0).model_copy(update={"name": name}) for name in names)
    return Suite("mine", "Two days.", scenarios, skipped)


def test_a_candidate_that_is_not_worse_passes_and_one_that_starves_classes_fails(tmp_path: Path) -> None:
    neutral, same = made(tmp_path, "neutral"), made(tmp_path, "same", card=None)
    found = suites_gate(same, neutral, [a_suite()], seeds=2)
    assert found.verdict is Verdict.PASS
    assert found.reason.startswith("mine: loss +0.0000")
    assert set(found.inputs) == {"mine/usual", "mine/other", "code"}
    assert found.figures["mine"]["seeds"] == 2
    worse = suites_gate(made(tmp_path, "starving", **STARVING), neutral, [a_suite()], seeds=2, folder=tmp_path / "rows")
    assert worse.verdict is Verdict.FAIL
    assert "mine: loss +" in worse.reason
    assert (tmp_path / "rows" / "rows.parquet").is_file()


@pytest.mark.parametrize(
    ("dearer", "verdict"),
    [(0.03, Verdict.PASS), (0.05, Verdict.UNKNOWN), (0.08, Verdict.FAIL)],
    ids=["a little dearer", "at the line", "dearer"],
)
def test_what_is_allowed_is_a_share_of_what_the_incumbent_loses(dearer: float, verdict: Verdict) -> None:
    scenarios = {("mine", name): a_scenario() for name in ("usual", "other")}
    rng = np.random.default_rng(0)
    rows = [
        {
            "suite": suite,
            "scenario": name,
            "policy": policy,
            "seed": seed,
            "world": f"{name}{seed}",
            "classes": [{"attainment": 1.0, "wanted": 0.9}],
            "usd_per_hr": 20.0 * (1.0 + (dearer + 0.01 * rng.standard_normal()) * (policy == CANDIDATE)),
            "reference_usd_per_hr": 10.0,
        }
        for suite, name in scenarios
        for seed in range(12)
        for policy in (CANDIDATE, INCUMBENT)
    ]
    found = judged(rows, ["mine"], scenarios, {})
    assert found.verdict is verdict, found.reason


def test_half_a_suite_is_none(tmp_path: Path) -> None:
    neutral = made(tmp_path, "neutral")
    found = suites_gate(neutral, neutral, [a_suite(Skipped("spot", "no data folder"))], seeds=2)
    assert (found.verdict, found.reason) == (Verdict.UNKNOWN, "not whole: mine/spot: no data folder")
