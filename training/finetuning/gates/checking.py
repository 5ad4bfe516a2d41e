"""All gates before the trial, one after another; what each finds is kept beside the candidate as soon as it is known.

A refit's folder holds what there is to judge in: `refit.json` says whether the twin reproduces the record, and
`days/held-out-*.yaml` are the recorded stretches that no fit and no learner has looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ....agents.checkpoint import Checkpoint, CheckpointError
from ....agents.learned import learned_policies
from ....agents.portfolio import PolicyFactory, make_rule
from ....agents.registry import BEFORE_TRIAL, OFF_POLICY, RANGES, SUITES, TWIN, Evidence, Registry, Verdict
from ....env.contract import Snapshot
from ....env.scenario import Scenario, load_scenario
from ....env.workload.load import load_workload
from ....telemetry.record import Record, read
from ....telemetry.record.defects import SUSPECT
from ...suites.suite import Suite
from ..learned_from import LearnedFrom, fingerprint, learned_from
from ..writing import REPORT, SCENARIO
from .days import DaysError, TwinDay
from .finding import Finding
from .off_policy import off_policy_gate
from .ranges import ranges_gate
from .suites import suites_gate
from .twin import TwinRuns, twin_gate, twin_runs

HELD_OUT: Final = "held-out-*.yaml"
SUITE_SEEDS: Final = 12

OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What a candidate is judged on."""

    refit: Path | None = None
    """Folder of a refit; without it twin and ranges cannot tell."""
    record: tuple[Path, ...] = ()
    """Decision logs, or folders of them; without them the log and the ranges cannot tell."""
    suites: tuple[Suite, ...] = ()
    gates: tuple[str, ...] = BEFORE_TRIAL
    twin_seeds: int | None = None
    """Worlds for each held-out stretch; None: the fewer and shorter these are, the more."""
    suite_seeds: int = SUITE_SEEDS
    workers: int = 1
    folder: Path | None = None
    """Keeps the rows of the suites, so that a run that is cut off goes on."""
    learned: Collection[str] = field(default_factory=frozenset)
    """Fingerprints of days that the candidate was learned from."""


def check(registry: Registry, version: str, asked: Asked, on_step: OnStep = lambda what: None) -> Iterator[Evidence]:
    """Run the gates against the version that decides now, keep what each finds, and hand it out.

    Raises:
        CheckpointError: one of the two versions cannot be used.
        DaysError: a day was learned from, or the folder is no refit's.
        OSError: what was found cannot be kept.
    """
    incumbent_version = registry.incumbent()
    candidate, incumbent = registry.checkpoint(version), registry.checkpoint(incumbent_version)
    for finding in _findings(candidate, incumbent, asked, on_step):
        evidence = finding.evidence(version, incumbent_version)
        registry.keep(evidence)
        yield evidence


def _findings(candidate: Checkpoint, incumbent: Checkpoint, asked: Asked, on_step: OnStep) -> Iterator[Finding]:
    record = read(asked.record) if asked.record and {OFF_POLICY, RANGES} & set(asked.gates) else None
    hashes = {str(path): fingerprint(path) for path in asked.record}
    runs: TwinRuns | None = None
    refused = "no refit to judge in"
    if asked.refit is not None and {TWIN, RANGES} & set(asked.gates):
        refused = not_reproduced(asked.refit)
        days = held_out(asked.refit)
        if days:
            make = (_factory(candidate), _factory(incumbent))
            runs = twin_runs(*make, days, asked.learned, asked.twin_seeds, lambda day: on_step(f"twin: {day}"))
        elif not refused:
            refused = f"no {HELD_OUT} in {asked.refit / 'days'}"
    for gate in asked.gates:
        on_step(gate)
        if gate == TWIN:
            yield twin_gate(runs, refused) if runs else Finding(TWIN, Verdict.UNKNOWN, refused)
        elif gate == RANGES:
            yield _ranges(runs, record, refused, hashes)
        elif gate == OFF_POLICY:
            yield _off_policy(record, _twin(asked.refit), candidate, incumbent, hashes)
        elif gate == SUITES:
            yield _suites(candidate, incumbent, asked, on_step)


def _ranges(runs: TwinRuns | None, record: Record | None, refused: str, hashes: dict[str, str]) -> Finding:
    live = recorded_snapshots(record) if record is not None else []
    if runs is None or not live:
        said = refused if runs is None else "no usable recorded tick to know the range by"
        return Finding(RANGES, Verdict.UNKNOWN, said, {}, hashes)
    found = ranges_gate(runs, live)
    return Finding(found.gate, found.verdict, found.reason, found.figures, {**found.inputs, **hashes})


def _off_policy(
    record: Record | None, twin: Scenario | None, candidate: Checkpoint, incumbent: Checkpoint, hashes: dict[str, str]
) -> Finding:
    if record is None:
        return Finding(OFF_POLICY, Verdict.UNKNOWN, "no record", {}, hashes)
    try:
        from ..live import LiveError  # by torch, which only this gate needs
        from ..trusting import trusted
        from .logged import logged_steps
    except ModuleNotFoundError as error:
        said = f"explored steps cannot be read without {error.name}: pip install 'poolpilot[train]'"
        return Finding(OFF_POLICY, Verdict.UNKNOWN, said, {}, hashes)
    fresh = _fresh(record, learned_from(candidate), hashes)
    try:
        logged, log_std, why = logged_steps(trusted(record, twin), incumbent)
        later, later_std, _ = logged_steps(fresh, incumbent) if fresh.ticks < record.ticks else (None, None, "")
    except LiveError as error:
        return Finding(OFF_POLICY, Verdict.FAIL, f"the record is not to be trusted: {error}", {}, hashes)
    except CheckpointError as error:  # one without weights decides, and cannot be asked as a learner asks
        return Finding(OFF_POLICY, Verdict.UNKNOWN, f"the incumbent cannot be asked again: {error}", {}, hashes)
    found = off_policy_gate(logged, log_std, incumbent, candidate, hashes, why)
    if found.verdict is not Verdict.PASS or fresh.ticks == record.ticks:
        return found
    # What was learned from may turn a candidate down, but not speak for it; what was recorded later may.
    since = off_policy_gate(later, later_std, incumbent, candidate, hashes)
    if since.verdict is not Verdict.UNKNOWN:
        said = f"on the {fresh.ticks} ticks recorded since it learned: {since.reason}"
        return Finding(OFF_POLICY, since.verdict, said, since.figures, since.inputs)
    said = f"the candidate learned from this very log, which therefore cannot speak for it: {found.reason}"
    return Finding(OFF_POLICY, Verdict.UNKNOWN, said, found.figures, found.inputs)


def _fresh(record: Record, told: LearnedFrom, hashes: dict[str, str]) -> Record:
    """The ticks of a record that a candidate has not learned from."""
    if told.until_unix_s > 0.0:
        return told.fresh(record)
    return replace(record, episodes=()) if told.records & set(hashes.values()) else record


def _suites(candidate: Checkpoint, incumbent: Checkpoint, asked: Asked, on_step: OnStep) -> Finding:
    if not asked.suites:
        return Finding(SUITES, Verdict.UNKNOWN, "no suite was run")
    return suites_gate(
        candidate,
        incumbent,
        asked.suites,
        asked.suite_seeds,
        asked.workers,
        asked.folder,
        lambda done, known, job: on_step(f"suites: {done} of {known} runs"),
    )


def _factory(checkpoint: Checkpoint) -> PolicyFactory:
    return learned_policies(checkpoint, make_rule)


# What there is to judge on


def not_reproduced(refit: Path) -> str:
    """Why a refit's twin is not to be believed; empty if it is.

    Raises:
        DaysError: the folder is no refit's.
    """
    path = refit / REPORT
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DaysError(f"{path}: not readable as a refit's report: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("reproduces"), bool):
        raise DaysError(f"{path}: wanted a refit's report, which says whether the twin reproduces the record")
    return "" if document["reproduces"] else f"the refit's verdict is {document.get('verdict')}"


def _twin(refit: Path | None) -> Scenario | None:
    """The refitted scenario, if there is one."""
    path = refit / SCENARIO if refit is not None else None
    return load_scenario(path) if path is not None and path.is_file() else None


def held_out(refit: Path) -> list[TwinDay]:
    """The recorded stretches that no fit has looked at, in the refitted twin."""
    days = []
    for path in sorted((refit / "days").glob(HELD_OUT)):
        scenario = load_scenario(path)
        requests = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)
        days.append(TwinDay(path.stem, scenario, requests))
    return days


def recorded_snapshots(record: Record) -> list[Snapshot]:
    """What was seen live, but for episodes that contradict themselves."""
    bad = {defect.where for defect in record.defects if defect.kind in SUSPECT}
    return [episode.snapshot for episode in record.episodes if episode.where not in bad]
