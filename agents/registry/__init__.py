"""Versions of a policy: content-addressed, with the evidence of each beside it, and one that decides."""

from .evidence import (
    BEFORE_TRIAL,
    CANARY,
    GATES,
    OFF_POLICY,
    RANGES,
    SUITES,
    TWIN,
    Evidence,
    EvidenceError,
    Verdict,
    wanting,
)
from .naming import PREFIX, name_of_version, named_registry, open_checkpoint
from .probing import ProbeError
from .registry import STATE, Conflict, NoEvidence, Registry, RegistryError, Version, version_of
from .state import Event, State, StateError, predecessor, promoted_at

__all__ = [
    "BEFORE_TRIAL",
    "CANARY",
    "GATES",
    "OFF_POLICY",
    "PREFIX",
    "RANGES",
    "STATE",
    "SUITES",
    "TWIN",
    "Conflict",
    "Event",
    "Evidence",
    "EvidenceError",
    "NoEvidence",
    "ProbeError",
    "Registry",
    "RegistryError",
    "State",
    "StateError",
    "Verdict",
    "Version",
    "name_of_version",
    "named_registry",
    "open_checkpoint",
    "predecessor",
    "promoted_at",
    "version_of",
    "wanting",
]
