"""What a gate found of a candidate: verdict, figures and what they rest on, as a JSON file beside it.

Evidence is against one incumbent: once another version decides, it says nothing any more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from ..checkpoint import CheckpointError

FORMAT: Final = 1
MAX_EVIDENCE_BYTES: Final = 4 << 20
TWIN, OFF_POLICY, RANGES, SUITES, CANARY = "twin", "off-policy", "ranges", "suites", "canary"
GATES: Final = (TWIN, OFF_POLICY, RANGES, SUITES, CANARY)
"""In the order in which a candidate meets them; the last one is live."""
BEFORE_TRIAL: Final = GATES[:-1]
"""What a candidate needs before any traffic."""


class EvidenceError(CheckpointError):
    """A file is no evidence; the message names file and field."""


class Verdict(StrEnum):
    """What a gate says."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "cannot tell"
    """Too little to go by. Lets nobody through but at `MAY_NOT_TELL`."""
    RUNNING = "running"
    """A trial that goes on."""


MAY_NOT_TELL: Final = frozenset({OFF_POLICY})
"""A log without exploration tells nothing of other actions: that holds no candidate back, and is written down."""


@dataclass(frozen=True)
class Evidence:
    """One gate's result."""

    gate: str
    """One of `GATES`."""
    candidate: str
    """Version."""
    incumbent: str
    """Version that it was compared with."""
    verdict: Verdict
    reason: str
    """One line for people."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What was measured, JSON-ready, each gate its own; intervals as `{"mean", "low", "high"}`."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """What it was measured on: sha256, or another fingerprint, by name."""
    made_at: str = ""
    """UTC, ISO 8601."""
    poolpilot: str = ""
    """Version of the program."""

    def as_json(self) -> dict[str, Any]:
        """The document."""
        return {
            "format": FORMAT,
            "gate": self.gate,
            "candidate": self.candidate,
            "incumbent": self.incumbent,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "figures": dict(self.figures),
            "inputs": dict(self.inputs),
            "made_at": self.made_at,
            "poolpilot": self.poolpilot,
        }

    def document(self) -> dict[str, Any]:
        """The same with null for numbers that are none: what JSON can hold."""
        finite: dict[str, Any] = _finite(self.as_json())
        return finite

    def text(self) -> bytes:
        """The file's content."""
        return (json.dumps(self.document(), indent=2, allow_nan=False) + "\n").encode()

    @property
    def lets_through(self) -> bool:
        """Whether the gate holds nothing back."""
        return self.verdict is Verdict.PASS or (self.verdict is Verdict.UNKNOWN and self.gate in MAY_NOT_TELL)


def read_evidence(path: Path) -> Evidence:
    """What `Evidence.text` wrote.

    Raises:
        EvidenceError: it is something else.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_EVIDENCE_BYTES + 1)
        if len(text) > MAX_EVIDENCE_BYTES:
            raise ValueError(f"larger than {MAX_EVIDENCE_BYTES} bytes")
        document: Any = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise EvidenceError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise EvidenceError(f"{path}: wanted a gate's evidence of format {FORMAT}")
    for name in ("gate", "candidate", "incumbent", "verdict", "reason", "made_at", "poolpilot"):
        if not isinstance(document.get(name), str):
            raise EvidenceError(f"{path}: {name}: {str(document.get(name))[:60]!r}, wanted a text")
    for name in ("figures", "inputs"):
        if not isinstance(document.get(name), dict):
            raise EvidenceError(f"{path}: {name}: {str(document.get(name))[:60]!r}, wanted an object")
    if document["gate"] not in GATES:
        raise EvidenceError(f"{path}: gate: {document['gate'][:60]!r}, wanted one of {', '.join(GATES)}")
    if document["verdict"] not in list(Verdict):
        raise EvidenceError(f"{path}: verdict: {document['verdict'][:60]!r}, wanted one of {', '.join(Verdict)}")
    del document["format"]
    return Evidence(**{**document, "verdict": Verdict(document["verdict"])})


def wanting(
    evidence: Mapping[str, Evidence], candidate: str, incumbent: str, gates: tuple[str, ...] = GATES
) -> list[str]:
    """What keeps a candidate back, a line for each gate; nothing if all let it through. Pure.

    Args:
        evidence: by gate.
        candidate: the version.
        incumbent: who decides now.
        gates: those that it must have passed.
    """
    return [line for gate in gates if (line := _lacks(evidence.get(gate), gate, candidate, incumbent))]


def _lacks(found: Evidence | None, gate: str, candidate: str, incumbent: str) -> str:
    if found is None:
        return f"{gate}: no evidence"
    if found.candidate != candidate:
        return f"{gate}: the evidence is of {found.candidate}"
    if found.incumbent != incumbent:
        return f"{gate}: measured against {found.incumbent}, and {incumbent} decides now"
    if found.lets_through:
        return ""
    return f"{gate}: {found.verdict}: {found.reason}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
