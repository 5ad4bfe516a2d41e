"""`poolpilot profile` against the emulator: it finds the law again, keeps to what it may cost, sees others, and stops."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from poolpilot.commands.profile import profile
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.law_file import LawFile, read_law_file
from poolpilot.env.perf.roofline import iteration_law
from poolpilot.env.scenario import parse_scenario, shipped_scenarios

from .test_emulate import ARGUMENTS, COMMAND, IMPORT_FROM, metric, post

pytestmark = pytest.mark.e2e
SLOWNESS = 3.5
TRUE = iteration_law(gpu("L40S-48GB"), model("llama-2-13b"), "fp8").scaled(SLOWNESS)
SMALL = ("--max-concurrency", "8", "--max-tokens", "60000", "--seed", "3")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An emulated replica whose iterations take 80 ms and more, so that a busy machine matters little."""
    process = subprocess.Popen(
        [*COMMAND, *ARGUMENTS, "--port", "0", "--slowness", str(SLOWNESS)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": IMPORT_FROM, "PATH": ""},
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.communicate()


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(profile, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def off_frac(law: Any, document: Any) -> float:
    """Error that 95 % of iterations inside the measured range stay below; or, if they are larger, the mean of those held
    out and a third of the largest.

    Not the largest of all: a sweep this small has a few prompts only between two bends of the law. With the default
    allowance the largest was 3 %.
    """
    rng = np.random.default_rng(0)
    n = rng.integers(1, 9, 200)
    prefill = rng.choice([0.0, 1.0], 200) * rng.integers(1, 1000, 200)
    work = prefill, prefill * (rng.integers(0, 1000, 200) + prefill / 2), n, n * rng.integers(64, 1024, 200)
    held_out = [p for p in document["probes"] if p["held_out"] and p["kind"] == "decode"]
    assert held_out
    ours = [law.iteration_s(0, 0, p["sequences"], p["context_tokens"]) for p in held_out]
    true = [TRUE.iteration_s(0, 0, p["sequences"], p["context_tokens"]) for p in held_out]
    everywhere = np.abs(law.iteration_s(*work) / TRUE.iteration_s(*work) - 1.0)
    at_held_out = np.abs(np.divide(ours, true) - 1.0).mean()
    return float(max(np.quantile(everywhere, 0.95), at_held_out, everywhere.max() / 3))


def found_again(url: str, out: Path, *more: str) -> tuple[Any, LawFile, str]:
    """A sweep that found the law within 5 %, what it wrote, and what it said.

    A machine that is busy with other tests stops the clock of some probes. As a person would, it then measures again;
    three sweeps that are off are no accident.
    """
    off = []
    for _ in range(3):
        document, said = run("--url", url, *SMALL, *more, "--out", str(out))
        law_file = read_law_file(out)
        off.append(off_frac(law_file.law.law(), document))
        if off[-1] < 0.05:
            return document, law_file, said
    raise AssertionError(f"three sweeps were off by {off}, wanted less than 0.05")


def test_the_law_of_the_emulator_is_found_again_and_serves_a_scenario(url: str, tmp_path: Path) -> None:
    document, law_file, said = found_again(url, tmp_path / "mine.json")
    assert "never more than 1000 requests, 60,000 tokens, 300 s" in " ".join(said.split())
    assert document["cost"]["tokens"] <= 60_000
    assert metric(url, "vllm:prompt_tokens_total") < 3 * 60_000
    assert document["held_out"]["median"] < 0.05
    assert law_file.kv_tokens == 16 * round(float(law_file.kv_tokens or 0) / 16)

    import yaml

    scenario = yaml.safe_load(shipped_scenarios()["mixed-chat"].read_text())
    scenario["pools"]["l40s"]["law"] = "mine.json"
    parsed = parse_scenario(scenario, tmp_path / "mine.yaml")
    np.testing.assert_array_equal(parsed.pool_law("l40s").as_row(), law_file.law.law().as_row())


def test_factors_of_a_named_gpu_are_found_again(url: str, tmp_path: Path) -> None:
    place = ("--gpu", "L40S", "--model", "llama-2-13b", "--precision", "fp8")
    document, law_file, _ = found_again(url, tmp_path / "mine.json", *place)
    assert LawFile.model_validate(document["law_file"]) == law_file
    assert law_file.correction is not None
    assert document["performance_model"]["bias"] == pytest.approx(1 / SLOWNESS - 1, abs=0.05)
    # Another model on the same GPU: as slow as this one, in proportion.
    other = law_file.law_of("L40S-48GB", "llama-2-7b", "fp8", 1)
    believed = iteration_law(gpu("L40S-48GB"), model("llama-2-7b"), "fp8")
    np.testing.assert_allclose(
        other.linear([1.0, 64.0, 1000.0]) / believed.linear([1.0, 64.0, 1000.0]), SLOWNESS, rtol=0.1
    )


def test_other_traffic_is_noticed(url: str) -> None:
    stop = threading.Event()

    def traffic() -> None:
        while not stop.is_set():
            post(url, {"prompt": [1] * 200, "max_tokens": 40})

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        document, said = run("--url", url, "--max-concurrency", "4", "--max-tokens", "6000", "--max-requests", "60")
    finally:
        stop.set()
        thread.join()
    assert any("other requests ran during" in note for note in document["notes"])
    assert "other requests ran during" in said


def test_a_short_time_ends_the_sweep_and_says_so(url: str) -> None:
    start_s = time.monotonic()
    result = CliRunner().invoke(profile, ["--url", url, "--budget", "2"])
    assert result.exit_code == 2
    assert "wanted at least 3" in result.stderr
    assert time.monotonic() - start_s < 30


def test_control_c_stops_it_and_what_is_under_way(url: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "poolpilot", "profile", "--url", url, "--out", "never.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": IMPORT_FROM, "PATH": ""},
    )
    while metric(url, "vllm:num_requests_running") < 1:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped; nothing was written" in said
    assert "Traceback" not in said
    assert not Path("never.json").exists()
    deadline_s = time.monotonic() + 10
    while metric(url, "vllm:num_requests_running") > 0:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "L40S"), "--gpu needs --model"),
        (("--model", "llama-2-13b"), "--model needs --gpu"),
        (("--gpu", "L41S", "--model", "llama-2-13b"), "unknown GPU 'L41S'"),
        (("--gpu", "V100-32GB", "--model", "llama-2-13b"), "has no bf16"),
        (("--out", "/nowhere/at/all.json"), "no such folder"),
        (("--api-key-env", "NO_SUCH_KEY"), "no such environment variable"),
        ((), "is the server up there"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_sent(arguments: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(profile, ["--url", "http://127.0.0.1:9", *arguments])
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert result.stderr.count("Error:") == 1


def test_the_key_is_sent_and_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(403)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    monkeypatch.setenv("MY_KEY", "very-secret")
    result = CliRunner().invoke(profile, ["--url", f"http://127.0.0.1:{server.server_port}", "--api-key-env", "MY_KEY"])
    thread.join()
    server.server_close()
    assert seen == ["Bearer very-secret"]
    assert result.exit_code == 2
    assert "very-secret" not in result.output


def test_the_emulator_speaks_as_it_is_asked(url: str) -> None:
    body = {"prompt": [5] * 30, "max_tokens": 5, "stream": True}
    options = {"include_usage": True, "continuous_usage_stats": True}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps({**body, "stream_options": options}).encode())
    with urllib.request.urlopen(request, timeout=30) as got:
        events = [json.loads(line[6:]) for line in got.read().decode().splitlines() if line.startswith("data: {")]
    assert [event["usage"]["completion_tokens"] for event in events][-2:] == [5, 5]
    assert all(event["usage"]["prompt_tokens"] == 30 for event in events)
