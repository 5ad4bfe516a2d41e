"""The life of local replicas, without any I/O: what is to be done for wanted counts, and what their time adds up to.

    WAITING -> PROVISIONING -> LOADING -> READY <-> DRAINING -> STOPPING -> gone
                                            ^           |
                                         WAKING <- ASLEEP <- FALLING_ASLEEP

A replica leaves routing first (DRAINING), is told to stop only when it is empty (STOPPING), and from then on there is
no way back: it refuses requests, although its health check may still say that all is well. Where its pool sleeps, it is
put to sleep instead, and the next one wanted is woken up before any is started.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ...env.contract import NO_DECISION
from .envoy_config import Endpoint


class Stage(StrEnum):
    """Where a replica is in its life."""

    WAITING = "waiting"
    """Held back after a failure; nothing is rented yet."""
    PROVISIONING = "provisioning"
    """The machine is on its way; nothing runs."""
    LOADING = "loading"
    """The process runs and does not answer its health check yet."""
    READY = "ready"
    DRAINING = "draining"
    """Out of routing; finishes what it has, and may still be called back."""
    STOPPING = "stopping"
    """Was told to stop."""
    FALLING_ASLEEP = "falling asleep"
    """Empty, and told to sleep; it cannot be called back before it does."""
    ASLEEP = "asleep"
    """Serves nobody, and would let requests hang; wakes up faster than another one starts."""
    WAKING = "waking"


_PENDING: Final = (Stage.WAITING, Stage.PROVISIONING, Stage.LOADING, Stage.WAKING)
_LEAVING: Final = (Stage.DRAINING, Stage.STOPPING, Stage.FALLING_ASLEEP)


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica as of now."""

    name: str
    """Unique in the cluster, such as `h100-3`."""
    pool: str
    stage: Stage
    endpoint: Endpoint | None = None
    """Where it listens, from LOADING on."""


@dataclass(frozen=True, slots=True)
class PoolReplicas:
    """One pool as of now."""

    replicas: tuple[Replica, ...]
    """In the order in which they were asked for."""
    failed: int
    """How many died, or never became ready, since the start."""
    last_failure: str
    """What happened to the last of them, until another replica became ready since; else empty."""
    cold_start_s: float
    """From asking for the replica that became ready last until it did, in the decider's seconds; NaN before."""

    @property
    def ready(self) -> int:
        """Replicas that serve."""
        return sum(r.stage == Stage.READY for r in self.replicas)

    @property
    def starting(self) -> int:
        """Replicas on their way, those held back after a failure included."""
        return sum(r.stage in _PENDING for r in self.replicas)

    @property
    def draining(self) -> int:
        """Replicas on their way out, or to sleep."""
        return sum(r.stage in _LEAVING for r in self.replicas)

    @property
    def asleep(self) -> int:
        """Replicas that sleep."""
        return sum(r.stage == Stage.ASLEEP for r in self.replicas)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where requests may be sent."""
        return tuple(r.endpoint for r in self.replicas if r.stage == Stage.READY and r.endpoint)


class StepKind(StrEnum):
    """What can be done to come nearer to the wanted count."""

    START = "start"
    REVIVE = "revive"
    """Back into routing: it was on its way out and was not told to stop yet."""
    WAKE = "wake"
    """Back from sleep."""
    CANCEL = "cancel"
    """Give up a start: it never had a request."""
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do."""

    kind: StepKind
    subject: str
    """The pool of a START, the replica's name otherwise."""


def reconcile(current: Sequence[Replica], targets: Mapping[str, int], load: Mapping[str, float]) -> tuple[Step, ...]:
    """What brings each pool of `targets` to its count; nothing where it is there already.

    Args:
        current: all replicas, in the order in which they were asked for.
        targets: replicas wanted, ready or on their way; pools that are not named are left alone.
        load: requests of a replica, by its name; of those to be drained the least busy go first.
    """
    steps: list[Step] = []
    for pool, target in targets.items():
        own = [r for r in current if r.pool == pool]
        counted = [r for r in own if r.stage not in _LEAVING and r.stage != Stage.ASLEEP]
        missing = target - len(counted)
        if missing > 0:
            # The one that left last is the most likely to be in routing still.
            back = [r for r in reversed(own) if r.stage == Stage.DRAINING][:missing]
            woken = [r for r in own if r.stage == Stage.ASLEEP][: missing - len(back)]
            steps += [Step(StepKind.REVIVE, r.name) for r in back]
            steps += [Step(StepKind.WAKE, r.name) for r in woken]
            steps += [Step(StepKind.START, pool)] * (missing - len(back) - len(woken))
        for replica in _least_missed(counted, load)[: max(-missing, 0)]:
            kind = StepKind.CANCEL if replica.stage in _PENDING else StepKind.DRAIN
            steps.append(Step(kind, replica.name))
    return tuple(steps)


def _least_missed(replicas: Sequence[Replica], load: Mapping[str, float]) -> list[Replica]:
    """Starts furthest from serving first, then ready ones with the fewest requests; the newest first in a tie."""
    order = (*_PENDING, Stage.READY)

    def loss(age_and_replica: tuple[int, Replica]) -> tuple[int, float, int]:
        age, replica = age_and_replica
        busy = load.get(replica.name, math.inf) if replica.stage == Stage.READY else 0.0
        return order.index(replica.stage), busy, -age

    return [replica for _, replica in sorted(enumerate(replicas), key=loss)]


def backoff_s(failures: int, first_s: float, most_s: float) -> float:
    """How long to wait before the next start after so many failures in a row: doubled each time."""
    return min(most_s, first_s * 2.0 ** min(failures - 1, 60)) if failures > 0 else 0.0


@dataclass(frozen=True, slots=True)
class RentedSeconds:
    """Replica-seconds of one pool, by what they were spent on."""

    starting_s: float = 0.0
    """Machine or model not there yet."""
    ready_s: float = 0.0
    draining_s: float = 0.0
    asleep_s: float = 0.0

    @property
    def total_s(self) -> float:
        """What is paid for."""
        return self.starting_s + self.ready_s + self.draining_s + self.asleep_s


@dataclass(frozen=True, slots=True)
class Causes:
    """The ticks whose decisions made a replica what it is; `NO_DECISION` where none did."""

    started: int = NO_DECISION
    stopped: int = NO_DECISION
    """Drained or cancelled it, or put it to sleep."""

    def of(self, kind: str) -> int:
        """Whose decision it is that time is spent on this field of `RentedSeconds`."""
        return {"starting_s": self.started, "draining_s": self.stopped, "asleep_s": self.stopped}.get(kind, NO_DECISION)


@dataclass(frozen=True, slots=True)
class CausedSeconds:
    """Replica-seconds of one pool, on one field of `RentedSeconds`, due to one decision."""

    pool: str
    kind: str
    tick: int
    seconds: float


NOBODY: Final = Causes()
_RENTED_AS: Final = {
    Stage.PROVISIONING: "starting_s",
    Stage.LOADING: "starting_s",
    Stage.READY: "ready_s",
    Stage.DRAINING: "draining_s",
    Stage.STOPPING: "draining_s",
    Stage.FALLING_ASLEEP: "draining_s",
    Stage.ASLEEP: "asleep_s",
    Stage.WAKING: "starting_s",
}


class RentMeter:
    """Adds up replica-seconds at every change of a count, so that no sampling error comes in."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives the decider's seconds."""
        self._clock = clock
        self._read_at_s = clock()
        self._count: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._total_s: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._caused_s: defaultdict[tuple[str, str, int], float] = defaultdict(float)

    def move(self, pool: str, left: Stage | None, entered: Stage | None, causes: Causes = NOBODY) -> None:
        """A replica of the pool changes its stage now; None is before its life and after it.

        `causes` must be those with which it entered the stage that it leaves, and enters the next.
        """
        self._add_up()
        for stage, change in ((left, -1), (entered, 1)):
            if stage in _RENTED_AS:
                kind = _RENTED_AS[stage]
                self._count[pool, kind, causes.of(kind)] += change

    def read(self) -> dict[str, RentedSeconds]:
        """By pool, since this meter was made; pools that never had a replica are not named."""
        self._add_up()
        pools = dict.fromkeys(pool for pool, _ in self._total_s)
        kinds = ("starting_s", "ready_s", "draining_s", "asleep_s")
        return {pool: RentedSeconds(**{k: self._total_s.get((pool, k), 0.0) for k in kinds}) for pool in pools}

    def caused(self) -> tuple[CausedSeconds, ...]:
        """Time on starting, draining and sleeping by the decisions behind it, up to the last `read`, since this was last asked."""
        caused = tuple(CausedSeconds(*key, seconds) for key, seconds in self._caused_s.items() if seconds > 0.0)
        self._caused_s.clear()
        for key in [key for key, count in self._count.items() if count == 0]:
            del self._count[key]  # a decision whose replicas are gone is never heard of again
        return caused

    def _add_up(self) -> None:
        now_s = self._clock()
        for (pool, kind, tick), count in self._count.items():
            spent_s = count * (now_s - self._read_at_s)
            self._total_s[pool, kind] += spent_s
            if kind != "ready_s":
                self._caused_s[pool, kind, tick] += spent_s
        self._read_at_s = now_s
