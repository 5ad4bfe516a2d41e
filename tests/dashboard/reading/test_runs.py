"""Folders of evaluations and training runs are found, shown and compared; spoilt ones are told."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from poolpilot.dashboard.reading.runs import RunError, RunReader, differences, differences_table, policies_table


def estimate(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean * 0.9, "high": mean * 1.1}


def summary(bills: dict[str, float]) -> dict[str, Any]:
    policies = [
        {
            "policy": name, "kind": "rule", "usd_per_hr": estimate(10.0 * bill), "bill_ratio": estimate(bill), "attainment": 0.991,
            "shortfall": estimate(0.001), "held": bill < 1.2, "lost": 3, "above_bound_frac": estimate(0.5),
        }
        for name, bill in bills.items()
    ]  # fmt: skip
    means = [
        {"policy": name, "headroom": 1.0, "attainment": 0.99, "bill_ratio": bill, "bound_ratio": 0.5}
        for name, bill in bills.items()
    ]
    suite = {
        "scenarios": ["a", "b"], "skipped": {}, "seeds": 2, "as_shipped": {"policies": policies}, "equal_attainment": [],
        "frontier": [], "frontier_means": means,
    }  # fmt: skip
    return {
        "format": 1,
        "reference": next(iter(bills)),
        "levels": [0.99],
        "suites_skipped": {},
        "suites": {"steady": suite},
    }


def write_run(folder: Path, bills: dict[str, float], world: str = "w") -> None:
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary(bills)))
    (folder / "manifest.json").write_text(json.dumps({"command": "poolpilot evaluate --suite steady", "commit": "abc"}))
    rows = [
        {
            "suite": "steady", "scenario": scenario, "policy": policy, "headroom": 1.0, "seed": seed, "world": f"{world}{seed}",
            "usd_per_hr": bill * (1.0 + 0.1 * seed) * (1.0 if scenario == "a" else 1.02), "worst_shortfall": 0.01,
        }
        for policy, bill in bills.items() for scenario in ("a", "b") for seed in range(2)
    ]  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")


def test_runs_are_found_below_a_folder_the_newest_first(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "first", {"plan-tracking": 1.0})
    write_run(tmp_path / "runs" / "deeper" / "second", {"plan-tracking": 1.0})
    (tmp_path / "runs" / ".hidden").mkdir()
    found = RunReader([tmp_path / "runs"]).read()
    assert {run.name for run in found.evaluations} == {"runs/first", "runs/deeper/second"}
    assert found.evaluation("") == found.evaluations[0]
    assert found.evaluations[0].changed_s >= found.evaluations[1].changed_s


def test_a_folder_itself_may_be_a_run(tmp_path: Path) -> None:
    write_run(tmp_path / "unseen", {"plan-tracking": 1.0})
    assert [run.name for run in RunReader([tmp_path / "unseen"]).read().evaluations] == ["unseen"]


def test_the_table_tells_bill_and_whether_targets_are_held(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"plan-tracking": 1.0, "static-peak": 1.5})
    run = RunReader([tmp_path]).read().evaluations[0]
    shown = policies_table(run, "steady")
    first, second = shown["rows"]
    assert (first[0]["text"], first[0]["more"], first[1]["text"]) == ("plan-tracking", "reference", "100.0")
    assert (second[1]["text"], second[1]["more"], second[5]["text"], second[5]["tone"]) == (
        "150.0", "135.0 to 165.0", "missed", "bad",
    )  # fmt: skip


def test_two_runs_are_compared_pair_by_pair_of_the_same_worlds(tmp_path: Path) -> None:
    write_run(tmp_path / "old", {"plan-tracking": 1.0, "steady-hand": 1.0})
    write_run(tmp_path / "new", {"plan-tracking": 1.0, "steady-hand": 0.9})
    runs = RunReader([tmp_path]).read()
    name = tmp_path.name
    old, new = runs.evaluation(f"{name}/old"), runs.evaluation(f"{name}/new")
    assert old is not None
    assert new is not None
    bills = {row["series"]: row for row in differences(new, old, "steady") if row["measure"] == "Bill"}
    assert bills["plan-tracking"]["mean"] == pytest.approx(0.0)
    assert bills["steady-hand"]["mean"] == pytest.approx(-10.0)
    assert bills["steady-hand"]["low"] == pytest.approx(-10.0)
    assert differences_table(differences(new, old, "steady"), old.name)["rows"][1][1]["tone"] == "good"


def test_runs_on_other_worlds_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "old", {"plan-tracking": 1.0})
    write_run(tmp_path / "new", {"plan-tracking": 1.0}, world="other")
    new, old = RunReader([tmp_path]).read().evaluations
    assert differences(new, old, "steady") == []
    assert "same worlds" in differences_table([], old.name)["empty"]


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 9, "suites": {}}', '{"format": 1, "suites": {"a": {}}}'])
def test_a_spoilt_summary_is_told_and_does_not_hide_the_others(tmp_path: Path, text: str) -> None:
    write_run(tmp_path / "good", {"plan-tracking": 1.0})
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "summary.json").write_text(text)
    found = RunReader([tmp_path]).read()
    assert found.evaluation("") is not None
    (problem,) = found.problems
    assert str(tmp_path / "bad" / "summary.json") in problem


def test_rows_that_are_gone_are_told(tmp_path: Path) -> None:
    write_run(tmp_path / "old", {"plan-tracking": 1.0})
    write_run(tmp_path / "new", {"plan-tracking": 1.0})
    (tmp_path / "new" / "rows.parquet").write_bytes(b"no parquet")
    runs = RunReader([tmp_path]).read().evaluations
    with pytest.raises(RunError, match=r"rows\.parquet"):
        differences(runs[0], runs[1], "steady")


def test_curves_are_read_as_they_grow_and_thinned(tmp_path: Path) -> None:
    writer_of = pytest.importorskip("torch.utils.tensorboard", reason="the extra train is not installed").SummaryWriter
    with writer_of(str(tmp_path / "run" / "tensorboard")) as writer:
        for step in range(5000):
            writer.add_scalar("cluster/reward", math.sin(step), step)
        writer.add_scalar("train/loss", math.nan, 1)
        writer.flush()
        reader = RunReader([tmp_path])
        (run,) = reader.read().trainings
        assert run.tags == ("cluster/reward",)
        rows = reader.curves([run], ["cluster/reward"])
        assert len(rows) <= 2001
        assert (rows[0]["step"], rows[-1]["step"]) == (0, 4999)
        writer.add_scalar("cluster/reward", 1.0, 6000)
        writer.flush()
        (run,) = reader.read().trainings
        assert reader.curves([run], ["cluster/reward"])[-1]["step"] == 6000
