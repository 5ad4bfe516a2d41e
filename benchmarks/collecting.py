"""What a tick's look at many replicas costs: pages over HTTP, only the needed families read, all on one core.

The pages are vLLM's, filled to a size with the histograms that a real one is mostly made of. They are served by another
process. Beside it, in the same run: the same parser over whole pages, which is what a collector does that does not choose.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from poolpilot.telemetry.engine_collector import EngineCollector, ReplicaEndpoint
from poolpilot.telemetry.engine_page import parse_engine_page

from .timing import peak_mib

TICK_S = 5.0
WHOLE_PAGES = 40
"""Read whole, to tell what one costs."""
_HISTOGRAMS = ("time_to_first_token", "inter_token_latency", "e2e_request_latency", "request_queue_time")
_LABELS = 'engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"'
_SERVER = """
import asyncio, os, sys
from aiohttp import web
page = sys.stdin.buffer.read()
async def metrics(request):
    return web.Response(body=page, content_type="text/plain", charset="utf-8")
async def main():
    app = web.Application()
    app.router.add_get("/{name}/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def page_of(size_bytes: int) -> str:
    """A page as vLLM 0.32 lays it out, of at least `size_bytes`."""
    lines = [
        "process_start_time_seconds 1.79546402852e+09",
        f"vllm:num_requests_running{{{_LABELS}}} 16.0",
        f"vllm:num_requests_waiting{{{_LABELS}}} 24.0",
        f'vllm:num_requests_waiting_by_reason{{{_LABELS},reason="capacity"}} 24.0',
        f"vllm:kv_cache_usage_perc{{{_LABELS}}} 0.25",
        f"vllm:prompt_tokens_total{{{_LABELS}}} 1506.0",
        f"vllm:generation_tokens_total{{{_LABELS}}} 13480.0",
        f"vllm:num_preemptions_total{{{_LABELS}}} 3.0",
        *(f"vllm:inter_token_latency_seconds_{part}{{{_LABELS}}} 219.5" for part in ("sum", "count")),
    ]
    size, n = sum(len(line) + 1 for line in lines), 0
    while size < size_bytes:
        name = f"vllm:{_HISTOGRAMS[n % len(_HISTOGRAMS)]}_{n // 80}_seconds_bucket"
        lines.append(f'{name}{{{_LABELS},le="{0.001 * (n + 1):g}"}} {float(n)}')
        size, n = size + len(lines[-1]) + 1, n + 1
    return "\n".join(lines) + "\n"


@contextmanager
def serving(page: str) -> Iterator[str]:
    """Another process that answers every path with the page; its address."""
    process = subprocess.Popen([sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(page.encode())
        process.stdin.close()
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def collecting(replicas: int, page_kb: int, ticks: int) -> dict[str, Any]:
    """Seconds of a tick's look at so many replicas; the first tick, which connects, is not counted."""
    page = page_of(page_kb * 1000)
    with serving(page) as url:
        _on_one_core()
        looks = asyncio.run(_looked(url, replicas, ticks + 1))[1:]
    read_s = _each_s(lambda: parse_engine_page(page, url), WHOLE_PAGES)
    whole_s = _each_s(lambda: list(text_string_to_metric_families(page)), WHOLE_PAGES)
    return {
        "replicas": replicas,
        "page_kb": len(page) / 1000,
        "ticks": ticks,
        "tick_s": TICK_S,
        "cpu_s": statistics.median(cpu for cpu, _, _ in looks),
        "worst_cpu_s": max(cpu for cpu, _, _ in looks),
        "wall_s": statistics.median(wall for _, wall, _ in looks),
        "missed": sum(missed for _, _, missed in looks),
        "read_ms": 1e3 * read_s,
        "read_whole_ms": 1e3 * whole_s,
        "peak_mib": peak_mib(),
    }


async def _looked(url: str, replicas: int, ticks: int) -> list[tuple[float, float, int]]:
    """Of each tick: CPU seconds, seconds of the wall, pages that did not come."""
    endpoints = [ReplicaEndpoint("pool", str(n), f"{url}/{n}/metrics") for n in range(replicas)]
    looks = []
    async with aiohttp.ClientSession() as session:
        collector = EngineCollector(session, time.monotonic, timeout_s=30.0, budget_s=120.0)
        for _ in range(ticks):
            began_cpu_s, began_s = _spent_s(), time.perf_counter()
            readings = await collector.collect(endpoints)
            looks.append(
                (_spent_s() - began_cpu_s, time.perf_counter() - began_s, sum(bool(r.error) for r in readings))
            )
    return looks


def _spent_s() -> float:
    """CPU seconds of this process, in the kernel too: reading sockets is part of the work."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _each_s(work: Any, times: int) -> float:
    began_s = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began_s) / times


def _on_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
