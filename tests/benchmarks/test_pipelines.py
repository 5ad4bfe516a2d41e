"""The study of pipelines: one case of each kind, briefly."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from poolpilot.agents.planner.layouts.chains import Group
from poolpilot.agents.planner.layouts.partition import Place
from poolpilot.benchmarks import pipelines
from poolpilot.benchmarks.pipelines import Case, Result, by_memory, record, result_of, sections
from poolpilot.benchmarks.report import marks

SECONDS = 300.0


@pytest.fixture(scope="module")
def faster() -> Result:
    return result_of(Case("fits", "llama-2-13b", "fp16", (Group("A100-40gb"), Group("L4"))), SECONDS)


@pytest.fixture(scope="module")
def larger() -> Result:
    return result_of(Case("does not", "llama-3.1-70b", "int4", (Group("A100"), Group("V100"))), SECONDS)


def test_the_planned_split_finishes_more_than_the_even_one_and_the_one_by_memory(faster: Result) -> None:
    assert faster.planned.requests_per_s > faster.by_memory.requests_per_s > faster.even.requests_per_s > 0


def test_a_split_that_does_not_fit_says_where(larger: Result) -> None:
    assert not larger.even.fits
    assert "V100-SXM-16GB" in larger.even.why_not
    assert larger.planned.fits
    assert larger.planned.requests_per_s > 0


def test_all_rows_are_on_the_page_and_in_the_record(faster: Result, larger: Result) -> None:
    for section in sections([faster, larger]):
        assert len(section.rows) == 2
        assert all(len(row) == len(section.head) for row in section.rows)
    cells = sections([larger])[0].rows[0]
    assert "does not fit" in cells
    assert [one["case"]["name"] for one in record([faster, larger])] == ["fits", "does not"]
    page = pipelines.PAGE.read_text(encoding="utf-8")
    assert all(mark in page for mark in marks("splits"))
    assert all(model in page for model in {case.model for case in pipelines.CASES})


def test_by_memory_gives_each_stage_layers_in_proportion_and_all_of_them() -> None:
    assert by_memory([Place("A100-40gb"), Place("L4"), Place("T4")], 40) == (20, 12, 8)
    assert by_memory([Place("L4")] * 3, 40) == (14, 13, 13)
    assert sum(by_memory([Place("H200"), Place("T4"), Place("T4", 2)], 32)) == 32


def test_too_short_a_run_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(pipelines.main, ["--seconds", "10"])
    assert result.exit_code == 2
