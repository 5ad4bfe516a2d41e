"""A suite file is read whole, or refused in one line; what its data folder lacks is left out with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.scenario import ScenarioError
from poolpilot.env.sim.world import world_from_scenario
from poolpilot.tests.training.clusters import TINY, tiny
from poolpilot.training import held_out
from poolpilot.training.suites import SuiteError, load_suite, shipped_suites
from poolpilot.training.suites.suite import SHIPPED

HEAD = "schema: 1\nname: mine\nsummary: Mine.\nscenarios:\n"
TRACED = TINY.replace("kind: generated\n  classes:", "kind: trace\n  path: own/trace.csv\n  assign: [{class: chat}]\n#")


def a_suite(folder: Path, entries: str, head: str = HEAD) -> Path:
    path = folder / "mine.yaml"
    path.write_text(head + entries)
    return path


def traced(folder: Path) -> Path:
    """A scenario whose requests lie in a file."""
    path = folder / "traced.yaml"
    path.write_text(TINY[: TINY.index("workload:")] + TRACED[TRACED.index("workload:") :].split("#")[0])
    return path


def test_a_suite_names_scenarios_by_path_by_name_and_by_seed(tmp_path: Path) -> None:
    tiny(tmp_path)
    entries = "- path: tiny.yaml\n- scenario: spot-storm\n- random: {seed: 3, difficulty: 0.2}\n- {path: tiny.yaml, name: again}\n"
    suite = load_suite(a_suite(tmp_path, entries))
    assert (suite.name, suite.summary, suite.skipped) == ("mine", "Mine.", ())
    assert [scenario.name for scenario in suite.scenarios] == ["tiny", "spot-storm", "random-3", "again"]


def test_data_that_is_not_here_is_skipped_with_a_reason(tmp_path: Path) -> None:
    traced(tmp_path)
    path = a_suite(tmp_path, "- {path: traced.yaml, needs: data}\n- random: {seed: 3}\n")
    nowhere, empty = tmp_path / "nowhere", tmp_path / "empty"
    empty.mkdir()
    without, lacking = load_suite(path, nowhere), load_suite(path, empty)
    assert [scenario.name for scenario in without.scenarios] == ["random-3"]
    assert without.skipped[0].name == "traced"
    assert without.skipped[0].why.startswith(f"no data folder at {nowhere}")
    assert lacking.skipped[0].why == f"no own/trace.csv in the data folder {empty}"


def test_data_is_read_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced(tmp_path)
    data = tmp_path / "data"
    (data / "own").mkdir(parents=True)
    (data / "own" / "trace.csv").write_text("arrival_s,input_tokens,output_tokens\n0,10,10\n1,10,10\n")
    path = a_suite(tmp_path, "- {path: traced.yaml, needs: data}\n")
    monkeypatch.setenv("POOLPILOT_DATA", str(data))
    for suite in (load_suite(path), load_suite(path, data)):
        assert suite.scenarios[0].base_dir == data
        assert not suite.skipped


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ("- {}\n", "scenarios.0: wanted one of path, scenario and random, got none"),
        (
            "- {path: a.yaml, scenario: b}\n",
            "scenarios.0: wanted one of path, scenario and random, got path and scenario",
        ),
        ("- path: a.yaml\n", "scenarios.0.path: 'a.yaml': no such file"),
        (f"- path: {'x' * 300}\n", "no such file"),
        ('- path: "a\\0b"\n', "no such file"),
        ("- scenario: nothing\n", "scenarios.0.scenario: 'nothing': wanted one of cheap-gpus"),
        ("- random: {seed: -1}\n", "scenarios.0.random.seed: -1: Input should be greater than or equal to 0"),
        ("- random: {seed: 1, difficulty: 2}\n", "scenarios.0.random.difficulty: 2: Input should be less than"),
        ("- {random: {seed: 1}, needs: data}\n", "scenarios.0: needs: only with a path"),
        ("- random: {seed: 1}\n- random: {seed: 1}\n", "scenarios.1: 'random-1' is in the suite already"),
        ("- {random: {seed: 1}, of: 3}\n", "scenarios.0.of: 3: Extra inputs are not permitted"),
        ("[\n", "not readable as YAML"),
        ("", "scenarios: None: Input should be a valid tuple"),
    ],
)
def test_a_bad_suite_is_refused_in_one_line(tmp_path: Path, entries: str, said: str) -> None:
    path = a_suite(tmp_path, entries)
    with pytest.raises(SuiteError) as refused:
        load_suite(path)
    line = str(refused.value)
    assert line.startswith(f"{path}: ")
    assert said in line
    assert "\n" not in line


def test_an_unknown_suite_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SuiteError, match=r"no such file and no shipped suite; shipped are .*train"):
        load_suite("nothing")


def test_a_trace_that_is_not_beside_its_scenario_is_said(tmp_path: Path) -> None:
    traced(tmp_path)
    with pytest.raises(ScenarioError, match=r"traced.yaml: own/trace.csv: no such file; with `needs: data`"):
        load_suite(a_suite(tmp_path, "- path: traced.yaml\n"))


@pytest.mark.parametrize("name", shipped_suites())
def test_a_shipped_suite_is_read_without_any_data(name: str, tmp_path: Path) -> None:
    suite = load_suite(name, tmp_path / "nowhere")
    assert suite.name == name
    names = [scenario.name for scenario in suite.scenarios] + [skipped.name for skipped in suite.skipped]
    assert len(set(names)) == len(names) >= 1
    assert {scenario.tick_s for scenario in suite.scenarios} <= {10.0}


def test_what_unseen_asks_is_held_out_of_training() -> None:
    for scenario in load_suite("unseen").scenarios:
        assert {scenario.pool_model(name).name for name in scenario.pools} <= held_out.MODELS
        assert held_out.CLASSES & set(scenario.classes)
        for name, pool in scenario.pools.items():
            trained_price = pool.price.source.split()[0].lower() in {"aws", "gcp", "azure"}
            assert gpu(pool.gpu).name in held_out.GPUS or not trained_price, name
        assert 3400.0 <= scenario.duration_s <= 3600.0


def test_unseen_has_small_and_large_clusters_and_starts_of_half_a_minute_to_five() -> None:
    starts = [s.cold_start(name).mean_s for s in load_suite("unseen").scenarios for name in s.pools]
    assert (min(starts), max(starts)) == (30.0, 300.0)
    names = " ".join(s.name for s in load_suite("unseen").scenarios)
    assert all(size in names for size in ("-5", "-20", "-100"))


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["traces", "spot"])
def test_with_data_no_scenario_is_left_out_and_each_has_requests(name: str, shared_data: Path) -> None:
    suite = load_suite(name, shared_data)
    assert not suite.skipped
    for scenario in suite.scenarios:
        world = world_from_scenario(scenario, 5)
        assert 5_000 <= len(world.workload) <= 400_000
        assert (np.bincount(world.workload.class_index, minlength=len(scenario.classes)) > 0).all()


def test_a_suites_scenario_says_in_its_first_line_why_it_exists() -> None:
    for path in sorted((SHIPPED / "scenarios").glob("*.yaml")):
        first = path.read_text().splitlines()[0]
        assert first.startswith("# "), path.name
        assert len(first) <= 160, path.name
        used = [suite.stem for suite in shipped_suites().values() if f"scenarios/{path.name}" in suite.read_text()]
        assert used, f"{path.name} is in no suite"


def test_the_training_suite_is_of_random_clusters_that_training_never_meets() -> None:
    suite = load_suite("train")
    assert len(suite.scenarios) == 12
    assert all(scenario.name.startswith("random-") for scenario in suite.scenarios)
