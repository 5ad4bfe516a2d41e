"""The study of what refit and fine-tuning bring: its worlds, its figures and its tables."""

from pathlib import Path

import numpy as np
import pytest

from poolpilot.agents.portfolio import PLAN_TRACKING
from poolpilot.benchmarks.finetuning import BY_GATES, VARIANTS, scored, sections, true_document
from poolpilot.benchmarks.two_pools import two_pools
from poolpilot.env.scenario import parse_scenario


def test_the_world_that_differs_differs_as_said_and_the_other_does_not() -> None:
    believed, true = two_pools(3600.0), true_document("differs", 3600.0)
    assert true_document("same", 3600.0) == believed
    assert true["pools"]["l40s"]["time_factor"] == 1.3
    assert "time_factor" not in true["pools"]["h100"]
    assert true["pools"]["h100"]["cold_start"]["load_s"] == 2.0 * believed["pools"]["h100"]["cold_start"]["load_s"]
    rates = {
        name: own["rate_per_s"] / believed["workload"]["classes"][name]["rate_per_s"]
        for name, own in true["workload"]["classes"].items()
    }
    assert rates == pytest.approx({"chat": 2.0 / 3.0, "summarisation": 3.0})


def test_a_day_is_scored_by_its_bill_and_its_attainment() -> None:
    world = parse_scenario(true_document("differs", 600.0), Path("true.yaml"))
    beliefs = parse_scenario(two_pools(600.0), Path("believed.yaml"))
    day = scored(beliefs, PLAN_TRACKING, world, 3)
    assert 0.5 < day["usd"] < 20.0
    assert 0.0 < day["attainment"] <= 1.0
    assert set(day["by_class"]) == {"chat", "summarisation"}


def test_a_table_tells_the_bill_over_that_before_with_its_interval() -> None:
    def day(usd: float) -> list[dict[str, float]]:
        return [{"usd": usd, "attainment": 0.99, "short": 0.0}]

    results = [
        {
            "world": "same",
            "reproduced": True,
            "learned": "loss 0.9 after 10 steps",
            "learned_version": "b1946ac92492",
            "gates": {"twin": "pass", "suites": "fail" if seed == 1 else "pass"},
            "lacks": ["suites: fail: dearer"] if seed == 1 else [],
            **dict(zip(VARIANTS, (day(10.0 + seed), day(9.0 + seed), day(5.0 + seed / 2)), strict=True)),
        }
        for seed in range(3)
    ]
    (table,) = sections(results)
    assert table.rows[0][2] == "1"
    assert table.rows[2][2] == "0.500 (0.500 to 0.500)"
    assert table.rows[3][0] == BY_GATES
    assert table.rows[3][1].startswith(f"{np.mean([5.0, 10.0, 6.0]):.2f} ("), "the second stays with the refit"
    assert "3 seeds; the refitted twin reproduced 3 of the records" in table.note
    assert "Gates: `twin` pass 3; `suites` fail 1, pass 2." in table.note
