"""`poolpilot calibrate`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from poolpilot.commands.calibrate import calibrate
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.check import ServingRow, law_of, tpot_s
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
    assert [(g["gpu"], g["model"], g["quantity"], g["rows"], g["inside"]) for g in groups] == [
        ("H100-SXM-80GB", "meta-llama/Llama-3.1-8B", "TPOT", 1, 1.0),
        ("H100-SXM-80GB", "all", "TPOT", 1, 1.0),
    ]
    assert 0 <= groups[0]["median"] < 0.5
    assert "few_shot" not in groups[0]


def a_sweep(folder: Path) -> str:
    """Runs of an engine that takes 40 % longer than the model believes, and one of a GPU that nobody knows."""
    template = "lab,H100,1,1,1,llama-3.1-8b,bf16,vllm-0.19,{prompt},200,{n},,90,{ms},{rate},{note}"
    row = ServingRow(
        "lab", gpu("H100"), model("llama-3.1-8b"), "bf16", 1, "vllm", 1.0, 200.0, 1.0, None, False, None, None, None
    )
    lines = [ROW.format(tpot_ms="12").replace("H100", "H1000")]
    for n in (1, 2, 4, 8, 16, 32):
        for prompt in (100, 1000):
            own = replace(row, prompt_tokens=float(prompt), concurrency=float(n))
            ms = 1400.0 * tpot_s(own, law_of(own))
            lines.append(template.format(prompt=prompt, n=n, ms=ms, rate=n * 1000.0 / ms, note="closed loop"))
    path = folder / "sweep.csv"
    path.write_text("\n".join([",".join(SERVING_COLUMNS), *lines]) + "\n")
    return str(path)


def test_few_shot_shows_the_error_after_a_correction_and_scores_only_the_rest(tmp_path: Path) -> None:
    result = CliRunner().invoke(calibrate, ["--check", a_sweep(tmp_path), "--few-shot", "6", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)["check"]
    for group in document["groups"]:
        sign = -1.0 if group["quantity"] == "TPOT" else 1.0
        assert sign * group["bias"] > 0.25
        assert group["few_shot"]["median"] < 0.05
        assert group["few_shot"]["given"] + group["few_shot"]["rows"] == group["rows"] == 12
    # A row that tells both TPOT and throughput is given for both, or scored for both.
    assert {g["quantity"]: g["few_shot"]["given"] for g in document["groups"]} == {"TPOT": 6, "throughput": 6}
    assert document["left_out"] == {"unknown GPU 'H1000'": 1}
    shown = CliRunner().invoke(calibrate, ["--check", a_sweep(tmp_path), "--few-shot", "6"]).stdout
    assert "After a correction from a few rows" in shown
    assert "left out: 1 rows" in shown


@pytest.mark.shared_data
def test_the_public_table_is_checked_within_reason(shared_data: Path) -> None:
    """Recent vLLM on the GPUs that were measured."""
    result = CliRunner().invoke(calibrate, ["--check", str(shared_data / "measured_serving.csv"), "--json"])
    document = json.loads(result.stdout)["check"]
    (h200,) = (
        g for g in document["groups"] if (g["gpu"], g["engine"], g["model"]) == ("H200-SXM-141GB", "vllm", "all")
    )
    assert h200["rows"] >= 50
    assert h200["median"] < 0.12
    assert h200["inside"] == 0.0  # of H200 itself no kernel was measured
    assert sum(document["left_out"].values()) > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "wanted --data DIR to refit, or --check FILE"),
        (
            ["--report", "page.md", "--check", "x.csv"],
            "--report scores the model on a folder of tables: it needs --data",
        ),
        (["--few-shot", "5", "--data", "x"], "--few-shot corrects the model on a table: it needs --check FILE"),
        (["--few-shot", "0", "--check", "x.csv"], "--few-shot"),
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
        (
            "",
            ",".join(SERVING_COLUMNS),
            "no row can be compared; first reason: neither tpot_ms nor throughput_out_tok_s",
        ),
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
