"""An evaluation that never was, with names that would be markup if they were not escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poolpilot.dashboard.report.evaluation import RecordedRun, evaluation_report
from poolpilot.tests.dashboard.figures.rows import EVIL, a_timeline
from poolpilot.tests.training.evaluation.planted import a_sweep
from poolpilot.training.evaluation.summary import summary_of

EVIL_CLASS, EVIL_SCENARIO, EVIL_NOTE = EVIL, "<img src=x onerror=alert(2)>", "</script><b>note</b>"
SUITES = {"first": ("quiet day", EVIL_SCENARIO), "second": ("slow/start & stop",)}
POLICIES = {"rule": ("rule", 10.0), "agent": ("checkpoint", 9.0), "peak": ("fixed", 14.0)}


def rows() -> list[dict[str, Any]]:
    found = [
        row
        for suite, scenarios in SUITES.items()
        for place, scenario in enumerate(scenarios, start=1)
        for policy, (kind, usd) in POLICIES.items()
        for row in a_sweep(
            policy,
            lambda h, seed, usd=usd, place=place: usd * place * h**0.8 + 0.1 * seed,  # type: ignore[misc]
            lambda h, seed: 0.01 / h**4,
            seeds=3,
            suite=suite,
            scenario=scenario,
            kind=kind,
        )
    ]
    for row in found:
        row["classes"][0]["name"] = EVIL_CLASS
    return found


def manifest() -> dict[str, Any]:
    return {
        "format": 1,
        "command": f"poolpilot evaluate --scenario '{EVIL_SCENARIO}'",
        "poolpilot": "0.1.0",
        "commit": None,
        "code": "c0de",
        "python": "3.11",
        "versions": {"numpy": "2", "highspy": None},
        "policies": {
            name: {"kind": kind, "swept": True, "files": {"policy.onnx": "ab" * 32}, "knobs": {"headroom": 1.0}}
            for name, (kind, _) in POLICIES.items()
        },
        "seeds": 3,
        "tuned": False,
    }


def recorded() -> list[RecordedRun]:
    return [RecordedRun("first", "quiet day", 1, policy, a_timeline(30, chat=EVIL_CLASS)) for policy in POLICIES]


def planted_report(runs: Sequence[RecordedRun] | None = None) -> str:
    every = rows()
    summary = summary_of(every, "rule", {"first": {"left out": EVIL_NOTE}})
    return evaluation_report(
        manifest(), summary, every, recorded() if runs is None else runs, {"first": [EVIL_NOTE, "fine"]}
    )
