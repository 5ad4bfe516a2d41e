"""A trace in any format takes the place of the demo's own load, at that load's rate."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from poolpilot.commands.demonstration.tracing import with_trace
from poolpilot.env.beliefs import mean_load
from poolpilot.env.scenario import load_scenario
from poolpilot.env.workload.load import load_workload
from poolpilot.env.workload.traces import TraceError

N = 6000
SCENARIO = load_scenario("mixed-chat")
MIDNIGHT = datetime(2024, 5, 10, tzinfo=UTC)


def azure() -> bytes:
    rows = (f"{(MIDNIGHT + timedelta(seconds=i / 4)).isoformat(sep=' ')},{100 + i % 2000},{i % 300}" for i in range(N))
    return "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]).encode()


def burstgpt() -> bytes:
    rows = (f"{i / 4},ChatGPT,{100 + i % 2000},{1 + i % 300},0,API log" for i in range(N))
    return "\n".join(["Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type", *rows]).encode()


def mooncake() -> bytes:
    return "\n".join(
        json.dumps({"timestamp": 250 * i, "input_length": 600, "output_length": i % 300, "hash_ids": [0, i]})
        for i in range(N)
    ).encode()


def plain() -> bytes:
    rows = (f"{i / 4},{100 + i % 2000},{i % 300}" for i in range(N))
    return "\n".join(["arrival_s,input_tokens,output_tokens", *rows]).encode()


@pytest.mark.parametrize("made", [azure, burstgpt, mooncake, plain, lambda: gzip.compress(plain())])
def test_any_format_is_replayed_at_the_scenario_s_rate(tmp_path: Path, made: object) -> None:
    assert callable(made)
    path = tmp_path / "trace"
    path.write_bytes(made())
    replayed, tuned_on = with_trace(SCENARIO, path)

    def rate(scenario: object) -> float:
        spec = SCENARIO.model_copy(update={"workload": scenario})
        load = load_workload(spec.workload, spec.class_names, spec.duration_s, 0, spec.base_dir)
        return float(mean_load(load, spec.duration_s)[0].sum())

    assert rate(replayed.workload) == pytest.approx(rate(SCENARIO.workload), rel=0.01)
    assert rate(tuned_on.workload) == pytest.approx(rate(SCENARIO.workload), rel=0.01)
    assert replayed.workload != tuned_on.workload, "the opponents would be tuned on what is replayed"


def test_a_trace_of_one_moment_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("arrival_s,input_tokens,output_tokens\n5,1,1\n5,1,1\n")
    with pytest.raises(TraceError, match="all requests arrive at once"):
        with_trace(SCENARIO, path)
