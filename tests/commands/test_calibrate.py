"""`poolpilot calibrate`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from poolpilot.commands.calibrate import calibrate
from poolpilot.env.perf.factors import FACTORS_FILE, from_document
from poolpilot.env.perf.tables import SERVING_COLUMNS

ROW = "lab,H100,1,1,1,llama-3.1-8b,bf16,vllm-0.19,1000,200,16,,90,{tpot_ms},,closed loop"


def a_table(folder: Path, tpot_ms: str = "12", columns: str = ",".join(SERVING_COLUMNS)) -> str:
    path = folder / "mine.csv"
    path.write_text(f"{columns}\n{ROW.format(tpot_ms=tpot_ms)}\n")
    return str(path)


def test_check_prints_the_error_by_card_and_model(tmp_path: Path) -> None:
    result = CliRunner().invoke(calibrate, ["--check", a_table(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "H100-SXM-80GB" in result.stdout
    assert "meta-llama/Llama-3.1-8B" in result.stdout


def test_check_as_json_is_one_document(tmp_path: Path) -> None:
    result = CliRunner().invoke(calibrate, ["--check", a_table(tmp_path), "--json"])
    groups = json.loads(result.stdout)["check"]["groups"]
    assert [(g["gpu"], g["model"], g["rows"]) for g in groups] == [
        ("H100-SXM-80GB", "meta-llama/Llama-3.1-8B", 1),
        ("H100-SXM-80GB", "all", 1),
    ]
    assert 0 <= groups[0]["median"] < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "wanted --data DIR to refit, or --check FILE"),
        (["--write", "--check", "x.csv"], "--write stores refitted factors: it needs --data DIR"),
        (["--check", "none.csv"], "none.csv: cannot be read"),
        (["--data", "nowhere"], "nowhere/kernels: no such folder"),
    ],
)
def test_bad_arguments_end_with_code_2_and_the_reason(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(calibrate, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    ("tpot_ms", "columns", "message"),
    [
        ("-1", ",".join(SERVING_COLUMNS), "row 1: tpot_ms: -1, wanted a number above 0"),
        ("12", ",".join(SERVING_COLUMNS).replace("tpot_ms", "tpot"), "column tpot_ms is missing"),
        ("", ",".join(SERVING_COLUMNS), "no row can be compared; first reason: no tpot_ms"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, tpot_ms: str, columns: str, message: str) -> None:
    result = CliRunner().invoke(calibrate, ["--check", a_table(tmp_path, tpot_ms, columns)])
    assert result.exit_code == 2
    assert "mine.csv" in result.stderr
    assert message in result.stderr


@pytest.mark.shared_data
def test_refit_prints_factors_and_leaves_the_package_alone(shared_data: Path) -> None:
    before = FACTORS_FILE.read_bytes()
    result = CliRunner().invoke(calibrate, ["--data", str(shared_data), "--json"])
    assert result.exit_code == 0, result.output
    factors = from_document(json.loads(result.stdout)["factors"])
    assert "H100-SXM-80GB" in factors.gemm
    assert "fitting engine" in result.stderr
    assert FACTORS_FILE.read_bytes() == before
