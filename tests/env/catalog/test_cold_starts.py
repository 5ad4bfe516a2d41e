"""The table of load and wake times says what was measured."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from poolpilot.env.catalog.cold_starts import FALL_ASLEEP, LOADINGS, PROVISION_SOURCE, WAKE, loading
from poolpilot.env.catalog.models import model
from poolpilot.env.catalog.names import CatalogError

MEASURED = {
    "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8": model("Qwen/Qwen3-235B-A22B").weight_bytes("fp8"),
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": model("Qwen/Qwen3-30B-A3B").weight_bytes("bf16"),
    "Qwen/Qwen3-0.6B": model("Qwen/Qwen3-0.6B").weight_bytes("bf16"),
}


@pytest.fixture(scope="module")
def rows(shared_data: Path) -> list[dict[str, str]]:
    with (shared_data / "coldstart_measured.csv").open() as file:
        return list(csv.DictReader(file))


def mean_s(rows: list[dict[str, str]], **wanted: str) -> float:
    found = [float(row["seconds"]) for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert found
    return float(np.mean(found))


@pytest.mark.shared_data
@pytest.mark.parametrize("name", MEASURED)
def test_loading_from_a_local_disk_is_near_the_measured_times(rows: list[dict[str, str]], name: str) -> None:
    measured_s = mean_s(rows, model=name, event="cold_load", gpu="A100")
    assert loading("local", "safetensors").duration.of(MEASURED[name]) == pytest.approx(measured_s, rel=0.1)


STORAGES = {"ebs-gp3": "EBS gp3 1000MiB/s", "ebs-io2": "EBS io2 4000MiB/s", "s3": "S3 same region"}


@pytest.mark.shared_data
@pytest.mark.parametrize("key", [key for key in LOADINGS if not key.startswith("local/")])
def test_loading_from_cloud_storage_is_the_measured_time(rows: list[dict[str, str]], key: str) -> None:
    storage, loader = key.split("/")
    measured_s = mean_s(rows, storage=STORAGES[storage], loader=loader, event="engine_ready_total")
    assert LOADINGS[key].duration.of(15.0e9) == pytest.approx(measured_s, abs=0.2)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", MEASURED)
def test_waking_and_falling_asleep_are_within_a_second_of_the_measured_times(
    rows: list[dict[str, str]], name: str
) -> None:
    gpu = "A4000-16GB" if name.endswith("0.6B") else "A100"
    for event, table in (("wake_from_sleep", WAKE), ("go_to_sleep", FALL_ASLEEP)):
        first_level = [row for row in rows if "level 1" in row["note"]]
        measured_s = mean_s(first_level, model=name, event=event, gpu=gpu)
        assert table[1].of(MEASURED[name]) == pytest.approx(measured_s, abs=1.0)


def test_every_figure_says_whether_it_was_measured() -> None:
    sources = [row.duration.source for row in LOADINGS.values()]
    sources += [row.source for row in (*WAKE.values(), *FALL_ASLEEP.values())] + [PROVISION_SOURCE]
    assert all(source.startswith(("measured: ", "assumed: ")) for source in sources)


def test_what_was_not_measured_is_refused_naming_what_was() -> None:
    with pytest.raises(CatalogError, match=r"unknown storage and loader 's3/safetensors'; closest.*/safetensors"):
        loading("s3", "safetensors")
