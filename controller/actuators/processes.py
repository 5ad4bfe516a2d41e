"""Replicas as local processes, handled like rented machines: asked for, waited for, drained, stopped.

One tick of the sidecar, so that no request is lost:

    await processes.apply(targets)                   # starts, and takes replicas out of the listed endpoints
    states = processes.states()
    await routing.apply(...)                         # with the endpoints of `states`
    processes.release(endpoints now in routing)      # those that left may stop once they are empty

Replicas that die, or never become ready, are reported and replaced without being asked, with backoff.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

import aiohttp

from ...env.contract import NO_DECISION
from ..fencing import Fenced
from .child import ReplicaCommand
from .envoy_config import Endpoint
from .local_replica import InFlight, LocalReplica, LocalSettings
from .replicas import (
    NOBODY,
    CausedSeconds,
    Causes,
    PoolReplicas,
    RentedSeconds,
    RentMeter,
    Stage,
    StepKind,
    backoff_s,
    reconcile,
)
from .roster import RosterError, read_roster, write_roster
from .sleep_mode import Sleeping, is_loopback

_LOG: Final = logging.getLogger(__name__)
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(slots=True)
class _PoolHistory:
    """What a pool has been through."""

    started: int = 0
    failed: int = 0
    failed_in_a_row: int = 0
    failed_at_s: float = -math.inf
    """On the wall's clock."""
    last_failure: str = ""
    cold_start_s: float = math.nan


class LocalProcesses:
    """The scaling actuator for this machine. Use it from one event loop; leave it with `stop_all` or `detach`."""

    def __init__(
        self,
        commands: Mapping[str, ReplicaCommand],
        settings: LocalSettings,
        clock: Callable[[], float],
        provision_s: Callable[[str], float],
        in_flight: InFlight,
        sleeps: Mapping[str, Sleeping] | None = None,
    ) -> None:
        """Nothing is started before `apply`.

        Args:
            commands: how each pool's replicas are started.
            settings: where and how patiently.
            clock: the decider's seconds, by which rent is counted.
            provision_s: draws how long a pool's next machine takes to come, in the decider's seconds.
            in_flight: asks a replica for its requests.
            sleeps: pools whose replicas are put to sleep before they are stopped.

        Raises:
            ValueError: a pool whose name cannot be the name of a file; one that sleeps where others could wake it.
        """
        if sleeps and not is_loopback(settings.host):
            raise ValueError(
                f"{', '.join(sleeps)}: sleep needs vLLM's dev endpoints, which ask for no password: on loopback only,"
                f" not on {settings.host}"
            )
        for pool in commands:
            if not _NAME.fullmatch(pool):
                raise ValueError(f"pool {pool!r}: wanted letters, digits, '_', '.' and '-' only")
        self._commands, self._settings = dict(commands), settings
        self._clock, self._provision_s, self._in_flight = clock, provision_s, in_flight
        self._sleeps = dict(sleeps or {})
        self._targets: dict[str, int] = {}
        self._replicas: dict[str, LocalReplica] = {}
        self._asked_at_s: dict[str, float] = {}
        self._history = {pool: _PoolHistory() for pool in commands}
        self._meter = RentMeter(clock)
        self._causes: dict[str, Causes] = {}
        self._session: aiohttp.ClientSession | None = None
        self._closing = False
        settings.log_dir.mkdir(parents=True, exist_ok=True)

    async def __aenter__(self) -> Self:
        """These processes; nothing is started yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything that was not left running on purpose."""
        await self.stop_all()

    async def adopt(self) -> int:
        """Take over the replicas that the roster lists and that still run; returns how many.

        They are listed as ready as soon as they answer their health check. Until `apply` names their pool nothing is
        started or stopped.

        Raises:
            RosterError: the roster cannot be read, or a replica of a pool without a command still runs.
        """
        roster = self._settings.roster
        running = [one for one in (read_roster(roster) if roster else ()) if one.runs]
        for listed in running:
            if listed.pool not in self._commands:
                raise RosterError(
                    f"{roster}: {listed.name} (process {listed.pid}) runs for pool {listed.pool!r}, which is none of"
                    f" {', '.join(self._commands)}; stop it, or go on with the scenario that it was started for"
                )
        for listed in running:
            if listed.name not in self._replicas:
                replica = self._new_replica(listed.name, listed.pool)
                try:
                    replica.resume(listed)
                except ProcessLookupError:
                    replica.cancel()
        self._save()
        return len(self._replicas)

    async def apply(self, targets: Mapping[str, int], tick: int = NO_DECISION) -> None:
        """Bring pools to their counts; returns when everything needed is under way. Pools not named stay as they are.

        What this starts, drains or cancels is charged to the decision of `tick`; what is replaced later because it
        died is charged to none.

        Raises:
            ValueError: an unknown pool, or a count that cannot be.
            RuntimeError: after `stop_all` or `detach`.
        """
        for pool, target in targets.items():
            if pool not in self._commands or target < 0 or target != int(target):
                raise ValueError(f"{pool}: {target} replicas; wanted a count of a pool of {', '.join(self._commands)}")
        wanted = {pool: int(target) for pool, target in targets.items()}
        load = await self._load_where_fewer(wanted)
        if self._closing:
            raise RuntimeError("these processes were stopped or left; make new ones")
        self._targets.update(wanted)
        self._converge(load, tick)

    def states(self) -> dict[str, PoolReplicas]:
        """Every pool as of now, in the order of the commands."""
        return {
            pool: PoolReplicas(
                replicas=tuple(r.now for r in self._replicas.values() if r.now.pool == pool),
                failed=past.failed,
                last_failure=past.last_failure,
                cold_start_s=past.cold_start_s,
            )
            for pool, past in self._history.items()
        }

    def usage(self) -> dict[str, RentedSeconds]:
        """Replica-seconds by pool since this object was made, in the decider's time."""
        rented = self._meter.read()
        return {pool: rented.get(pool, RentedSeconds()) for pool in self._commands}

    def caused(self) -> tuple[CausedSeconds, ...]:
        """Of the time that `usage` told last, starting, draining and sleeping by decision, since this was last asked."""
        return self._meter.caused()

    def release(self, routed: Collection[Endpoint]) -> None:
        """Routing holds exactly `routed` now: draining replicas outside it get no new requests and may stop."""
        for replica in self._replicas.values():
            if replica.now.endpoint not in routed:
                replica.release()

    async def stop_all(self) -> None:
        """Drain and stop everything, routed or not: take the pools out of routing first. Cancelled, it kills the rest."""
        self._closing = True
        self._targets = dict.fromkeys((r.now.pool for r in self._replicas.values()), 0)
        self._converge({})
        self.release(())
        for replica in tuple(self._replicas.values()):
            if replica.now.stage in (Stage.ASLEEP, Stage.FALLING_ASLEEP):
                replica.cancel()
        try:
            while works := [r.work for r in self._replicas.values() if r.work]:
                await asyncio.wait(works)
        finally:
            left = list(self._replicas.values())
            for replica in left:
                replica.kill()
            for replica in left:
                replica.bury()
            await self._close_session()

    async def detach(self) -> None:
        """Leave all processes running for the next sidecar to adopt. RuntimeError if no roster names them to it."""
        if self._settings.roster is None:
            raise RuntimeError("no roster: replicas that nobody can find again must be stopped, not left")
        self._closing = True
        for replica in self._replicas.values():
            replica.forget()
        self._replicas.clear()
        await self._close_session()

    # What the replicas tell

    def changed(self, name: str, left: Stage, entered: Stage | None) -> None:
        """A replica enters another stage."""
        replica = self._replicas[name]
        pool = replica.now.pool
        self._meter.move(pool, left, entered, self._causes[name])
        if entered == Stage.PROVISIONING:
            self._asked_at_s[name] = self._clock()
        elif entered == Stage.READY and left == Stage.LOADING:
            past = self._history[pool]
            past.last_failure = ""
            if name in self._asked_at_s:  # an adopted one was asked for by somebody else
                past.cold_start_s = self._clock() - self._asked_at_s[name]
        elif entered is None:
            del self._replicas[name]
            self._asked_at_s.pop(name, None)
            del self._causes[name]
        if entered in (Stage.STOPPING, None):
            self._save()

    def running(self, name: str) -> None:
        """A process was started for a replica."""
        self._save()

    def may_sleep(self, name: str) -> bool:
        """Whether a replica is to sleep: its pool does, has room for another sleeper, and goes on."""
        pool = self._replicas[name].now.pool
        asleep = (Stage.ASLEEP, Stage.FALLING_ASLEEP)
        sleepers = sum(r.now.pool == pool and r.now.stage in asleep for r in self._replicas.values())
        return not self._closing and pool in self._sleeps and sleepers < self._sleeps[pool].most

    def hurries(self) -> bool:
        """Whether everything is being stopped."""
        return self._closing

    def failed(self, name: str, what: str) -> None:
        """A replica died or never became ready: replace it, when what it does now is done."""
        _LOG.error("%s", what)
        loop = asyncio.get_running_loop()
        past, settings = self._history[self._replicas[name].now.pool], self._settings
        calm = loop.time() - past.failed_at_s > settings.ready_within_s + 2 * settings.most_backoff_s
        past.failed_in_a_row = 1 if calm else past.failed_in_a_row + 1
        past.failed, past.failed_at_s, past.last_failure = past.failed + 1, loop.time(), what
        loop.call_soon(self._replace_failed)

    def _replace_failed(self) -> None:
        if not self._closing:
            self._converge({})

    # What is done to them

    def _converge(self, load: Mapping[str, float], tick: int = NO_DECISION) -> None:
        for step in reconcile([r.now for r in self._replicas.values()], self._targets, load):
            if step.kind == StepKind.START:
                self._ask_for(step.subject, tick)
                continue
            replica = self._replicas[step.subject]
            # The meter is told of a change with the causes of before: those of the next stage are put in first, where
            # the stage that is left does not look at them.
            if step.kind == StepKind.WAKE:
                self._causes[step.subject] = replace(self._causes[step.subject], started=tick)
            elif step.kind != StepKind.REVIVE:
                self._causes[step.subject] = replace(self._causes[step.subject], stopped=tick)
            if step.kind == StepKind.REVIVE:
                replica.revive()
            elif step.kind == StepKind.WAKE:
                replica.wake()
            elif step.kind == StepKind.DRAIN:
                replica.drain()
            else:
                replica.cancel()

    async def _load_where_fewer(self, wanted: Mapping[str, int]) -> dict[str, float]:
        """Requests at the replicas of pools that will lose some ready ones."""
        steps = reconcile([r.now for r in self._replicas.values()], wanted, {})
        pools = {self._replicas[s.subject].now.pool for s in steps if s.kind == StepKind.DRAIN}
        asked = [r for r in self._replicas.values() if r.now.pool in pools]
        counts = await asyncio.gather(*(r.requests() for r in asked))
        return {r.now.name: count for r, count in zip(asked, counts, strict=True) if count is not None}

    def _ask_for(self, pool: str, tick: int) -> None:
        past, settings = self._history[pool], self._settings
        past.started += 1
        while (name := f"{pool}-{past.started}") in self._replicas:  # adopted ones have their names from before
            past.started += 1
        until_s = past.failed_at_s + backoff_s(past.failed_in_a_row, settings.first_backoff_s, settings.most_backoff_s)
        delay_s = until_s - asyncio.get_running_loop().time()
        replica = self._new_replica(name, pool, Causes(started=tick))
        replica.start(self._commands[pool], delay_s, lambda: self._provision_s(pool))

    def _new_replica(self, name: str, pool: str, causes: Causes = NOBODY) -> LocalReplica:
        replica = LocalReplica(name, pool, self._settings, self._in_flight, self, self._http(), self._sleeps.get(pool))
        self._replicas[name] = replica
        self._causes[name] = causes
        self._meter.move(pool, None, replica.now.stage, causes)
        return replica

    def _save(self) -> None:
        if self._settings.roster is None:
            return
        listed = (r.listed() for r in self._replicas.values())
        try:
            write_roster(self._settings.roster, [one for one in listed if one], self._settings.fence)
        except Fenced as fenced:
            _LOG.warning("%s: left to the sidecar that leads now: %s", self._settings.roster, fenced)
        except OSError as error:  # a full disk must not stop the care for what runs
            _LOG.error(
                "%s: the roster cannot be written: %s; a next sidecar may miss replicas", self._settings.roster, error
            )

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        return self._session

    async def _close_session(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
