"""The factors file: read back as written, refused with the entry named, and reviewed."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from poolpilot.env.catalog.gpus import GPUS, gpu
from poolpilot.env.perf.factors import (
    FACTORS_FILE,
    FactorsError,
    donor,
    from_document,
    read_factors,
    shipped_factors,
    to_document,
    to_text,
)


def test_factors_read_back_as_written() -> None:
    document = json.loads(json.dumps(to_document(shipped_factors())))
    assert from_document(document) == shipped_factors()
    assert document == json.loads(FACTORS_FILE.read_text(encoding="utf-8"))
    assert to_text(shipped_factors()) == FACTORS_FILE.read_text(encoding="utf-8")


def test_every_entry_names_its_data_and_its_error_on_held_out_rows() -> None:
    factors = shipped_factors()
    errors = [
        *(entry.error for kinds in factors.gemm.values() for entry in kinds.values()),
        *(entry.error for entry in factors.attention.values()),
        *(entry.error for degrees in factors.comm.values() for entry in degrees.values()),
        *(entry.error for entry in factors.transfer.values()),
        factors.engine.error,
    ]
    for error in errors:
        assert error.sources
        assert error.held_out_rows > 0
        assert error.fitted_rows > error.held_out_rows
        assert 0 <= error.median <= error.p90
        assert error.ranges
    for entry in factors.serving.values():  # one run in four is fitted, all of the models held out are judged
        assert entry.error.sources
        assert min(entry.error.fitted_rows, entry.error.held_out_rows) > 16
    for kinds in factors.iterations.values():
        for whole in kinds.values():
            assert whole.decode.held_out_rows > 0 == whole.decode.fitted_rows
            assert whole.prefill.held_out_rows > 0 == whole.prefill.fitted_rows


def test_every_card_finds_a_donor() -> None:
    factors = shipped_factors()
    for card in GPUS.values():
        assert donor(card, factors.gemm) in factors.gemm
        assert donor(card, factors.attention) in factors.attention


@pytest.mark.parametrize(
    ("name", "gemm_from"),
    [("A100-PCIe-80GB", "A100-SXM-80GB"), ("RTX4090", "L40S-48GB"), ("A10", "A40-48GB"), ("H200", "H100-SXM-80GB")],
)
def test_relatives_lend_their_factors(name: str, gemm_from: str) -> None:
    assert donor(gpu(name), shipped_factors().gemm) == gemm_from


def test_without_a_relative_nothing_is_invented() -> None:
    with pytest.raises(FactorsError, match="no measured factors for MI300X-192GB"):
        donor(gpu("MI300X"), {"T4-16GB": 1})


def _broken(path: list[str], value: Any) -> dict[str, Any]:
    document = copy.deepcopy(to_document(shipped_factors()))
    entry = document
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "wanted an object with schema 4"),
        ({"schema": 1}, "wanted an object with schema 4"),
        (_broken(["gemm"], None), "factors.gemm: wanted an object by GPU name"),
        (_broken(["gemm", "B9000"], {}), "factors.gemm.B9000: no such GPU"),
        (_broken(["gemm", "A100-SXM-80GB", "16bit"], {}), "A100-SXM-80GB.16bit: wanted exactly flop_eff"),
        (_broken(["engine", "seq_s"], "fast"), "factors.engine.seq_s: 'fast', wanted a number"),
        (_broken(["engine", "seq_s"], True), "factors.engine.seq_s: True, wanted a number"),
        (_broken(["engine"], None), "factors.engine: wanted exactly"),
        (_broken(["transfer"], []), "factors.transfer: wanted an object by link"),
        (_broken(["gemm", "A100-SXM-80GB", "16bit", "by_rows"], [[1, 1], [1, 1]]), "by_rows: wanted a list of"),
        (
            _broken(["engine", "error", "ranges"], {"tokens": [2, 1]}),
            r"ranges.tokens: \[2, 1\], wanted \[least, most\]",
        ),
    ],
)
def test_a_wrong_document_is_refused_with_the_entry(document: Any, message: str) -> None:
    with pytest.raises(FactorsError, match=message):
        from_document(document)


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "factors.json"
    path.write_text("{")
    with pytest.raises(FactorsError, match=r"factors\.json: not readable as JSON"):
        read_factors(path)
