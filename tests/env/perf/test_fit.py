"""Fits recover known factors, judge themselves on what they did not see, and stay within stated errors."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from poolpilot.env.catalog.gpus import GPUS, gpu
from poolpilot.env.catalog.links import link
from poolpilot.env.catalog.models import MODELS
from poolpilot.env.perf.calibration import Measurements, engine_rows, fit_steps, long_layers, read_measurements, refit
from poolpilot.env.perf.check import compare_all
from poolpilot.env.perf.factors import (
    CommFactors,
    Factors,
    GemmFactors,
    TransferFactors,
    shipped_factors,
    to_document,
)
from poolpilot.env.perf.fit import (
    NO_ERROR,
    PRODUCTS,
    FitInputError,
    fit_comm,
    fit_engine,
    fit_error,
    fit_gemm,
    fit_layers,
    fit_transfer,
    held_out,
)
from poolpilot.env.perf.kernels import allreduce_s, gemm_s, transfer_s
from poolpilot.env.perf.tables import TableError, read_table
from poolpilot.env.perf.unseen import UNSEEN_LAYERS, UNSEEN_MODELS, unseen_heads, unseen_products


def test_whole_shapes_are_held_out() -> None:
    keys = [(n, k) for n in range(4) for k in range(4) for _ in range(3)]
    judged = held_out(keys)
    assert judged.sum() == len(keys) // 4
    assert not {k for k, j in zip(keys, judged, strict=True) if j} & {
        k for k, j in zip(keys, judged, strict=True) if not j
    }


def test_the_error_is_that_of_the_judged_rows() -> None:
    error = fit_error(np.array([1.1, 0.5, 2.0]), np.array([1.0, 1.0, 1.0]), np.array([True, True, False]), ["table"])
    assert (error.fitted_rows, error.held_out_rows, error.sources) == (1, 2, ("table",))
    assert error.median == pytest.approx(0.3)
    assert error.bias == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("precision", "true"),
    [
        ("bf16", GemmFactors(0.8, 0.7, 5e-6, 2e-10, 2.5, 0.2, 0.4, 0.0, (), NO_ERROR)),
        ("fp8", GemmFactors(0.6, 0.8, 9e-6, 1e-10, 3.0, 0.5, 0.7, 1.2e-11, (), NO_ERROR)),
    ],
)
def test_known_factors_of_products_are_found_again(precision: str, true: GemmFactors) -> None:
    sides = (1024, 2048, 4096, 8192, 16384)
    m, n, k = (a.ravel().astype(float) for a in np.meshgrid([1, 16, 64, 256, 1024, 4096], sides, sides))
    table = {"m": m, "n": n, "k": k, "latency_s": gemm_s(gpu("H100"), true, precision, m, n, k)}
    found = fit_gemm(gpu("H100"), precision, table, ["made up"])
    for name in ("flop_eff", "mem_eff", "launch_s", "quantise_s"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=0.05), name
    for name in ("depth_s", "blend", "wave_exp", "tile_exp"):  # each shows in few of the shapes
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=0.2), name
    assert all(factor == pytest.approx(1.0, abs=0.01) for _, factor in found.by_rows)
    assert found.error.held_out_rows > 0
    assert found.error.median < 5e-3


def test_a_factor_for_some_rows_is_found_again() -> None:
    """Products of 64 rows take 20 % longer than the terms say, those of others as long."""
    plain = GemmFactors(0.8, 0.7, 5e-6, 0.0, 2.5, 0.0, 0.0, 0.0, (), NO_ERROR)
    sides = (1024, 2048, 4096, 8192, 16384)
    m, n, k = (a.ravel().astype(float) for a in np.meshgrid([1, 16, 32, 64, 96, 128, 256, 1024, 4096], sides, sides))
    seconds = gemm_s(gpu("H100"), plain, "bf16", m, n, k) * np.where(m == 64, 1.2, 1.0)
    found = fit_gemm(gpu("H100"), "bf16", {"m": m, "n": n, "k": k, "latency_s": seconds}, ["made up"])
    again = gemm_s(gpu("H100"), found, "bf16", m, n, k)
    assert np.median(np.abs(again / seconds - 1.0)[m == 64]) < 0.03


def test_no_shape_of_an_unseen_layer_is_fitted() -> None:
    for layer in UNSEEN_LAYERS:
        n, k = zip(*layer.products, strict=True)
        assert unseen_products(n, k).all()
        assert unseen_heads([layer.heads], [layer.kv_heads]).all()
    assert not unseen_products([6144], [16384]).any()
    assert set(UNSEEN_MODELS) <= set(MODELS)


def test_known_factors_of_an_all_reduce_are_found_again() -> None:
    size = 2.0 ** np.arange(10, 29)
    true = CommFactors(4, 7e-6, 1e11, 5e-5, 2e11, NO_ERROR)
    found = fit_comm({"message_bytes": size, "latency_s": allreduce_s(true, size)}, 4, ["made up"])
    for name in ("latency_s", "bytes_per_s", "large_latency_s", "large_bytes_per_s"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=0.02), name


def test_known_factors_of_a_transfer_are_found_again() -> None:
    size = 2.0 ** np.arange(10, 28)
    true = TransferFactors(2e-5, 0.4, NO_ERROR)
    way = link("InfiniBand-HDR200")
    found = fit_transfer(way, {"message_bytes": size, "latency_s": transfer_s(way, true, size)}, ["made up"])
    assert found.latency_s == pytest.approx(2e-5, rel=0.01)
    assert found.link_eff == pytest.approx(0.4, rel=0.01)


def test_known_engine_is_found_again() -> None:
    rng = np.random.default_rng(0)
    kernels, layers, n = rng.uniform(5e-3, 5e-2, 60), rng.choice([32.0, 64.0, 80.0], 60), rng.uniform(1, 256, 60)
    measured = kernels + 1.5e-3 + 6 * layers * 2e-6 + n * 4e-5
    found = fit_engine(kernels, layers, n, measured, np.arange(60) % 4 == 0, ["made up"])
    assert found.seq_s == pytest.approx(4e-5, rel=0.02)
    assert found.iteration_s + 6 * 64 * found.kernel_s == pytest.approx(1.5e-3 + 6 * 64 * 2e-6, rel=0.05)


@pytest.mark.parametrize("latency_s", [0.0, -1.0, float("nan")])
def test_impossible_times_are_refused(latency_s: float) -> None:
    size = 2.0 ** np.arange(10, 20)
    times = np.where(size == 2.0**12, latency_s, 1e-5)
    with pytest.raises(FitInputError, match="wanted all above 0"):
        fit_comm({"message_bytes": size, "latency_s": times}, 2, ["made up"])


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(FitInputError, match=r"[01] rows to fit 4 factors to"):
        fit_comm({"message_bytes": np.array([1e6]), "latency_s": np.array([1e-5])}, 2, ["made up"])


@pytest.fixture(scope="module")
def measured(shared_data: Path) -> Measurements:
    return read_measurements(shared_data)


@pytest.fixture(scope="module")
def refitted(measured: Measurements) -> Factors:
    told: list[str] = []
    factors = refit(measured, told.append)
    assert len(told) == fit_steps(measured)
    return factors


@pytest.mark.shared_data
def test_shipped_factors_are_what_calibrate_fits(refitted: Factors) -> None:
    """Compared by their JSON with a tolerance: another BLAS may end a fit in another last digit."""

    def flat(node: object, path: str = "") -> dict[str, object]:
        if isinstance(node, dict):
            return {p: v for key, part in node.items() for p, v in flat(part, f"{path}.{key}").items()}
        return {path: node}

    shipped, again = flat(to_document(shipped_factors())), flat(to_document(refitted))
    assert shipped.keys() == again.keys()
    for path, value in shipped.items():
        expected = pytest.approx(value, rel=0.02, abs=2e-3) if isinstance(value, float) else value
        assert again[path] == expected, path


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("group", "name", "kind", "median", "p90"),
    [
        ("gemm", "A100-SXM-80GB", "16bit", 0.07, 0.17),
        ("gemm", "H100-SXM-80GB", "16bit", 0.05, 0.13),
        ("gemm", "H100-SXM-80GB", "8bit", 0.04, 0.10),
        ("gemm", "L40S-48GB", "16bit", 0.065, 0.16),
        ("gemm", "L40S-48GB", "8bit", 0.09, 0.25),
        ("gemm", "A40-48GB", "16bit", 0.06, 0.19),
        ("gemm", "L4-24GB", "16bit", 0.05, 0.10),
        ("gemm", "T4-16GB", "16bit", 0.05, 0.12),
        ("gemm", "V100-SXM-16GB", "16bit", 0.06, 0.12),
        ("attention", "A100-SXM-80GB", None, 0.06, 0.18),
        ("attention", "H100-SXM-80GB", None, 0.08, 0.20),
        ("attention", "L40S-48GB", None, 0.09, 0.25),
        ("comm", "H100-SXM-80GB", "2", 0.06, 0.12),
        ("comm", "H100-SXM-80GB", "4", 0.06, 0.15),
        ("comm", "A100-SXM-80GB", "2", 0.06, 0.20),
        ("engine", None, None, 0.08, 0.17),
    ],
)
def test_error_on_held_out_rows(
    refitted: Factors, group: str, name: str | None, kind: str | None, median: float, p90: float
) -> None:
    entry = getattr(refitted, group)
    for key in (name, kind):
        entry = entry if key is None else entry[key]
    assert entry.error.median < median
    assert entry.error.p90 < p90


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "kind", "decode", "prefill"),
    [
        ("A100-SXM-80GB", "16bit", 0.04, 0.055),
        ("H100-SXM-80GB", "16bit", 0.025, 0.035),
        ("H100-SXM-80GB", "8bit", 0.03, 0.035),
        ("L40S-48GB", "16bit", 0.02, 0.06),
        ("L40S-48GB", "8bit", 0.025, 0.13),
    ],
)
def test_whole_iterations_of_unseen_layers(
    refitted: Factors, name: str, kind: str, decode: float, prefill: float
) -> None:
    """The aims are 3 % and 5 %: A100 misses the first by a hair, 8-bit prompts on L40S the second by far."""
    found = refitted.iterations[name][kind]
    assert found.decode.median < decode
    assert found.prefill.median < prefill


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "before", "after"), [("MI250-128GB", 0.5, 0.25), ("MI300X-192GB", 0.55, 0.45)])
def test_end_to_end_runs_bring_a_gpu_without_kernels_closer(
    measured: Measurements, refitted: Factors, name: str, before: float, after: float
) -> None:
    """Models whose runs were not fitted; from the data sheet and a stand-in alone, predictions are twice too fast."""
    rows = [row for row in measured.serving if row.gpu.name == name and row.engine_family == "vllm"]
    models = sorted({row.model.name for row in rows})
    unseen = [row for row in rows if row.model.name in models[2::3]]
    alone, _ = compare_all(unseen, replace(refitted, serving={}))
    fitted, _ = compare_all(unseen, refitted)
    assert np.median([abs(c.off_frac) for c in alone]) > before
    assert np.median([abs(c.off_frac) for c in fitted]) < after


@pytest.mark.shared_data
def test_vidurs_layers_on_a100_which_no_fit_saw(shared_data: Path) -> None:
    columns = ("model", "tp", "num_tokens", *(f"{product}_ms" for product in PRODUCTS))
    table = long_layers(read_table(shared_data / "kernels" / "vidur_mlp_a100.parquet", columns))
    again = fit_layers(GPUS["A100-SXM-80GB"], MODELS, table, ["vidur"])
    shipped = shipped_factors().gemm["A100-SXM-80GB"]["16bit"]
    # Two laboratories, two versions of the libraries: their fits agree to the difference between them.
    assert again.flop_eff == pytest.approx(shipped.flop_eff, rel=0.15)
    assert again.mem_eff == pytest.approx(shipped.mem_eff, rel=0.15)


@pytest.mark.shared_data
def test_decoding_of_models_and_cards_that_no_fit_saw(measured: Measurements) -> None:
    """vLLM end to end: Llama-3.1-70B in fp8 on H200, and four models on A100-40GB."""
    compared, _ = compare_all(measured.serving)
    modern = {c.row for c in compared} & set(engine_rows(measured.serving))
    h200 = [abs(c.off_frac) for c in compared if c.row in modern and c.row.gpu.name == "H200-SXM-141GB"]
    a100 = [abs(c.off_frac) for c in compared if c.row.gpu.name == "A100-SXM-40GB" and c.row.engine == "vLLM"]
    assert len(h200) > 50
    assert np.median(h200) < 0.08
    assert len(a100) > 150
    assert np.median(a100) < 0.10


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "kernels" / "aic_comm.csv").unlink(), "aic_comm.csv: cannot be read"),
        (
            lambda folder: (folder / "kernels" / "aic_comm.csv").write_text("gpu\nx\n"),
            "aic_comm.csv: column op is missing",
        ),
    ],
    ids=["missing file", "missing column"],
)
@pytest.mark.shared_data
def test_a_spoiled_folder_is_named(
    shared_data: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    (tmp_path / "kernels").mkdir()
    for path in (shared_data / "kernels").iterdir():
        (tmp_path / "kernels" / path.name).write_bytes(path.read_bytes())
    spoil(tmp_path)
    with pytest.raises(TableError, match=message):
        read_measurements(tmp_path)


def test_engine_rows_are_recent_vllm_in_a_closed_loop(measured: Measurements) -> None:
    rows = engine_rows(measured.serving)
    assert rows
    assert {row.gpu.architecture for row in rows} == {"Hopper"}
    assert all(row.engine.startswith("vllm") and row.concurrency for row in rows)
    assert engine_rows([replace(rows[0], engine="sglang-0.5")]) == []
