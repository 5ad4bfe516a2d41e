"""NVML through NVIDIA's own binding, which loads a small stand-in for the driver's library that is compiled here."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).with_name("fake_nvml.c")
ROOT = Path(__file__).resolve().parents[2]
# The dynamic loader looks at LD_LIBRARY_PATH when a process starts: NVML is read in a process of its own.
READER = """
import json, sys
from dataclasses import asdict
from poolpilot.telemetry.nvml import Nvml, NvmlError
nvml = Nvml()
for line in sys.stdin:
    try:
        answer = [asdict(gpu) for gpu in nvml.read(json.loads(line))]
    except NvmlError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""
H100 = "GPU-6a9f 87 60000 80000 71 642500 0"
HOT = "GPU-77b1 100 79000 80000 91 700000 64"
CAPPED = "GPU-capd 100 79000 80000 80 700000 4"
IDLE = "GPU-idle 0 0 80000 31 70000 1"
VIRTUAL = "GPU-virt 50 1000 2000 -1 -1 -1"
LOST = "GPU-lost 0 0 0 0 0 0 15"


@pytest.fixture(scope="session", params=["today", "old driver"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stand-in as `libnvidia-ml.so.1`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        message = "no C compiler (apt-get install gcc): the stand-in for libnvidia-ml cannot be built"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("nvml")
    older = ["-DOLD_DRIVER"] if request.param == "old driver" else []
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", *older, "-o", folder / "libnvidia-ml.so.1", SOURCE]
    subprocess.run(command, check=True, capture_output=True)
    return folder


class Host:
    """A process that reads GPUs, and what they say."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.gpus = folder / "gpus"
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT / ".import"),
                "LD_LIBRARY_PATH": str(library),
                "FAKE_NVML": str(self.gpus),
            },
        )

    def read(self, *wanted: int | str) -> Any:
        """The readings, or the error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="session")
def process(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(library, tmp_path_factory.mktemp("gpus"))
    yield host
    host.process.communicate(timeout=60)


@pytest.fixture
def host(process: Host) -> Host:
    """Of which no driver is loaded."""
    process.gpus.unlink(missing_ok=True)
    process.read(0)
    return process


def test_every_figure_of_every_gpu(host: Host) -> None:
    host.gpus.write_text(f"{H100}\n{HOT}\n{CAPPED}\n{IDLE}\n")
    busy, hot, capped, idle = host.read()
    assert busy == {
        "name": "GPU-6a9f",
        "util_frac": 0.87,
        "memory_used_frac": 0.75,
        "temp_c": 71.0,
        "power_w": 642.5,
        "throttled": 0.0,
    }
    assert (hot["throttled"], capped["throttled"], idle["throttled"]) == (1.0, 1.0, 0.0)


def test_gpus_by_index_and_by_uuid(host: Host) -> None:
    host.gpus.write_text(f"{H100}\n{HOT}\n{IDLE}\n")
    assert [gpu["name"] for gpu in host.read(2, "GPU-6a9f")] == ["GPU-idle", "GPU-6a9f"]


def test_what_a_gpu_does_not_support_is_unknown(host: Host) -> None:
    host.gpus.write_text(VIRTUAL + "\n")
    (gpu,) = host.read(0)
    assert gpu["util_frac"] == 0.5
    assert all(math.isnan(gpu[name]) for name in ("temp_c", "power_w", "throttled"))


def test_a_gpu_that_is_not_there_is_named(host: Host) -> None:
    host.gpus.write_text(H100 + "\n")
    assert host.read(3) == {"error": "NVML: no GPU 3 among the 1 of this host"}
    assert host.read("GPU-none") == {"error": "NVML: no GPU 'GPU-none' among the 1 of this host"}


def test_a_driver_that_comes_goes_and_comes_back(host: Host) -> None:
    assert "Driver Not Loaded; looked for libnvidia-ml.so.1" in host.read(0)["error"]
    host.gpus.write_text(H100 + "\n")
    assert host.read(0)[0]["util_frac"] == 0.87
    host.gpus.write_text(LOST + "\n")
    assert host.read(0) == {"error": "NVML: GPU is lost"}
    host.gpus.write_text(H100 + "\n")
    assert host.read(0)[0]["temp_c"] == 71.0


def test_without_a_driver_the_error_says_what_was_looked_for() -> None:
    program = "from poolpilot.telemetry.nvml import Nvml\nNvml().read([])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".import"), "LD_LIBRARY_PATH": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    if done.returncode == 0:
        pytest.skip("this machine has an NVIDIA driver")
    assert "looked for libnvidia-ml.so.1 of the NVIDIA driver" in done.stderr.splitlines()[-1]
