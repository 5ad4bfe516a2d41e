"""Recorded days as worlds of the refitted twin: the requests as they came, machines and clients as the twin has them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ....agents.portfolio import PolicyFactory
from ....env.batch import Episode
from ....env.contract import Action, Cluster, Memory, Plan, Policy, Snapshot
from ....env.scenario import Scenario
from ....env.workload.requests import Workload
from ...criterion import Outcome, outcome_of
from ...evaluation.jobs import world_hash
from ...rollout import RunResult, rollout
from ...worlds import episode_of


class DaysError(ValueError):
    """Days that a candidate cannot be judged on; the message says why."""


@dataclass(frozen=True)
class TwinDay:
    """A recorded day, or a part of one."""

    name: str
    scenario: Scenario
    """Refitted; as long as the day."""
    requests: Workload

    @property
    def fingerprint(self) -> str:
        """Hash of the day's requests: what was learned from is known by it."""
        digest = hashlib.sha256()
        for part in (self.requests.arrival_s, self.requests.prompt_tokens, self.requests.output_tokens):
            digest.update(part.tobytes())
        return digest.hexdigest()[:16]

    def worlds(self, seeds: int) -> list[Episode]:
        """The day so many times: machines, speeds and noise are drawn anew, requests are not."""
        return [
            episode_of(self.scenario, seed, miss_price=1.0, quickly=True, workload=self.requests)
            for seed in range(seeds)
        ]


def refuse_learned(days: Sequence[TwinDay], learned: Collection[str]) -> None:
    """DaysError if one of the days was learned from: it proves nothing."""
    for day in days:
        if day.fingerprint in learned:
            raise DaysError(f"day {day.name} ({day.fingerprint}) was learned from; wanted days that were not")


@dataclass(frozen=True)
class Lived:
    """A day under one policy."""

    results: tuple[RunResult, ...]
    outcomes: tuple[Outcome, ...]
    seen: tuple[Snapshot, ...]
    """What the policy saw, tick by tick, of all seeds side by side."""
    worlds: tuple[str, ...]
    """Hash of each."""


def lived(day: TwinDay, make: PolicyFactory, episodes: Sequence[Episode]) -> Lived:
    """The day's worlds under a policy."""
    watching: list[_Watched] = []

    def watched(cluster: Cluster) -> Policy:
        watching.append(_Watched(make(cluster)))
        return watching[0]

    results = rollout(episodes, watched, day.scenario.tick_s)
    return Lived(
        tuple(results),
        tuple(outcome_of([result], [episode]) for result, episode in zip(results, episodes, strict=True)),
        tuple(watching[0].seen),
        tuple(world_hash(episode) for episode in episodes),
    )


class _Watched:
    """A policy, and what it was shown."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.follows_plan = getattr(policy, "follows_plan", True)
        self.seen: list[Snapshot] = []

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """What the policy decides."""
        self.seen.append(snapshot)
        return self._policy.decide(snapshot, plan, memory)
