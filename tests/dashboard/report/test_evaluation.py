"""The evaluation's report: all that the issue of an evaluation is, in one page, and all text from data as text."""

from __future__ import annotations

import json

import pytest

from poolpilot.dashboard.figures.attainment_rows import BOUND
from poolpilot.dashboard.report.evaluation import (
    LEAST_POINTS,
    MOST_RUNS,
    MOST_VALUES,
    RecordedRun,
    evaluation_report,
    run_link,
)
from poolpilot.dashboard.report.headlines import featured, headlines
from poolpilot.dashboard.report.shell import unpacked
from poolpilot.tests.dashboard.figures.rows import EVIL, a_timeline
from poolpilot.training.evaluation.summary import summary_of

from .planted_report import EVIL_NOTE, EVIL_SCENARIO, POLICIES, SUITES, manifest, planted_report, rows


@pytest.fixture(scope="module")
def html() -> str:
    return planted_report()


def test_every_suite_and_scenario_has_its_figures(html: str) -> None:
    figures = unpacked(html)["figures"]
    wanted = {
        f"{what}\n{suite}\n{s}" for what in ("frontier", "bill") for suite in SUITES for s in ("", *SUITES[suite])
    }
    readings = ("as shipped", "at 99 % attainment")  # at 95 % nothing is known: every setting holds it
    wanted |= {f"differences\n{suite}\n{reading}" for suite in SUITES for reading in readings}
    wanted |= {f"timeline\nfirst\nquiet day\n1\n{policy}" for policy in POLICIES}
    assert set(figures) == wanted
    assert all(figure["data"] for figure in figures.values())
    assert [t["name"] for t in figures["frontier\nfirst\n"]["data"]] == ["rule", BOUND, "agent", "peak"]
    assert set(unpacked(html)["narrow"]) == {key for key in wanted if key.startswith("differences")}


def test_a_point_leads_to_its_runs_and_they_are_all_there(html: str) -> None:
    held = unpacked(html)
    (own,) = (t for t in held["figures"]["frontier\nsecond\nslow/start & stop"]["data"] if t["name"] == "agent")
    assert [point[2] for point in own["customdata"]] == [
        run_link("second", "slow/start & stop", "agent", h) for h in (0.7, 0.85, 1.0, 1.2, 1.5)
    ]
    assert run_link("second", "slow/start & stop", "agent", 0.7) == "#runs/second/slow%2Fstart%20%26%20stop/agent/0.7"
    data = held["data"]
    assert len(data["runs"]) == len(rows()) == 3 * 3 * 5 * 3
    names, run = data["names"], data["runs"][0]
    assert [names[c][run[i]] for i, c in enumerate(("suite", "scenario", "policy"))] == ["first", "quiet day", "rule"]


def test_text_from_data_is_text_wherever_it_stands(html: str) -> None:
    for evil in (EVIL, EVIL_SCENARIO, EVIL_NOTE):
        assert evil not in html
    assert "&lt;img src=x onerror=alert(2)&gt;" in html
    assert "&lt;/script&gt;&lt;b&gt;note&lt;/b&gt;" in html
    shown = json.dumps([(f["layout"], f["data"]) for f in unpacked(html)["figures"].values()])
    assert "<script" not in shown
    assert "<img" not in shown


def test_what_it_was_made_from_and_what_was_left_out_are_told(html: str) -> None:
    for words in (
        "code c0de",
        "commit unknown",
        "highspy none",
        "Seeds 0 to 2",
        "abababababab",
        "left out was skipped",
    ):
        assert words in html, words


def test_without_a_recorded_run_it_says_how_to_have_one() -> None:
    html = planted_report([])
    assert "--timeline SCENARIO:SEED" in html
    assert not any(key.startswith("timeline") for key in unpacked(html)["figures"])


def test_long_runs_are_thinned_until_the_page_can_carry_them() -> None:
    day = a_timeline(ticks=2000, pools=tuple(f"pool {i}" for i in range(12)))
    html = planted_report([RecordedRun("first", "quiet day", 0, f"policy {i}", day) for i in range(12)])
    assert len(html.encode()) < 5_000_000
    lines = [
        len(trace["y"])
        for key, figure in unpacked(html)["figures"].items()
        if key.startswith("timeline")
        for trace in figure["data"]
    ]
    assert LEAST_POINTS <= max(lines) < 2000
    assert sum(lines) <= MOST_VALUES
    assert "a point each" in html


def test_of_too_many_runs_those_as_shipped_are_listed() -> None:
    every = rows()
    many = [{**row, "seed": 1000 * i + row["seed"]} for i in range(MOST_RUNS // len(every) + 1) for row in every]
    html = evaluation_report(manifest(), summary_of(every, "rule"), many)
    assert len(html.encode()) < 5_000_000
    listed = unpacked(html)["data"]["runs"]
    assert {run[3] for run in listed} == {1.0}
    assert len(listed) == len(many) // 5, "one of five head-rooms"


def test_the_glance_is_at_the_checkpoint_and_says_what_to_beware_of() -> None:
    summary = summary_of(rows(), "rule")
    assert featured(summary, "first") == "agent"
    cards = headlines(summary, "first")
    bill = next(card for card in cards if card.name == "Bill against rule")
    assert bill.value.startswith("-9.9")
    assert bill.unit == "%"
    assert "[" in bill.more
    assert not any(card.warn for card in cards)
    bad = [{**row, "classes": [{**row["classes"][0], "met": 90_000}]} for row in rows()]
    assert [card.name for card in headlines(summary_of(bad, "rule"), "first") if card.warn] == ["Attainment short by"]
    alone = [row for row in rows() if row["policy"] == "rule"]
    assert headlines(summary_of(alone, "rule"), "first")[0].name == "Bill"


def test_the_same_evaluation_has_the_same_bytes(html: str) -> None:
    assert planted_report() == html
