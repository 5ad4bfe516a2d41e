"""The measurement of a refit to real servers: its two worlds and its table."""

import pytest

from poolpilot.benchmarks.refit_live import believed_document, sections, true_document, truths


def test_the_world_differs_from_what_is_believed_by_what_is_to_be_found() -> None:
    believed, true = believed_document(900.0), true_document(900.0)
    assert {name: pool.get("time_factor", 1.0) for name, pool in true["pools"].items()} == truths()["time_factors"]
    for name, seconds in truths()["cold_start_s"].items():
        assert sum(true["pools"][name]["cold_start"].values()) == seconds
        assert sum(believed["pools"][name]["cold_start"].values()) == seconds / 2
    rates = {name: own["rate_per_s"] for name, own in true["workload"]["classes"].items()}
    assert rates == truths()["rate_per_s"]
    assert rates != {name: own["rate_per_s"] for name, own in believed["workload"]["classes"].items()}


@pytest.mark.parametrize(
    ("known", "cells"), [(True, ("1", "1.3", "1.28", "1.2 to 1.35")), (False, ("-", "1.3", "not told", "-"))]
)
def test_what_was_found_stands_beside_what_is_true(known: bool, cells: tuple[str, ...]) -> None:
    found = {"value": 1.28, "low": 1.2, "high": 1.35, "believed": 1.0}
    refit = {
        "verdict": "good",
        "held_out": {"before": {"verdict": "bad"}},
        "time_factors": {"l40s": found} if known else {},
        "cold_start_s": {"a100": None, "l40s": None},
        "traffic": {"chat": None, "summarisation": {"rate_per_s": found}},
    }
    result = {
        "duration_s": 900.0,
        "speed_up": 4.0,
        "policy": "p",
        "requests": {"served": 9, "lost": 1},
        "reproduces": True,
    }
    (table,) = sections({**result, "refit": refit})
    rows = {row[0]: tuple(row[1:]) for row in table.rows}
    assert rows["times of `l40s`"] == cells
    assert rows["cold start of `a100`, s"] == ("-", "60", "not told", "-")
    assert "10 requests, 1 lost" in table.note
