"""Which scenarios are the same but for their names."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from .document import Scenario

DIGITS = 16
_LIVE_ONLY: Final[dict[str, Any]] = {
    # What the proxy does with live requests, and how far a live policy reaches; no simulated result depends on it.
    "routing": True,
    "control": True,
    "classes": {"__all__": {"routing": True, "match": {"model", "max_tokens", "body_bytes"}}},
}


def fingerprint(*scenarios: Scenario) -> str:
    """A hash of everything in the scenarios that results depend on, in whatever order they come."""
    own = sorted(_of_one(scenario) for scenario in scenarios)
    return own[0] if len(own) == 1 else hashlib.sha256(json.dumps(own).encode()).hexdigest()[:DIGITS]


def _of_one(scenario: Scenario) -> str:
    document = scenario.model_dump(mode="json", by_alias=True, exclude={"summary": True, "name": True, **_LIVE_ONLY})
    if document["telemetry"] is None:  # a part that says nothing changes nothing, nor what was hashed before it came
        del document["telemetry"]
    for pool in document["pools"].values():  # where live figures are read and live requests go changes no result
        del pool["cap_by"]
        del pool["endpoints"]
        del pool["gpu_metrics"]
        del pool["price"]["feed"]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:DIGITS]
