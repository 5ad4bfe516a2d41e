"""The metrics page has vLLM's names, types, labels and buckets, and the project's own collector reads it."""

from __future__ import annotations

import aiohttp
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from poolpilot.telemetry.engine_page import SleepState, parse_engine_page

from .conftest import MODEL, Served

# Names and types as on a page of vLLM 0.32.0 under load.
GAUGES = (
    *("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:num_requests_waiting_by_reason"),
    *("vllm:kv_cache_usage_perc", "vllm:engine_sleep_state", "vllm:cache_config_info"),
)
COUNTERS = (
    *("vllm:prompt_tokens", "vllm:generation_tokens", "vllm:num_preemptions", "vllm:request_success"),
    *("vllm:prefix_cache_queries", "vllm:prefix_cache_hits"),
)
TTFT = "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0 160.0 640.0 2560.0"
TPOT = "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0"
E2E = "0.3 0.5 0.8 1.0 1.5 2.0 2.5 5.0 10.0 15.0 20.0 30.0 40.0 50.0 60.0 120.0 240.0 480.0 960.0 1920.0 7680.0"
TOKENS = "1.0 2.0 5.0 10.0 20.0 50.0 100.0 200.0 500.0 1000.0 2000.0"
BUCKETS = {
    "vllm:request_prompt_tokens": TOKENS,
    "vllm:request_generation_tokens": TOKENS,
    "vllm:time_to_first_token_seconds": TTFT,
    "vllm:inter_token_latency_seconds": TPOT,
    "vllm:request_time_per_output_token_seconds": TPOT,
    "vllm:e2e_request_latency_seconds": E2E,
    "vllm:request_queue_time_seconds": E2E,
}
LABELLED = {
    "vllm:num_requests_waiting_by_reason": ("reason", {"capacity", "deferred"}),
    "vllm:engine_sleep_state": ("sleep_state", {"awake", "weights_offloaded", "discard_all"}),
    "vllm:request_success": ("finished_reason", {"stop", "length", "abort", "error", "repetition"}),
}


async def page_of(replica: Served, path: str = "/metrics") -> str:
    async with aiohttp.ClientSession(replica.url) as http, http.get(path) as got:
        assert got.status == 200
        assert got.content_type == "text/plain"
        return await got.text()


async def families_after_a_request(replica: Served) -> dict[str, Metric]:
    async with aiohttp.ClientSession(replica.url) as http:
        body = {"prompt": [1] * 30, "max_tokens": 11}
        async with http.post("/v1/completions", json=body) as got:
            assert got.status == 200
    return {family.name: family for family in text_string_to_metric_families(await page_of(replica))}


async def test_names_and_types_are_those_of_vllm(replica: Served) -> None:
    families = await families_after_a_request(replica)
    for kind, names in (("gauge", GAUGES), ("counter", COUNTERS), ("histogram", tuple(BUCKETS))):
        assert {name: families[name].type for name in names} == dict.fromkeys(names, kind)
    for name in (*GAUGES, *COUNTERS, *BUCKETS):
        for sample in families[name].samples:
            assert sample.labels["engine"] == "0"
            assert sample.labels["model_name"] == MODEL
    for name, (label, values) in LABELLED.items():
        assert {sample.labels[label] for sample in families[name].samples} == values


async def test_histograms_have_vllms_buckets_and_add_up(replica: Served) -> None:
    families = await families_after_a_request(replica)
    for name, ends in BUCKETS.items():
        samples = [sample for sample in families[name].samples if sample.name == f"{name}_bucket"]
        assert " ".join(sample.labels["le"] for sample in samples) == f"{ends} +Inf"
        counts = [sample.value for sample in samples]
        assert counts == sorted(counts)
        total = next(sample.value for sample in families[name].samples if sample.name == f"{name}_count")
        assert counts[-1] == total == (10 if name == "vllm:inter_token_latency_seconds" else 1)
    # 9 + 30 / 4 ms of prefill, then ten tokens of about 9.8 ms each: simulated seconds, however fast time runs.
    sums = {name: s.value for name in BUCKETS for s in families[name].samples if s.name == f"{name}_sum"}
    assert (sums["vllm:request_prompt_tokens"], sums["vllm:request_generation_tokens"]) == (30, 11)
    assert sums["vllm:time_to_first_token_seconds"] == pytest.approx(0.0165, rel=1e-3)
    assert sums["vllm:inter_token_latency_seconds"] == pytest.approx(0.098, rel=0.02)
    assert sums["vllm:request_time_per_output_token_seconds"] == pytest.approx(0.0098, rel=0.02)
    assert sums["vllm:e2e_request_latency_seconds"] == pytest.approx(0.1145, rel=0.02)


async def test_telemetry_reads_the_page(replica: Served) -> None:
    await families_after_a_request(replica)
    page = parse_engine_page(await page_of(replica), replica.url)
    assert (page.prompt_tokens_total, page.generation_tokens_total, page.token_gaps_total) == (30, 11, 10)
    assert (page.running, page.waiting, page.kv_used_frac, page.preemptions_total) == (0, 0, 0, 0)
    assert (page.batch_cap, page.token_budget, page.sleep) == (8, 64, SleepState.AWAKE)
    assert page.busy_s_total == pytest.approx(0.1145, rel=0.02)
    assert 0 < page.useful_s_total < page.busy_s_total
    assert page.process_started_s > 1e9
    assert 25.0 <= page.gpu_temp_c < 40.0
    assert page.gpu_power_w >= 0.15 * 350
    assert 0 <= page.gpu_util_frac <= 1


@pytest.mark.parametrize(
    ("level", "state"), [(0, SleepState.PAUSED), (1, SleepState.WEIGHTS_OFFLOADED), (2, SleepState.DISCARD_ALL)]
)
async def test_sleep_is_on_the_page(replica: Served, level: int, state: SleepState) -> None:
    replica.paced.sleep(level)
    replica.paced.submit(10, 10, streams=False, listener=lambda news: None)
    page = parse_engine_page(await page_of(replica), replica.url)
    assert (page.sleep, page.waiting, page.running) == (state, 1, 0)
