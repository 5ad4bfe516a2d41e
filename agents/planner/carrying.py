"""What one replica carries of each bucket of a demand, and why not where it carries nothing.

Symbols: `C` classes, `B` buckets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...env.contract import BoolArray, FloatArray, Targets
from ...env.perf.capacity import capacity_per_s
from ...env.perf.law import IterationLaw
from ...env.scenario.pools import Engine
from .demand import Demand

__all__ = ["Replica", "carried", "replica_of"]


@dataclass(frozen=True, eq=False)
class Replica:
    """An engine as the performance model sees it."""

    law: IterationLaw
    kv_tokens: int
    max_num_seqs: int
    token_budget: int
    """Of all batches in flight."""
    max_model_len: int


def replica_of(law: IterationLaw, kv_tokens: int, engine: Engine, batches_in_flight: int = 1) -> Replica:
    """A replica that was started with these flags; a pipeline has a batch in flight on each stage."""
    budget = engine.max_num_batched_tokens * batches_in_flight
    return Replica(law, kv_tokens, engine.max_num_seqs, budget, engine.max_model_len)


def carried(
    replica: Replica, demand: Demand, serves: BoolArray, targets: Targets
) -> tuple[FloatArray, tuple[str, ...]]:
    """`[B]` requests per second of each bucket within its class's targets; and `[B]` why not, empty where it does.

    Args:
        serves: `[C]` the classes that may come to it.
    """
    rates = np.zeros(len(demand.class_index))
    why_not = [""] * len(rates)
    for b, c in enumerate(demand.class_index):
        if not serves[c]:
            continue
        prompt, output = float(demand.prompt_tokens[b]), float(demand.output_tokens[b])
        longest = min(replica.max_model_len, replica.kv_tokens)
        if prompt + output > longest:
            why_not[b] = f"{prompt + output:.0f} tokens, and a replica holds {longest}"
            continue
        ttft_s, tpot_s = float(targets.ttft_s[c]), float(targets.tpot_s[c])
        rates[b] = capacity_per_s(
            replica.law, replica.kv_tokens, replica.max_num_seqs, replica.token_budget, prompt, output, ttft_s, tpot_s
        )
        if not rates[b]:
            why_not[b] = "not even a lone request meets the targets"
    return rates, tuple(why_not)
