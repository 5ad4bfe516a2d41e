"""Several rules tuned side by side: one process a rule, each with days of its own, the same days in each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any

from ...agents.portfolio import spec_of
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
) -> dict[str, TunedRule]:
    """Every rule tuned on the scenarios, in the order of `rules`; however many workers, with the same result.

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
    for rule in rules:
        spec_of(rule)
    if workers == 1 or len(rules) == 1:
        ground = ground_of(scenarios, seeds)
        return {rule: _tuned(rule, suite, ground, trials, on_trial) for rule in rules}
    # Fresh processes, not forks: compiled code and its threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    pool = ProcessPoolExecutor(min(workers, len(rules)), context, _begin, (tuple(scenarios), seeds, done))
    try:
        jobs = {rule: pool.submit(_tuned_here, rule, suite, trials) for rule in rules}
        told, waiting = 0, set(jobs.values())
        while waiting:
            _, waiting = wait(waiting, LOOK_EVERY_S, FIRST_COMPLETED)
            for _ in range(done.value - told):
                told += 1
                if on_trial:
                    on_trial()
        return {rule: job.result() for rule, job in jobs.items()}
    finally:
        pool.shutdown(cancel_futures=True)


def _tuned(rule: str, suite: str, ground: Ground, trials: int, on_trial: Callable[[], None] | None = None) -> TunedRule:
    return search(spec_of(rule), ground, trials, on_trial).as_tuned(suite, ground)


_here: dict[str, Any] = {}
"""Of a worker process: its ground, and where it counts trials."""


def _begin(scenarios: tuple[Scenario, ...], seeds: int, done: Any) -> None:
    _here.update(ground=ground_of(scenarios, seeds), done=done)


def _tuned_here(rule: str, suite: str, trials: int) -> TunedRule:
    def count() -> None:
        with _here["done"].get_lock():
            _here["done"].value += 1

    return _tuned(rule, suite, _here["ground"], trials, count)
