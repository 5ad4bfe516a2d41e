"""The bill that a plan should come to at the load it was made for, by the contract's five layers.

The same ledger as everywhere: what is measured of a running fleet is here computed from the iteration law of each pool
at its share of the load, steady, with the mean lengths of what it serves. Head-room is not load: it is idle.

Symbols: `B` buckets of demand, `O` options, `P` pools of the plan, `C` classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ....env.catalog.models import model
from ....env.contract import Bill, FloatArray
from ....env.ledger import SECONDS_PER_HOUR, Meter, Tariff, charge
from ....env.perf.capacity import loads, mean_iteration_s
from ....env.perf.law import IterationLaw
from ....env.perf.power import drawn_j, draws_of
from ..composition import Composition, Option, Problem
from ..fleet import chosen, list_usd_per_hr, pool_usd_per_hr

__all__ = ["Running", "expected_bill", "running"]


@dataclass(frozen=True)
class Running:
    """How one replica of a pool runs at the planned load, head-room left out."""

    requests_per_s: float
    prompt_tokens: float
    """Mean of its requests."""
    output_tokens: float
    """Mean of its requests."""
    sequences: float
    """Decoding at a time, on average while anything runs."""
    busy_frac: float
    """Share of the time with an iteration under way."""
    useful_frac: float
    """Share of the time that the same work takes in the fullest iterations; at most `busy_frac`."""
    attention_frac: float
    """Share of the time in which the KV cache is read and prompts attend."""
    iterations_per_s: float

    @property
    def context_tokens(self) -> float:
        """KV tokens of a sequence, on average."""
        return self.prompt_tokens + max(self.output_tokens - 1.0, 0.0) / 2.0

    @property
    def tokens_per_s(self) -> float:
        """Prompt and output tokens."""
        return self.requests_per_s * (self.prompt_tokens + self.output_tokens)


def running(law: IterationLaw, token_budget: int, per_s: FloatArray, prompt: FloatArray, output: FloatArray) -> Running:
    """One replica under the requests of each bucket `[B]`: rates, mean prompt and output tokens.

    The number in the system follows from Little's law over the mean iteration at each number; arrivals are taken as
    Poisson, so that a replica with n sequences on average is empty a share exp(-n) of the time.
    """
    rate = float(per_s.sum())
    if rate <= 0.0:
        return Running(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    prompt_tokens, output_tokens = float(per_s @ prompt) / rate, float(per_s @ output) / rate
    decodes = max(output_tokens - 1.0, 0.0)
    pairs, read = prompt_tokens**2 / 2.0, decodes * (prompt_tokens + decodes / 2.0)
    attention_s = rate * (law.attend_s_per_pair * pairs + law.kv_read_s_per_token * read)
    useful_s = law.best_token_s * rate * (prompt_tokens + decodes) + attention_s
    if decodes > 0.0:
        sequences, seconds = _steady(law, token_budget, rate, prompt_tokens, decodes)
        busy = 1.0 - math.exp(-sequences)
    else:
        seconds = float(law.linear(prompt_tokens)) + law.attend_s_per_pair * pairs + law.seq_s
        sequences, busy = 0.0, min(rate * seconds, 1.0)
    busy = max(busy, min(useful_s, 1.0))
    return Running(
        requests_per_s=rate,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        sequences=sequences,
        busy_frac=busy,
        useful_frac=min(useful_s, busy),
        attention_frac=min(attention_s, busy),
        iterations_per_s=busy / seconds,
    )


def _steady(
    law: IterationLaw, token_budget: int, rate_per_s: float, prompt_tokens: float, decodes: float
) -> tuple[float, float]:
    """Sequences in the system at a rate, and seconds of their mean iteration."""
    most = max(2, token_budget - 1)
    sequences, iterating = loads(most)
    room = np.maximum(token_budget - iterating, 1.0)
    joining = sequences / decodes
    seconds = mean_iteration_s(law, iterating, joining, room, prompt_tokens, decodes)
    rates = np.maximum.accumulate(joining / seconds)
    n = float(np.interp(rate_per_s, rates, sequences))
    return n, float(np.interp(n, sequences, seconds))


def expected_bill(
    problem: Problem,
    composition: Composition,
    tariff: Tariff,
    bytes_per_token: float,
    law_of: Callable[[Option], IterationLaw],
    token_budget_of: Callable[[Option], int],
) -> tuple[Bill, tuple[Running, ...]]:
    """Dollars of an hour `[P, C, L]` and how each pool's replicas run, for the pools with replicas in the options' order.

    Rent (compute, software, idle) sums to the plan's; GPUs that come along with whole machines and serve nobody are
    idle in the pools that share them. Energy and network are what the tariff says of the load.
    """
    places = chosen(composition)
    demand, n_classes = problem.demand, len(problem.demand.class_names)
    usd = list_usd_per_hr(problem)[places]
    rent = pool_usd_per_hr(problem, composition)[places]
    states, energy_j = [], np.zeros(len(places))
    work, claim, sent = (np.zeros((len(places), n_classes)) for _ in range(3))
    for row, o in enumerate(places):
        option, count = problem.options[o], composition.replicas[o]
        per_s = demand.rate_per_s * composition.share[:, o]
        state = running(
            law_of(option), token_budget_of(option), per_s / count, demand.prompt_tokens, demand.output_tokens
        )
        states.append(state)
        energy_j[row] = count * _energy_j_per_hr(option, state)
        work[row] = np.bincount(
            demand.class_index, per_s * (demand.prompt_tokens + demand.output_tokens), minlength=n_classes
        )
        claim[row] = np.bincount(demand.class_index, per_s, minlength=n_classes)
        sent[row] = np.bincount(
            demand.class_index, per_s * demand.output_tokens * bytes_per_token * SECONDS_PER_HOUR, minlength=n_classes
        )
    counts = composition.replicas[places]
    busy, useful = (np.array([getattr(s, f"{part}_frac") for s in states]) for part in ("busy", "useful"))
    unused = np.divide(rent, usd * counts, out=np.ones_like(rent), where=usd * counts > 0) - 1.0
    replica_s, nothing = SECONDS_PER_HOUR * counts, np.zeros(len(places))
    meter = Meter(
        usd_per_hr=usd,
        useful_s=replica_s * useful,
        wasted_s=replica_s * (busy - useful),
        starting_s=nothing,
        waiting_s=replica_s * (1.0 - busy + np.maximum(unused, 0.0)),
        draining_s=nothing,
        asleep_s=nothing,
        energy_j=energy_j,
        egress_bytes=sent,
        class_work=work,
        class_claim=claim,
    )
    return charge(meter, tariff), tuple(states)


def _energy_j_per_hr(option: Option, state: Running) -> float:
    """Joules of all GPUs of one replica in an hour."""
    layout, hour = option.layout, SECONDS_PER_HOUR
    return sum(
        draw.gpus
        * drawn_j(
            draw,
            hour,
            hour * state.busy_frac,
            hour * state.iterations_per_s,
            hour * state.tokens_per_s,
            hour * state.attention_frac,
        )
        for draw in draws_of(layout.perf_stages(), model(layout.model), layout.precision)
    )
