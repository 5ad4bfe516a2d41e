"""The comparison of fleets runs, its figures hold together, and its pages take them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from poolpilot.benchmarks.heterogeneous import case_study, melange, paper
from poolpilot.benchmarks.heterogeneous.__main__ import DOCS, PAGE, TABLES, write
from poolpilot.benchmarks.heterogeneous.fleets import GREEDY, PLAN
from poolpilot.benchmarks.heterogeneous.study import PARTS, SCALES, Study, study
from poolpilot.benchmarks.report import print_sections
from poolpilot.env.scenario import load_scenario

SLACK = 1.0 - 6e-3
"""The solver's gap."""


@pytest.fixture(scope="module")
def tiny() -> Study:
    return study(SCALES["tiny"], PARTS, lambda step: None)


def test_no_fleet_of_one_type_and_no_greedy_mix_beats_the_plan(tiny: Study) -> None:
    assert {cell.kind for cell in tiny.cells} == set(paper.KINDS)
    for cell in tiny.cells:
        plan = cell.throughput.per_s(PLAN)
        assert plan > 0
        assert all(growth.factor * SLACK <= plan for growth in cell.throughput.fleets.values())
        assert cell.throughput.per_s(cell.throughput.best) <= cell.unlimited.per_s(cell.unlimited.best) / SLACK
        bills = [usd for usd in cell.usd_per_hr.values() if usd is not None]
        least = cell.usd_per_hr[PLAN]
        assert least is not None
        assert least * SLACK <= min(bills)
    for row in (*tiny.small, *tiny.small_whole):
        least = row.usd_per_hr[PLAN]
        assert least is not None
        assert least * SLACK <= min(usd for usd in row.usd_per_hr.values() if usd is not None)


def test_what_is_planned_is_carried_in_worlds_that_differ(tiny: Study) -> None:
    fleets = {(row.kind, row.fleet): row for row in tiny.checked}
    batch, steady = fleets["batch", PLAN], fleets["targets", PLAN]
    assert batch.believed_per_s == pytest.approx(batch.planned_per_s, rel=0.1)
    assert all(0.75 < rate / batch.planned_per_s < 1.2 for rate in batch.reached_per_s)
    assert steady.believed is not None
    assert steady.believed.worst > -0.02
    assert steady.steady is not None
    assert steady.steady.worst > -0.02
    assert steady.steady.goodput_per_s == pytest.approx(steady.planned_per_s, rel=0.1)
    assert {fleet for _, fleet in fleets} >= {GREEDY, PLAN}


def test_the_steps_of_the_case_study_only_ever_save(tiny: Study) -> None:
    (found,) = tiny.outcomes
    usd = {name: step.usd_per_hr for name, step in found.steps.items()}
    assert set(usd) == set(case_study.STEPS)
    assert max(usd.values()) == usd[case_study.BEFORE]
    assert usd[case_study.AFTER] * SLACK <= min(usd.values())
    before, after = found.steps[case_study.BEFORE], found.steps[case_study.AFTER]
    assert all(name.startswith("a100") and "bf16" in name for name in before.replicas)
    assert after.growth >= before.growth * SLACK
    assert tiny.case_runs[case_study.BEFORE].usd_per_hr == pytest.approx(before.usd_per_hr, rel=1e-3)
    saved = tiny.prices[case_study.AFTER]
    assert all(later >= earlier - 6e-3 for earlier, later in pairwise(saved))


def test_the_pages_take_every_part(tiny: Study, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for page in (PAGE, TABLES):
        shutil.copy(DOCS / page, tmp_path / page)
    write(tiny, tmp_path)
    text = (tmp_path / PAGE).read_text()
    for section in tiny.summary():
        assert f"### {section.title}" in text
    assert "### Every fleet, $/h" in (tmp_path / TABLES).read_text()
    assert {path.name for path in (tmp_path / "images" / "planning").iterdir()} == {"fleets.png", "prices.png"}
    console = Console(record=True, width=200)
    print_sections(tiny.summary(), console)
    assert "Gains of the plan" in console.export_text()
    assert json.loads(json.dumps(tiny.record()))["paper"]


def test_the_inputs_are_whole() -> None:
    shipped = load_scenario(paper.SCENARIO, needs_pools=False)
    for shares in paper.MIXES.values():
        assert len(shares) == len(shipped.classes)
        assert sum(shares) == pytest.approx(1.0)
    for mix, shares in paper.MIXES.items():
        assert paper.shares_of(mix) == shares
        assert paper.shares_of(mix + paper.REVERSED) == tuple(reversed(shares))
    assert all(len(stock) == len(paper.GPUS) for stock in paper.STOCK.values())
    assert shipped.planning is not None
    assert dict(zip(paper.GPUS, paper.STOCK["1"], strict=True)) == shipped.planning.stock
    assert set(melange.PUBLISHED) == {
        (k, t) for k in (melange.CHAT, melange.DOCUMENTS, melange.BLEND) for t in melange.TPOT_S
    }


def test_the_page_is_written_at_full_scale_only() -> None:
    command = [sys.executable, "-m", "poolpilot.benchmarks.heterogeneous", "--write", "--scale", "tiny"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "full scale" in done.stderr
