"""`poolpilot simulate`, `train`, `control` and `demo`: they teach, answer in one document, refuse in one line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

from poolpilot.cli import main
from poolpilot.env.scenario import shipped_scenarios

TINY = """\
schema: 1
name: tiny
summary: A small model on two pools.
duration_s: 60
tick_s: 10
model: qwen2.5-0.5b
pools:
  dear:
    gpu: H100-SXM-80GB
    precision: bf16
    price: {usd_per_hr: 6.88}
    replicas: {min: 0, max: 1, start: 0}
  cheap:
    gpu: L40S-48GB
    precision: bf16
    price: {usd_per_hr: 1.861}
    replicas: {min: 1, max: 2, start: 1}
classes:
  chat:
    target: {ttft_s: 2.0, tpot_s: 0.08, attainment: 0.9}
workload:
  kind: generated
  classes:
    chat:
      rate_per_s: 2.0
      prompt_tokens: {kind: lognormal, median: 200, sigma: 0.5, max: 1000}
      output_tokens: {kind: lognormal, median: 100, sigma: 0.4, max: 300}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def document(result: Result) -> Any:
    """Stdout as the one JSON document that it must be."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(result: Result, *words: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr that has all the words."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("simulate", ["--scenario", "--policy", "plan-tracking", "--seed", "--json", "docs/tuning.md"]),
        ("evaluate", ["--scenario", "--reference", "--seeds", "bootstrap", "paired", "--json"]),
        (
            "train",
            [
                "--scenario",
                "random",
                "--steps",
                "--imitate",
                "hindsight",
                "--resume",
                "best",
                "price of a miss",
                "extra `train`",
            ],
        ),
        ("control", ["--scenario", "--mode", "advise", "--folder", "takes over", "--speed-up", "drains"]),
        ("demo", ["No GPU needed", "--trace", "--speed-up", "--store", "--json", "Parquet"]),
    ],
)
def test_help_teaches(command: str, words: Sequence[str]) -> None:
    result = ran(command, "--help")
    assert result.exit_code == 0
    flat = " ".join(result.stdout.split())
    assert [word for word in words if word not in flat] == []


def test_simulate_prints_one_document(tiny: str) -> None:
    got = document(ran("simulate", "--scenario", tiny, "--policy", "plan-tracking", "--seed", "3", "--json"))
    assert (got["scenario"], got["seed"], got["duration_s"]) == ("tiny", 3, 60.0)
    (run,) = got["policies"]
    assert run["policy"] == "plan-tracking"
    assert run["requests"]["finished"] > 50
    assert run["usd_per_hr"] > 0
    assert 0.0 <= run["attainment_chat"] <= 1.0
    assert run["power_basis"] == {"dear": "fitted", "cheap": "tdp"}


def test_simulate_tells_what_idle_was_for_and_who_decided_it(tiny: str) -> None:
    got = document(ran("simulate", "--scenario", tiny, "--policy", "threshold", "--duration", "300", "--json"))
    (run,) = got["policies"]
    parts = {part: run[f"usd_idle_{part}"] for part in ("cold_start", "waiting", "drain", "asleep")}
    assert sum(parts.values()) == pytest.approx(run["usd_idle"], rel=1e-9)
    layers = sum(run[f"usd_{layer}"] for layer in ("compute", "software", "idle", "energy", "network"))
    assert layers == pytest.approx(run["usd_per_hr"] * 300 / 3600, rel=1e-9)
    by_decision = sum(cost["usd"] for cost in run["scaling"])
    assert by_decision == pytest.approx(run["usd_idle"] - parts["waiting"], rel=1e-9, abs=1e-12)
    assert {cost["pool"] for cost in run["scaling"]} <= {"dear", "cheap"}
    assert run["energy_kwh"] > 0
    assert run["usd_energy"] == run["usd_cooling"] == 0.0  # somebody else pays for power
    dearest = [decision["usd"] for decision in run["dearest_decisions"]]
    assert dearest == sorted(dearest, reverse=True)


def test_simulate_says_what_became_of_the_machines() -> None:
    # A rule that uses every zone: what is not used is not taken.
    chosen = ("--scenario", "spot-zones", "--policy", "spot-fallback", "--duration", "2400", "--json")
    got = document(ran("simulate", *chosen))
    fleet = got["policies"][0]["fleet"]
    assert set(fleet) == set(got["starts"]) == {"a100-east", "a100-west", "l40s"}
    assert fleet["a100-east"]["preempted"] + fleet["a100-west"]["preempted"] > 0
    assert fleet["a100-east"]["refused"] + fleet["a100-west"]["refused"] > 0
    assert fleet["l40s"]["asleep_hr"] > 0
    assert fleet["l40s"]["woken"] > 0
    assert got["starts"]["l40s"]["load_source"].startswith("measured: ")
    assert got["starts"]["l40s"]["provision_source"].startswith("given: ")


def test_a_series_that_cannot_be_read_is_refused_in_one_line(tiny: str, tmp_path: Path) -> None:
    spot = "price: {usd_per_hr: 1.861, kind: spot}\n    spot: {availability: {path: zone.csv}}"
    Path(tiny).write_text(TINY.replace("price: {usd_per_hr: 1.861}", spot))
    where = "pools.cheap.spot.availability"
    refused(ran("simulate", "--scenario", tiny, "--policy", "plan-tracking"), where, "zone.csv", "No such file")
    refused(ran("scenarios", tiny), where, "zone.csv")
    (tmp_path / "zone.csv").write_text("t_s,nodes_available\n0,2\n30,x\n")
    refused(ran("simulate", "--scenario", tiny, "--policy", "plan-tracking"), where, "row 2", "'x'", "whole number")


def test_the_same_seed_prints_the_same_document(tiny: str) -> None:
    arguments = ("simulate", "--scenario", tiny, "--policy", "plan-tracking", "--json")
    assert ran(*arguments).stdout == ran(*arguments).stdout


def test_simulate_prints_a_table_for_people(tiny: str) -> None:
    result = ran("simulate", "--scenario", tiny, "--policy", "plan-tracking", "--duration", "20")
    assert result.exit_code == 0, result.output
    for word in (
        "plan-tracking",
        "$/h",
        "TTFT p95",
        "chat met",
        "Wanted: chat 90 %",
        "waiting",
        "cooling",
        "Machines",
        "sold out",
    ):
        assert word in result.stdout


def test_train_prints_one_document(tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    few = ("--steps", "32", "--clusters", "2", "--steps-per-update", "16", "--bank", "8")
    small = (*few, "--evaluate-seeds", "1", "--evaluate-on", tiny)
    got = document(ran("train", "--scenario", tiny, "--out", str(out), *small, "--json"))
    assert set(got) == {"out", "best", "steps", "miss_price", "headroom", "frontier", "monotone", "history"}
    assert got["miss_price"] in [point["miss_price"] for point in got["frontier"]]
    assert Path(got["best"], "card.json").is_file()
    refused(ran("train", "--scenario", tiny, "--out", str(out), *small), str(out), "--resume")
    refused(ran("train", "--scenario", tiny, "--out", str(out), *small, "--seed", "3", "--resume"), "seed was 0, now 3")
    fresh = ("train", "--scenario", tiny, "--out", str(tmp_path / "other"))
    refused(ran(*fresh, "--imitate", "2"), "--imitate 2", "4 worlds or more")
    refused(ran(*fresh, "--acting", "free", "--imitate", "8"), "--acting free")
    refused(ran(*fresh, "--rules", "threshold,plan-tracking"), "2 of them, wanted 4")
    refused(ran(*fresh, "--rules", "wisdom,threshold,threshold,threshold"), "wisdom")
    refused(ran(*fresh, "--evaluate-suite", "no-such"), "no-such", "train")
    assert not (tmp_path / "other").exists(), "a refused run leaves nothing behind"


NEEDS: dict[str, Sequence[str]] = {
    "simulate": (),
    "evaluate": (),
    "train": ("--out", "run"),
    "control": ("--folder", "run"),
    "demo": (),
}


@pytest.mark.parametrize("command", NEEDS)
def test_a_bad_scenario_is_refused_by_file_field_and_what_would_be_right(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.yaml"
    path.write_text(TINY.replace("rate_per_s: 2.0", "rate_per_s: -2.0"))
    refused(ran(command, "--scenario", str(path), *NEEDS[command]), "bad.yaml", "rate_per_s", "greater than")
    path.write_text(TINY.replace("gpu: L40S-48GB", "gpu: L40Z"))
    refused(ran(command, "--scenario", str(path), *NEEDS[command]), "bad.yaml", "pools.cheap", "L40Z", "L40S-48GB")
    path.write_text(TINY.replace("tick_s: 10", "tick_s: 10\ntock_s: 3"))
    refused(ran(command, "--scenario", str(path), *NEEDS[command]), "bad.yaml", "tock_s")
    path.write_text("{")
    refused(ran(command, "--scenario", str(path), *NEEDS[command]), "bad.yaml")
    refused(ran(command, "--scenario", "no-such", *NEEDS[command]), "no-such", *sorted(shipped_scenarios())[:1])


@pytest.mark.parametrize("command", [*NEEDS, "emulate"])
def test_a_scenario_whose_pools_are_not_chosen_yet_is_refused_with_what_chooses_them(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = yaml.safe_load(TINY)
    del document["pools"]
    Path("to-plan.yaml").write_text(yaml.safe_dump({**document, "planning": {}}))
    needs = NEEDS.get(command, ("--pool", "cheap"))
    said = "run `poolpilot plan --scenario to-plan.yaml --write FILE` first"
    refused(ran(command, "--scenario", "to-plan.yaml", *needs), "to-plan.yaml: has no pools yet", said)


@pytest.mark.parametrize("command", ["simulate", "evaluate", "control", "demo"])
def test_an_unknown_policy_is_refused(command: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = ("--store", "redis://127.0.0.1:1") if command in ("control", "demo") else ()
    refused(ran(command, "--scenario", tiny, "--policy", "wisdom", *NEEDS[command], *store), "wisdom")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("control", "--policy", "static-round-robin", "--setting", "1,two"), ("--setting 1,two", "numbers")),
        (("control", "--policy", "static-round-robin"), ("static-round-robin", "replica count")),
        (("control", "--policy", "plan-tracking", "--setting", "1"), ("plan-tracking", "knobs by name: headroom")),
        (("control", "--setting", "headroom=1.2,nerve=2"), ("no knob 'nerve'", "backlog_drain_s")),
        (("control", "--setting", "headroom=a lot"), ("headroom=a lot", "name=number")),
        (("control", "--store", "mailto:me"), ("store URL", "redis://")),
        (("control", "--store", "redis://127.0.0.1:1"), ("redis://127.0.0.1:1", "is the server up")),
    ],
    ids=[
        "words for numbers",
        "no counts",
        "by place",
        "unknown knob",
        "no number",
        "no store's URL",
        "a store that is gone",
    ],
)
def test_control_refuses_before_it_starts_anything(
    arguments: Sequence[str], words: Sequence[str], tiny: str, tmp_path: Path
) -> None:
    result = ran(*arguments, "--scenario", tiny, "--folder", str(tmp_path / "run"))
    refused(result, *words)
    assert not (tmp_path / "run" / "roster.json").exists()


def test_the_demo_does_not_mix_its_figures_with_an_earlier_runs(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "plan-tracking").mkdir()
    result = ran("demo", "--scenario", tiny, "--policy", "plan-tracking", "--keep", str(tmp_path))
    assert result.exit_code == 2
    assert result.stdout == ""
    said = "".join(result.stderr.splitlines()[-1:])
    assert f"{tmp_path}/plan-tracking holds an earlier run" in said


def a_parquet(path: Path) -> None:
    pq.write_table(pa.table({"when": [1, 2]}), path)


def cut_off(path: Path) -> None:
    a_parquet(path)
    path.write_bytes(path.read_bytes()[:20])


BROKEN = {
    "words.csv": lambda path: path.write_text("hello\n"),
    "empty.csv": lambda path: path.write_text(""),
    "negative.csv": lambda path: path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,-3,44\n"
    ),
    "columns.parquet": a_parquet,
    "cut-off.parquet": cut_off,
    "at-once.csv": lambda path: path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "2023-11-16 18:15:46.6805900,3,44\n" * 3
    ),
    "missing.parquet": lambda path: None,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trace_is_refused_by_name(name: str, tiny: str, tmp_path: Path) -> None:
    BROKEN[name](tmp_path / name)
    refused(ran("demo", "--scenario", tiny, "--trace", str(tmp_path / name)), name)
