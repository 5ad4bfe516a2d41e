"""Knobs for rules of tests whose outcome must not change with those that ship."""

from typing import Final

EVERY_KNOB: Final = {
    "headroom": 1.168,
    "burst": 0.373,
    "hold_s": 22.22,
    "backlog_drain_s": 41.03,
    "correction": 0.1081,
    "payback_s": 42.58,
    "spot_risk": 0.1951,
    "zone_share": 0.6206,
    "memory_s": 190.0,
}
"""Of the plan-tracking rule: what a rush needed is let go of within a hundred seconds."""
