"""Several rules tuned side by side: one process a rule, each with days of its own, the same days in each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...agents.portfolio import base_of, spec_of, tuned_knobs
from ...agents.rules import Knobs
from ...agents.tuned import TunedRule
from ...env.scenario import Scenario
from .ground import Ground, ground_of
from .search import search

LOOK_EVERY_S = 0.3
"""How often it is seen to how far the processes are."""


def tune_rules(
    rules: Sequence[str],
    suite: str,
    scenarios: Sequence[Scenario],
    trials: int,
    seeds: int,
    workers: int = 1,
    on_trial: Callable[[], None] | None = None,
) -> Iterator[tuple[str, TunedRule]]:
    """Every rule tuned on the scenarios, each as soon as it is found; however many workers, with the same result.

    Args:
        rules: names.
        suite: what the scenarios are called together.
        scenarios: each counts the same.
        trials: settings tried of each rule, the defaults among them.
        seeds: days of each scenario.
        workers: processes; each draws its days, so that more than there are rules are of no use.
        on_trial: told of every trial of every rule.

    Raises:
        KnobError: there is no such rule.
    """
    alone = [rule for rule in rules if base_of(rule) is None]
    around = [rule for rule in rules if rule not in alone]  # these go on from what was found for the rules inside them
    for rule in rules:
        spec_of(rule)
    with _several(scenarios, seeds, min(workers, len(rules)), on_trial) as run:
        found: dict[str, TunedRule] = {}
        for rule, tuned in run([Job(rule, suite, trials) for rule in alone]):
            found[rule] = tuned
            yield rule, tuned
        yield from run([Job(rule, suite, trials, _knobs_inside(rule, found)) for rule in around])


def _knobs_inside(rule: str, found: Mapping[str, TunedRule]) -> Knobs:
    base = str(base_of(rule))
    return found[base].knobs if base in found else tuned_knobs(base)


@dataclass(frozen=True)
class Job:
    """A rule to be tuned."""

    rule: str
    suite: str
    trials: int
    start: Knobs | None = None

    def done(self, ground: Ground, on_trial: Callable[[], None] | None) -> TunedRule:
        """What is found for it."""
        return search(spec_of(self.rule), ground, self.trials, on_trial, self.start).as_tuned(self.suite, ground)


Run: TypeAlias = Callable[[Sequence[Job]], Iterator[tuple[str, TunedRule]]]


@contextmanager
def _several(
    scenarios: Sequence[Scenario], seeds: int, workers: int, on_trial: Callable[[], None] | None
) -> Iterator[Run]:
    """What does jobs: one after the other, or in processes that are there until the end."""
    if workers == 1:
        ground = ground_of(scenarios, seeds)
        yield lambda jobs: ((job.rule, job.done(ground, on_trial)) for job in jobs)
        return
    # Fresh processes, not forks: compiled code and its threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    counted = context.Value("q", 0)
    pool = ProcessPoolExecutor(workers, context, _begin, (tuple(scenarios), seeds, counted))
    told = 0

    def run(jobs: Sequence[Job]) -> Iterator[tuple[str, TunedRule]]:
        nonlocal told
        waiting = {pool.submit(_done_here, job): job.rule for job in jobs}
        while waiting:
            ended, _ = wait(waiting, LOOK_EVERY_S, FIRST_COMPLETED)
            while told < counted.value:
                told += 1
                if on_trial:
                    on_trial()
            for future in ended:
                yield waiting.pop(future), future.result()

    try:
        yield run
    finally:
        pool.shutdown(cancel_futures=True)


_here: dict[str, Any] = {}
"""Of a worker process: its ground, and where it counts trials."""


def _begin(scenarios: tuple[Scenario, ...], seeds: int, counted: Any) -> None:
    _here.update(ground=ground_of(scenarios, seeds), counted=counted)


def _done_here(job: Job) -> TunedRule:
    def count() -> None:
        with _here["counted"].get_lock():
            _here["counted"].value += 1

    return job.done(_here["ground"], count)
