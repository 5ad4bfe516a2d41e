"""Evaluations are reproducible to the bit however they are spread, go on where they were cut off, and refuse to be mixed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

import poolpilot
from poolpilot.agents.portfolio import HELD_PLAN, PLAN_TRACKING, THRESHOLD, SettingError
from poolpilot.agents.rules import Knobs
from poolpilot.env.scenario import Scenario, parse_scenario
from poolpilot.training.evaluation.code import ROOT, code_hash, imported_from
from poolpilot.training.evaluation.entrants import EntrantError, listed, listed_all
from poolpilot.training.evaluation.jobs import Job, Plan, jobs_of
from poolpilot.training.evaluation.manifest import difference, manifest_of
from poolpilot.training.evaluation.rows import SCHEMA, Row, RowsError, read_rows, rows_of, table_of, write_rows
from poolpilot.training.evaluation.run_folder import JOURNAL, MANIFEST, ROWS, RunFolder, RunFolderError
from poolpilot.training.evaluation.running import run_evaluation
from poolpilot.training.evaluation.workers import Queue, WorkerDied
from poolpilot.training.tuning.search import knobs_for

from ..clusters import TINY
from .planted import a_row


def a_scenario(name: str, rate_per_s: float = 4.0) -> Scenario:
    document = yaml.safe_load(TINY)
    document["name"] = name
    document["workload"]["classes"]["chat"]["rate_per_s"] = rate_per_s
    return parse_scenario(document, Path(name))


SCENARIOS = {("suite", "calm"): a_scenario("calm"), ("suite", "busy"): a_scenario("busy", 9.0)}
POLICIES = [THRESHOLD, PLAN_TRACKING]
PLAN = Plan(SCENARIOS, {own.name: own for own in listed_all(POLICIES)}, seeds=2)
HEADROOMS = (0.8, 1.0)
JOBS = jobs_of(PLAN, HEADROOMS)


def a_manifest(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "scenarios": SCENARIOS,
        "skipped": {},
        "policies": listed_all(POLICIES),
        "headrooms": HEADROOMS,
        "refine": 1,
        "seeds": 2,
        "tuned": False,
        "bound": True,
        "command": "poolpilot evaluate ...",
    }
    return manifest_of(**{**given, **changes})


@pytest.fixture(scope="module")
def alone() -> list[Row]:
    """What one process makes of it."""
    return run_evaluation(PLAN, JOBS, refine=1)


def test_one_worker_or_three_make_the_same_bytes(alone: list[Row], tmp_path: Path) -> None:
    spread = run_evaluation(PLAN, JOBS, refine=1, workers=3)
    assert spread == alone
    write_rows(tmp_path / "alone", alone)
    write_rows(tmp_path / "spread", spread)
    assert (tmp_path / "alone").read_bytes() == (tmp_path / "spread").read_bytes()
    assert len(alone) > len(JOBS) * PLAN.seeds, "a sweep was carried on"
    assert read_rows(tmp_path / "alone") == alone


def test_rows_say_what_came_of_each_run(alone: list[Row]) -> None:
    first = alone[0]
    assert list(first) == SCHEMA.names
    assert (first["suite"], first["scenario"], first["policy"], first["kind"]) == ("suite", "calm", THRESHOLD, "rule")
    assert first["knobs"]
    for row in alone:
        assert 0.0 < row["bound_usd_per_hr"] <= row["usd_per_hr"] * (1.0 + 1e-9)
        assert sum(own["met"] for own in row["classes"]) == row["met"]
    worlds = {(row["scenario"], row["seed"]): row["world"] for row in alone}
    assert len(set(worlds.values())) == 4
    assert all(row["world"] == worlds[row["scenario"], row["seed"]] for row in alone)


class CutOff(Exception):
    """The machine went down."""


def test_a_run_that_was_cut_off_goes_on_where_it_was(alone: list[Row], tmp_path: Path) -> None:
    ran: list[Job] = []

    def cut(done: int, known: int, last: Job | None) -> None:
        if done == 5:
            raise CutOff

    with pytest.raises(CutOff):
        run_evaluation(PLAN, JOBS, 1, 1, RunFolder(tmp_path, a_manifest()), cut)
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write('[{"suite": "suite", "scen')  # the sixth was being written

    def count(done: int, known: int, last: Job | None) -> None:
        if last:
            ran.append(last)

    rows = run_evaluation(PLAN, JOBS, 1, 1, RunFolder(tmp_path, a_manifest()), count)
    assert rows == alone
    assert len(ran) == len({(r["scenario"], r["policy"], r["headroom"]) for r in alone}) - 5
    assert read_rows(tmp_path / ROWS) == alone
    assert not (tmp_path / JOURNAL).exists()
    ran.clear()
    assert run_evaluation(PLAN, JOBS, 1, 1, RunFolder(tmp_path, a_manifest()), count) == alone
    assert not ran


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"seeds": 3}, "seeds: 2 there, 3 now"),
        ({"headrooms": (0.7, 1.0)}, r"headrooms: \[0.8, 1.0\] there, \[0.7, 1.0\] now"),
        ({"bound": False}, "bound: True there, False now"),
        ({"policies": listed_all([THRESHOLD])}, "policies: plan-tracking: .* there, none now"),
        ({"scenarios": {("suite", "calm"): a_scenario("calm", 5.0)}}, "suites: suite: scenarios: busy: "),
    ],
    ids=["seeds", "head-rooms", "bound", "policies", "scenarios"],
)
def test_rows_of_other_arguments_are_never_mixed_in(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    RunFolder(tmp_path, a_manifest())
    with pytest.raises(RunFolderError, match=problem) as caught:
        RunFolder(tmp_path, a_manifest(**change))
    assert "\n" not in str(caught.value)
    RunFolder(tmp_path, a_manifest(command="another way to say it"))


def test_other_code_makes_other_rows_and_other_words_do_not(tmp_path: Path) -> None:
    files = {
        "__init__.py": "",
        "training/__init__.py": "",
        "training/runs.py": "from ..env.world import law",
        "training/learns.py": "x = 1",
        "env/__init__.py": "",
        "env/world/__init__.py": "from . import law",
        "env/world/law.py": "def of():\n    from ...agents import rule",
        "agents/rule.py": "import math",
        "env/perf/factors.json": "{}",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = code_hash(tmp_path, "training/runs.py")
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
        hangs_on_it = name != "training/learns.py"
        assert (code_hash(tmp_path, "training/runs.py") != before) == hangs_on_it, name
        (tmp_path / name).write_text(text)
    assert difference({**a_manifest(), "code": "old"}, a_manifest()).startswith("code: old there, ")


def test_the_simulator_the_rules_and_the_bound_are_code_that_rows_hang_on() -> None:
    package = Path(poolpilot.__file__).resolve().parent
    found = {path.relative_to(package).as_posix() for path in imported_from(package, package / ROOT)}
    for name in ("env/sim/advance.py", "agents/opponents/threshold.py", "agents/learned.py", "agents/bound/work.py"):
        assert name in found
    for name in ("training/ppo.py", "training/evaluation/summary.py", "commands/evaluate.py", "env/emulator/server.py"):
        assert name not in found


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (ROWS, "no parquet", "has rows but no manifest.json"),
        (MANIFEST, "{", "not readable as JSON"),
        (MANIFEST, "[]", "wanted a JSON object"),
    ],
    ids=["rows of unknown origin", "a manifest that is cut short", "no manifest"],
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, name: str, text: str, problem: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RunFolderError, match=problem):
        RunFolder(tmp_path, a_manifest())


def test_spoilt_rows_are_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path, a_manifest())
    (tmp_path / JOURNAL).write_text("5\n")
    with pytest.raises(RunFolderError, match="line 1 is no job's rows"):
        RunFolder(tmp_path, a_manifest())
    (tmp_path / JOURNAL).unlink()
    (tmp_path / ROWS).write_text("no parquet")
    with pytest.raises(RowsError, match="not readable as Parquet"):
        RunFolder(tmp_path, a_manifest())
    import pyarrow.parquet as pq

    pq.write_table(table_of([a_row("rule", 0, 1.0)]).drop(["lost"]), tmp_path / ROWS)
    with pytest.raises(RowsError, match="columns lost differ"):
        RunFolder(tmp_path, a_manifest())


def test_rows_keep_every_bit_on_their_way_through_files(tmp_path: Path) -> None:
    row = a_row("rule", 3, 0.1 + 0.2, 1.0 / 3.0, usd_per_1000_met=None, knobs={"b": 1.0 / 3.0, "a": 2.0})
    (typed,) = rows_of(table_of([row]))
    assert typed == row
    assert list(typed["knobs"]) == ["b", "a"]
    assert rows_of(table_of([json.loads(json.dumps(row))])) == [typed]
    write_rows(tmp_path / "rows", [row])
    assert read_rows(tmp_path / "rows") == [typed]


def _killing(every_s: float, stop: threading.Event, most: int) -> threading.Thread:
    """Kills workers, one after another, until told to stop."""

    def kill() -> None:
        killed = 0
        while killed < most and not stop.wait(every_s):
            for process in multiprocessing.active_children():
                if process.pid is not None and process.is_alive():
                    os.kill(process.pid, signal.SIGKILL)
                    killed += 1
                    break

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_a_worker_that_dies_once_is_replaced(alone: list[Row]) -> None:
    stop = threading.Event()
    thread = _killing(0.5, stop, most=1)
    rows = run_evaluation(PLAN, JOBS, refine=1, workers=2)
    stop.set()
    thread.join()
    assert rows == alone


def test_a_job_whose_worker_dies_again_is_named(tmp_path: Path) -> None:
    stop = threading.Event()
    thread = _killing(0.05, stop, most=1000)
    try:
        with pytest.raises(WorkerDied, match=r"at head-room .* of suite suite: its process died, twice") as caught:
            run_evaluation(PLAN, JOBS, refine=1, workers=2)
    finally:
        stop.set()
        thread.join()
    assert "\n" not in str(caught.value)


def test_an_error_in_a_worker_says_in_which_job() -> None:
    unfit = Plan(SCENARIOS, {own.name: own for own in listed_all([HELD_PLAN])}, seeds=2)
    job = Job("suite", "calm", HELD_PLAN, 1.0)
    for workers in (1, 2):
        with pytest.raises(SettingError, match=r"calm has no classes\.chat\.shares") as caught:
            run_evaluation(unfit, [job], workers=workers)
        assert f"while running {job}" in caught.value.__notes__


def test_workers_stay_with_the_days_that_they_have_drawn() -> None:
    jobs = [Job("suite", scenario, "rule", h) for scenario in ("a", "b", "c") for h in (1.0, 2.0, 3.0)]
    queue = Queue(jobs)
    one, other = queue.next(None), queue.next(None)
    assert (one, other) == (jobs[0], jobs[3])
    assert queue.next(one) == jobs[1]
    assert queue.next(one) == jobs[2]
    third = queue.next(one)
    assert third == jobs[6], "a scenario that nobody has begun comes first"
    assert queue.next(other) == jobs[4]
    queue.add([Job("suite", "b", "rule", 9.0)])
    assert [queue.next(third) for _ in range(2)] == [jobs[7], jobs[8]]
    assert queue.next(third) == jobs[5], "then the one with most left"
    assert queue.next(third) == Job("suite", "b", "rule", 9.0)
    assert queue.next(third) is None


def test_rules_may_be_tuned_on_other_days_of_each_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []

    def few_trials(rule: str, scenario: Scenario) -> Knobs:
        searched.append(f"{rule} on {scenario.name}")
        return knobs_for(rule, scenario, trials=2)

    monkeypatch.setattr("poolpilot.training.tuning.search.knobs_for", few_trials)
    plan = Plan(SCENARIOS, {own.name: own for own in listed_all([THRESHOLD, HELD_PLAN])}, seeds=2, tuned=True)
    jobs = [job for job in jobs_of(plan, HEADROOMS) if job.policy == THRESHOLD]
    rows = run_evaluation(plan, jobs)
    assert searched == ["threshold on calm", "threshold on busy"], "once a scenario, whatever the head-room"
    expected = {name: knobs_for(THRESHOLD, scenario, trials=2) for (_, name), scenario in SCENARIOS.items()}
    for row in rows:
        if row["headroom"] == 1.0:
            assert row["knobs"] == pytest.approx(dict(expected[row["scenario"]]))


def test_two_policies_of_one_name_are_refused() -> None:
    with pytest.raises(EntrantError, match="calls itself threshold, as threshold does"):
        listed_all([THRESHOLD, THRESHOLD])
    with pytest.raises(ValueError, match="no-such"):
        listed("no-such")
