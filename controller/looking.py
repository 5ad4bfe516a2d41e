"""Where a tick looks: at the replicas that are there, their metrics pages, and what they took since the tick before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..env.contract import Action, Cluster
from ..env.ledger import scaling_seconds_of
from ..telemetry.assemble import PoolState
from ..telemetry.engine_collector import ReplicaEndpoint
from .acting import Replicas
from .actuators.envoy_config import Endpoint
from .actuators.replicas import CausedSeconds, PoolReplicas, Stage
from .observing import Observation, Observer, ReplicaUse

_PART_OF: Final = {"starting_s": "cold_start", "draining_s": "drain", "asleep_s": "asleep"}
"""Parts of the bill's idle layer, by the actuator's names."""


class Eyes:
    """An observer that knows where the replicas are, and loses nothing of what they cost."""

    def __init__(self, observer: Observer, replicas: Replicas, cluster: Cluster) -> None:
        """Nothing is seen yet."""
        self._observer, self._replicas, self._cluster = observer, replicas, cluster
        self._caused: tuple[CausedSeconds, ...] = ()

    async def look(self, now_s: float, in_force: Action) -> Observation:
        """What is to be seen at `now_s` of a cluster in which this stands. Raises what the observer does."""
        states, usage = self._replicas.states(), self._replicas.usage()
        used = {
            name: ReplicaUse(u.ready_s + u.draining_s, u.starting_s, u.draining_s, u.asleep_s)
            for name, u in usage.items()
        }
        # Kept until they are in a bill: a look that fails must not lose them.
        self._caused = (*self._caused, *self._replicas.caused())
        caused = scaling_seconds_of(
            ((c.tick, c.pool, _PART_OF[c.kind], c.seconds) for c in self._caused), self._cluster.pool_names
        )
        observation = await self._observer.observe(
            now_s, _pages(states), self._pool_states(states, in_force), used, caused, in_force.route
        )
        self._caused = ()
        return observation

    def _pool_states(self, states: Mapping[str, PoolReplicas], in_force: Action) -> dict[str, PoolState]:
        return {
            name: PoolState(
                ready=pool.ready,
                starting=pool.starting,
                draining=pool.draining,
                asleep=pool.asleep,
                target=int(in_force.replicas[self._cluster.pool_names.index(name)]),
            )
            for name, pool in states.items()
        }


def _pages(states: Mapping[str, PoolReplicas]) -> tuple[ReplicaEndpoint, ...]:
    """The metrics pages of replicas that serve or drain."""
    return tuple(
        ReplicaEndpoint(r.pool, r.name, _url(r.endpoint), draining=r.stage is Stage.DRAINING)
        for pool in states.values()
        for r in pool.replicas
        if r.endpoint and r.stage in (Stage.READY, Stage.DRAINING)
    )


def _url(endpoint: Endpoint) -> str:
    return f"http://{endpoint.host}:{endpoint.port}/metrics"
