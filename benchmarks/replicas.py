"""Single replicas under Poisson arrivals, and how many of their requests meet their targets: what capacities are held to.

Symbol: `N` requests, `C` classes, `M` kinds of request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poolpilot.agents.planner.demand import demand_of
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.crowd import Mix, Replica
from poolpilot.env.perf.law import IterationLaw
from poolpilot.env.perf.mixes import Promises
from poolpilot.env.perf.roofline import iteration_law, kv_capacity_tokens
from poolpilot.env.sim.engine import enqueue, run
from poolpilot.env.sim.engine_state import NEVER_PS, PS_PER_S, load_requests, make_engine
from poolpilot.env.workload.requests import Workload

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
INF = float("inf")


@dataclass(frozen=True)
class Shape:
    """Requests of one class: log-normal lengths (median, sigma, most), and targets."""

    prompt: tuple[float, float, int]
    output: tuple[float, float, int] | None
    """None: the request ends with its prompt."""
    ttft_s: float = INF
    tpot_s: float = INF
    e2e_s: float = INF


SHAPES = {
    "chat": Shape((450, 0.9, 3000), (250, 0.6, 900), 2.0, 0.08),
    "summarisation": Shape((2500, 0.5, 7000), (200, 0.7, 800), 6.0, 0.12),
    "code": Shape((1500, 0.8, 6000), (40, 0.8, 300), 1.5, 0.06),
    "classification": Shape((300, 0.6, 2000), None, 1.0),
    "embedding": Shape((150, 0.5, 500), None, 0.3),
    "end to end": Shape((450, 0.9, 3000), (120, 0.6, 400), e2e_s=15.0),
}


@dataclass(frozen=True)
class Served:
    """A replica, what comes to it, and what is promised."""

    law: IterationLaw
    replica: Replica
    prompt: IntArray
    """`[N]`"""
    output: IntArray
    klass: IntArray
    mix: Mix
    promises: Promises

    def met(self, rate_per_s: float, seed: int) -> FloatArray:
        """`[C]` share of each class that meets its targets under Poisson arrivals, the first tenth left out."""
        n = len(self.prompt)
        arrival_s = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate_per_s, n))
        engine = make_engine(
            self.law.as_row()[None],
            kv_blocks=int(self.replica.kv_tokens) // 16,
            caps=int(self.replica.max_num_seqs),
            token_budgets=int(self.replica.token_budget),
            max_model_len=int(self.replica.longest),
            max_seqs=int(self.replica.max_num_seqs),
            capacity=n,
        )
        load_requests(engine, self.prompt, self.output, self.klass)
        for request, now_s in enumerate(arrival_s):
            run(engine, 0, int(now_s * PS_PER_S))
            enqueue(engine, 0, request, int(now_s * PS_PER_S))
        run(engine, 0, NEVER_PS)
        rows: Any = engine.requests
        finish_s, first_s = rows["finish_ps"] / PS_PER_S, rows["first_token_ps"] / PS_PER_S
        first_s = np.where(self.output == 0, finish_s, first_s)
        tpot_s = (finish_s - first_s) / np.maximum(self.output - 1, 1)
        own = [column[self.klass] for column in self.promises[:3]]
        good = (first_s - arrival_s <= own[0]) & (tpot_s <= own[1]) & (finish_s - arrival_s <= own[2])
        late = np.arange(n) >= n // 10
        return np.array([good[late & (self.klass == c)].mean() for c in range(len(self.promises.attainment))])


def served(
    gpu_name: str,
    model_name: str,
    precision: str,
    shapes: tuple[str, ...],
    attainment: tuple[float, ...],
    *,
    tensor_parallel: int = 1,
    max_num_seqs: int = 128,
    token_budget: int = 2048,
    shares: tuple[float, ...] = (1.0,),
    n: int = 4000,
    seed: int = 0,
) -> Served:
    """A replica with requests of these shapes in these shares."""
    law = iteration_law(gpu(gpu_name), model(model_name), precision, tensor_parallel)
    kv_tokens = kv_capacity_tokens(gpu(gpu_name), model(model_name), precision, tensor_parallel)
    rng = np.random.default_rng(seed)
    klass = rng.choice(len(shapes), n, p=np.array(shares) / sum(shares)).astype(np.int64)
    prompt, output = np.ones(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for c, name in enumerate(shapes):
        shape, mine = SHAPES[name], klass == c
        prompt[mine] = _drawn(shape.prompt, int(mine.sum()), rng)
        if shape.output is not None:
            output[mine] = _drawn(shape.output, int(mine.sum()), rng)
    prompt = np.minimum(prompt, kv_tokens - output - 16)
    cells = demand_of(Workload(np.linspace(0, 1, n), prompt, output, klass, shapes), 1.0, load="mean").fine
    share_of_class = np.bincount(klass, minlength=len(shapes)) / n
    mix = Mix(
        cells.bucket,
        cells.prompt_tokens,
        np.maximum(cells.output_tokens - 1.0, 0.0),
        share_of_class[cells.bucket] * cells.share,
        cells.share,
    )
    promises = Promises(
        ttft_s=np.array([SHAPES[name].ttft_s for name in shapes]),
        tpot_s=np.array([SHAPES[name].tpot_s for name in shapes]),
        e2e_s=np.array([SHAPES[name].e2e_s for name in shapes]),
        attainment=np.array(attainment),
    )
    replica = Replica(law.as_row(), float(kv_tokens), float(max_num_seqs), float(token_budget), float(kv_tokens))
    return Served(law, replica, prompt, output, klass, mix, promises)


def _drawn(lengths: tuple[float, float, int], n: int, rng: np.random.Generator) -> IntArray:
    median, sigma, most = lengths
    return np.clip(np.rint(median * np.exp(sigma * rng.standard_normal(n))), 1, most).astype(np.int64)
