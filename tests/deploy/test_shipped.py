"""Rules and dashboard read what the sidecar shows, and Prometheus's own tools find no fault with either."""

import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from poolpilot.telemetry.exporter import SidecarMetrics

from ..telemetry.samples import CLUSTER
from ..telemetry.test_exporter import DECISION, PRICES, STATS, WELL, whole_snapshot
from .shipped import DEPLOY, RULES, alerts, dashboard, panel_queries, series_named, tool

ROOT = DEPLOY.parent
PAGE = ROOT / "docs" / "monitoring.md"


def full_page() -> bytes:
    """Of a sidecar that knows everything."""
    metrics = SidecarMetrics(CLUSTER, tick_wall_s=5.0)
    metrics.show_snapshot(whole_snapshot())
    metrics.show_decision(DECISION)
    metrics.add_tick(0.1, ended_at_s=1.8e9)
    metrics.sources.show(WELL, PRICES, {"l4": STATS}, 0)
    return metrics.page()


FAMILIES = list(text_string_to_metric_families(full_page().decode()))
SHOWN = {sample.name for family in FAMILIES for sample in family.samples}


@pytest.mark.parametrize("query", [rule["expr"] for rule in alerts()], ids=[rule["alert"] for rule in alerts()])
def test_an_alert_reads_what_is_shown(query: str) -> None:
    assert series_named(query) <= SHOWN
    assert series_named(query) or "up{" in query


@pytest.mark.parametrize(("title", "query"), list(panel_queries()))
def test_a_panel_reads_what_is_shown(title: str, query: str) -> None:
    assert series_named(query)
    assert series_named(query) <= SHOWN
    assert "$" not in query


def test_every_alert_says_how_bad_it_is_what_happened_and_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_every_alert_has_its_row_in_the_documentation_and_a_test_of_promtool() -> None:
    names = [rule["alert"] for rule in alerts()]
    table = PAGE.read_text(encoding="utf-8").split("\n## Alerts\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == names
    tests = (DEPLOY / "prometheus" / "poolpilot.test.yml").read_text(encoding="utf-8")
    assert [name for name in names if f'ALERTS{{alertname="{name}", alertstate="firing", job' not in tests] == []


def test_every_metric_has_its_row_in_the_documentation() -> None:
    page = PAGE.read_text(encoding="utf-8").split("\n## Metrics\n")[1].split("\n## ")[0]
    told = set(re.findall(r"^\| `(poolpilot_\w+)", page, re.MULTILINE))
    counters = {family.name + "_total" if family.type == "counter" else family.name for family in FAMILIES}
    # `..._created` tells since when a counter counts; OpenMetrics has it for each of them.
    own = {name for name in counters if name.startswith("poolpilot_") and not name.endswith("_created")}
    assert told == own


def test_panels_do_not_lie_on_each_other_and_have_ids_of_their_own() -> None:
    panels = dashboard()["panels"]
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in (
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ):
            assert taken.setdefault(cell, panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in panels}) == len(panels)


def run_promtool(*words: str | Path, stdin: bytes | None = None) -> str:
    done = subprocess.run([tool("promtool"), *map(str, words)], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return (done.stdout + done.stderr).decode()


def test_promtool_finds_no_fault_with_the_rules_nor_with_the_configuration() -> None:
    assert f"{len(list(alerts()))} rules found" in run_promtool("check", "rules", RULES)
    assert "SUCCESS" in run_promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_alerts_fire_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in run_promtool("test", "rules", DEPLOY / "prometheus" / "poolpilot.test.yml")


def test_promtool_finds_no_fault_with_the_metrics_page() -> None:
    assert run_promtool("check", "metrics", stdin=full_page()) == ""
