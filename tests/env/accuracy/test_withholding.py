"""What is scored was not fitted to: nonsense in the withheld rows changes nothing."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poolpilot.env.accuracy.withholding import (
    ProtocolError,
    head_shapes,
    weight_shapes,
    without_gpu,
    without_pair,
)
from poolpilot.env.catalog.models import MODELS
from poolpilot.env.perf.calibration import Measurements, Remembered, read_measurements, refit
from poolpilot.env.perf.check import ServingRow
from poolpilot.env.perf.factors import to_document

LLAMA, QWEN = MODELS["meta-llama/Llama-3.1-8B"], MODELS["Qwen/Qwen3-32B"]


@pytest.fixture(scope="module")
def measured(shared_data: Path) -> Measurements:
    return read_measurements(shared_data)


@pytest.fixture(scope="module")
def remembered() -> Remembered:
    """Groups of factors by their rows, so that what no test changes is fitted once."""
    return {}


def tables(measured: Measurements) -> list[tuple[str, Mapping[str, Any]]]:
    """Every table of the measurements, those by GPU one by one."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for field in fields(measured):
        value = getattr(measured, field.name)
        if isinstance(value, Mapping) and all(isinstance(part, np.ndarray) for part in value.values()):
            found.append((field.name, value))
        elif isinstance(value, Mapping):
            found += [(f"{field.name}.{name}", table) for name, table in value.items()]
    return found


def poisoned(whole: Measurements, rest: Measurements) -> Measurements:
    """`whole` with every measured time that `rest` lacks a thousand times as long."""

    def spoil(value: Any, left: Any) -> Any:
        if isinstance(value, Mapping) and not all(isinstance(part, np.ndarray) for part in value.values()):
            return {name: spoil(table, left.get(name, {})) for name, table in value.items()}
        if isinstance(value, Mapping):
            kept = {row_of(left, i) for i in range(len(next(iter(left.values()))))} if left else set()
            gone = np.array([row_of(value, i) not in kept for i in range(len(next(iter(value.values()))))])
            return {**value, "latency_s": np.where(gone, 1000.0 * value["latency_s"], value["latency_s"])}
        kept_rows = {id(row) for row in left}
        return [row if id(row) in kept_rows else spoiled(row) for row in value]

    changed = {f.name: spoil(getattr(whole, f.name), getattr(rest, f.name)) for f in fields(whole)}
    return replace(whole, **changed)


def spoiled(row: ServingRow) -> ServingRow:
    """A thousand times as slow, whatever it tells."""
    return replace(
        row,
        tpot_s=None if row.tpot_s is None else 1000.0 * row.tpot_s,
        output_tokens_per_s=None if row.output_tokens_per_s is None else row.output_tokens_per_s / 1000.0,
    )


def row_of(table: Mapping[str, Any], i: int) -> tuple[Any, ...]:
    return tuple(column[i] for column in table.values())


PROTOCOLS: list[tuple[str, Callable[[Measurements], Measurements]]] = [
    ("H100 with Qwen3-32B", partial(without_pair, gpu_name="H100-SXM-80GB", model=QWEN)),
    ("A40 with Llama-2-7B", partial(without_pair, gpu_name="A40-48GB", model=MODELS["meta-llama/Llama-2-7b-hf"])),
    ("V100 with Llama-30B", partial(without_pair, gpu_name="V100-SXM-16GB", model=MODELS["huggyllama/llama-30b"])),
    ("MI300X with Llama-2-7B", partial(without_pair, gpu_name="MI300X-192GB", model=MODELS["meta-llama/Llama-2-7b-hf"])),
    ("L40S", partial(without_gpu, gpu_name="L40S-48GB")),
    ("H100", partial(without_gpu, gpu_name="H100-SXM-80GB")),
]  # fmt: skip


@pytest.mark.shared_data
@pytest.mark.parametrize("withhold", [p for _, p in PROTOCOLS], ids=[name for name, _ in PROTOCOLS])
def test_withheld_rows_cannot_reach_the_fit(
    measured: Measurements, remembered: Remembered, withhold: Callable[[Measurements], Measurements]
) -> None:
    def fitted(rows: Measurements) -> dict[str, Any]:
        return to_document(refit(rows, lambda what: None, remembered))

    honest = fitted(withhold(measured))
    spoilt = poisoned(measured, withhold(measured))
    assert fitted(withhold(spoilt)) == honest
    assert fitted(spoilt) != honest  # the nonsense is real


@pytest.mark.shared_data
def test_no_number_of_the_pair_is_left_in_any_table(measured: Measurements) -> None:
    rest = without_pair(measured, "H100-SXM-80GB", QWEN)
    heads, weights = head_shapes(QWEN), weight_shapes(QWEN)
    for name, table in tables(rest):
        own = np.asarray(table["gpu"] == "H100-SXM-80GB") if "gpu" in table else np.array([False])
        if "num_heads" in table:
            assert not {*zip(table["num_heads"][own], table["num_kv_heads"][own], strict=True)} & heads, name
        elif "n" in table:
            assert not {*zip(table["n"][own], table["k"][own], strict=True)} & weights, name
        elif "model" in table and own.any():
            assert QWEN.name not in table["model"][own], name
    pairs = {(row.gpu.name, row.model.name) for row in rest.serving}
    assert ("H100-SXM-80GB", QWEN.name) not in pairs
    assert pairs == {(row.gpu.name, row.model.name) for row in measured.serving} - {("H100-SXM-80GB", QWEN.name)}


@pytest.mark.shared_data
def test_no_number_of_the_gpu_is_left_in_any_table(measured: Measurements) -> None:
    rest = without_gpu(measured, "A40-48GB")
    assert not any(name.endswith(".A40-48GB") for name, _ in tables(rest))
    rest = without_gpu(measured, "H100-SXM-80GB")
    for name, table in tables(rest):
        assert "gpu" not in table or "H100-SXM-80GB" not in table["gpu"], name
    assert not any(row.gpu.name == "H100-SXM-80GB" for row in rest.serving)
    rest = without_gpu(measured, "L4-24GB")
    assert not {"L4", "L4x2"} & set(rest.whole_layers["node"].tolist())


@pytest.mark.shared_data
def test_a_table_that_nobody_understands_is_refused(measured: Measurements) -> None:
    numbers = {"latency_s": np.ones(3)}
    with pytest.raises(ProtocolError, match="nothing tells the GPU"):
        without_gpu(replace(measured, gemm=numbers), "L40S-48GB")
    with pytest.raises(ProtocolError, match="nothing tells the model or shape"):
        without_pair(replace(measured, gemm={"gpu": np.array(["L40S-48GB"] * 3), **numbers}), "L40S-48GB", LLAMA)
    with pytest.raises(ProtocolError, match="serving: neither"):
        without_gpu(replace(measured, serving=[1, 2]), "L40S-48GB")  # type: ignore[list-item]


def test_shapes_are_those_of_each_split() -> None:
    assert head_shapes(LLAMA) == {(32, 8), (16, 4), (8, 2), (4, 1)}
    assert {(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (7168, 4096), (4096, 1792)} <= weight_shapes(
        LLAMA
    )
