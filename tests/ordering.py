"""Which tests begin, so that parallel workers end together and seldom wait for the same thing.

`--dist worksteal` deals the tests out in blocks as they were collected, the first block to the first worker, and moves
only the ends of blocks. So tests that start real servers stand first, the longest before all: one worker waits for
servers while the others compute, and what is moved at the end is short.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

LONGEST: Final = (
    "commands/test_profile.py",
    "e2e/test_tutorial.py",
    "e2e/test_refit.py",
    "e2e/test_two_sidecars.py",
    "e2e/test_envoy_agreement.py",
    "audit/test_real_prometheus.py",
    "benchmarks/test_agent_study.py",
    "benchmarks/test_benchmarks.py",
    "training/test_hindsight.py",
    "e2e/test_operating.py",
    "benchmarks/test_soak.py",
)
"""Files that take more than 20 s on two cores (`pytest --durations=40`), the longest first."""


def starts_servers(item: pytest.Item) -> bool:
    """Whether a test is of those that wait rather than compute."""
    return item.get_closest_marker("e2e") is not None


def longest_first(items: Iterable[pytest.Item], tests: Path) -> list[pytest.Item]:
    """The same tests; a file's stay together and in their order.

    Args:
        tests: the folder that `LONGEST` is told from.
    """
    found = list(items)
    serving = {item.path for item in found if starts_servers(item)}
    long = {tests / name: place for place, name in enumerate(LONGEST)}
    return sorted(found, key=lambda item: (item.path not in serving, long.get(item.path, len(long))))
