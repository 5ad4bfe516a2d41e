"""Replaying logs of real engines through the kernel."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from poolpilot.env.accuracy.points import Correction
from poolpilot.env.accuracy.request_logs import (
    E2E,
    ITL,
    METRICS,
    TTFT,
    RequestLog,
    first_half,
    fit_to_first_half,
    law_before,
    log_errors,
    measured,
    read_request_logs,
    replayed,
    second_half,
)
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.factors import shipped_factors
from poolpilot.env.perf.roofline import iteration_law
from poolpilot.env.perf.tables import TableError

LAW = iteration_law(gpu("L40S"), model("llama-3.1-8b"), "bf16")
REQUESTS = "run,gpu,model,tp,input_tokens,output_tokens,arrival_s,first_token_s,last_token_s"
SERIES = "run,running"


def a_log(count: int = 80, seed: int = 3) -> RequestLog:
    """Requests whose real engine is the kernel under a law that is off."""
    rng = np.random.default_rng(seed)
    log = RequestLog(
        run="lab",
        gpu=gpu("L40S"),
        model=model("llama-3.1-8b"),
        tensor_parallel=1,
        max_num_seqs=32,
        prompt_tokens=rng.integers(50, 1500, count).astype(np.float64),
        output_tokens=rng.integers(20, 300, count).astype(np.float64),
        arrival_s=np.sort(rng.uniform(0, 12, count)),
        first_token_s=np.zeros(count),
        last_token_s=np.zeros(count),
    )
    real = replayed(log, Correction(base=1.3, tokens=1.2, kv_read=1.5).apply(LAW))
    return replace(log, first_token_s=log.arrival_s + real.ttft_s, last_token_s=log.arrival_s + real.e2e_s)


def test_a_lone_request_takes_what_the_law_says() -> None:
    log = replace(a_log(1), prompt_tokens=np.array([100.0]), output_tokens=np.array([3.0]), arrival_s=np.array([1.0]))
    made = replayed(log, LAW)
    prefill = float(LAW.iteration_s(100, 100 * 100 / 2, 0, 0))
    assert made.ttft_s[0] == pytest.approx(prefill, rel=0.02)
    assert made.itl_s[0] == pytest.approx(float(LAW.iteration_s(0, 0, 1, 101)), rel=0.01)
    assert made.e2e_s[0] == pytest.approx(made.ttft_s[0] + 2 * made.itl_s[0])


def test_a_fit_to_the_first_half_recovers_the_second() -> None:
    log = a_log()
    before = log_errors(log, LAW, second_half(log))
    after = log_errors(log, LAW, second_half(log), fit_to_first_half(log, LAW))
    assert abs(before[E2E].of_mean) > 0.15
    for metric in METRICS:
        assert abs(after[metric].of_mean) < 0.03
        assert after[metric].request_median < 0.03


def test_the_fit_never_looks_at_the_second_half() -> None:
    log = a_log(40)
    wrong = np.arange(len(log)) >= first_half(log).stop
    spoilt = replace(
        log,
        first_token_s=np.where(wrong, log.first_token_s + 1e3, log.first_token_s),
        last_token_s=np.where(wrong, log.last_token_s + 2e3, log.last_token_s),
    )
    assert fit_to_first_half(spoilt, LAW) == fit_to_first_half(log, LAW)
    assert abs(log_errors(spoilt, LAW, second_half(log))[TTFT].of_mean) > 0.9


def test_halves_are_disjoint_and_whole() -> None:
    log = a_log(7)
    seen, scored = (np.arange(7)[half(log)] for half in (first_half, second_half))
    assert [*seen, *scored] == list(range(7))
    assert measured(log).of(ITL).shape == (7,)


def test_a_log_is_read_in_the_order_of_arrival(tmp_path: Path) -> None:
    rows = ["b,H100,llama-3.1-8b,1,10,5,2.0,2.5,3.0", "b,H100,llama-3.1-8b,1,20,6,1.0,1.5,3.0"]
    (tmp_path / "measured_requests.csv").write_text("\n".join([REQUESTS, *rows]) + "\n")
    (tmp_path / "measured_requests_timeseries.csv").write_text(f"{SERIES}\nb,3\nb,17\n")
    (log,) = read_request_logs(tmp_path)
    assert (log.gpu.name, log.model.name, log.max_num_seqs) == ("H100-SXM-80GB", "meta-llama/Llama-3.1-8B", 17)
    assert log.prompt_tokens.tolist() == [20, 10]


@pytest.mark.parametrize(
    ("row", "series", "message"),
    [
        ("b,H100,llama-3.1-8b,1,10,5,2.0,1.5,3.0", "b,3", "run b, row 1: times or tokens that cannot be"),
        ("b,H100,llama-3.1-8b,1,0,5,2.0,2.5,3.0", "b,3", "run b, row 1: times or tokens that cannot be"),
        ("b,H100,llama-3.1-8b,1,10,5,2.0,2.5,3.0", "c,3", "no row of run b"),
    ],
)
def test_a_bad_log_is_named(tmp_path: Path, row: str, series: str, message: str) -> None:
    (tmp_path / "measured_requests.csv").write_text(f"{REQUESTS}\n{row}\n")
    (tmp_path / "measured_requests_timeseries.csv").write_text(f"{SERIES}\n{series}\n")
    with pytest.raises(TableError, match=message):
        read_request_logs(tmp_path)


@pytest.mark.shared_data
def test_real_runs_of_vllm_are_met_after_half_of_each(shared_data: Path) -> None:
    """The aim was to beat 6.7 % (E2E), 7.1 % (ITL) and 17.6 % (TTFT) of a run's mean."""
    logs = read_request_logs(shared_data)
    assert [len(log) for log in logs] == [300, 300]
    for log in logs:
        law = law_before(log, shipped_factors())
        after = log_errors(log, law, second_half(log), fit_to_first_half(log, law))
        assert abs(after[E2E].of_mean) < 0.067
        assert abs(after[ITL].of_mean) < 0.071
        assert abs(after[TTFT].of_mean) < 0.176
