"""What figures of cost against attainment are drawn from: the settings of an evaluation's summary, as plain rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

BOUND = "clairvoyant bound"
"""The series of what no policy can undercut."""
TICKS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
"""Attainments that axes name."""


class AttainmentRow(TypedDict):
    """One setting of one policy, on one scenario or over all of a suite."""

    panel: str
    """The suite, or what else a panel is of."""
    series: str
    """The policy, or `BOUND`."""
    headroom: float
    """Factor on the policy's head-room; 1 is as shipped."""
    attainment: float
    """0..1"""
    bill: float
    """Over that of the reference as shipped, or $/h: all rows of a figure alike."""
    dominated: NotRequired[bool]
    """Another setting of the same policy beats it in both: it is no part of the frontier."""
    link: NotRequired[str]
    """Where a page leads from the point."""


def rows_of_summary(document: Mapping[str, Any]) -> list[AttainmentRow]:
    """The rows of an evaluation's summary. The bound is that of what the reference met at each of its settings."""
    rows: list[AttainmentRow] = []
    for panel, suite in document["suites"].items():
        for own in suite["frontier_means"]:
            of_policy: AttainmentRow = {
                "panel": panel,
                "series": own["policy"],
                "headroom": own["headroom"],
                "attainment": own["attainment"],
                "bill": own["bill_ratio"],
            }
            rows.append(of_policy)
            if own["policy"] == document["reference"] and own["bound_ratio"] is not None:
                rows.append({**of_policy, "series": BOUND, "bill": own["bound_ratio"]})
    return rows
