"""An audit from end to end, from logs whose truth is known: it matches where it may, and promises nothing where it does
not."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from poolpilot.audit.as_it_was import as_it_was, price_of, scenario_of, unguarded, usual_shares
from poolpilot.audit.auditing import Audit, audit
from poolpilot.audit.curves import timeline_of
from poolpilot.audit.document import document_of
from poolpilot.audit.findings import findings, saves
from poolpilot.audit.headline import headlines
from poolpilot.audit.instead import PLAN, Asked
from poolpilot.audit.page import page_of
from poolpilot.audit.request_log import read_request_log
from poolpilot.audit.request_rows import AskedLog
from poolpilot.audit.wording import figure_name, figure_value
from poolpilot.dashboard.report.shell import unpacked
from poolpilot.training.evaluation.bootstrap import Interval
from poolpilot.training.matching import Verdict

from .fleets import as_csv, described, served_by_one

RULE = "threshold"
ASKED = Asked((RULE,), "steady-hand", 2)


@cache
def audited(folder: Path, slowness: float, count: int) -> Audit:
    log = as_csv(served_by_one(slowness), folder / "log.csv")
    fleet = described(folder, count=count)
    return audit(fleet, read_request_log(AskedLog(log, {}, {}), fleet), ASKED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audits")


def test_a_log_of_the_same_engines_matches_and_its_bill_is_replicas_times_price(folder: Path) -> None:
    found = audited(folder, 1.0, 1)
    assert found.match.verdict is Verdict.GOOD, found.match.reasons
    assert found.spent.total_usd == pytest.approx(1.8 * found.measured.duration_s / 3600.0)
    assert found.compared is not None
    (bill,) = (own for own in found.match.figures if own.figure == "bill_usd")
    assert abs(bill.error) < 0.02


def test_idle_replicas_are_found_and_what_to_do_about_them(folder: Path) -> None:
    found = audited(folder, 1.0, 4)
    assert found.compared is not None
    best = found.compared.best
    assert best.holds
    assert saves(best)
    assert best.usd.mean < 0.6 * found.spent.total_usd
    assert found.findings[0].words.startswith("let shrink l40s")
    assert found.findings[0].usd == pytest.approx(found.spent.total_usd - best.usd.mean, rel=1e-6)
    assert {option.kind for option in found.compared.others} == {"plan", "rule", "checkpoint"}


@pytest.mark.parametrize(
    ("ratio", "shortfall", "said"),
    [(1.2, 0.0, "no policy tried is cheaper beyond doubt"), (0.8, 0.05, "no policy tried holds every target")],
    ids=["dearer", "misses targets"],
)
def test_a_fleet_that_is_best_left_alone_is_told_so_and_nothing_else_of_its_pools(
    folder: Path, ratio: float, shortfall: float, said: str
) -> None:
    found = audited(folder, 1.0, 4)
    assert found.compared is not None
    best = replace(
        found.compared.best,
        ratio=Interval(ratio, ratio, ratio),
        shortfall=shortfall,
        usd_by_pool={"l40s": ratio * found.spent.total_usd},
    )
    told = findings(found.measured, found.spent, replace(found.compared, best=best), found.match)
    assert told[0].words.startswith(f"leave the fleet as it is: {said}")
    assert not any(one.usd for one in told)


def test_slower_engines_than_described_are_noticed_and_nothing_is_promised(folder: Path) -> None:
    found = audited(folder, 2.0, 1)
    assert found.match.verdict is Verdict.BAD
    assert found.compared is None
    document = document_of(found)
    assert document["instead"] is None
    words = " ".join(headlines(document))
    assert "does not match" in words
    assert "would have spent" not in words.replace("what other policies would have spent", "")
    assert any("poolpilot profile" in own["do"] for own in document["first"])
    assert document["spent"]["usd"] > 0


def test_the_fleets_own_steps_cost_what_they_did_and_others_are_paired_with_them(folder: Path) -> None:
    found = audited(folder, 1.0, 4)
    assert found.compared is not None
    own = found.compared.own
    assert (own.ratio.mean, own.ratio.low, own.ratio.high) == (1.0, 1.0, 1.0)
    assert own.usd.mean == pytest.approx(found.spent.total_usd)
    assert own.mean_replicas == {"l40s": pytest.approx(4.0)}
    for option in found.compared.others:
        assert sum(option.usd_by_layer.values()) == pytest.approx(option.usd.mean)
        assert sum(option.usd_by_pool.values()) == pytest.approx(option.usd.mean)
        assert option.usd.low <= option.usd.mean <= option.usd.high
    assert found.compared.best.name in {PLAN, RULE, "steady-hand"}


def test_the_document_is_json_and_its_parts_add_up(folder: Path) -> None:
    document = document_of(audited(folder, 1.0, 4))
    json.dumps(document, allow_nan=False)
    spent = document["spent"]
    for part in ("usd_by_layer", "usd_by_pool", "usd_by_class"):
        assert sum(spent[part].values()) == pytest.approx(spent["usd"])
    assert sum(spent["usd_idle_by_part"].values()) == pytest.approx(spent["idle_usd"])
    # A log does not tell how replicas spent their time.
    assert spent["layers_from_replay"] == ["idle", "compute", "software"]
    assert document["assumptions"]


def test_the_page_has_a_figure_for_phones_and_values_with_units(folder: Path) -> None:
    found = audited(folder, 1.0, 4)
    html = page_of(document_of(found), timeline_of(found), found.measured.began_at_s)
    held = unpacked(html)
    beside, above = (held[of]["differences"]["layout"] for of in ("figures", "narrow"))
    assert beside["yaxis2"]["domain"] == beside["yaxis"]["domain"]
    assert above["yaxis2"]["domain"][1] < above["yaxis"]["domain"][0]
    assert "TTFT p95" in html
    assert "ttft p95" not in html
    assert '<div class="scroll" tabindex="0"><table>' not in html, "a region that scrolls has a name"
    assert "`" not in html.split("<main>")[1].split("</main>")[0]


@pytest.mark.parametrize(
    ("figure", "value", "name", "shown"),
    [
        ("ttft_p95_s", 0.3447, "TTFT p95", "345 ms"),
        ("e2e_mean_s", 12.82, "end-to-end time mean", "12.8 s"),
        ("tpot_met", 0.9961, "TPOT within its target", "99.61 %"),
        ("bill_usd", 2.411, "bill ($)", "2.41"),
        ("requests", 2396.0, "requests", "2396"),
        ("queue", None, "queue", "-"),
    ],
)
def test_figures_of_the_match_are_in_words_and_units(figure: str, value: float | None, name: str, shown: str) -> None:
    assert (figure_name(figure), figure_value(figure, value)) == (name, shown)


def test_what_was_is_asked_for_early_enough_to_serve_when_it_did(tmp_path: Path) -> None:
    text = """\
schema: 1
model: llama-2-13b
pools:
  a: {gpu: L40S-48GB, precision: fp8, price: {usd_per_hr: 2, series: {steps: [[0, 2], [450, 4]]}}, moves: [[0, 1], [300, 3]], cold_start: {provision_s: 20, load_s: 30}}
  b: {gpu: H100-SXM-80GB, price: 5, count: 1}
classes:
  chat: {target: {ttft_s: 2, tpot_s: 0.1}}
"""
    fleet = described(tmp_path, text)
    measured = read_request_log(AskedLog(as_csv(served_by_one(), tmp_path / "log.csv"), {}, {}, until_s=900.0), fleet)
    scenario = scenario_of(fleet, measured)
    assert [pool.replicas.max for pool in scenario.pools.values()] == [3, 1]
    shares = usual_shares(scenario, measured)
    assert shares.sum(axis=-1) == pytest.approx(np.ones(shares.shape[:2]))
    late, early = shares[-1, 0], shares[0, 0]
    assert late[0] > early[0]  # three replicas carry more than one
    prices = price_of(scenario, measured)
    assert prices[0].tolist() == [2.0, 5.0]
    assert prices[-1].tolist() == pytest.approx([4.0, 5.0])
    free = unguarded(scenario)
    policy = as_it_was(free, measured)(free.cluster())
    asked = policy.replicas[:, 0]  # type: ignore[attr-defined]
    assert asked[:25].tolist() == [1.0] * 25
    assert asked[25:].tolist() == [3.0] * 65
