"""What is timed, one case a process: `python -m poolpilot.benchmarks.cases KIND '{"argument": ...}'` prints JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from poolpilot.env.perf.law import law_from_row
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.engine import enqueue, run
from poolpilot.env.sim.engine_state import Engine, compiled, load_requests, make_engine
from poolpilot.env.window import ARRIVED, FINISHED, LOST

from . import load
from .timing import cpu_s, peak_mib, started_at_s

FOREVER_PS = int(load.NEVER_S * 1e12)


@compiled
def _serve(engine: Engine, arrival_ps: Any, replicas: int) -> None:
    """Requests in turn to each engine: routing and fleet left out."""
    for request in range(len(arrival_ps)):
        replica = request % replicas
        run(engine, replica, arrival_ps[request])
        enqueue(engine, replica, request, arrival_ps[request])
    for replica in range(replicas):
        run(engine, replica, FOREVER_PS)


def kernel(replicas: int, count: int, share: float, repeats: int) -> dict[str, Any]:
    """Engines alone, each with its part of the requests."""
    own = load.world(1, load.requests(1, 1.0))

    def once(count: int) -> float:
        work = load.requests(count, share * load.saturated_per_s() * replicas)
        engine = make_engine(
            np.repeat(own.law_rows[:1], replicas, axis=0),
            kv_blocks=int(own.kv_tokens[0]) // 16,
            caps=load.MAX_NUM_SEQS,
            token_budgets=load.TOKEN_BUDGET,
            max_model_len=load.MAX_MODEL_LEN,
            max_seqs=load.MAX_NUM_SEQS,
            capacity=count,
        )
        load_requests(engine, work.prompt_tokens, work.output_tokens, work.class_index)
        at_ps = np.rint(work.arrival_s * 1e12).astype(np.int64)
        spent = cpu_s(lambda: _serve(engine, at_ps, replicas))
        assert (engine.requests["finish_ps"] > 0).all()
        return spent

    once(100)  # compiles
    seconds = [once(count) for _ in range(repeats)]
    return {"requests": count, "requests_per_cpu_s": count / median(seconds), "peak_mib": peak_mib()}


def fleet(replicas: int, count: int, share: float, tick_s: float, repeats: int) -> dict[str, Any]:
    """The whole fleet tick by tick: routing, engines, power and heat, spot, meters, ledger, and a snapshot each tick."""
    rate = share * load.saturated_per_s() * replicas

    def once(count: int) -> tuple[float, dict[str, float]]:
        work = load.requests(count, rate)
        clusters = SimulatedClusters([load.world(replicas, work)], tick_s)
        action = load.even_action(clusters)
        seen = {"arrived": 0.0, "done": 0.0, "usd": 0.0, "ticks": 0.0}

        def all_ticks() -> None:
            while seen["done"] < count:
                outcome = clusters.advance(action)
                clusters.snapshot()
                seen["arrived"] += outcome.tally[..., ARRIVED].sum()
                seen["done"] += outcome.tally[..., FINISHED].sum() + outcome.tally[..., LOST].sum()
                seen["usd"] += outcome.bill.total_usd.sum()
                seen["ticks"] += 1

        return cpu_s(all_ticks), seen

    once(min(count, 200))  # compiles
    spent, seen = zip(*(once(count) for _ in range(repeats)), strict=True)
    return {
        "requests": count,
        "requests_per_cpu_s": count / median(spent),
        "ticks": seen[0]["ticks"],
        "retries": seen[0]["arrived"] - count,
        "usd": seen[0]["usd"],
        "peak_mib": peak_mib(),
    }


def trace(replicas: int, count: int, share: float, path: str) -> dict[str, Any]:
    """Write the requests of `fleet` for the rival, with the speed of our engine in the rival's terms."""
    work = load.requests(count, share * load.saturated_per_s() * replicas)
    own = load.world(1, load.requests(1, 1.0))
    np.savez(path, arrival_s=work.arrival_s, prompt=work.prompt_tokens, output=work.output_tokens)
    row = own.law_rows[0]
    law = law_from_row(row)
    context = load.PROMPT_TOKENS + load.OUTPUT_TOKENS
    one, many = (float(law.iteration_s(0, 0, n, n * context)) for n in (1, 65))
    return {
        "iteration_s": one,
        "sequence_s": (many - one) / 64.0,
        "calibration_tokens": context,
        "kv_blocks": int(own.kv_tokens[0]) // 16,
        "max_num_seqs": load.MAX_NUM_SEQS,
        "max_model_len": load.MAX_MODEL_LEN,
    }


def first_tick() -> dict[str, Any]:
    """Start-up: this process from its beginning to the end of a fleet's first tick, compiled or loaded from the cache."""
    clusters = SimulatedClusters([load.world(4, load.requests(100, 10.0))], 10.0)
    clusters.advance(load.even_action(clusters))
    clusters.snapshot()
    return {"cpu_s": time.process_time(), "wall_s": time.time() - started_at_s()}


def training(**arguments: Any) -> dict[str, Any]:
    """PPO; see `training.timed`."""
    from .training import timed  # torch is not needed for the others

    return timed(**arguments)


def composed(**arguments: Any) -> dict[str, Any]:
    """What to rent; see `planning.composed`."""
    from .planning import composed as timed

    return timed(**arguments)


def sliced(**arguments: Any) -> dict[str, Any]:
    """The same in another formulation; see `planning.sliced`."""
    from .planning import sliced as timed

    return timed(**arguments)


def replanned(**arguments: Any) -> dict[str, Any]:
    """A running fleet planned again; see `planning.replanned`."""
    from .planning import replanned as timed

    return timed(**arguments)


def deciding(**arguments: Any) -> dict[str, Any]:
    """Decisions of the learned policy; see `deciding.deciding`."""
    from .deciding import deciding as timed

    return timed(**arguments)


def collecting(**arguments: Any) -> dict[str, Any]:
    """Metrics pages of many replicas; see `collecting.collecting`."""
    from .collecting import collecting as timed

    return timed(**arguments)


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "kernel": kernel,
    "fleet": fleet,
    "trace": trace,
    "first_tick": first_tick,
    "training": training,
    "composed": composed,
    "sliced": sliced,
    "replanned": replanned,
    "deciding": deciding,
    "collecting": collecting,
}


if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](**json.loads(sys.argv[2]))))
