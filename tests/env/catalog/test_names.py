"""Looking up GPUs, models and links."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pyarrow.csv as pa_csv
import pytest

from poolpilot.env.catalog.gpus import GPUS, CatalogError, Gpu, gpu
from poolpilot.env.catalog.links import LINKS, link
from poolpilot.env.catalog.models import MODELS, PRECISIONS, bytes_per_weight, model


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("H100", "H100-SXM-80GB"),
        ("h100-sxm", "H100-SXM-80GB"),
        ("A100-40GB", "A100-SXM-40GB"),
        ("L4", "L4-24GB"),
        ("L40S", "L40S-48GB"),
        ("MI300X", "MI300X-192GB"),
        ("  rtx4090 ", "RTX4090-24GB"),
    ],
)
def test_short_gpu_names_mean_one_card(short: str, full: str) -> None:
    assert gpu(short).name == full


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
        ("meta-llama/Llama-2-70b-chat-hf", "meta-llama/Llama-2-70b-hf"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen/Qwen3-30B-A3B"),
        ("qwen2.5-32b", "Qwen/Qwen2.5-32B"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
    ],
)
def test_releases_share_the_shapes_of_their_base(short: str, full: str) -> None:
    assert model(short).name == full


@pytest.mark.parametrize(
    ("look_up", "name", "closest"),
    [
        (gpu, "H10", "H100-SXM-80GB"),
        (gpu, "RTX-4090", "RTX4090-24GB"),
        (model, "lama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        (link, "NVLink", "NVLink"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest(
    look_up: Callable[[str], object], name: str, closest: str
) -> None:
    with pytest.raises(CatalogError, match=f"unknown .*{name}.*closest.*{closest}"):
        look_up(name)


def test_every_name_in_the_tables_finds_itself() -> None:
    assert all(gpu(name).name == name for name in GPUS)
    assert all(model(name).name == name for name in MODELS)
    assert all(link(name).name == name for name in LINKS)


def test_every_fact_has_a_source_and_every_link_is_known() -> None:
    for card in GPUS.values():
        assert card.source
        assert card.link.source
        assert card.link_among(1).gb_per_s > 0
    assert all(shape.source for shape in MODELS.values())


def test_a_bridge_joins_two_cards_and_more_go_over_pcie() -> None:
    assert gpu("A100-PCIe-80GB").link_among(2).name == "NVLink3-bridge"
    assert gpu("A100-PCIe-80GB").link_among(4).name == "PCIe4"


@pytest.mark.parametrize(
    ("card", "precision", "tflops"),
    [
        ("H100", "fp8", 1978.0),
        ("A100", "fp8", 312.0),
        ("A100", "int8", 624.0),
        ("V100", "int8", 125.0),
        ("T4", "fp32", 8.1),
    ],
    ids=["fp8 units", "fp8 unpacked to 16 bits", "int8 units", "int8 unpacked to 16 bits", "no tensor cores"],
)
def test_peak_rate(card: str, precision: str, tflops: float) -> None:
    assert gpu(card).tflops(precision) == tflops


PUBLISHED_BILLIONS = {  # as the model cards state them
    "meta-llama/Llama-2-7b-hf": 6.74,
    "meta-llama/Llama-2-13b-hf": 13.02,
    "meta-llama/Llama-3.1-8B": 8.03,
    "meta-llama/Llama-3.1-70B": 70.6,
    "meta-llama/Llama-3.1-405B": 405.9,
    "meta-llama/Llama-3.2-1B": 1.24,
    "meta-llama/Llama-3.2-3B": 3.21,
    "mistralai/Mistral-7B-v0.1": 7.24,
    "mistralai/Mixtral-8x7B-v0.1": 46.7,
    "Qwen/Qwen2.5-0.5B": 0.49,
    "Qwen/Qwen2.5-1.5B": 1.54,
    "Qwen/Qwen2.5-3B": 3.09,
    "Qwen/Qwen2.5-7B": 7.61,
    "Qwen/Qwen2.5-14B": 14.7,
    "Qwen/Qwen2.5-32B": 32.5,
    "Qwen/Qwen2.5-72B": 72.7,
    "Qwen/Qwen3-4B": 4.0,
    "Qwen/Qwen3-30B-A3B": 30.5,
    "Qwen/Qwen3-235B-A22B": 235.0,
    "bigscience/bloom": 176.0,
}


@pytest.mark.parametrize("name", PUBLISHED_BILLIONS)
def test_shapes_add_up_to_the_published_size(name: str) -> None:
    assert model(name).params / 1e9 == pytest.approx(PUBLISHED_BILLIONS[name], rel=0.012)


def test_bytes_of_weights_and_kv_cache() -> None:
    llama = model("llama-3.1-8b")
    assert llama.weight_bytes("bf16") == pytest.approx(16.06e9, rel=1e-3)
    assert llama.kv_bytes_per_token() == 131072
    assert llama.kv_bytes_per_token("fp8") == 65536
    sizes = [llama.weight_bytes(p) for p in ("fp32", "fp16", "fp8", "int4")]
    assert sizes == sorted(sizes, reverse=True)


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(CatalogError, match="'fp5'; wanted one of fp32, fp16"):
        bytes_per_weight("fp5")
    assert "int4" in PRECISIONS


@pytest.mark.shared_data
def test_tables_match_the_public_facts(shared_data: Path) -> None:
    for row in pa_csv.read_csv(shared_data / "gpu_specs.csv").to_pylist():
        card = gpu(row["gpu"])
        assert (card.memory_gb, card.bandwidth_gb_per_s) == (row["memory_gb"], row["hbm_bw_gb_s"]), card.name
        assert card.fp16_tflops == row["fp16_bf16_dense_tflops"], card.name
        assert card.fp8_tflops == (row["fp8_dense_tflops"] or 0.0), card.name
        assert (card.supports_bf16, card.supports_fp8) == (row["supports_bf16"], row["supports_fp8"]), card.name
    for row in pa_csv.read_csv(shared_data / "model_shapes.csv").to_pylist():
        shape = model(row["model"])
        assert shape.params / 1e9 == pytest.approx(row["params_total_b"], rel=1e-3), shape.name
        assert shape.kv_bytes_per_token() == row["kv_bytes_per_token_fp16"], shape.name


@pytest.mark.parametrize("card", GPUS.values(), ids=lambda card: card.name)
def test_a_card_has_at_least_its_quoted_bytes_and_at_most_as_many_gibibytes(card: Gpu) -> None:
    assert 1e9 <= card.memory_bytes / card.memory_gb <= 2.0**30


def test_catalogue_entries_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        gpu("H100").memory_gb = 1.0  # type: ignore[misc]
