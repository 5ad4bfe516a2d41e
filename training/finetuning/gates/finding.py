"""A gate's result, before anybody says which versions it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ....agents.registry import Evidence, Verdict


@dataclass(frozen=True)
class Finding:
    """What a gate says of a candidate beside an incumbent."""

    gate: str
    verdict: Verdict
    reason: str
    """One line."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Hashes of what it looked at, by name."""

    def evidence(self, candidate: str, incumbent: str) -> Evidence:
        """To be kept beside the candidate."""
        return Evidence(self.gate, candidate, incumbent, self.verdict, self.reason, self.figures, self.inputs)
