"""The twin is refitted to what a sidecar recorded of servers that are not as it believes, while it runs, and it is told so:
`poolpilot control` and `finetune refit` as people run them, real Envoy, real Valkey, emulated replicas."""

from __future__ import annotations

from pathlib import Path

import pytest

from poolpilot.agents.checkpoint import shipped_checkpoints
from poolpilot.benchmarks.refit_live import Asked, measured

pytestmark = pytest.mark.e2e


async def test_what_differs_is_found_in_the_sidecars_own_record_and_it_trusts_its_policy_less(tmp_path: Path) -> None:
    result = await measured(Asked(450.0, 8.0, next(iter(shipped_checkpoints()))), tmp_path)
    print(result)
