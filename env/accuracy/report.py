"""Everything that the accuracy page says, as plain data: points scored, request logs replayed, rows left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..catalog.gpus import GPUS
from ..perf.calibration import read_measurements
from ..perf.factors import donor
from ..perf.power_fit import POWER_TABLE, read_power_rows
from ..perf.tables import read_serving
from .iterations import iteration_points
from .points import Correction
from .power import score_power
from .protocols import Refits, Scored, score
from .request_logs import (
    Latencies,
    LogError,
    RequestLog,
    fit_to_first_half,
    law_before,
    log_errors,
    measured,
    read_request_logs,
    replayed,
    second_half,
)
from .serving import serving_points


@dataclass(frozen=True, eq=False)
class LogScore:
    """One run of a real engine, replayed."""

    log: RequestLog
    real: Latencies
    made: Latencies
    """After the fit to the first half."""
    correction: Correction
    zero_shot: Mapping[str, LogError]
    """By metric, over the whole run, from a law that saw nothing of the GPU."""
    zero_shot_second: Mapping[str, LogError]
    """The same over the second half, beside the next."""
    half_fit: Mapping[str, LogError]
    """By metric, over the second half, after a fit to the first."""


@dataclass(frozen=True, eq=False)
class Report:
    """What the page is made from."""

    scored: Sequence[Scored]
    logs: Sequence[LogScore]
    left_out: Mapping[str, int]
    """Rows of measured serving that were not scored, by reason."""
    serving_rows: int
    """Rows of the whole table."""
    power_left_out: Mapping[str, int]
    """Rows of measured power that were not scored, by reason."""
    power_rows: int
    """Rows of the whole table."""
    measured_gpus: frozenset[str]
    """GPUs whose matrix products were measured."""
    stand_ins: Mapping[str, str]
    """By GPU scored: whose matrix products stand in for its own, when nothing of it is known."""


def build(folder: Path, progress: Callable[[str], None]) -> Report:
    """Score everything in `folder`; TableError as for the readers. `progress` is told what is being done."""
    progress("reading")
    measurements = read_measurements(folder)
    rows, others = read_serving(folder / "measured_serving.csv")
    serving, incomparable = serving_points(rows)
    points = [*iteration_points(folder), *serving]
    refits = Refits(measurements, progress)
    scored = score(points, refits)
    progress("power")
    power_rows, power_left_out = read_power_rows(folder / POWER_TABLE)
    scored += score_power(power_rows)
    progress("replaying request logs")
    logs = [_log_score(log, refits) for log in read_request_logs(folder)]
    everything = refits.everything()
    names = sorted({one.gpu for one in scored})
    return Report(
        scored=scored,
        logs=logs,
        left_out={**others, **incomparable},
        power_left_out=power_left_out,
        power_rows=len(power_rows) + sum(power_left_out.values()),
        serving_rows=len(rows) + sum(others.values()),
        measured_gpus=frozenset(name for name in names if name in everything.gemm),
        stand_ins={name: _stand_in(name, refits) for name in names},
    )


def _stand_in(name: str, refits: Refits) -> str:
    try:
        return donor(GPUS[name], refits.data_sheet(name).gemm)
    except ValueError:
        return "-"


def _log_score(log: RequestLog, refits: Refits) -> LogScore:
    law = law_before(log, refits.data_sheet(log.gpu.name))
    correction = fit_to_first_half(log, law)
    return LogScore(
        log=log,
        real=measured(log),
        made=replayed(log, correction.apply(law)),
        correction=correction,
        zero_shot=log_errors(log, law, slice(0, len(log))),
        zero_shot_second=log_errors(log, law, second_half(log)),
        half_fit=log_errors(log, law, second_half(log), correction),
    )
