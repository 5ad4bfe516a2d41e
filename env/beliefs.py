"""What policies and planner believe of a scenario's pools and load, from its file alone.

The simulated world's own figures differ (`scenario.world`), as in life. Symbols: `C` classes, `P` pools.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .contract import BoolArray, FloatArray, Targets
from .coverage import CalibratedRanges
from .market.load import machines
from .perf.capacity import capacity_per_s
from .perf.law import IterationLaw
from .scenario import Scenario
from .workload.requests import Workload


def believed_laws(scenario: Scenario) -> tuple[IterationLaw, ...]:
    """The iteration law of each pool, in the order of the file."""
    return tuple(scenario.pool_law(name) for name in scenario.pools)


def believed_preemptions_per_hr(scenario: Scenario) -> FloatArray:
    """`[P]` machine preemptions per replica: the pool's own figure, else what its series of machines tells.

    Raises:
        SeriesError: a file of machines cannot be used.
    """
    rates = np.zeros(len(scenario.pools))
    for p, (name, pool) in enumerate(scenario.pools.items()):
        if pool.spot is not None:
            rates[p] = pool.spot.preemptions_per_hr
            if pool.spot.availability is not None and not rates[p]:
                rates[p] = machines(name, pool.spot.availability, scenario.duration_s, scenario.base_dir)[1]
    return rates


def believed_ranges(scenario: Scenario) -> CalibratedRanges:
    """`[P]` over which loads the believed laws rest on measurements."""
    known = [scenario.pool_coverage(name) for name in scenario.pools]
    return CalibratedRanges(
        calibrated=np.array([c.calibrated for c in known], dtype=np.bool_),
        tokens=np.array([c.tokens for c in known], dtype=np.float64),
        sequences=np.array([c.sequences for c in known], dtype=np.float64),
        context_tokens=np.array([c.context_tokens for c in known], dtype=np.float64),
        kv_tokens=np.array([scenario.pool_kv_tokens(name) for name in scenario.pools], dtype=np.float64),
    )


@dataclass(frozen=True)
class BelievedCapacity:
    """Called with mean prompt and output tokens `[C]`: requests/s within target of one replica of each pool `[C, P]`."""

    laws: tuple[IterationLaw, ...]
    kv_tokens: tuple[float, ...]
    max_num_seqs: tuple[int, ...]
    token_budget: tuple[int, ...]
    serves: BoolArray
    """`[C, P]`"""
    targets: Targets

    def __call__(self, prompt_tokens: FloatArray, output_tokens: FloatArray) -> FloatArray:
        """The rates; 0 where a pool does not serve the class."""
        rates = np.zeros(self.serves.shape)
        end_s = np.fmin(self.targets.e2e_s, self.targets.deadline_s)
        for c, p in zip(*np.nonzero(self.serves), strict=True):
            rates[c, p] = capacity_per_s(
                self.laws[p],
                self.kv_tokens[p],
                self.max_num_seqs[p],
                self.token_budget[p],
                float(prompt_tokens[c]),
                float(output_tokens[c]),
                float(self.targets.ttft_s[c]),
                float(self.targets.tpot_s[c]),
                float(end_s[c]),
                float(self.targets.attainment[c]),
            )
        return rates


def believed_capacity(scenario: Scenario) -> BelievedCapacity:
    """What one replica of each pool is believed to carry of each class."""
    pools = list(scenario.pools.values())
    return BelievedCapacity(
        laws=believed_laws(scenario),
        kv_tokens=tuple(scenario.pool_kv_tokens(name) for name in scenario.pools),
        max_num_seqs=tuple(pool.engine.max_num_seqs for pool in pools),
        token_budget=tuple(pool.engine.max_num_batched_tokens * pool.batches_in_flight for pool in pools),
        serves=scenario.serves(),
        targets=scenario.targets(),
    )


def mean_load(requests: Workload, duration_s: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Of each class `[C]`: requests per second over `duration_s`, mean prompt tokens, mean output tokens.

    A class without requests counts as one with a single prompt token, so that it has a capacity.
    """
    n_classes = len(requests.class_names)
    count = np.bincount(requests.class_index, minlength=n_classes)
    prompt = np.bincount(requests.class_index, weights=requests.prompt_tokens, minlength=n_classes)
    output = np.bincount(requests.class_index, weights=requests.output_tokens, minlength=n_classes)
    each = np.maximum(count, 1)
    return count / duration_s, np.maximum(prompt / each, 1.0), output / each


def peak_load(requests: Workload, duration_s: float, bucket_s: float = 60.0, share: float = 0.95) -> FloatArray:
    """`[C]` the rate per second that only `1 - share` of the buckets exceed."""
    rates = requests.rates_per_s(min(bucket_s, duration_s))
    if not len(rates):
        return np.zeros(len(requests.class_names))
    peak: FloatArray = np.quantile(rates, share, axis=0)
    return peak


OPENING_S = 120.0
"""What a first plan is made for: about a cold start, and one look at the load."""


def opening_load(requests: Workload, duration_s: float) -> FloatArray:
    """`[C]` requests per second of the first minutes."""
    span_s = min(OPENING_S, duration_s)
    return mean_load(requests.slice(0.0, span_s), span_s)[0]
