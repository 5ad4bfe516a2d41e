"""What a worker does: all seeds of one policy at one head-room on one scenario, side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...agents.rules import Knobs
from ...env.batch import Episode
from ...env.scenario import Scenario
from ...env.window import MET
from ..bounding import Clairvoyant
from ..contenders import Contender, contender
from ..days import scored_episodes
from ..rollout import RunResult
from .entrants import Listed
from .rows import Row


@dataclass(frozen=True)
class Job:
    """One cell of the evaluation."""

    suite: str
    scenario: str
    policy: str
    """As tables show it."""
    headroom: float

    def __str__(self) -> str:
        """For people."""
        return f"{self.policy} at head-room {self.headroom:g} on {self.scenario} of suite {self.suite}"


@dataclass(frozen=True)
class Plan:
    """What all jobs have in common; every worker gets it once."""

    scenarios: Mapping[tuple[str, str], Scenario]
    """By suite and name."""
    policies: Mapping[str, Listed]
    """By what tables call them."""
    seeds: int
    tuned: bool = False
    """Whether rules are tuned on other days of each scenario, instead of keeping their knobs."""
    bounded: bool = True
    """Whether the distance to the bound is told."""


@dataclass
class Stage:
    """One scenario's scored days, drawn once for all policies and head-rooms."""

    scenario: Scenario
    episodes: list[Episode]
    worlds: list[str]
    """Of each episode, a hash of its requests."""
    hindsight: list[Clairvoyant] = field(default_factory=list)
    tuned: dict[str, Knobs] = field(default_factory=dict)
    """Of rules, as far as they are tuned for the scenario."""

    def knobs(self, rule: str) -> Knobs:
        """A rule's knobs tuned on days of the scenario that are not scored."""
        from ..tuning.search import knobs_for  # by Optuna, which is an extra and takes long to import

        if rule not in self.tuned:
            self.tuned[rule] = knobs_for(rule, self.scenario)
        return self.tuned[rule]

    def bound_usd_per_hr(self, seed: int, result: RunResult) -> float:
        """What no policy that meets as many requests can undercut."""
        if not self.hindsight:
            self.hindsight += [Clairvoyant(episode, self.scenario.tick_s) for episode in self.episodes]
        return self.hindsight[seed].near(result.tally[:, MET].astype(np.int64)).usd_per_hr


def stage_of(scenario: Scenario, seeds: int) -> Stage:
    """The scored days of a scenario: seeds 0, 1, 2, ..."""
    episodes = scored_episodes(scenario, seeds, quickly=True)
    return Stage(scenario, episodes, [world_hash(episode) for episode in episodes])


def world_hash(episode: Episode) -> str:
    """Short hash of an episode's requests and true speeds: the same on every machine, whatever files they came from."""
    digest = hashlib.sha256()
    requests = episode.world.workload
    for part in (requests.arrival_s, requests.prompt_tokens, requests.output_tokens, requests.class_index):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(np.ascontiguousarray(episode.world.law_rows).tobytes())
    return digest.hexdigest()[:16]


def entry_of(job: Job, plan: Plan, stage: Stage) -> Contender:
    """Who runs a job."""
    listed = plan.policies[job.policy]
    own = None
    if listed.rule is not None:
        own = stage.knobs(listed.rule) if plan.tuned else listed.knobs
    return contender(listed.given, stage.scenario, job.headroom, knobs=own)


def run_job(job: Job, plan: Plan, stage: Stage) -> list[Row]:
    """A row for each seed."""
    listed, entry = plan.policies[job.policy], entry_of(job, plan, stage)
    rows = []
    for seed, result in enumerate(entry.run(stage.episodes, stage.scenario.tick_s)):
        bound = stage.bound_usd_per_hr(seed, result) if plan.bounded else None
        rows.append(
            {
                "suite": job.suite,
                "scenario": job.scenario,
                "policy": job.policy,
                "kind": listed.kind,
                "headroom": job.headroom,
                "seed": seed,
                "world": stage.worlds[seed],
                "duration_s": result.duration_s,
                "reference_usd_per_hr": stage.episodes[seed].reference_usd * 3600.0 / stage.scenario.tick_s,
                **result.totals(),
                "bound_usd_per_hr": bound,
                "above_bound_frac": result.usd_per_hr / bound - 1.0 if bound else None,
                "knobs": {name: float(value) for name, value in entry.knobs.items()},
                "classes": result.by_class(),
                "pools": result.by_pool(),
            }
        )
    return rows


def jobs_of(plan: Plan, headrooms: Sequence[float]) -> list[Job]:
    """Every cell, scenario by scenario so that a worker can keep its days; what has no head-room runs at 1 only."""
    return [
        Job(suite, scenario, policy, headroom)
        for suite, scenario in plan.scenarios
        for policy, listed in plan.policies.items()
        for headroom in sorted({1.0, *headrooms} if listed.swept else {1.0})
    ]
