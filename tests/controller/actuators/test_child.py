import asyncio
import signal
import socket
import sys
from pathlib import Path

import pytest

from poolpilot.controller.actuators.child import (
    Child,
    ReplicaCommand,
    free_port,
    lacks_shutdown_timeout,
    last_words,
    plugin_environment,
    says_port_taken,
)
from poolpilot.controller.actuators.envoy_config import Endpoint

AT = Endpoint("127.0.0.1", 8123)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


def test_placeholders_are_filled_and_other_braces_stay() -> None:
    command = ReplicaCommand(("serve", "--at={host}:{port}", '{"x":{"y":1}}', "{cap_file}"), Path("/tmp/a.json"))
    assert command.fill(AT) == ("serve", "--at=127.0.0.1:8123", '{"x":{"y":1}}', "/tmp/a.json")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("serve", "--port", "8000"), "no {port}"),
        (("serve", "{port}", "{gpu}"), "nothing to fill in for {gpu}; known are {host}, {port}"),
        (("serve", "{port}", "{cap_file}"), "nothing to fill in for {cap_file}"),
        ((), "no {port}"),
    ],
)
def test_a_template_that_cannot_work_is_refused(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        ReplicaCommand(argv)


@pytest.mark.parametrize(
    ("command", "lacks"),
    [
        ("vllm serve m --port {port}", True),
        ("python -m vllm.entrypoints.openai.api_server --port {port}", True),
        ("vllm serve m --port {port} --shutdown-timeout 60", False),
        ("/venv/bin/vllm serve m --port {port} --shutdown-timeout=60", False),
        ("sglang serve --port {port}", False),
    ],
)
def test_a_vllm_that_would_cut_its_streams_is_told_of(command: str, lacks: bool) -> None:
    assert lacks_shutdown_timeout(command.split()) is lacks


@pytest.mark.parametrize("keep_free", [True, False])
def test_a_server_can_listen_on_a_free_port(keep_free: bool) -> None:
    port = free_port("127.0.0.1", keep_free=keep_free)
    with socket.create_server(("127.0.0.1", port)):
        pass


async def test_exit_status_output_and_environment(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    code = "import os, sys; print('out'); print(os.environ['MARK'], file=sys.stderr); sys.exit(3)"
    child = Child.launch(python(code), {"MARK": "err"}, log, die_with_parent=True)
    assert await child.exited == 3
    assert not child.running
    assert set(log.read_text().split()) == {"out", "err"}


async def test_signals_reach_it_and_are_its_status(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    children = [Child.launch(python("input_never = __import__('time').sleep(60)"), {}, log, die_with_parent=False)]
    children[0].terminate()
    assert await children[0].exited == -signal.SIGTERM
    children[0].terminate()
    children[0].kill()


async def test_killing_takes_what_it_started_along(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    code = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(60)'])\n"
        "print(p.pid, flush=True)\n"
    )
    child = Child.launch(python(code), {}, log, die_with_parent=False)
    assert await child.exited == 0
    worker = Path(f"/proc/{int(log.read_text())}/stat")
    while worker.exists() and worker.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        await asyncio.sleep(0.01)


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Child.launch(("/no/such/program",), {}, tmp_path / "a.log", die_with_parent=False)
    child = Child.launch(("/no/such/program",), {}, tmp_path / "b.log", die_with_parent=True)
    assert await child.exited == 1
    assert last_words(tmp_path / "b.log", 0) == "cannot run '/no/such/program': No such file or directory"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address already in use",
            True,
        ),
        ("OSError: [Errno 98] Address already in use\nbye", True),
        ("Error: listen EADDRINUSE: :::1", True),
        ("out of memory", False),
        ("", False),
    ],
)
def test_a_taken_port_is_read_from_the_log(tmp_path: Path, text: str, expected: bool) -> None:
    log = tmp_path / "a.log"
    log.write_text("EADDRINUSE\n" + text)
    assert says_port_taken(log, since=11) is expected


def test_the_last_words_are_the_last_line_that_says_anything(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * 10_000 + b"\nCUDA out of memory \xff\n\n  \n")
    assert last_words(log, 0).startswith("CUDA out of memory")
    log.write_bytes(b"")
    assert last_words(log, 0) == ""


async def test_a_vllm_server_finds_the_engine_plugin_and_the_caps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    code = "import os, sys, poolpilot_engine; print(os.environ['POOLPILOT_CAPS'], '/elsewhere' in sys.path, 'poolpilot' in sys.modules)"
    log = tmp_path / "a.log"
    child = Child.launch(
        (sys.executable, "-S", "-c", code), plugin_environment(tmp_path / "a.json"), log, die_with_parent=True
    )
    assert await child.exited == 0, log.read_text()
    assert log.read_text().split() == [str(tmp_path / "a.json"), "True", "False"]
