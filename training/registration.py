"""Makes `poolpilot/Cluster-v1` known to Gymnasium: import this module, and no more of poolpilot is loaded.

    import gymnasium
    from poolpilot.training import registration

    gymnasium.register_envs(registration)
    env = gymnasium.make("poolpilot/Cluster-v1", scenario="mixed-chat")

Gymnasium imports what stands before a colon itself: `poolpilot.training.registration:poolpilot/Cluster-v1` names the
environment wherever only a string can be given. (Since its version 1.0 it looks for no plugins.)
"""

from __future__ import annotations

import gymnasium

ENV_ID = "poolpilot/Cluster-v1"


def register_envs() -> None:
    """Register the environment unless it is known. Importing the module does it."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(ENV_ID, entry_point="poolpilot.training.environments:make_cluster_env")


register_envs()
