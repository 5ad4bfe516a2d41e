"""What a real Prometheus answers about SGLang and about an older vLLM: names, ranks, labels and missing figures."""

from __future__ import annotations

import math
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from poolpilot.audit.measured import AuditError, Measured
from poolpilot.audit.prometheus.client import Client, Server, Window
from poolpilot.audit.prometheus.measuring import measured_of
from poolpilot.audit.prometheus.reading import Wanted, read_past

from ...deploy.shipped import tool
from ..fleets import described

pytestmark = pytest.mark.e2e

END_S = 1_790_000_000.0
SCRAPE_S = 15.0
SPAN_S = 1800.0
FLEET = """\
schema: 1
model: llama-2-13b
pools:
  sglang: {gpu: H100-SXM-80GB, price: 6.88, select: {job: sglang}}
  old: {gpu: L40S-48GB, precision: fp8, price: 1.8, select: {job: "~vllm-.*"}}
classes:
  chat: {target: {ttft_s: 2.0, tpot_s: 0.1}, select: {model_name: chat}}
  code: {target: {ttft_s: 2.0}, select: {model_name: code}, pools: [old]}
"""


def line(name: str, labels: Mapping[str, str], value: float, at_s: float) -> str:
    inside = ",".join(f'{key}="{own}"' for key, own in labels.items())
    return f"{name}{{{inside}}} {value:g} {at_s:.3f}"


def histogram(
    name: str, labels: Mapping[str, str], per_s: Mapping[str, float], mean: float, at_s: float, since_s: float
) -> list[str]:
    """A family whose buckets (by `le`, not cumulated) grow so fast."""
    total, lines = 0.0, []
    for end, rate in per_s.items():
        total += rate * since_s
        lines.append(line(f"{name}_bucket", {**labels, "le": end}, total, at_s))
    return [*lines, line(f"{name}_sum", labels, total * mean, at_s), line(f"{name}_count", labels, total, at_s)]


def sglang(at_s: float, since_s: float) -> list[str]:
    """2 requests/s of a server of two tensor-parallel ranks, which both tell its gauges."""
    own = {"job": "sglang", "instance": "a:30000", "model_name": "chat"}
    lines = [
        line(name, {**own, "tp_rank": rank}, value, at_s)
        for name, value in (("sglang:num_running_reqs", 6), ("sglang:num_queue_reqs", 1), ("sglang:token_usage", 0.5))
        for rank in ("0", "1")
    ]
    lines.append(line("sglang:num_requests_total", own, 2.0 * since_s, at_s))
    lines.append(line("process_start_time_seconds", {"job": "sglang", "instance": "a:30000"}, END_S - 86_400.0, at_s))
    lines += histogram(
        "sglang:prompt_tokens_histogram", own, {"100": 1.0, "1000": 1.0, "+Inf": 0.0}, 300.0, at_s, since_s
    )
    lines += histogram(
        "sglang:generation_tokens_histogram", own, {"100": 2.0, "1000": 0.0, "+Inf": 0.0}, 60.0, at_s, since_s
    )
    lines += histogram("sglang:time_to_first_token_seconds", own, {"1": 1.8, "4": 0.2, "+Inf": 0.0}, 0.5, at_s, since_s)
    lines += histogram("sglang:inter_token_latency_seconds", own, {"0.05": 100.0, "+Inf": 0.0}, 0.03, at_s, since_s)
    return lines


def old_vllm(at_s: float, since_s: float) -> list[str]:
    """Two classes on one server by their adapters' names, without histograms of lengths; it restarts half-way."""
    place = {"job": "vllm-1", "instance": "b:8000"}
    since_start_s = since_s if since_s < SPAN_S / 2 else since_s - SPAN_S / 2
    lines = []
    for name, rate in (("chat", 0.5), ("code", 1.5)):
        own = {**place, "model_name": name}
        lines += [
            line("vllm:num_requests_running", own, 2, at_s),
            line("vllm:num_requests_waiting", own, 0, at_s),
            line("vllm:gpu_cache_usage_perc", own, 0.25, at_s),
            line("vllm:request_success_total", {**own, "finished_reason": "stop"}, rate * since_start_s, at_s),
            line("vllm:prompt_tokens_total", own, rate * 200.0 * since_start_s, at_s),
            line("vllm:generation_tokens_total", own, rate * 50.0 * since_start_s, at_s),
        ]
        lines += histogram("vllm:time_to_first_token_seconds", own, {"1": rate, "+Inf": 0.0}, 0.2, at_s, since_start_s)
        lines += histogram(
            "vllm:time_per_output_token_seconds", own, {"0.1": 49 * rate, "+Inf": 0.0}, 0.02, at_s, since_start_s
        )
    return lines


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A Prometheus over what was written into the past."""
    lines = []
    for k in range(int(SPAN_S / SCRAPE_S) + 1):
        at_s = END_S - SPAN_S + k * SCRAPE_S
        lines += [*sglang(at_s, k * SCRAPE_S), *old_vllm(at_s, k * SCRAPE_S)]
    names: dict[str, list[str]] = {}
    for text in lines:  # OpenMetrics wants a family's samples together
        names.setdefault(text.partition("{")[0], []).append(text)
    (folder / "past.om").write_text("\n".join(text for own in names.values() for text in own) + "\n# EOF\n")
    data = folder / "data"
    made = subprocess.run(
        [tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(folder / "past.om"), str(data)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (folder / "prometheus.yml").write_text("{}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(tool("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={data}"),
                *("--storage.tsdb.retention.time=100y", f"--web.listen-address=127.0.0.1:{port}"),
            ],
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline_s = time.monotonic() + 60.0
        while True:
            try:
                with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
                    break
            except OSError:
                assert time.monotonic() < deadline_s, (folder / "log").read_text()
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("backfilled")) as address:
        yield address


async def read(url: str, folder: Path, text: str = FLEET, label: str = "instance") -> Measured:
    fleet = described(folder, text)
    window = Window(END_S - SPAN_S, END_S, SCRAPE_S)
    async with Client(Server(url, {})) as client:
        past = await read_past(client, fleet, Wanted(window, 60, label), lambda: None)
    return measured_of(past, fleet, url, dict.fromkeys(fleet.pools, 40.0))


async def test_both_engines_load_is_read(url: str, tmp_path: Path) -> None:
    found = await read(url, tmp_path)
    by_class_and_pool = (found.arrived[:, :, None] * found.share).sum(axis=0)
    # Requests/s times the span; the older server lost what it had counted when it restarted, but for a scrape.
    assert by_class_and_pool[0, 0] == pytest.approx(2.0 * SPAN_S, rel=0.02)
    assert by_class_and_pool[0, 1] == pytest.approx(0.5 * SPAN_S, rel=0.02)
    assert by_class_and_pool[1].tolist() == [0.0, pytest.approx(1.5 * SPAN_S, rel=0.02)]
    assert found.replica_hr.tolist() == pytest.approx([0.5, 0.5])
    assert found.waiting.tolist() == [1.0] * len(found.waiting)
    assert found.running.tolist() == [10.0] * len(found.running)  # six, once, and two and two
    assert found.kv_used_frac[0].tolist() == [0.5, 0.25]
    assert found.known_frac == 1.0


async def test_lengths_and_latencies_are_read_by_whatever_name(url: str, tmp_path: Path) -> None:
    found = await read(url, tmp_path)
    chat, code = found.classes["chat"], found.classes["code"]
    # The busier pool's histograms of lengths stand for the class; the other has none.
    assert found.lengths["chat"][0].prompt_tokens.mean == pytest.approx(300.0, rel=0.01)
    assert found.lengths["code"][0].prompt_tokens.mean == pytest.approx(200.0, rel=0.02)
    assert chat.ttft_mean_s == pytest.approx(0.5, rel=0.05)
    assert code.ttft_mean_s == pytest.approx(0.2, rel=0.01)
    # Gaps between tokens are no requests: only their mean is told.
    assert math.isnan(chat.tpot_p50_s)
    assert code.tpot_mean_s == pytest.approx(0.02, rel=0.01)
    assert found.attainment["code"][1] == pytest.approx(1.0)
    assert found.attainment["chat"][0] == 0.0  # nothing tells which requests were slow
    assert any("gaps between tokens" in note for note in found.notes)
    assert any("process_start_time_seconds" in note for note in found.notes)


async def test_a_class_without_a_label_and_a_label_that_tells_nothing_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"classes\.code\.select"):
        await read(url, tmp_path, FLEET.replace(", select: {model_name: code}", ""))
    with pytest.raises(AuditError, match="--replica-label"):
        await read(url, tmp_path, label="pod")
