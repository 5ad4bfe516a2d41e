"""Per-request logs of real engines, replayed request by request through the engine kernel.

A run's requests arrive when they did and are as long as they were; the kernel schedules them under the run's own limits,
and the law says how long each iteration takes. What comes out is compared request by request.

Symbols: `N` requests of a run, in the order of arrival.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from ..catalog.gpus import Gpu, gpu
from ..catalog.models import Model, model
from ..perf.factors import Factors
from ..perf.law import FloatArray, IterationLaw
from ..perf.roofline import KV_BLOCK_TOKENS, iteration_law
from ..perf.tables import TableError, read_table
from ..sim.engine import enqueue, run
from ..sim.engine_state import ACCEPTED, PS_PER_S, load_requests, make_engine
from .points import UNCHANGED, Correction

REQUESTS_TABLE = "measured_requests.csv"
SERIES_TABLE = "measured_requests_timeseries.csv"
PRECISION = "bf16"
TOKEN_BUDGET = 2048
"""max_num_batched_tokens of the runs."""
_COLUMNS = ("input_tokens", "output_tokens", "arrival_s", "first_token_s", "last_token_s")
_LONG_PS = 10**9 * PS_PER_S // 1000
TTFT, ITL, E2E = "TTFT", "ITL", "E2E"
METRICS = (E2E, ITL, TTFT)
_PRIOR = 1.0
_MULTIPLIERS = 5
"""Fitted to a run: one-token iteration, tokens up to the knee and beyond, KV read, sequences."""


@dataclass(frozen=True, eq=False)
class RequestLog:
    """One run of a real engine."""

    run: str
    gpu: Gpu
    model: Model
    tensor_parallel: int
    max_num_seqs: int
    """Most requests that the run's time series shows running at once."""
    prompt_tokens: FloatArray
    """`[N]`"""
    output_tokens: FloatArray
    """`[N]`"""
    arrival_s: FloatArray
    """`[N]`"""
    first_token_s: FloatArray
    """`[N]`"""
    last_token_s: FloatArray
    """`[N]`"""

    def __len__(self) -> int:
        return len(self.arrival_s)


@dataclass(frozen=True, eq=False)
class Latencies:
    """`[N]` seconds each: to the first token, between tokens, to the last token."""

    ttft_s: FloatArray
    itl_s: FloatArray
    e2e_s: FloatArray

    def of(self, metric: str) -> FloatArray:
        """`[N]` one of `METRICS`."""
        return {TTFT: self.ttft_s, ITL: self.itl_s, E2E: self.e2e_s}[metric]


@dataclass(frozen=True, slots=True)
class LogError:
    """How far one metric of a run is off."""

    of_mean: float
    """Of the mean over requests: predicted over measured, minus 1."""
    of_p90: float
    """Of the 90th percentile, likewise."""
    request_median: float
    """Median over requests of the absolute error of each."""
    request_mean: float
    """Mean over requests of the absolute error of each."""


def read_request_logs(folder: Path) -> list[RequestLog]:
    """The runs in `folder`, by name.

    Raises:
        TableError: a file or column is missing, or a request ends before it begins; names file, run and row.
    """
    path = folder / REQUESTS_TABLE
    table = read_table(path, ("run", "gpu", "model", "tp", *_COLUMNS))
    series = read_table(folder / SERIES_TABLE, ("run", "running"))
    logs: list[RequestLog] = []
    for name in sorted(set(table["run"].tolist())):
        rows = np.flatnonzero(table["run"] == name)
        rows = rows[np.argsort(table["arrival_s"][rows], kind="stable")]
        own = {column: table[column][rows] for column in _COLUMNS}
        wrong = ~((own["arrival_s"] < own["first_token_s"]) & (own["first_token_s"] <= own["last_token_s"]))
        wrong |= ~((own["input_tokens"] >= 1) & (own["output_tokens"] >= 1))
        if wrong.any():
            raise TableError(f"{path}: run {name}, row {rows[np.argmax(wrong)] + 1}: times or tokens that cannot be")
        running = series["running"][series["run"] == name]
        if not len(running):
            raise TableError(f"{folder / SERIES_TABLE}: no row of run {name}")
        logs.append(
            RequestLog(
                run=str(name),
                gpu=gpu(str(table["gpu"][rows[0]])),
                model=model(str(table["model"][rows[0]])),
                tensor_parallel=int(table["tp"][rows[0]]),
                max_num_seqs=int(running.max()),
                prompt_tokens=own["input_tokens"],
                output_tokens=own["output_tokens"],
                arrival_s=own["arrival_s"],
                first_token_s=own["first_token_s"],
                last_token_s=own["last_token_s"],
            )
        )
    return logs


def measured(log: RequestLog) -> Latencies:
    """What the real engine did."""
    return _latencies(log, log.first_token_s, log.last_token_s)


def replayed(log: RequestLog, law: IterationLaw) -> Latencies:
    """What the engine kernel does with the same requests under `law`."""
    longest = int((log.prompt_tokens + log.output_tokens).max())
    # The series shows requests waiting only while max_num_seqs run: the KV cache, whose size is not told, never ran out.
    blocks = log.max_num_seqs * -(-longest // KV_BLOCK_TOKENS)
    engine = make_engine(
        law.as_row()[None, :], blocks, log.max_num_seqs, TOKEN_BUDGET, longest, log.max_num_seqs, len(log)
    )
    load_requests(engine, log.prompt_tokens.astype(np.int64), log.output_tokens.astype(np.int64), np.zeros(len(log)))
    for request, at_ps in enumerate(np.rint(log.arrival_s * PS_PER_S).astype(np.int64)):
        run(engine, 0, at_ps)
        if enqueue(engine, 0, request, at_ps) != ACCEPTED:
            raise TableError(f"run {log.run}: request {request + 1} does not fit into the KV cache of {log.gpu.name}")
    run(engine, 0, _LONG_PS)
    rows = engine.requests[: len(log)]
    return _latencies(log, rows["first_token_ps"] / PS_PER_S, rows["finish_ps"] / PS_PER_S)


def _latencies(log: RequestLog, first_s: FloatArray, last_s: FloatArray) -> Latencies:
    gaps = np.maximum(log.output_tokens - 1.0, 1.0)
    return Latencies(first_s - log.arrival_s, (last_s - first_s) / gaps, last_s - log.arrival_s)


def first_half(log: RequestLog) -> slice:
    """The requests that a fit may see: those that arrived first."""
    return slice(0, len(log) // 2)


def second_half(log: RequestLog) -> slice:
    """The requests that are scored."""
    return slice(len(log) // 2, len(log))


def fit_to_first_half(log: RequestLog, law: IterationLaw) -> Correction:
    """Multipliers of the law that bring the replay closest to the first half of the run.

    Nelder-Mead over their logarithms, the kernel in the loop, from no correction. The loss is the mean over E2E, ITL and
    TTFT of the mean absolute logarithm of predicted over measured, and a little for each multiplier's distance from 1,
    so that one which the run does not tell stays there. Later requests are replayed too (they slow earlier ones down),
    but none of their measured times is looked at.
    """
    seen, real = first_half(log), measured(log)

    def loss(p: FloatArray) -> float:
        made = replayed(log, _correction(p).apply(law))
        off = [np.abs(np.log(made.of(metric)[seen] / real.of(metric)[seen])).mean() for metric in METRICS]
        return float(np.mean(off) + 1e-3 * np.square(p / _PRIOR).sum())

    start = np.zeros(_MULTIPLIERS)
    simplex = np.vstack([start, 0.25 * np.eye(_MULTIPLIERS)])
    options = {"maxiter": 400, "xatol": 1e-3, "fatol": 1e-6, "initial_simplex": simplex}
    return _correction(np.asarray(minimize(loss, start, method="Nelder-Mead", options=options).x, dtype=np.float64))


def _correction(p: FloatArray) -> Correction:
    base, few_tokens, tokens, kv_read, sequences = (float(value) for value in np.exp(np.clip(p, -3.0, 3.0)))
    return Correction(base, few_tokens, tokens, kv_read=kv_read, sequences=sequences)


def law_before(log: RequestLog, factors: Factors) -> IterationLaw:
    """The law of the run's replica from factors that were fitted without its GPU."""
    return iteration_law(log.gpu, log.model, PRECISION, log.tensor_parallel, factors=factors)


def log_errors(
    log: RequestLog, law: IterationLaw, scored: slice, correction: Correction = UNCHANGED
) -> dict[str, LogError]:
    """The errors of each of `METRICS` over the requests scored."""
    made, real = replayed(log, correction.apply(law)), measured(log)
    return {metric: _error(made.of(metric)[scored], real.of(metric)[scored]) for metric in METRICS}


def _error(predicted: FloatArray, real: FloatArray) -> LogError:
    off = np.abs(predicted / real - 1.0)
    return LogError(
        of_mean=float(predicted.mean() / real.mean() - 1.0),
        of_p90=float(np.quantile(predicted, 0.9) / np.quantile(real, 0.9) - 1.0),
        request_median=float(np.median(off)),
        request_mean=float(off.mean()),
    )


def over_runs(errors: Sequence[LogError]) -> tuple[float, float]:
    """Median and mean over runs of the absolute error of a run's mean, as rivals publish it."""
    of_mean = np.abs([error.of_mean for error in errors])
    return float(np.median(of_mean)), float(np.mean(of_mean))
