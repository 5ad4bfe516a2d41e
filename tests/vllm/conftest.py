"""Tests against real vLLM, which lives in a virtual environment of its own: `make test-vllm`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPO_ROOT = HERE.parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever stands in this folder needs vLLM, and may take minutes."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vllm)


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The interpreter that has vLLM: POOLPILOT_VLLM_PYTHON, or that of `.venv-vllm`."""
    python = Path(os.environ.get("POOLPILOT_VLLM_PYTHON") or REPO_ROOT / ".venv-vllm" / "bin" / "python")
    if not python.exists():
        message = f"no {python}: run make test-vllm, or set POOLPILOT_VLLM_PYTHON to a Python that has vLLM"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return python.absolute()
