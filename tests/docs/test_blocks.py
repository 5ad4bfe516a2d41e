"""Code in the documents is code that works: commands that exist, files that validate, Python that runs."""

import importlib.util
import json
import re
import runpy
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from poolpilot.agents.checkpoint import shipped_checkpoints
from poolpilot.agents.portfolio import HELD_PLAN, INTEGRAL, RULES
from poolpilot.audit.description import Description
from poolpilot.env.scenario import Scenario, shipped_scenarios
from poolpilot.training.contenders import MARKS
from poolpilot.training.static_peak import STATIC_PEAK
from poolpilot.training.suites.suite import SuiteFile, shipped_suites

from .command_lines import commands, complaint
from .pages import ROOT, Block, blocks, code_in_text, pages

SHELL = ("", "bash", "console")
FOREIGN = {"triggers": "KEDA", "scrape_configs": "Prometheus", "groups": "Prometheus", "apiVersion": "Kubernetes"}
"""Top-level keys of YAML that is read by others."""
PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))


def lines_of(page: Path) -> list[tuple[Block, list[str], bool]]:
    """Commands of a page: where they stand, their words, and whether they stand in a block, so that they are whole."""
    found = [
        (block, words, True) for block in blocks(page) if block.language in SHELL for words in commands(block.text)
    ]
    for code in code_in_text(page):
        if "..." not in code.text and "…" not in code.text:
            found += [(code, words, False) for words in commands(code.text)]
    return [(block, words, whole) for block, words, whole in found if words]


@PAGES
def test_blocks_say_what_language_they_are_of(page: Path) -> None:
    known = {*SHELL, "text", "python", "yaml", "json", "sql"}
    assert {block.where: block.language for block in blocks(page) if block.language not in known} == {}


@PAGES
def test_commands_are_those_of_the_command_line(page: Path) -> None:
    wrong = {}
    for block, words, whole in lines_of(page):
        if words[0] == "poolpilot" and (problem := complaint(words[1:], whole=whole)) is not None:
            wrong[f"{block.where}: {' '.join(words)}"] = problem
    assert not wrong


@PAGES
def test_what_make_and_python_are_asked_for_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = []
    for block, words, whole in lines_of(page):
        if words[0] == "make":
            wrong += [
                f"{block.where}: make {word}"
                for word in words[1:]
                if re.fullmatch("[a-z-]+", word) and word not in targets
            ]
        if whole and words[:2] == ["python", "-m"] and words[2].startswith("poolpilot"):
            wrong += [] if importlib.util.find_spec(words[2]) else [f"{block.where}: {words[2]}"]
    assert not wrong


def known_policies() -> set[str]:
    rules = {*RULES, *(f"{rule}{INTEGRAL}" for rule in RULES)}
    return {*rules, STATIC_PEAK, HELD_PLAN, *MARKS, *shipped_checkpoints(), "random"}


@PAGES
def test_names_given_to_commands_are_of_things_that_come_along(page: Path) -> None:
    known = {
        "--scenario": {*shipped_scenarios(to_plan=True), "random"},
        "--suite": set(shipped_suites()),
        "--policy": known_policies(),
        "--policies": known_policies(),
    }
    wrong = []
    for block, words, _ in lines_of(page):
        if words[0] != "poolpilot":
            continue
        for option, value in pairwise(words):
            names = value.split(",") if option == "--policies" else [value]
            named = [name for name in names if re.fullmatch(r"[a-z][a-z0-9+-]*", name)]  # no file, no placeholder
            wrong += [f"{block.where}: {option} {name}" for name in named if name not in known.get(option, {name})]
    assert not wrong


def faults_of(error: ValidationError) -> list[str]:
    """Of a part of a file: what is wrong in it. That other parts are missing is not."""
    wrong = [fault for fault in error.errors() if "Field required" not in fault["msg"]]
    return [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in wrong]


def check_yaml(text: str) -> list[str]:
    """What is wrong with a scenario, a suite, a fleet to audit, or a part of a scenario; nothing with what others read."""
    shortened = re.search(r",\s*\.\.\.", text)  # of which the rest cannot be told
    document = yaml.safe_load(re.sub(r",\s*\.\.\.", "", text))
    if not isinstance(document, dict):
        return ["no mapping"]
    if shortened or set(document) & set(FOREIGN):
        return []
    model: type[Any] = SuiteFile if "scenarios" in document else Scenario if "name" in document else Description
    try:
        if "schema" in document:
            model.model_validate(document)
            return []
        return _faults_of_parts(document)
    except ValidationError as error:
        return [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]


def _faults_of_parts(document: Mapping[str, Any]) -> list[str]:
    wrong = []
    for key, value in document.items():
        field = Scenario.model_fields.get(key)
        if field is None:
            wrong.append(f"{key}: no field of a scenario")
            continue
        try:
            TypeAdapter(field.rebuild_annotation()).validate_python(value)
        except ValidationError as error:
            wrong += [f"{key}.{fault}" for fault in faults_of(error)]
    return wrong


def check_json(text: str) -> list[str]:
    json.loads(text)
    return []


@PAGES
@pytest.mark.parametrize(("language", "check"), [("yaml", check_yaml), ("json", check_json)], ids=["yaml", "json"])
def test_files_in_the_documents_validate(page: Path, language: str, check: Callable[[str], list[str]]) -> None:
    wrong = {
        block.where: faults for block in blocks(page) if block.language == language and (faults := check(block.text))
    }
    assert not wrong


@pytest.mark.parametrize(
    "page",
    [page for page in pages() if any(block.language == "python" for block in blocks(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_in_the_documents_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "page.py"  # a page's blocks are read one after the other
    program.write_text("\n".join(block.text for block in blocks(page) if block.language == "python"))
    runpy.run_path(str(program), run_name="__main__")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("simulate --scenario mixed-chat --policy threshold", None),
        ("plan --scenario case-study --load mean", None),
        ("simulate --scenarios mixed-chat", "No such option"),
        ("simulate --scenario", "requires an argument"),
        ("simulate", "wants --scenario"),
        ("plan --scenario case-study --load median", "not among"),
        ("scenarios one two", "does not take two"),
        ("shop --for gpus", "no command shop"),
    ],
)
def test_a_command_that_would_be_refused_is_noticed(line: str, problem: str | None) -> None:
    found = complaint(line.split())
    assert (found is None) if problem is None else (found is not None and problem in found), found


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("poolpilot plan --scenario x   # why", [["poolpilot", "plan", "--scenario", "x"]]),
        ("poolpilot plan \\\n    --load mean", [["poolpilot", "plan", "--load", "mean"]]),
        ("A=1 poolpilot control > log 2>> err &", [["poolpilot", "control"]]),
        ("cat > x <<'YAML'\npoolpilot nonsense\nYAML\npoolpilot demo", [["cat"], ["poolpilot", "demo"]]),
        (
            "curl -sf x | python -m json.tool && poolpilot demo",
            [["curl", "-sf", "x"], ["python", "-m", "json.tool"], ["poolpilot", "demo"]],
        ),
        ("it isn't a command", []),
    ],
)
def test_commands_are_found_in_scripts(script: str, words: list[list[str]]) -> None:
    assert list(commands(script)) == words


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pools:\n  a: {gpu: L4-24GB, price: {usd_per_hr: 1}}", None),
        ("pools:\n  a: {thermal: {rise_at_tdp_c: 50}}", None),
        ("pools:\n  a: {gpus: L4-24GB}", "gpus"),
        ("guard: {max_step: none}", "guard"),
        ("poools: {}", "no field of a scenario"),
        ("triggers: []", None),
    ],
)
def test_a_part_of_a_scenario_is_checked_for_what_it_says(text: str, problem: str | None) -> None:
    faults = check_yaml(text)
    assert (not faults) if problem is None else any(problem in fault for fault in faults), faults
