"""A metrics page becomes plain numbers, or an error that names what was looked for."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.telemetry.engine_page import PageError, SleepState, parse_engine_page

SOURCE = "http://127.0.0.1:8001/metrics"
LABELS = '{engine="0",model_name="tiny"}'
PAGE = f"""# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.79546402852e+09
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{LABELS} 16.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{LABELS} 24.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{{engine="0",model_name="tiny",reason="capacity"}} 20.0
vllm:num_requests_waiting_by_reason{{engine="0",model_name="tiny",reason="deferred"}} 4.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{LABELS} 0.25
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{LABELS} 1506.0
vllm:prompt_tokens_created{LABELS} 1.7954640723128464e+09
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{LABELS} 13480.0
vllm:num_preemptions_total{LABELS} 3.0
vllm:inter_token_latency_seconds_bucket{{engine="0",le="0.01",model_name="tiny"}} 0.0
vllm:inter_token_latency_seconds_count{LABELS} 13408.0
vllm:inter_token_latency_seconds_sum{LABELS} 219.5
"""
SLEEP = 'vllm:engine_sleep_state{{engine="0",sleep_state="{}"}} {}\n'
EXTRAS = """poolpilot_batch_cap 64
poolpilot_token_budget 2048
poolpilot_busy_seconds_total 12.5
poolpilot_useful_seconds_total 7.25
poolpilot_gpu_utilization_ratio{gpu="0"} 0.5
poolpilot_gpu_utilization_ratio{gpu="1"} 1.0
poolpilot_gpu_temperature_celsius{gpu="0"} 61
poolpilot_gpu_temperature_celsius{gpu="1"} 70
poolpilot_gpu_power_watts{gpu="0"} 200
poolpilot_gpu_power_watts{gpu="1"} 350
"""


def test_a_page_of_vllm() -> None:
    page = parse_engine_page(PAGE, SOURCE)
    assert (page.running, page.waiting, page.kv_used_frac) == (16.0, 24.0, 0.25)
    assert (page.prompt_tokens_total, page.generation_tokens_total, page.preemptions_total) == (1506.0, 13480.0, 3.0)
    assert (page.token_gap_s_total, page.token_gaps_total) == (219.5, 13408.0)
    assert page.process_started_s == 1.79546402852e9


def test_what_the_page_lacks_is_unknown() -> None:
    page = parse_engine_page(PAGE, SOURCE)
    unknown = ("batch_cap", "token_budget", "busy_s_total", "useful_s_total", "gpu_util_frac", "gpu_temp_c")
    assert all(math.isnan(getattr(page, name)) for name in (*unknown, "gpu_power_w"))
    assert page.sleep is None


def test_a_page_of_an_emulated_replica_says_more() -> None:
    page = parse_engine_page(PAGE + EXTRAS, SOURCE)
    assert (page.batch_cap, page.token_budget) == (64.0, 2048.0)
    assert (page.busy_s_total, page.useful_s_total) == (12.5, 7.25)
    assert (page.gpu_util_frac, page.gpu_temp_c, page.gpu_power_w) == (0.75, 70.0, 550.0)


def test_older_names_mean_the_same() -> None:
    old = PAGE.replace("kv_cache_usage_perc", "gpu_cache_usage_perc")
    old = old.replace("inter_token_latency_seconds", "time_per_output_token_seconds")
    assert repr(parse_engine_page(old, SOURCE)) == repr(parse_engine_page(PAGE, SOURCE))


def test_the_newer_name_counts_where_both_stand() -> None:
    assert parse_engine_page(PAGE + f"vllm:gpu_cache_usage_perc{LABELS} 0.9\n", SOURCE).kv_used_frac == 0.25


def test_engines_behind_one_page_add_up() -> None:
    second = "".join(line + "\n" for line in PAGE.splitlines() if LABELS in line).replace('engine="0"', 'engine="1"')
    second = second.replace("perc" + LABELS.replace("0", "1") + " 0.25", "perc" + LABELS.replace("0", "1") + " 0.75")
    page = parse_engine_page(PAGE + second, SOURCE)
    assert (page.running, page.waiting, page.kv_used_frac, page.prompt_tokens_total) == (32.0, 48.0, 0.5, 3012.0)


@pytest.mark.parametrize(
    ("awake", "offloaded", "discarded", "expected"),
    [
        (1, 0, 0, SleepState.AWAKE),
        (0, 0, 0, SleepState.PAUSED),
        (0, 1, 0, SleepState.WEIGHTS_OFFLOADED),
        (0, 0, 1, SleepState.DISCARD_ALL),
    ],
)
def test_sleep(awake: int, offloaded: int, discarded: int, expected: SleepState) -> None:
    lines = SLEEP.format("awake", awake) + SLEEP.format("weights_offloaded", offloaded)
    assert parse_engine_page(PAGE + lines + SLEEP.format("discard_all", discarded), SOURCE).sleep is expected


@pytest.mark.parametrize(
    ("page", "named"),
    [
        ("", "cut off"),
        (PAGE[: len(PAGE) // 2], "cut off"),
        (PAGE[: PAGE.index("# TYPE vllm:prompt_tokens_total")], "no vllm:prompt_tokens_total"),
        ("<html><body>502 Bad Gateway</body></html>\n", "no vllm:num_requests_running"),
        (PAGE.replace("num_requests_waiting{", "num_requests_queued{"), "no vllm:num_requests_waiting; looked for"),
        (PAGE.replace("kv_cache_usage_perc", "other"), "vllm:kv_cache_usage_perc or vllm:gpu_cache_usage_perc"),
        (PAGE + f"vllm:num_requests_running{LABELS} 3.0\n", "vllm:num_requests_running: two values"),
        (PAGE.replace(" 16.0", " -16.0"), "vllm:num_requests_running: -16, wanted 0"),
        (PAGE.replace(" 24.0", " NaN"), "vllm:num_requests_waiting: nan, wanted 0"),
        (PAGE.replace(" 1506.0", " +Inf"), "vllm:prompt_tokens_total: inf, wanted 0"),
        (PAGE.replace(" 1506.0", " " + "9" * 400), "vllm:prompt_tokens_total: inf, wanted 0"),
        (PAGE.replace(" 0.25", " 25.0"), "vllm:kv_cache_usage_perc: 25, wanted 0 to 1"),
        (PAGE.replace(" 16.0", " sixteen"), "not a metric line"),
        (PAGE.replace(" 16.0", ""), "not a metric line"),
        (PAGE.replace(LABELS + " 16.0", '{engine="0 16.0'), "not a metric line"),
        (PAGE + 'poolpilot_batch_cap{x="' + "y" * 5000 + '"} 1\n', "wanted 4096"),
        (PAGE + SLEEP.format("weights_offloaded", 1), 'sleep_state="awake"'),
    ],
    ids=lambda value: value[:30] if value in ("", "cut off") else None,
)
def test_a_page_that_cannot_be_used_is_named(page: str, named: str) -> None:
    with pytest.raises(PageError) as caught:
        parse_engine_page(page, SOURCE)
    assert named in str(caught.value)
    assert SOURCE in str(caught.value)


@given(st.text())
def test_any_text_is_a_page_or_a_page_error(text: str) -> None:
    check_page_or_error(text)


@given(st.integers(0, len(PAGE)), st.integers(0, 40), st.text(max_size=20))
def test_a_damaged_page_is_a_page_or_a_page_error(at: int, cut: int, insert: str) -> None:
    check_page_or_error(PAGE[:at] + insert + PAGE[at + cut :])


@given(st.lists(st.sampled_from((PAGE + EXTRAS).splitlines()) | st.text(max_size=30)), st.text('\n{}"\\= 0e9_+-\x00\r'))
def test_lines_in_any_order_are_a_page_or_a_page_error(lines: list[str], end: str) -> None:
    check_page_or_error("\n".join(lines) + end)
    check_page_or_error(f"vllm:num_requests_running{end}\n{PAGE}")


def check_page_or_error(text: str) -> None:
    try:
        page = parse_engine_page(text, SOURCE)
    except PageError:
        return
    assert page.running >= 0
    assert 0 <= page.kv_used_frac <= 1


@pytest.mark.shared_data
def test_a_page_of_a_real_vllm_under_load(shared_data: Path) -> None:
    sample = shared_data.parent / "vllm" / "metrics_sample.txt"
    page = parse_engine_page(sample.read_text(encoding="utf-8"), str(sample))
    assert (page.running, page.waiting, page.sleep) == (16.0, 24.0, SleepState.AWAKE)
    assert page.kv_used_frac == pytest.approx(0.0802, abs=1e-4)
    assert page.generation_tokens_total == 13480.0


SGLANG = """# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 12.0
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="1"} 12.0
sglang:num_running_reqs_offline_batch{engine_type="unified",model_name="m"} 5.0
sglang:num_queue_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 3.0
sglang:num_queue_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="1"} 3.0
sglang:token_usage{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 0.28
sglang:token_usage{engine_type="unified",model_name="m",pp_rank="0",tp_rank="1"} 0.28
"""
SGLANG_COUNTERS = """sglang:prompt_tokens_total{model_name="m"} 8.128902e+06
sglang:generation_tokens_total{model_name="m"} 7.557572e+06
sglang:num_retracted_requests_total{model_name="m",tp_rank="0"} 4
sglang:inter_token_latency_seconds_sum{model_name="m"} 50.0
sglang:inter_token_latency_seconds_count{model_name="m"} 2000
"""


def test_a_page_of_sglang_whose_ranks_are_one_engine() -> None:
    page = parse_engine_page(SGLANG + SGLANG_COUNTERS, SOURCE)
    assert (page.running, page.waiting, page.kv_used_frac) == (12.0, 3.0, 0.28)
    assert (page.prompt_tokens_total, page.generation_tokens_total) == (8128902.0, 7557572.0)
    assert (page.preemptions_total, page.token_gap_s_total, page.token_gaps_total) == (4.0, 50.0, 2000.0)
    older = SGLANG_COUNTERS.replace("inter_token_latency", "time_per_output_token")
    assert parse_engine_page(SGLANG + older, SOURCE).token_gaps_total == 2000.0


def test_engines_of_sglang_add_up() -> None:
    both = "".join(
        line.replace("{", f'{{dp_rank="{rank}",') + "\n"
        for rank in (0, 1)
        for line in SGLANG.splitlines()
        if not line.startswith("#")
    )
    page = parse_engine_page(both, SOURCE)
    assert (page.running, page.waiting, page.kv_used_frac) == (24.0, 6.0, 0.28)


def test_sglang_counts_nothing_before_its_first_request() -> None:
    page = parse_engine_page(SGLANG, SOURCE)
    assert math.isnan(page.prompt_tokens_total)
    assert math.isnan(page.generation_tokens_total)


TRITON = """nv_inference_pending_request_count{model="tensorrt_llm",version="1"} 0
nv_gpu_utilization{gpu_uuid="GPU-1"} 0.75
nv_gpu_utilization{gpu_uuid="GPU-2"} 0.25
nv_gpu_power_usage{gpu_uuid="GPU-1"} 300.5
nv_gpu_power_usage{gpu_uuid="GPU-2"} 200
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="context",version="1"} 1
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 6
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 10
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="tensorrt_llm",version="1"} 1239
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.4875
"""
TRITON_TOKENS = """nv_llm_input_token_len_sum{model="tensorrt_llm",response_metric_type="total_input_tokens",version="1"} 5000
nv_llm_output_token_len_sum{model="tensorrt_llm",response_metric_type="total_output_tokens",version="1"} 900
"""


def test_a_page_of_triton() -> None:
    page = parse_engine_page(TRITON + TRITON_TOKENS, SOURCE)
    assert (page.running, page.waiting, page.kv_used_frac) == (6.0, 4.0, 0.4875)
    assert (page.prompt_tokens_total, page.generation_tokens_total) == (5000.0, 900.0)
    assert (page.gpu_util_frac, page.gpu_power_w) == (0.5, 500.5)
    assert math.isnan(parse_engine_page(TRITON, SOURCE).prompt_tokens_total)


def test_a_newer_triton_tells_who_waits() -> None:
    line = 'nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 3\n'
    assert parse_engine_page(TRITON + line, SOURCE).waiting == 3.0


@pytest.mark.parametrize(
    ("page", "named"),
    [
        (SGLANG.replace("num_queue_reqs", "other"), "no sglang:num_queue_reqs"),
        (SGLANG.replace(" 0.28", " NaN"), "sglang:token_usage: nan, wanted 0 to 1"),
        (SGLANG.replace(" 3.0", " -1.0"), "sglang:num_queue_reqs: -1"),
        (TRITON.replace('"fraction"', '"share"'), 'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}'),
        (TRITON.replace('"scheduled"', '"other"'), 'no nv_trt_llm_request_metrics{request_type="scheduled"}'),
        ("vllm:lora_requests_info 1\n", "one of vLLM, SGLang, Triton with the TensorRT-LLM backend"),
    ],
)
def test_a_page_of_another_server_that_cannot_be_used_is_named(page: str, named: str) -> None:
    with pytest.raises(PageError) as caught:
        parse_engine_page(page, SOURCE)
    assert named in str(caught.value)


@given(st.sampled_from([SGLANG + SGLANG_COUNTERS, TRITON + TRITON_TOKENS]), st.data(), st.text(max_size=20))
def test_any_damaged_page_is_a_page_or_a_page_error(page: str, data: st.DataObject, insert: str) -> None:
    at, cut = data.draw(st.integers(0, len(page))), data.draw(st.integers(0, 40))
    check_page_or_error(page[:at] + insert + page[at + cut :])
