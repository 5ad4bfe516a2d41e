"""The metrics page: vLLM 0.32's names and types, in simulated seconds, and a few of our own (`poolpilot_...`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ..perf.roofline import KV_BLOCK_TOKENS
from .following import GAP_BOUNDS_S
from .gpu_readings import GpuReading
from .replica import ReplicaSpec
from .session import AWAKE, Figures
from .tally import Histogram, Tally

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SLEEP_STATES: Final = ("awake", "weights_offloaded", "discard_all")
_GAUGES: Final = {
    "vllm:num_requests_running": "Number of requests in model execution batches.",
    "vllm:num_requests_waiting": "Number of requests waiting to be processed.",
    "vllm:kv_cache_usage_perc": "KV-cache usage. 1 means 100 percent usage.",
    "poolpilot_batch_cap": "Most sequences that the engine may run at once now.",
    "poolpilot_token_budget": "Most tokens that the engine may process in one iteration now.",
}
_COUNTERS: Final = {
    "vllm:prompt_tokens": "Number of prefill tokens processed.",
    "vllm:generation_tokens": "Number of generation tokens processed.",
    "vllm:num_preemptions": "Cumulative number of preemption from the engine.",
    "vllm:prefix_cache_queries": "Prefix cache queries, in terms of number of queried tokens.",
    "vllm:prefix_cache_hits": "Prefix cache hits, in terms of number of cached tokens.",
    "poolpilot_busy_seconds": "Simulated seconds with an iteration under way.",
    "poolpilot_useful_seconds": "Simulated seconds that the same work takes at the hardware's best.",
    "poolpilot_caps_errors": "Contents of the cap file that could not be used.",
}
_GPU_GAUGES: Final = {
    "poolpilot_gpu_utilization_ratio": "Share of the time that the GPU was busy.",
    "poolpilot_gpu_temperature_celsius": "Temperature of the GPU, modelled.",
    "poolpilot_gpu_power_watts": "Draw of the GPU, modelled.",
}
_HISTOGRAMS: Final = {
    "vllm:request_prompt_tokens": "Number of prefill tokens processed.",
    "vllm:request_generation_tokens": "Number of generation tokens processed.",
    "vllm:time_to_first_token_seconds": "Histogram of time to first token in seconds.",
    "vllm:inter_token_latency_seconds": "Histogram of inter-token latency in seconds.",
    "vllm:request_time_per_output_token_seconds": "Histogram of time_per_output_token_seconds per request.",
    "vllm:e2e_request_latency_seconds": "Histogram of e2e request latency in seconds.",
    "vllm:request_queue_time_seconds": "Histogram of time spent in WAITING phase for request.",
}


@dataclass(frozen=True, slots=True)
class PageContent:
    """What the page says at one moment."""

    figures: Figures
    tally: Tally
    gpus: Sequence[GpuReading]
    """One for each GPU."""
    cap_file_errors: int


class MetricsPage(Collector):
    """Lays the page out. Registered with a registry of its own, beside the process's own figures."""

    def __init__(self, model_name: str, spec: ReplicaSpec, created_s: float) -> None:
        """`created_s` is the Unix time since which totals count."""
        self._spec = spec
        self._created_s = created_s
        self._labels = {"engine": "0", "model_name": model_name}
        self._content: PageContent | None = None
        self._registry = CollectorRegistry()
        for collector in (GCCollector, PlatformCollector, ProcessCollector):
            collector(registry=self._registry)
        self._registry.register(self)

    def text(self, content: PageContent) -> bytes:
        """The page."""
        self._content = content
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: names are known only with the content."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families, in vLLM's order."""
        if self._content is not None:
            yield from self._gauges(self._content)
            yield from self._counters(self._content)
            yield from self._histograms(self._content)

    def _gauges(self, content: PageContent) -> Iterator[Metric]:
        figures = content.figures
        waiting = figures.waiting + figures.held
        values = (figures.running, waiting, figures.kv_used_frac, figures.batch_cap, figures.token_budget)
        for (name, doc), value in zip(_GAUGES.items(), values, strict=True):
            yield self._family(GaugeMetricFamily, name, doc, [({}, float(value))])
        yield self._family(
            GaugeMetricFamily,
            "vllm:num_requests_waiting_by_reason",
            "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity;"
            " 'deferred' = deferred by transient constraints. Sum of all reasons equals vllm:num_requests_waiting.",
            [({"reason": "capacity"}, float(figures.waiting)), ({"reason": "deferred"}, float(figures.held))],
        )
        state = figures.sleep_level
        flags = (state == AWAKE, state == 1, state == 2)
        yield self._family(
            GaugeMetricFamily,
            "vllm:engine_sleep_state",
            "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake;"
            " weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.",
            [({"sleep_state": name}, float(flag)) for name, flag in zip(_SLEEP_STATES, flags, strict=True)],
        )
        yield self._family(
            GaugeMetricFamily,
            "vllm:cache_config_info",
            "Information of the LLMEngine CacheConfig",
            [(_cache_config(self._spec), 1.0)],
        )
        readings = zip(*((gpu.busy_frac, gpu.temp_c, gpu.power_w) for gpu in content.gpus), strict=True)
        for (name, doc), values in zip(_GPU_GAUGES.items(), readings, strict=True):
            per_gpu = [({"gpu": str(i)}, value) for i, value in enumerate(values)]
            yield self._family(GaugeMetricFamily, name, doc, per_gpu)

    def _counters(self, content: PageContent) -> Iterator[Metric]:
        figures, tally = content.figures, content.tally
        values = (
            tally.prompt_tokens,
            figures.generated_tokens,
            figures.sequence_preemptions,
            figures.prefix_queries,
            figures.prefix_hits,
            figures.busy_s,
            figures.useful_s,
            content.cap_file_errors,
        )
        for (name, doc), value in zip(_COUNTERS.items(), values, strict=True):
            yield self._family(CounterMetricFamily, name, doc, [({}, float(value))])
        yield self._family(
            CounterMetricFamily,
            "vllm:request_success",
            "Count of successfully processed requests.",
            [({"finished_reason": reason}, float(count)) for reason, count in tally.finished.items()],
        )

    def _family(
        self,
        kind: type[GaugeMetricFamily | CounterMetricFamily],
        name: str,
        doc: str,
        samples: Sequence[tuple[dict[str, str], float]],
    ) -> Metric:
        family = kind(name, doc)
        for own, value in samples:
            labels = {**self._labels, **own}
            if kind is CounterMetricFamily:
                family.add_sample(f"{name}_total", labels, value)
                family.add_sample(f"{name}_created", labels, self._created_s)
            else:
                family.add_sample(name, labels, value)
        return family

    def _histograms(self, content: PageContent) -> Iterator[Metric]:
        figures, tally = content.figures, content.tally
        gaps = Histogram(GAP_BOUNDS_S)
        gaps.counts, gaps.total = list(figures.gap_counts), figures.gap_total_s
        histograms = (tally.prompts, tally.answers, tally.ttft, gaps, tally.tpot, tally.e2e, tally.queued)
        for (name, doc), histogram in zip(_HISTOGRAMS.items(), histograms, strict=True):
            family = HistogramMetricFamily(name, doc)
            ends = (*(str(bound) for bound in histogram.bounds), "+Inf")
            counts = list(accumulate(histogram.counts))
            for end, count in zip(ends, counts, strict=True):
                family.add_sample(f"{name}_bucket", {**self._labels, "le": end}, float(count))
            family.add_sample(f"{name}_count", self._labels, float(counts[-1]))
            family.add_sample(f"{name}_sum", self._labels, histogram.total)
            family.add_sample(f"{name}_created", self._labels, self._created_s)
            yield family


def _cache_config(spec: ReplicaSpec) -> dict[str, str]:
    return {
        "block_size": str(KV_BLOCK_TOKENS),
        "cache_dtype": "auto",
        "enable_prefix_caching": str(spec.flags.prefix_caching),
        "gpu_memory_utilization": f"{spec.flags.gpu_memory_utilization:g}",
        "kv_cache_size_tokens": str(spec.kv_tokens),
        "num_gpu_blocks": str(spec.kv_blocks),
    }
