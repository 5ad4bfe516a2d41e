"""All pools of a cluster as one actuator, whoever runs their replicas: this machine, or the user."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ...env.contract import NO_DECISION
from .envoy_config import Endpoint
from .own_servers import OwnServers
from .processes import LocalProcesses
from .replicas import CausedSeconds, PoolReplicas, RentedSeconds


class Fleet:
    """Local processes for some pools, servers of the user's own for the others."""

    def __init__(self, local: LocalProcesses, own: OwnServers) -> None:
        """Nothing is started or asked before `adopt`."""
        self._local, self._own = local, own

    async def adopt(self) -> int:
        """Take over what a sidecar before left running, and look at the user's servers; how many replicas there are."""
        await self._own.start()
        return await self._local.adopt() + sum(pool.ready for pool in self._own.states().values())

    async def apply(self, targets: Mapping[str, int], tick: int = NO_DECISION) -> None:
        """Bring local pools to their counts, and note what is wanted of the others; raises as `LocalProcesses.apply`."""
        own = set(self._own.pools)
        self._own.apply({name: count for name, count in targets.items() if name in own})
        await self._local.apply({name: count for name, count in targets.items() if name not in own}, tick)

    def states(self) -> dict[str, PoolReplicas]:
        """Every pool as of now."""
        return self._local.states() | self._own.states()

    def usage(self) -> dict[str, RentedSeconds]:
        """Replica-seconds by pool, in the decider's time."""
        return self._local.usage() | self._own.usage()

    def caused(self) -> tuple[CausedSeconds, ...]:
        """Of the time that `usage` told last, starting and draining by decision, since this was last asked."""
        return self._local.caused() + self._own.caused()

    def release(self, routed: Collection[Endpoint]) -> None:
        """Routing holds exactly `routed` now."""
        self._local.release(routed)

    async def stop_all(self) -> None:
        """Drain and stop local replicas; the user's go on."""
        try:
            await self._own.stop()
        finally:
            await self._local.stop_all()

    async def detach(self) -> None:
        """Leave everything running for the next sidecar."""
        await self._own.stop()
        await self._local.detach()
