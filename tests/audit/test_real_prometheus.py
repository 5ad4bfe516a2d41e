"""The audit against a real Prometheus that scraped emulated pools behind a real Envoy, whose true bill is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from poolpilot.cli import main

from ..browser.chromium import OpenTab
from .fleet import DESCRIPTION, SCRAPE_S, SPEED_UP, Run, scraped_run

pytestmark = pytest.mark.e2e


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """One run of the fleet."""
    (tmp_path / "fleet").mkdir()
    with scraped_run(tmp_path / "fleet") as found:
        yield found


def test_an_audit_of_a_real_fleet(run: Run, tmp_path: Path, open_tab: OpenTab) -> None:
    """One test of all that follows: the workers of a parallel run would each run the fleet."""
    out = tmp_path / "out"
    answer = asked(run, run.description, "--out", str(out), "--json")
    assert answer.exit_code == 0, answer.output
    audited = (json.loads(answer.stdout), out)
    its_bill_is_within_three_percent_of_the_ledgers(run, audited)
    load_and_latencies_are_those_of_the_clients(run, audited)
    the_replay_matches_and_others_are_compared_with_it(audited)
    what_is_kept_goes_on_as_a_scenario(audited)
    another_gpu_than_described_is_noticed_and_nothing_is_promised(run, tmp_path)
    a_select_that_finds_nothing_says_what_there_is(run, tmp_path)
    the_page_opens_offline_and_tells_the_same(audited, open_tab)


def asked(run: Run, description: Path, *more: str) -> Result:
    """`poolpilot audit` of the time between the two bills."""
    arguments = ["audit", "--prometheus", run.url, "--pools", str(description), "--speed-up", f"{SPEED_UP:g}"]
    arguments += ["--from", repr(run.before.at_s), "--until", repr(run.after.at_s), "--step", f"{SCRAPE_S}s"]
    arguments += ["--rules", "threshold", "--seeds", "2", *more]
    # In a thread of its own: an open tab holds this one's event loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(CliRunner().invoke, main, arguments).result()


def its_bill_is_within_three_percent_of_the_ledgers(run: Run, audited: tuple[dict[str, Any], Path]) -> None:
    document, _ = audited
    # Whole stretches of steps are read: the first steps may be left out.
    span_s = (run.after.at_s - run.before.at_s) * SPEED_UP
    true_usd_per_hr = sum(run.usd.values()) * 3600.0 / span_s
    assert document["duration_s"] > 0.95 * span_s - SCRAPE_S * SPEED_UP
    assert document["spent"]["usd_per_hr"] == pytest.approx(true_usd_per_hr, rel=0.03)
    for pool, usd in run.usd.items():
        assert document["spent"]["usd_by_pool"][pool] * 3600.0 / document["duration_s"] == pytest.approx(
            usd * 3600.0 / span_s, rel=0.08
        )


def load_and_latencies_are_those_of_the_clients(run: Run, audited: tuple[dict[str, Any], Path]) -> None:
    document, _ = audited
    served = [record for record in run.clients if record.outcome == "served"]
    assert document["requests"] == pytest.approx(len(run.clients), rel=0.03)
    chat = document["classes"]["chat"]
    assert chat["requests"] == pytest.approx(len(served), rel=0.03)
    assert chat["attainment_between"][1] >= 0.97
    assert document["known_frac"] > 0.95


def the_replay_matches_and_others_are_compared_with_it(audited: tuple[dict[str, Any], Path]) -> None:
    document, _ = audited
    assert document["match"]["verdict"] in ("good", "rough"), document["match"]["reasons"]
    errors = {own["figure"]: abs(own["error"]) for own in document["match"]["figures"]}
    assert errors["bill_usd"] < 0.05
    assert errors["requests"] < 0.03
    assert errors["tpot_mean_s"] < 0.15
    assert document["instead"]["best"] in {option["name"] for option in document["instead"]["options"]}
    assert document["instead"]["saves_usd_per_hr"]["mean"] > 0
    # Emulated engines count how long they were busy, and how much of it was useful.
    assert document["spent"]["layers_from_replay"] == []
    assert 0.3 < document["spent"]["idle_usd"] / document["spent"]["usd"] < 0.99


def what_is_kept_goes_on_as_a_scenario(audited: tuple[dict[str, Any], Path]) -> None:
    document, out = audited
    assert json.loads((out / "audit.json").read_text()) == document
    answer = CliRunner().invoke(
        main, ["simulate", "--scenario", str(out / "scenario.yaml"), "--policy", "threshold", "--json"]
    )
    assert answer.exit_code == 0, answer.output
    (policy,) = json.loads(answer.stdout)["policies"]
    assert policy["requests"]["finished"] == pytest.approx(document["requests"], rel=0.05)


def the_page_opens_offline_and_tells_the_same(audited: tuple[dict[str, Any], Path], open_tab: OpenTab) -> None:
    document, out = audited
    assert (out / "audit.html").stat().st_size < 5_000_000
    for view in ("laptop", "phone"):
        tab = open_tab(view=view)
        tab.page.goto((out / "audit.html").as_uri())
        for figure in ("bill", "pools", "differences", "timeline") if view == "laptop" else ("bill",):
            tab.page.locator(f"[data-figure={figure}]").scroll_into_view_if_needed()
            tab.page.wait_for_selector(f"[data-figure={figure}] .main-svg")
        for name in ("In short", "What to do first", "Where the money went", "The same load under others", "How sure"):
            assert tab.page.get_by_role("heading", name=name).is_visible()
        assert f"${document['spent']['usd_per_hr']:,.2f}/h" in tab.page.locator("#answer").inner_text()
        assert not tab.overflows()
        tab.screenshot(f"audit/{view}")


def another_gpu_than_described_is_noticed_and_nothing_is_promised(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "pools.yaml"
    text = DESCRIPTION.replace("gpu: L40S-48GB", "gpu: L4-24GB").replace("gpu: H100-SXM-80GB", "gpu: L4-24GB")
    wrong.write_text(text)
    answer = asked(run, wrong, "--json")
    assert answer.exit_code == 3, answer.output
    document = json.loads(answer.stdout)
    assert document["match"]["verdict"] == "bad"
    assert document["instead"] is None
    assert document["spent"]["usd"] > 0
    assert any("gpu" in own["do"] for own in document["first"])
    told = asked(run, wrong)
    assert told.exit_code == 3
    assert "would have spent $" not in told.stdout


def a_select_that_finds_nothing_says_what_there_is(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "pools.yaml"
    wrong.write_text(DESCRIPTION.replace("select: {pool: cheap}", "select: {pool: chaep}"))
    answer = asked(run, wrong)
    assert answer.exit_code == 2
    assert "pool='cheap'" in answer.output
    assert len(answer.output.strip().splitlines()[-1]) < 1000
