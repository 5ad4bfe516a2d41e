"""A small cluster and what its proxy logs, for the telemetry tests."""

import math
from dataclasses import replace

import numpy as np

from poolpilot.env.contract import Cluster, Targets
from poolpilot.telemetry.engine_page import EnginePage
from poolpilot.telemetry.envoy_log import RequestRecord, StartRecord
from poolpilot.telemetry.readings import EngineUse, ReplicaReading

NAN = math.nan
NOW_S = 1_790_000_000.0


def a_cluster() -> Cluster:
    return Cluster(
        class_names=("chat", "embed", "batch"),
        pool_names=("l4", "h100"),
        class_mask=np.ones(3, dtype=np.bool_),
        pool_mask=np.ones(2, dtype=np.bool_),
        serves=np.ones((3, 2), dtype=np.bool_),
        spot=np.zeros(2, dtype=np.bool_),
        min_replicas=np.zeros(2),
        max_replicas=np.full(2, 8.0),
        max_batch_cap=np.full(2, 128.0),
        max_token_budget=np.full(2, 2048.0),
        usd_per_hr=np.array([0.8, 4.0]),
        cold_start_s=np.full(2, 90.0),
        targets=Targets(
            ttft_s=np.array([0.5, 0.2, NAN]),
            tpot_s=np.array([0.05, NAN, NAN]),
            e2e_s=np.array([NAN, NAN, NAN]),
            deadline_s=np.array([NAN, NAN, 600.0]),
            attainment=np.full(3, 0.99),
            budget_usd_per_hr=np.array(np.inf),
        ),
    )


CLUSTER = a_cluster()


def start(stream_id: str, class_name: str = "chat", at_s: float = NOW_S) -> StartRecord:
    return StartRecord(stream_id, at_s, class_name, "l4", "127.0.0.1:8001")


ANSWERED = RequestRecord(
    stream_id="a",
    started_at_s=NOW_S,
    class_name="chat",
    asked_class="chat",
    pool="l4",
    host="127.0.0.1:8001",
    path="/v1/chat/completions",
    code=200,
    details="via_upstream",
    flags="",
    streamed=True,
    attempts=1,
    request_bytes=900,
    response_bytes=5000,
    first_body_s=0.3,
    total_s=1.3,
    prompt_tokens=100.0,
    completion_tokens=26.0,
    request_delay_s=0.0,
    response_delay_s=0.0,
    tail_delay_s=0.0,
)
PAGE = EnginePage(
    running=10.0,
    waiting=2.0,
    kv_used_frac=0.5,
    prompt_tokens_total=1e4,
    generation_tokens_total=1e3,
    batch_cap=64.0,
    token_budget=2048.0,
    gpu_util_frac=0.5,
    gpu_temp_c=60.0,
    gpu_power_w=70.0,
)
USE = EngineUse(10.0, 900.0, 100.0, 0.0, busy_s=5.0, useful_s=3.0, token_gap_s=1.0, token_gaps=90.0)
GONE = "http://127.0.0.1:8001/metrics: no page within 1 s"


def reading(name: str, **changes: object) -> ReplicaReading:
    return replace(ReplicaReading("l4", name, False, PAGE, 0.0, USE), **changes)  # type: ignore[arg-type]
