"""Real vLLM servers on the CPU, paced to a law: started, waited for, and stopped again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poolpilot import engine_plugin
from poolpilot.commands.demonstration import real_vllm
from poolpilot.commands.demonstration.real_vllm.tiny_model import make_tiny_model
from poolpilot.env.perf.law import IterationLaw
from poolpilot.env.perf.law_file import LawFile, table_of

from ..env.sim.served import Flags

PACING = Path(real_vllm.__file__).parent
"""Folder of the pacing scheduler."""
PLUGIN = Path(engine_plugin.__file__).parent
"""Folder of the engine plugin."""
MODEL_NAME = "tiny"
_START_S = 900.0
"""Half a minute on a machine of its own; much longer on one that is busy with other things."""
_STOP_S = 30.0


@dataclass(frozen=True)
class Server:
    """A server that is up."""

    url: str
    flags: Flags
    steps_file: Path

    def steps(self) -> list[dict[str, Any]]:
        """What the paced scheduler noted of each step so far."""
        return [line for line in self._lines() if "law_s" in line]

    def arrivals(self) -> list[dict[str, Any]]:
        """When requests reached the engine so far."""
        return [line for line in self._lines() if "request" in line]

    def preemptions(self) -> int:
        """Sequences thrown out of the KV cache so far."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        (line,) = (line for line in lines if line.startswith("vllm:num_preemptions_total{"))
        return int(float(line.rpartition(" ")[2]))

    def version(self) -> str:
        """Of vLLM."""
        return str(self._lines()[0]["vllm"])

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.steps_file.read_text(encoding="utf-8").splitlines()]


class ServerFailed(RuntimeError):
    """vLLM did not come up; the message ends with its last words."""


@contextmanager
def paced_server(
    vllm_python: Path,
    folder: Path,
    law: IterationLaw,
    flags: Flags,
    arguments: Sequence[str] = ("--scheduler-cls", "paced_scheduler.PacedScheduler"),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A real vLLM server whose steps take what `law` says. Everything it writes goes below `folder`.

    `arguments` name the scheduler, `environment` is what they need beside.

    Raises:
        ServerFailed: it ended, or was not up in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    law_file, steps_file, log_file = folder / "law.json", folder / "steps.jsonl", folder / "server.log"
    law_file.write_text(json.dumps(LawFile(schema=1, law=table_of(law)).document()), encoding="utf-8")
    steps_file.unlink(missing_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with open(log_file, "wb") as log:
        process = subprocess.Popen(
            [
                *(vllm_python, "-m", "vllm.entrypoints.openai.api_server"),
                *("--model", make_tiny_model(folder / "model"), "--served-model-name", MODEL_NAME),
                *("--host", "127.0.0.1", "--port", str(port), "--load-format", "dummy", "--enforce-eager"),
                *("--max-num-seqs", str(flags.max_num_seqs), "--max-model-len", str(flags.max_model_len)),
                *("--max-num-batched-tokens", str(flags.max_num_batched_tokens)),
                *("--num-gpu-blocks-override", str(flags.kv_blocks), "--no-enable-prefix-caching"),
                # In the engine's own process: a worker of its own would spin on a core, waiting for work.
                *("--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"),
                *("--shutdown-timeout", "5", "--disable-uvicorn-access-log"),
                *arguments,
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(law_file, steps_file) | dict(environment or {}),
            cwd=folder,
            start_new_session=True,  # its engine is a process of its own, to be stopped with it
        )
    try:
        wait_until_up(process, url, log_file)
        yield Server(url, flags, steps_file)
    finally:
        stop(process)


def _environment(law_file: Path, steps_file: Path) -> dict[str, str]:
    """A small one, and where the pacing scheduler reads and writes."""
    return quiet_environment() | {
        "PYTHONPATH": f"{PACING}:{PLUGIN}",
        "POOLPILOT_PACING_LAW": str(law_file),
        "POOLPILOT_PACING_LOG": str(steps_file),
    }


def quiet_environment() -> dict[str, str]:
    """Nothing of the test's own Python, no network, one thread for the model."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60",
    }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_up(process: subprocess.Popen[bytes], url: str, log_file: Path) -> None:
    """Wait for /health; ServerFailed with the log's last words if it ends or takes too long."""
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise ServerFailed(f"vLLM ended with {process.returncode}:\n{_last_words(log_file)}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.25)
    raise ServerFailed(f"vLLM was not up after {_START_S:g} s:\n{_last_words(log_file)}")


def _last_words(log_file: Path) -> str:
    return "\n".join(log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask politely, then end whatever is left of its session."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
