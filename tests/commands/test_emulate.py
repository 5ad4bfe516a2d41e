"""`poolpilot emulate` as a process: it starts, refuses, drains and dies as a real server does."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from poolpilot.commands.emulate import emulate

ARGUMENTS = ("--gpu", "L40S-48GB", "--model", "llama-2-13b", "--precision", "fp8", "--max-model-len", "4096")
COMMAND = (sys.executable, "-m", "poolpilot", "emulate")
IMPORT_FROM = str(Path(__file__).resolve().parents[2] / ".import")


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a process, on a free port."""
    process = subprocess.Popen(
        [*COMMAND, *ARGUMENTS, "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": IMPORT_FROM, "PATH": ""},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def address(process: subprocess.Popen[str]) -> str:
    """Wait until it serves."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("serving llama-2-13b on http://127.0.0.1:"), line
    return line.split()[-1]


def post(url: str, body: dict[str, Any]) -> tuple[int, str]:
    """Status and body."""
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metric(url: str, name: str) -> float:
    """The value of a metric without labels of its own."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as got:
        lines = got.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(name + "{")).rpartition(" ")[2])


def test_sigterm_lets_streams_finish_and_refuses_new_ones() -> None:
    with started("--speed-up", "4") as process:
        url = address(process)
        # 100 tokens of about 24 ms, four times faster: 0.6 s
        body = {"prompt": [1] * 50, "max_tokens": 100, "stream": True}
        answers: list[tuple[int, str]] = []
        streams = [threading.Thread(target=lambda: answers.append(post(url, body))) for _ in range(3)]
        for thread in streams:
            thread.start()
        while metric(url, "vllm:num_requests_running") < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        refused: list[int] = []
        with suppress(OSError):  # until it has exited
            while process.poll() is None:
                refused.append(post(url, {"prompt": "a", "max_tokens": 1})[0])
        for thread in streams:
            thread.join()
        assert process.wait(timeout=10) == 0
    assert 503 in refused
    assert refused[-1] == 503
    assert len(answers) == 3
    for status, text in answers:
        assert status == 200
        assert text.count("tok ") == 100
        assert text.endswith("data: [DONE]\n\n")


def test_second_signal_ends_it_at_once() -> None:
    with started() as process:
        url = address(process)
        lost = threading.Thread(target=lambda: _ignore_errors(url))
        lost.start()
        while metric(url, "vllm:num_requests_running") < 1:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        while post(url, {"prompt": "a", "max_tokens": 1})[0] != 503:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 128 + signal.SIGTERM
        lost.join()


def _ignore_errors(url: str) -> None:
    with suppress(OSError):
        post(url, {"prompt": [1] * 50, "max_tokens": 4000})


def test_cap_file_is_followed_while_it_runs(tmp_path: Path) -> None:
    caps = tmp_path / "caps.json"
    with started("--speed-up", "10", "--cap-file", str(caps)) as process:
        url = address(process)
        assert metric(url, "poolpilot_batch_cap") == 128
        for text, cap, errors in (
            ('{"fencing_token": 1, "batch_cap": 3, "token_budget": 256}', 3, 0),
            ("broken", 3, 1),
            ('{"fencing_token": 0, "batch_cap": 9, "token_budget": 256}', 3, 2),
            ('{"fencing_token": 2, "batch_cap": 999, "token_budget": 999999}', 128, 2),
        ):
            part = tmp_path / "part"
            part.write_text(text, encoding="utf-8")
            part.replace(caps)
            _becomes(url, "poolpilot_caps_errors_total", errors)
            _becomes(url, "poolpilot_batch_cap", cap)


def _becomes(url: str, name: str, value: float) -> None:
    for _ in range(500):
        if metric(url, name) == value:
            return
        time.sleep(0.01)
    raise AssertionError(f"{name} is {metric(url, name)}, wanted {value}")


def test_loads_before_it_listens_and_can_be_stopped_meanwhile() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with started("--load-seconds", "6000", "--speed-up", "10", "--port", str(port), "--die-with-parent") as process:
        while not _bound(port) and process.poll() is None:
            time.sleep(0.05)
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        output, _ = process.communicate()
        assert output == ""


def _bound(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def test_dies_with_its_parent() -> None:
    parent = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)\n"
        "print(child.pid, child.stdout.readline(), flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, *COMMAND, *ARGUMENTS, "--port", "0", "--die-with-parent"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": IMPORT_FROM, "PATH": ""},
    )
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[1] == "serving"
        stat = Path(f"/proc/{words[0]}/stat")
        assert stat.exists()
    finally:
        process.kill()
        process.communicate()
    for _ in range(500):
        if not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX":
            return
        time.sleep(0.01)
    raise AssertionError("the child outlived its parent by 5 s")


def test_port_taken_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        got = CliRunner().invoke(emulate, [*ARGUMENTS, "--port", str(port)])
    assert got.exit_code == 2
    assert got.output == (
        f"Error: cannot listen on 127.0.0.1:{port}: address already in use; stop who has it, or take port 0 for any free"
        " one\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpu", "L40S"], "--model is missing"),
        (["--pool", "l40s"], "--pool needs --scenario"),
        (["--scenario", "mixed-chat"], "--scenario needs --pool"),
        (["--scenario", "mixed-chat", "--pool", "x"], "pools are h100, l40s, a100-spot"),
        (["--scenario", "no-such", "--pool", "x"], "shipped are"),
        (["--gpu", "L40X", "--model", "llama-2-13b"], "unknown GPU 'L40X'"),
        (["--gpu", "L40S", "--model", "llama-2-70b"], "does not fit"),
        ([*ARGUMENTS, "--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        ([*ARGUMENTS, "--speed-up", "0"], "--speed-up"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], words: str) -> None:
    got = CliRunner().invoke(emulate, ["--port", "0", *arguments])
    assert got.exit_code == 2
    assert words in got.output
    assert len(got.output.strip().splitlines()[-1]) < 300


def test_help_says_how_to_start() -> None:
    got = CliRunner().invoke(emulate, ["--help"])
    assert got.exit_code == 0
    for words in ("poolpilot emulate --gpu", "curl localhost:8000", "--cap-file", "SIGTERM drains"):
        assert words in got.output
