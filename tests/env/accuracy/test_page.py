"""The page and its plots: the same report gives the same bytes, and nothing that was scored is missing."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from poolpilot.env.accuracy.page import IMAGES, page
from poolpilot.env.accuracy.plots import draw
from poolpilot.env.accuracy.points import ITERATION, POWER, QUANTITIES, THROUGHPUT, TPOT
from poolpilot.env.accuracy.protocols import PROTOCOLS, Scored
from poolpilot.env.accuracy.report import LogScore, Report
from poolpilot.env.accuracy.request_logs import fit_to_first_half, log_errors, measured, replayed, second_half
from poolpilot.tests.env.accuracy.test_request_logs import LAW, a_log

DOCS = Path(__file__).resolve().parents[3] / "docs"


def a_report() -> Report:
    rng = np.random.default_rng(0)
    scored = [
        Scored(protocol, quantity, gpu, "some/model", "vllm", "lab", 1.0, float(factor))
        for protocol in PROTOCOLS
        for quantity in (ITERATION, TPOT, THROUGHPUT, POWER)
        for gpu in ("H100-SXM-80GB", "L4-24GB")
        for factor in rng.uniform(0.8, 1.3, 7)
    ]
    log = a_log(30)
    correction = fit_to_first_half(log, LAW)
    errors = log_errors(log, LAW, second_half(log))
    logged = LogScore(
        log, measured(log), replayed(log, correction.apply(LAW)), correction, errors, errors,
        log_errors(log, LAW, second_half(log), correction),
    )  # fmt: skip
    return Report(
        scored=scored,
        logs=[logged],
        left_out={"prefill and decode on separate workers": 7, "no tpot_ms": 2},
        serving_rows=100,
        power_left_out={"another engine than vLLM": 3},
        power_rows=10,
        measured_gpus=frozenset({"H100-SXM-80GB"}),
        stand_ins={"H100-SXM-80GB": "A100-SXM-80GB", "L4-24GB": "L40S-48GB"},
    )


def cells(text: str, first: str) -> list[str]:
    """The first table row that begins with this cell."""
    (row, *_) = re.findall(rf"^\| {re.escape(first)} \|(.*)\|$", text, re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


def test_tables_say_median_p90_bias_and_count_of_both_columns() -> None:
    text = page(a_report())
    for quantity in QUANTITIES:
        of = cells(text, f"**{quantity}**")
        assert len(of) == 8
        assert (of[3], of[7]) == ("7", "14")  # zero-shot on the measured GPU; everything from its data sheet
        assert all(re.fullmatch(r"\d+\.\d %", of[i]) for i in (0, 1, 4, 5))
        assert all(re.fullmatch(r"[+-]\d+\.\d %", of[i]) for i in (2, 6))


def test_every_row_left_out_is_counted_by_reason() -> None:
    text = page(a_report())
    assert "Of 100 rows of measured serving 9 are not scored" in text
    assert cells(text, "prefill and decode on separate workers") == ["7"]
    assert cells(text, "another engine than vLLM") == ["3"]


def test_a_group_that_was_never_scored_is_a_dash_not_a_zero() -> None:
    report = a_report()
    few = replace(report, scored=[s for s in report.scored if s.protocol != "few-shot"])
    assert cells(page(few).split("## Few-shot")[1], "**power**") == ["-", "-", "-", "0"]


def test_page_and_plots_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    report = a_report()
    assert page(report) == page(a_report())
    first, second = draw(report, tmp_path / "a"), draw(a_report(), tmp_path / "b")
    assert [p.name for p in first] == ["zero_shot.png", "errors.png", "requests.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.read_bytes().startswith(b"\x89PNG")
    linked = set(re.findall(rf"\({IMAGES}/(\w+\.png)\)", page(report)))
    assert linked == {p.name for p in first}


@pytest.mark.parametrize("name", ["zero_shot.png", "errors.png", "requests.png"])
def test_the_published_page_has_its_plots(name: str) -> None:
    assert (DOCS / IMAGES / name).stat().st_size > 10_000
    assert f"({IMAGES}/{name})" in (DOCS / "accuracy.md").read_text(encoding="utf-8")


def test_the_published_page_says_everything() -> None:
    text = (DOCS / "accuracy.md").read_text(encoding="utf-8")
    for quantity in QUANTITIES:
        assert int(cells(text, f"**{quantity}**")[7]) > 50
    for heading in (
        "Zero-shot",
        "Few-shot",
        "Beside what rivals publish",
        "What is bad",
        "Rows left out",
        "How to read",
    ):
        assert f"\n## {heading}" in text
