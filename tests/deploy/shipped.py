"""What `deploy/` ships, and the tools that judge it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "poolpilot.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "poolpilot.json"
_NAME = re.compile(r"\b(?:poolpilot|process)_[a-z0-9_]+")


def tool(name: str) -> str:
    """`prometheus` or `promtool`; where it is absent the test is skipped, but in CI, which installs it, it fails."""
    found = shutil.which(name)
    if found is None:
        message = f"no {name} here (Debian: apt-get install prometheus)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def alerts() -> Iterator[dict[str, Any]]:
    """The alert rules."""
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        yield from group["rules"]


def dashboard() -> dict[str, Any]:
    """The Grafana dashboard."""
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


def panel_queries() -> Iterator[tuple[str, str]]:
    """Title and query of every panel, with Grafana's variables filled in as it does when nothing is chosen."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for variable, value in (
                ("$job", ".*"),
                ("$instance", ".*"),
                ("$__rate_interval", "15s"),
                ("$__range", "1m"),
            ):
                query = query.replace(variable, value)
            yield panel["title"], query


def series_named(query: str) -> set[str]:
    """The time series that a query reads, as they are named on a metrics page."""
    return set(_NAME.findall(query))
