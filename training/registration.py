"""Gymnasium's plugin hook. Light on purpose: it runs whenever anybody imports gymnasium."""

from __future__ import annotations

import gymnasium

ENV_ID = "poolpilot/Cluster-v1"


def register_envs() -> None:
    """Make `gymnasium.make("poolpilot/Cluster-v1", scenario=...)` work without importing poolpilot first."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(ENV_ID, entry_point="poolpilot.training.environments:make_cluster_env")
