"""What tells one observation, and one meaning of outputs, from another."""

from __future__ import annotations

import hashlib
from typing import Final

from . import features, outputs

OBSERVATION_VERSION: Final = 2
"""Raised when a feature of the same name comes to mean something else. A column more in the contract that no feature
reads changes nothing for a network, so this is not the contract's version."""


def observation_schema() -> str:
    """A short hash of everything that gives the observation and the outputs their meaning."""
    meaning = (
        OBSERVATION_VERSION,
        features.CLASS_FEATURES,
        features.POOL_FEATURES,
        features.WHOLE_FEATURES,
        outputs.DOUBT,
        (outputs.CLASS_OUTPUTS, outputs.POOL_OUTPUTS, outputs.WHOLE_OUTPUTS),
        tuple(getattr(outputs, name) for name in sorted(vars(outputs)) if name.endswith("_BEND")),
    )
    return hashlib.sha256(repr(meaning).encode()).hexdigest()[:16]
