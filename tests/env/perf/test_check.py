"""Rows of measured serving beside what the model says."""

from dataclasses import replace

import numpy as np
import pytest

from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.capacity import mean_iteration_s
from poolpilot.env.perf.check import (
    NotComparableError,
    ServingRow,
    compare,
    compare_all,
    inside_range,
    output_tokens_per_s,
    tpot_s,
)
from poolpilot.env.perf.roofline import iteration_law

ROW = ServingRow(
    source="lab",
    gpu=gpu("H100"),
    model=model("llama-3.1-8b"),
    precision="bf16",
    tensor_parallel=1,
    engine="vllm-0.19.0",
    prompt_tokens=1000.0,
    output_tokens=201.0,
    concurrency=16.0,
    request_rate_per_s=None,
    static_batch=False,
    tpot_s=0.01,
    output_tokens_per_s=None,
    max_num_seqs=None,
)
LAW = iteration_law(ROW.gpu, ROW.model, "bf16")


def loop_s(n: float) -> float:
    running = np.array([n])
    return float(mean_iteration_s(LAW, running, running / 200, 8192 - running, 1000, 200)[0])


def test_in_a_closed_loop_prompts_run_beside_the_decoding() -> None:
    assert compare(ROW).predicted_s == pytest.approx(loop_s(16.0))
    assert compare(ROW).off_frac == pytest.approx(loop_s(16.0) / 0.01 - 1)


def test_an_open_loop_settles_where_arrivals_equal_departures() -> None:
    predicted = compare(replace(ROW, concurrency=None, request_rate_per_s=5.0)).predicted_s
    running = 5.0 * 200 * predicted
    assert loop_s(running) == pytest.approx(predicted, rel=1e-6)


def test_an_overloaded_open_loop_fills_the_batch() -> None:
    row = replace(ROW, concurrency=None, request_rate_per_s=1e6, max_num_seqs=32.0)
    assert tpot_s(row, LAW) == pytest.approx(loop_s(32.0))
    with pytest.raises(NotComparableError, match="no steady state"):
        compare(row)


def test_a_median_gap_is_that_of_an_iteration_without_prompts() -> None:
    row = replace(ROW, prompt_tokens=0.0, decode_only=True)
    assert compare(row).predicted_s == pytest.approx(float(LAW.iteration_s(0, 0, 16, 16 * 100.5)))
    with pytest.raises(NotComparableError, match="prompts of unknown length"):
        output_tokens_per_s(row, LAW)


def test_throughput_is_tokens_over_the_time_that_they_take() -> None:
    assert output_tokens_per_s(ROW, LAW) == pytest.approx(16 / loop_s(16.0))
    batch = replace(ROW, static_batch=True, tpot_s=None, output_tokens_per_s=1000.0)
    assert 16 * 201 / output_tokens_per_s(batch, LAW) == pytest.approx(compare(batch).predicted_s)
    with pytest.raises(NotComparableError, match="the rate asked for"):
        output_tokens_per_s(replace(ROW, concurrency=None, request_rate_per_s=5.0), LAW)


def test_a_row_faster_than_memory_allows_is_left_out() -> None:
    with pytest.raises(NotComparableError, match="faster than the GPU can read weights"):
        compare(replace(ROW, tpot_s=0.004))  # 16 GB at 3.35 TB/s are 4.8 ms


def test_a_static_batch_decodes_without_prompts() -> None:
    row = replace(ROW, static_batch=True)
    assert compare(row).predicted_s == pytest.approx(float(LAW.iteration_s(0, 0, 16, 16 * 1100.5)))


def test_a_static_batch_without_tpot_is_compared_as_a_whole() -> None:
    row = replace(ROW, static_batch=True, tpot_s=None, output_tokens_per_s=1000.0)
    comparison = compare(row)
    assert comparison.measured_s == pytest.approx(16 * 201 / 1000)
    assert comparison.predicted_s > 201 * float(LAW.iteration_s(0, 0, 16, 16 * 1100.5))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tpot_s": None}, "no tpot_ms"),
        ({"concurrency": None}, "neither batch_or_concurrency nor request_rate"),
        ({"concurrency": 5000.0}, "more tokens in flight than the KV cache holds"),
        ({"static_batch": True, "concurrency": None}, "without batch_or_concurrency"),
        ({"static_batch": True, "tpot_s": None}, "neither tpot_ms nor throughput_out_tok_s"),
        ({"model": model("llama-3.1-405b")}, "does not fit"),
        ({"tensor_parallel": 3}, "does not divide"),
    ],
)
def test_rows_that_cannot_be_compared_say_why(changes: dict[str, object], reason: str) -> None:
    row = replace(ROW, **changes)  # type: ignore[arg-type]
    with pytest.raises(NotComparableError, match=reason):
        compare(row)
    compared, left_out = compare_all([ROW, row, row])
    assert len(compared) == 1
    assert list(left_out.values()) == [2]


@pytest.mark.parametrize(
    ("changes", "inside"),
    [
        ({}, True),
        ({"concurrency": 4096.0, "prompt_tokens": 8.0, "output_tokens": 2.0}, False),
        ({"concurrency": 1.0, "prompt_tokens": 200_000.0}, False),
        ({"precision": "fp8"}, True),
        ({"precision": "int4"}, False),
        ({"gpu": gpu("MI300X")}, False),
        ({"concurrency": None, "request_rate_per_s": 5.0}, True),
    ],
    ids=[
        "inside",
        "larger batch",
        "longer context",
        "measured precision",
        "other precision",
        "other GPU",
        "open loop",
    ],
)
def test_a_row_is_inside_what_was_measured_of_its_gpu(changes: dict[str, object], inside: bool) -> None:
    assert inside_range(replace(ROW, **changes)) == inside  # type: ignore[arg-type]
