"""Fits of measured draw recover known shares, judge themselves, and say what they left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.fit import FitInputError
from poolpilot.env.perf.power import PowerTable, shipped_power, steady_power_w, to_document
from poolpilot.env.perf.power_fit import (
    POWER_COLUMNS,
    PowerRow,
    features,
    fit_power,
    predicted_frac,
    read_power_rows,
    refit_power,
    shares_of,
)
from poolpilot.env.perf.tables import TableError

TRUE = np.array([0.3, 0.5, 3.0, 0.1, 0.2])


def made_rows(card: str, names: tuple[str, ...], shares: np.ndarray) -> list[PowerRow]:
    """Rows whose draw is exactly what these shares say."""
    rows = []
    for name in names:
        for precision in ("bf16", "fp8"):
            for sequences, per_s in ((4, 300.0), (16, 1000.0), (64, 3000.0), (256, 6000.0)):
                shape = model(name)
                row = PowerRow("lab", gpu(card), 1, shape, precision, sequences, 500.0, per_s, per_s / 2, 1.0)
                rows.append(replace(row, tdp_frac=float(predicted_frac(shares, features([row]))[0])))
    return rows


NAMES = ("llama-3.1-8b", "Qwen/Qwen3-14B", "Qwen/Qwen3-30B-A3B")


def test_known_shares_come_out() -> None:
    rows = made_rows("H100", NAMES, TRUE) + made_rows("B200-SXM-180GB", NAMES, TRUE)
    table, _ = fit_power(rows)
    assert shares_of(table.any_gpu) == pytest.approx(TRUE, rel=0.02)
    assert table.gpus["H100-SXM-80GB"].fitted.median < 1e-3
    assert table.any_gpu.new_gpu.median < 0.01


def test_a_card_with_shares_of_its_own_is_told_from_the_others() -> None:
    hungry = TRUE * 1.3
    rows = made_rows("H100", NAMES, TRUE) + made_rows("B200-SXM-180GB", NAMES, hungry)
    table, _ = fit_power(rows)
    own, others = table.gpus["B200-SXM-180GB"], table.gpus["H100-SXM-80GB"]
    assert own.floor_frac > others.floor_frac
    assert own.fitted.median < 0.03
    assert own.new_gpu.bias < -0.1  # the other card's shares draw too little for it


def test_the_fit_says_what_the_steady_function_says() -> None:
    # One truth: what is judged here is what simulator and reports use.
    rows = made_rows("H100", NAMES, TRUE)
    frac = predicted_frac(shares_of(shipped_power().gpus["H100-SXM-80GB"]), features(rows))
    for row, share in zip(rows, frac, strict=True):
        watts = steady_power_w(
            row.gpu, row.model, row.precision, 1, row.sequences, 500.0, row.output_tokens_per_s, row.prompt_tokens_per_s
        )
        assert watts / 700.0 == pytest.approx(share, rel=1e-6)


def test_one_card_alone_judges_nothing() -> None:
    with pytest.raises(FitInputError, match="two or more GPUs"):
        fit_power(made_rows("H100", NAMES, TRUE))


GOOD = {
    "source": "lab",
    "gpu": "H100-SXM-80GB",
    "n_gpu": "1",
    "model": "Qwen/Qwen3-8B",
    "precision": "bfloat16",
    "task": "lm-arena-chat",
    "batch": "16",
    "output_tokens": "400",
    "avg_power_w": "480",
    "throughput_out_tok_s": "1900",
    "itl_ms": "8",
}


def a_table(folder: Path, **changed: str) -> Path:
    path = folder / "energy_measured.csv"
    row = {**GOOD, **changed}
    path.write_text(",".join(POWER_COLUMNS) + "\n" + ",".join(row.get(c, "") for c in POWER_COLUMNS) + "\n")
    return path


def test_a_row_is_understood(tmp_path: Path) -> None:
    (row,), others = read_power_rows(a_table(tmp_path))
    assert not others
    assert (row.sequences, row.output_tokens_per_s, row.context_tokens) == (16.0, 1900.0, 300.0)
    assert row.tdp_frac == pytest.approx(480 / 700)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"task": "image-chat"}, "most of the work is prompts"),
        ({"precision": "mxfp4"}, "mxfp4 is not modelled"),
        ({"model": "acme/new"}, "unknown model 'acme/new'"),
        ({"batch": "4000"}, "more tokens in flight than the KV cache holds"),
        ({"task": "static batch", "input_tokens": "100", "note": "TensorRT-LLM"}, "another engine than vLLM"),
        ({"task": "static batch", "input_tokens": "100", "avg_power_frac_tdp": "0.1"}, "draws below 0.2 of TDP"),
    ],
)
def test_a_row_that_tells_too_little_is_counted_with_its_reason(
    changed: dict[str, str], reason: str, tmp_path: Path
) -> None:
    rows, others = read_power_rows(a_table(tmp_path, **changed))
    assert not rows
    assert reason in next(iter(others))


def test_a_draw_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"row 1: avg_power_w: -3, wanted watts above 0"):
        read_power_rows(a_table(tmp_path, avg_power_w="-3"))


@pytest.mark.shared_data
def test_the_shipped_shares_are_what_the_public_rows_give(shared_data: Path) -> None:
    fit = refit_power(shared_data)
    fresh, shipped = to_document(fit.table), to_document(shipped_power())
    assert fresh["gpus"].keys() == shipped["gpus"].keys()
    for name, entry in {"any_gpu": fresh["any_gpu"], **fresh["gpus"]}.items():
        old = shipped["any_gpu"] if name == "any_gpu" else shipped["gpus"][name]
        for share in ("floor_frac", "memory_frac", "compute_frac", "experts_frac", "narrow_experts_frac"):
            assert entry[share] == pytest.approx(old[share], rel=0.01, abs=0.005), (name, share)
    _within_stated_error(fit.table)


def _within_stated_error(table: PowerTable) -> None:
    """What docs/power.md prints, with a little room."""
    assert max(factors.fitted.median for factors in table.gpus.values()) < 0.08
    many = {name: factors for name, factors in table.gpus.items() if factors.fitted.rows >= 40}
    assert len(many) == 3
    assert max(factors.new_model.median for factors in many.values()) < 0.09
    assert (
        max(factors.new_model.median for factors in table.gpus.values()) < 0.25
    )  # A100-40GB: seven rows of two models
    assert table.any_gpu.new_gpu.median < 0.18
