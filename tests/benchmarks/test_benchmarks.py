"""The benchmark command runs, and its figures are there under the names that they are published by."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from poolpilot.benchmarks.report import PARTS, marks, show, write
from poolpilot.benchmarks.timing import case

COMMAND = [sys.executable, "-m", "poolpilot.benchmarks"]
NO_RIVAL = ["--rival", "/nowhere"]
SHARES = {"simulator", "planning", "new episodes", "codec, rule, guard", "policy and buffer", "learning"}


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """All parts but start-up, which compiles everything anew."""
    parts = [word for part in PARTS if part != "start" for word in ("--part", part)]
    command = [*COMMAND, "--scale", "tiny", *parts, *NO_RIVAL, "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_every_figure_is_there(figures: dict[str, Any]) -> None:
    assert {"cpu", "cores", "python", "versions", "load"} <= figures["machine"].keys()
    assert [row["replicas"] for row in figures["versus"]] == [1, 2]
    for row in figures["versus"]:
        for part in ("kernel", "fleet_60s", "fleet_10s"):
            assert row[part]["requests"] == 300
            assert row[part]["requests_per_cpu_s"] > 0
            assert row[part]["peak_mib"] > 10
        assert row["fleet_10s"]["ticks"] > row["fleet_60s"]["ticks"]
        assert row["fleet_10s"]["usd"] > 0
        assert "rival" not in row
    assert {name: len(rows) for name, rows in figures["growth"].items()} == {"requests": 2, "replicas": 2, "load": 1}
    for row in (*figures["planning"]["gpus"], *figures["planning"]["buckets"]):
        assert row["widest_gap"] <= 5e-3 + 1e-9
        assert 0 < row["kept"] <= row["options"]
        assert row["sliced"]["usd_per_hr"] >= row["first_usd_per_hr"] * (1 - 6e-3)
        assert row["sliced"]["gap"] <= 5e-3 + 1e-9
    assert figures["planning"]["again"]["slowest_cpu_s"] > 0
    for row, named in zip(figures["training"], ("flat", "set"), strict=True):
        assert row["short"] == named
        for part in ("first", "later"):
            assert row[part]["steps_per_cpu_s"] > 0
            assert row[part]["requests_per_step"] > 1
            assert row[part]["share"].keys() == SHARES
            assert 0.5 < sum(row[part]["share"].values()) <= 1.001
    assert [(row["pools"], row["classes"]) for row in figures["deciding"]] == [(4, 2), (8, 6), (32, 8)]
    for row in figures["deciding"]:
        assert 0 < row["network_p50_ms"] < row["inference_p50_ms"] < row["whole_p50_ms"] <= row["whole_p99_ms"]
        assert 0 < row["rules_p50_ms"] < row["whole_p99_ms"]
    (look,) = figures["collecting"]
    assert (look["replicas"], look["missed"]) == (3, 0)
    assert 0 < look["read_ms"] < look["read_whole_ms"]


def test_the_tables_and_the_page_hold_them(figures: dict[str, Any], tmp_path: Path) -> None:
    rival = {"requests_per_cpu_s": 1.0, "peak_mib": 1.0, "version": "0"}
    full = {
        **figures,
        "versus": [{**row, "rival": rival} for row in figures["versus"]],
        "start": {name: {"cpu_s": 1.25, "wall_s": 2.5} for name in ("cold", "cached")},
    }
    console = Console(record=True, width=300)
    show(full, console)
    text = console.export_text()
    page = tmp_path / "performance.md"
    page.write_text("above\n" + "".join("{}\nold\n{}\n".format(*marks(part)) for part in PARTS) + "below\n")
    write({k: v for k, v in full.items() if k != "start"}, page, "make bench")
    assert page.read_text().count("old") == 1  # what was not run stays
    write(full, page, "make bench")
    written = page.read_text()
    assert written.startswith("above\n")
    assert written.endswith("below\n")
    assert "old" not in written
    for shown in (text, written):
        for row in figures["versus"]:
            assert f"{row['fleet_10s']['requests_per_cpu_s']:,.0f}" in shown
        assert figures["training"][0]["network"][:20] in shown
        assert "Planning a running fleet again" in shown
        assert f"{figures['deciding'][-1]['whole_p99_ms']:.2f}" in shown
    page.write_text("no marks")
    with pytest.raises(ValueError, match="wanted the marks"):
        write(full, page, "make bench")


def test_start_up_is_timed_from_the_process_on() -> None:
    seen = case("first_tick")
    assert seen["cpu_s"] > 0.1
    assert 0.1 < seen["wall_s"] < 600


def test_a_case_that_fails_says_why_in_one_line() -> None:
    with pytest.raises(RuntimeError, match="KeyError"):
        case("no such case")


def test_the_page_is_written_at_full_scale_only() -> None:
    done = subprocess.run([*COMMAND, "--write", "--scale", "tiny"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "full scale" in done.stderr
