"""What model servers call the figures of an `EnginePage`: vLLM of today and before, SGLang, TensorRT-LLM behind Triton.

Where the names come from: vLLM's `docs/usage/metrics.md` and a page of vLLM 0.32; SGLang's "Production Metrics"; the
TensorRT-LLM backend's `custom_metrics_reporter` and Triton's "Metrics" (`nv_gpu_...`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.samples import Sample

from .metrics_page import Place, Samples, Wanted, lines_of, mean, wanted

SLEEP_NAME: Final = "vllm:engine_sleep_state"
HISTOGRAMS: Final = ("prompt_tokens", "output_tokens", "ttft_s", "tpot_s", "token_gap_s", "e2e_s")
"""Of `Dialect.history`. `tpot_s` is a request's mean gap between tokens, `token_gap_s` each gap."""
_RANKS: Final = ("tp_rank", "pp_rank", "moe_ep_rank")
"""SGLang's labels of the parts of one engine, which all tell the engine's figures. `dp_rank` tells engines apart."""


@dataclass(frozen=True)
class Dialect:
    """One kind of server."""

    name: str
    """For people."""
    figures: tuple[Wanted, ...]
    one_engine_labels: tuple[str, ...] = ()
    """Samples that differ in these labels only are one engine's: the highest counts."""
    more_names: tuple[str, ...] = ()
    """Samples that are wanted beside the figures."""
    history: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What only a look at the past asks for (`audit`): `finished`, a counter of requests that ended, and histograms by what
    they count, `HISTOGRAMS`; names from the newest to the oldest."""
    lines: re.Pattern[str] = field(init=False)
    """Finds the lines of all of them."""

    def __post_init__(self) -> None:
        """Join the names."""
        names = [place.name for figure in self.figures for place in figure.places]
        object.__setattr__(self, "lines", lines_of(dict.fromkeys((*self.more_names, *names))))

    @property
    def told_by(self) -> str:
        """The sample by which such a page is told from the others' pages."""
        return self.figures[0].places[0].name

    def by_engine(self, found: Samples) -> Samples:
        """The samples without those of an engine's other parts."""
        if not self.one_engine_labels:
            return found
        return {name: self._highest(samples) for name, samples in found.items()}

    def _highest(self, samples: Sequence[Sample]) -> list[Sample]:
        kept: dict[frozenset[tuple[str, str]], Sample] = {}
        for sample in samples:
            engine = frozenset((k, v) for k, v in sample.labels.items() if k not in self.one_engine_labels)
            # Not "greater than": a value that is no number must reach the check that refuses it.
            if engine not in kept or not sample.value <= kept[engine].value:
                kept[engine] = sample
        return list(kept.values())


_OWN: Final = (
    wanted("batch_cap", "poolpilot_batch_cap", together=min),
    wanted("token_budget", "poolpilot_token_budget", together=min),
    wanted("busy_s_total", "poolpilot_busy_seconds_total"),
    wanted("useful_s_total", "poolpilot_useful_seconds_total"),
)
"""What emulated replicas and our scheduler class add to vLLM's page."""

VLLM: Final = Dialect(
    "vLLM",
    (
        wanted("running", "vllm:num_requests_running", required=True),
        wanted("waiting", "vllm:num_requests_waiting", required=True),
        wanted(
            "kv_used_frac",
            *("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            together=mean,
            high=1.0,
            required=True,
        ),
        wanted("prompt_tokens_total", "vllm:prompt_tokens_total", required=True),
        wanted("generation_tokens_total", "vllm:generation_tokens_total", required=True),
        wanted("preemptions_total", "vllm:num_preemptions_total"),
        # The same histogram before and after it was renamed; both time each gap between two tokens.
        wanted("token_gap_s_total", "vllm:inter_token_latency_seconds_sum", "vllm:time_per_output_token_seconds_sum"),
        wanted(
            "token_gaps_total", "vllm:inter_token_latency_seconds_count", "vllm:time_per_output_token_seconds_count"
        ),
        wanted("process_started_s", "process_start_time_seconds", together=max),
        *_OWN,
        wanted("gpu_util_frac", "poolpilot_gpu_utilization_ratio", together=mean, high=1.0),
        wanted("gpu_temp_c", "poolpilot_gpu_temperature_celsius", together=max, high=150.0),
        wanted("gpu_power_w", "poolpilot_gpu_power_watts"),
    ),
    more_names=(SLEEP_NAME,),
    history={
        "finished": ("vllm:request_success_total",),
        "prompt_tokens": ("vllm:request_prompt_tokens",),
        "output_tokens": ("vllm:request_generation_tokens",),
        "ttft_s": ("vllm:time_to_first_token_seconds",),
        "tpot_s": ("vllm:request_time_per_output_token_seconds",),
        "token_gap_s": ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
        "e2e_s": ("vllm:e2e_request_latency_seconds",),
    },
)

SGLANG: Final = Dialect(
    "SGLang",
    (
        wanted("running", "sglang:num_running_reqs", required=True),
        wanted("waiting", "sglang:num_queue_reqs", required=True),
        wanted("kv_used_frac", "sglang:token_usage", together=mean, high=1.0, required=True),
        wanted("prompt_tokens_total", "sglang:prompt_tokens_total"),
        wanted("generation_tokens_total", "sglang:generation_tokens_total"),
        wanted("preemptions_total", "sglang:num_retracted_requests_total", "sglang:num_retracted_reqs_total"),
        wanted(
            "token_gap_s_total", "sglang:inter_token_latency_seconds_sum", "sglang:time_per_output_token_seconds_sum"
        ),
        wanted(
            "token_gaps_total", "sglang:inter_token_latency_seconds_count", "sglang:time_per_output_token_seconds_count"
        ),
        wanted("process_started_s", "process_start_time_seconds", together=max),
    ),
    one_engine_labels=_RANKS,
    history={
        "finished": ("sglang:num_requests_total",),
        # Only with --collect-tokens-histogram.
        "prompt_tokens": ("sglang:prompt_tokens_histogram",),
        "output_tokens": ("sglang:generation_tokens_histogram",),
        "ttft_s": ("sglang:time_to_first_token_seconds",),
        "token_gap_s": ("sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"),
        "e2e_s": ("sglang:e2e_request_latency_seconds",),
    },
)
"""Its token counters come with the first request that they count."""

_REQUESTS: Final = "nv_trt_llm_request_metrics"
TRITON: Final = Dialect(
    "Triton with the TensorRT-LLM backend",
    (
        wanted("running", Place(_REQUESTS, {"request_type": "scheduled"}), required=True),
        wanted("waiting", Place(_REQUESTS, {"request_type": "waiting"})),
        # Scheduled ones and those that wait, before the backend told the latter apart.
        wanted("active", Place(_REQUESTS, {"request_type": "active"}), required=True),
        wanted(
            "kv_used_frac",
            Place("nv_trt_llm_kv_cache_block_metrics", {"kv_cache_block_type": "fraction"}),
            together=mean,
            high=1.0,
            required=True,
        ),
        wanted("prompt_tokens_total", "nv_llm_input_token_len_sum"),
        wanted("generation_tokens_total", "nv_llm_output_token_len_sum"),
        wanted("gpu_util_frac", "nv_gpu_utilization", together=mean, high=1.0),
        wanted("gpu_power_w", "nv_gpu_power_usage"),
    ),
)
"""Tokens are counted when a request ends."""

DIALECTS: Final = (VLLM, SGLANG, TRITON)


def dialect_of(text: str) -> Dialect | None:
    """Whose page it is."""
    for dialect in DIALECTS:
        name = dialect.told_by
        if text.startswith(name) or f"\n{name}" in text:
            return dialect
    return None
