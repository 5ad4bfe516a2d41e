"""Whether every array of what was recorded has the cluster's shape."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, Final

import numpy as np

from ...env.contract import (
    BILL_LAYERS,
    IDLE_PARTS,
    Action,
    Answer,
    Cluster,
    Decision,
    Plan,
    SchemaError,
    Targets,
)
from ...env.counterfactual import Comparison
from ...env.guard import GuardState
from ...env.window import TALLY_WIDTH
from .ticks import Reach, Since

_AXES: Final[dict[type, dict[str, str]]] = {
    Cluster: {
        "class_mask": "C",
        "serves": "CP",
        **dict.fromkeys(("pool_mask", "spot", "min_replicas", "max_replicas", "usd_per_hr", "cold_start_s"), "P"),
        **dict.fromkeys(("max_batch_cap", "max_token_budget"), "P"),
    },
    Targets: dict.fromkeys(("ttft_s", "tpot_s", "e2e_s", "deadline_s", "attainment"), "C"),
    Plan: {
        **dict.fromkeys(("replicas", "batch_cap"), "P"),
        **dict.fromkeys(("route", "capacity_per_s"), "CP"),
        **dict.fromkeys(("load_per_s", "attainment"), "C"),
    },
    Action: {"route": "CP", "admit": "C", **dict.fromkeys(("batch_cap", "token_budget", "replicas"), "P")},
    Answer: {"classes": "C*", "pools": "P*", "whole": "*"},
    GuardState: {"changed_at_s": "P"},
    Reach: {"pools": "P"},
    Decision: {"expected_attainment": "C"},
    Comparison: {
        **dict.fromkeys(("rule_up", "policy_up"), "P"),
        **dict.fromkeys(("rule_attainment", "policy_attainment"), "C"),
        **dict.fromkeys(("rule_usd", "policy_usd", "usd"), "PL"),
    },
    Since: {"usd": "PL", "class_usd": "C", "idle_usd": "K", "tally": "CW", "told": "C"},
}
"""The axes of arrays, by name; `*` is as long as it is. Those that are not named are single numbers; `Snapshot.check`
does its own."""


def fit(value: Any, cluster: Cluster, where: str) -> None:
    """Whether every array in a dataclass has the cluster's shape. SchemaError names the first that has not."""
    sizes = {
        "C": len(cluster.class_names),
        "P": len(cluster.pool_names),
        "L": len(BILL_LAYERS),
        "K": len(IDLE_PARTS),
        "W": TALLY_WIDTH,
    }
    for field in fields(value):
        part = getattr(value, field.name)
        if is_dataclass(part):
            fit(part, cluster, f"{where}.{field.name}")
        elif isinstance(part, np.ndarray):
            axes = _AXES.get(type(value), {}).get(field.name, "")
            wanted = tuple(sizes.get(axis, size) for axis, size in zip(axes, part.shape, strict=False))
            if part.shape != wanted or len(axes) != part.ndim:
                shown = tuple(sizes.get(axis, "any") for axis in axes)
                raise SchemaError(f"{where}.{field.name}: shape {part.shape}, wanted {shown} for this cluster")
