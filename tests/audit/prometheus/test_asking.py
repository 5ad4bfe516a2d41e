"""PromQL: what comes from a description cannot end its string, and old names stand in for new ones."""

from __future__ import annotations

from poolpilot.audit.prometheus.asking import Asking, quoted, selector
from poolpilot.telemetry.engine_dialects import SGLANG, VLLM


def test_nothing_in_a_value_ends_it() -> None:
    assert quoted('a"} or up{x="\\\n') == '"a\\"} or up{x=\\"\\\\\\n"'
    text = selector("vllm:num_requests_running", {"job": 'x"}'}, {"model_name": "~a|b"})
    assert text == '{__name__="vllm:num_requests_running",job="x\\"}",model_name=~"a|b"}'


def test_a_replica_that_has_only_the_old_name_is_read_by_it() -> None:
    ask = Asking(VLLM, "pod", ({"job": "v"},))
    query = ask.by_replica(["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"], "avg")
    new, old = query.split(" or ")
    assert new == 'avg by (pod) ({__name__="vllm:kv_cache_usage_perc",job="v"})'
    assert old == 'avg by (pod) ({__name__="vllm:gpu_cache_usage_perc",job="v"})'


def test_an_engines_ranks_count_once() -> None:
    query = Asking(SGLANG, "instance").by_replica(["sglang:num_running_reqs"])
    assert (
        query
        == 'sum by (instance) (max without (tp_rank, pp_rank, moe_ep_rank) ({__name__="sglang:num_running_reqs"}))'
    )


def test_spans_are_whole_milliseconds() -> None:
    assert Asking(VLLM, "instance").grown(["a"], "_sum", 2.5) == 'sum(increase({__name__="a_sum"}[2500ms]))'
