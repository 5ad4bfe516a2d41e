"""`poolpilot evaluate`: one document, files that can be gone on with, a card that says what was found, refusals in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

import poolpilot
from poolpilot.agents.checkpoint import load_checkpoint
from poolpilot.cli import main
from poolpilot.dashboard.report.shell import unpacked

TINY = yaml.safe_load("""\
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
""")
SHIPPED = Path(poolpilot.__file__).parent / "checkpoints" / "steady-hand"


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return str(path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the shipped one, to be written to."""
    folder = tmp_path / "learned"
    shutil.copytree(SHIPPED, folder)
    return folder


def ran(*arguments: str, workers: str | None = "1") -> Result:
    return CliRunner().invoke(main, ["evaluate", *arguments, *(["--workers", workers] if workers else [])])


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    said = " ".join(result.stderr.split())
    for word in words:
        assert word in said
    assert "Traceback" not in said


def test_one_document_is_printed_and_kept(tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    chosen = ("--policies", "plan-tracking,static-round-robin", "--seeds", "2")
    got = document(ran("--scenario", tiny, *chosen, "--out", str(out), "--json"))
    assert got["reference"] == "plan-tracking"
    (suite,) = got["suites"].values()
    assert [own["policy"] for own in suite["as_shipped"]["policies"]] == ["plan-tracking", "static-round-robin"]
    assert [(row["policy"], row["seed"]) for row in got["rows"]] == [
        ("plan-tracking", 0),
        ("plan-tracking", 1),
        ("static-round-robin", 0),
        ("static-round-robin", 1),
    ]
    for row in got["rows"]:  # nobody undercuts the bound
        assert 0.0 < row["bound_usd_per_hr"] <= row["usd_per_hr"] * (1.0 + 1e-9)
        assert row["above_bound_frac"] == pytest.approx(row["usd_per_hr"] / row["bound_usd_per_hr"] - 1.0)
    kept = json.loads((out / "summary.json").read_text())
    assert kept == {key: got[key] for key in kept}
    assert pq.read_table(out / "rows.parquet").num_rows == 4
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest == got["manifest"]
    assert manifest["command"] == f"poolpilot evaluate --scenario {tiny} --policies {chosen[1]} --seeds 2"
    held = unpacked((out / "report.html").read_text())
    assert held["data"]["timelines"] == [["scenarios", "tiny", 0, policy] for policy in chosen[1].split(",")]
    assert len(held["data"]["runs"]) == 4
    # The report alone is made again from what is kept, the same.
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "report.html").unlink()
    again = ran("--out", str(out), "--report", workers=None)
    assert again.exit_code == 0, again.output
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    # Another run is added tick by tick; rows are not run again.
    more = ran("--scenario", tiny, *chosen, "--out", str(out), "--timeline", "tiny:1")
    assert more.exit_code == 0, more.output
    held = unpacked((out / "report.html").read_text())
    assert [run[2] for run in held["data"]["timelines"]] == [0, 0, 1, 1]
    assert (out / "rows.parquet").read_bytes() == before["rows.parquet"]


def test_a_sweep_is_told_at_equal_attainment_and_gone_on_with(tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    chosen = ("--scenario", tiny, "--policy", "plan-tracking", "--headroom", "0.5,1", "--seeds", "2", "--refine", "1")
    first = ran(*chosen, "--out", str(out))
    assert first.exit_code == 0, first.output
    for words in (
        "scenarios: as shipped",
        "cost at 99 % attainment",
        "cost at 95 % attainment",
        "tiny: classes",
        "p50 / p95 / p99",
    ):
        assert words in first.stdout
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = ran(*chosen, "--out", str(out))
    assert again.stdout == first.stdout
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    refused(ran(*chosen, "--no-bound", "--out", str(out)), str(out), "bound: True there, False now", "another --out")


def test_a_suite_of_ones_own_runs_and_says_what_it_skipped(tiny: str, tmp_path: Path) -> None:
    traced = {**TINY, "name": "traced", "workload": {"kind": "trace", "format": "azure", "path": "day.csv"}}
    (tmp_path / "traced.yaml").write_text(yaml.safe_dump(traced))
    entries = [{"path": "tiny.yaml"}, {"path": "traced.yaml", "needs": "data"}]
    suite = {"schema": 1, "name": "mine", "summary": "Two of my own.", "scenarios": entries}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(suite))
    chosen = ("--policies", "threshold", "--seeds", "2", "--headroom", "1", "--data", str(tmp_path))
    result = ran("--suite", str(path), *chosen)
    assert result.exit_code == 0, result.output
    assert "mine: as shipped" in result.stdout
    assert f"mine: traced was skipped: no day.csv in the data folder {tmp_path}" in " ".join(result.stdout.split())
    got = document(ran("--suite", str(path), *chosen, "--json"))
    assert got["suites"]["mine"]["scenarios"] == ["tiny"]
    assert list(got["manifest"]["suites"]["mine"]["skipped"]) == ["traced"]
    path.write_text(yaml.safe_dump({**suite, "scenarios": entries[1:]}))
    refused(ran("--suite", str(path), *chosen), "no scenario is left to evaluate on: traced: no day.csv")
    beside = ran("--scenario", tiny, "--suite", str(path), *chosen)
    assert "mine: traced was skipped: no day.csv" in " ".join(beside.stdout.split()), "a suite never vanishes"
    refused(ran("--suite", str(path), "--suite", str(path), *chosen), "a suite called mine is there already")


def test_a_card_keeps_both_readings_and_what_they_were_made_from(tiny: str, checkpoint: Path) -> None:
    chosen = ("--policies", f"plan-tracking,{checkpoint}", "--headroom", "0.7,1", "--seeds", "2", "--refine", "0")
    before = load_checkpoint(checkpoint)
    result = ran("--scenario", tiny, *chosen, "--onto-card", str(checkpoint))
    assert result.exit_code == 0, result.output
    after = load_checkpoint(checkpoint)
    assert after.policy_hash == before.policy_hash
    kept = after.card["evaluation"]
    assert kept["reference"] == "plan-tracking"
    reading = kept["readings"]["scenarios"]
    assert {own["policy"] for own in reading["as_shipped"]["policies"]} == {"plan-tracking", "steady-hand"}
    assert [at["level"] for at in reading["equal_attainment"]] == [0.99, 0.95]
    origin = kept["origin"]
    assert origin["seeds"] == 2
    assert origin["command"].startswith("poolpilot evaluate --scenario")
    assert len(origin["suites"]["scenarios"]["scenarios"]["tiny"]) == 16
    assert origin["policies"]["steady-hand"]["files"] == before.card["files"]
    assert origin["code"]
    assert {key: value for key, value in after.card.items() if key != "evaluation"} == {
        key: value for key, value in before.card.items() if key != "evaluation"
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("neither --suite nor --scenario",)),
        (("--suite", "no-such"), ("no-such",)),
        (
            ("--scenario", "TINY", "--policy", "threshold", "--reference", "plan-tracking"),
            ("--reference plan-tracking",),
        ),
        (("--scenario", "TINY", "--policies", "threshold,,x"), ("--policies threshold,,x", "single commas")),
        (("--scenario", "TINY", "--policies", "wisdom"), ("wisdom", "no card.json there")),
        (("--scenario", "TINY", "--headroom", "1,x"), ("--headroom 1,x", "numbers above 0")),
        (("--scenario", "TINY", "--headroom", "0,1"), ("--headroom 0,1", "numbers above 0")),
        (("--scenario", "TINY", "--scenario", "TINY"), ("a scenario called tiny is there already",)),
        (
            ("--scenario", "TINY", "--policies", "steady-hand,SHIPPED"),
            ("calls itself steady-hand", "as steady-hand does"),
        ),
        (("--scenario", "TINY", "--timeline", "tiny"), ("--timeline", "wanted --out too")),
        (("--scenario", "TINY", "--timeline", "other:0", "--out", "OUT"), ("no scenario other", "there are tiny")),
        (("--scenario", "TINY", "--seeds", "2", "--timeline", "tiny:2", "--out", "OUT"), ("seed 2, wanted 0 to 1",)),
        (("--report",), ("--report: wanted --out too",)),
        (("--report", "--out", "OUT", "--scenario", "TINY"), ("--report with --scenario", "it runs nothing")),
        (("--scenario", "TINY", "--policy", "held-plan"), ("tiny has no classes.chat.shares", "poolpilot plan")),
    ],
    ids=[
        "nothing to evaluate on",
        "no suite",
        "a reference that does not take part",
        "empty names",
        "no policy",
        "no number",
        "no head-room at all",
        "twice the same",
        "two of one name",
        "a timeline to keep nowhere",
        "a timeline of what is not run",
        "a timeline of a seed that is not run",
        "a report of nothing",
        "a report and a run",
        "a policy that does not fit",
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    arguments: tuple[str, ...], words: tuple[str, ...], tiny: str, tmp_path: Path
) -> None:
    given = {"TINY": tiny, "OUT": str(tmp_path / "out"), "steady-hand,SHIPPED": f"steady-hand,{SHIPPED}"}
    workers = None if "--report" in arguments else "1"
    refused(ran(*(given.get(word, word) for word in arguments), workers=workers), *words)


def test_a_folder_without_a_finished_run_makes_no_report(tmp_path: Path) -> None:
    refused(ran("--out", str(tmp_path), "--report", workers=None), "holds no manifest.json", "finished")
    for name in ("manifest.json", "rows.parquet", "summary.json"):
        (tmp_path / name).write_text("[]")
    refused(ran("--out", str(tmp_path), "--report", workers=None), "manifest.json", "document of format 1")
