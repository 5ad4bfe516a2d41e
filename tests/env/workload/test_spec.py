"""What a scenario may say of its requests, and how it is told what is wrong."""

from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from poolpilot.env.workload import spec as module
from poolpilot.env.workload.spec import Bursts, GeneratedSpec, Lognormal, MixSpec, TraceSpec, WorkloadSpec

SPEC: TypeAdapter[WorkloadSpec] = TypeAdapter(WorkloadSpec)


def documented_examples() -> list[Any]:
    blocks = (module.__doc__ or "").split("```")[1::2]
    return [yaml.safe_load(block.removeprefix("yaml"))["workload"] for block in blocks]


def test_the_documented_examples_are_valid() -> None:
    generated, trace, mixed = (SPEC.validate_python(example) for example in documented_examples())
    assert isinstance(generated, GeneratedSpec)
    assert isinstance(trace, TraceSpec)
    assert generated.named_classes == ("chat",)
    assert isinstance(mixed, MixSpec)
    assert trace.named_classes == ("summarisation", "batch", "chat")
    assert mixed.named_classes == ("chat", "batch")


def a_class(**changes: Any) -> dict[str, Any]:
    fixed = {"kind": "fixed", "tokens": 10}
    load = {"rate_per_s": 1.0, "prompt_tokens": fixed, "output_tokens": fixed, **changes}
    return {"kind": "generated", "classes": {"chat": load}}


def a_trace(**changes: Any) -> dict[str, Any]:
    return {"kind": "trace", "path": "t.csv", "assign": [{"class": "chat"}], **changes}


def sessions(**changes: Any) -> dict[str, Any]:
    fixed = {"kind": "fixed", "tokens": 10}
    load = {"kind": "sessions", "sessions_per_s": 1, "turns_mean": 3, "think_s": 30}
    lengths = {"message_tokens": fixed, "output_tokens": fixed}
    return {"kind": "generated", "classes": {"chat": {**load, **lengths, **changes}}}


def jobs(**changes: Any) -> dict[str, Any]:
    fixed = {"kind": "fixed", "tokens": 10}
    load = {"kind": "jobs", "requests_mean": 10, "prompt_tokens": fixed, "output_tokens": fixed}
    return {"kind": "generated", "classes": {"batch": {**load, **changes}}}


def lognormal(**fields: Any) -> dict[str, Any]:
    return a_class(prompt_tokens={"kind": "lognormal", **fields})


def shape(**fields: Any) -> dict[str, Any]:
    return a_class(shape=[fields])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"kind": "poisson"}, "'generated', 'trace'"),
        ({"kind": "generated", "classes": {}}, "at least 1 item"),
        (a_class(rate_per_s=-1), "greater than or equal to 0"),
        (a_class(rate_per_s=float("nan")), "should be a finite number"),
        (a_class(arrivals="gamma", cv=float("inf")), "should be a finite number"),
        (a_class(rates_per_s=2), "Extra inputs are not permitted"),
        (a_class(cv=2.0), "Poisson arrivals have cv 1, got 2; wanted arrivals: gamma or weibull"),
        (a_class(prompt_tokens={"kind": "fixed", "tokens": 0}), "wanted at least 1 token in every prompt, got 0"),
        (a_class(output_tokens={"kind": "fixed", "tokens": 10_000_001}), "less than or equal to 10000000"),
        (a_class(correlation=1.5), "less than or equal to 1"),
        (lognormal(mean=100), "wanted either mean and p95, or median and sigma, got mean"),
        (lognormal(mean=100, sigma=1), "got mean, sigma"),
        (lognormal(mean=100, p95=300, median=50), "got mean, median, p95"),
        (lognormal(), "got none"),
        (lognormal(mean=100, p95=90), "wanted min < mean < p95 < max, got 1, 100, 90, 131072"),
        (lognormal(mean=100, p95=3300), "no log-normal has mean 100 and p95 3300 .* wanted a mean from 849.1 to 3299"),
        (lognormal(median=100, sigma=1, min=50, max=50), "wanted min < max, got 50 and 50"),
        (lognormal(median=100, sigma=1, min=200), "wanted min <= median <= max, got 200, 100, 131072"),
        (lognormal(median=100, sigma=1, min=0), "greater than or equal to 1"),
        (shape(kind="diurnal", amplitude=1.1), "less than or equal to 1"),
        (shape(kind="diurnal", amplitude=0.5, period_s=1), "greater than or equal to 60"),
        (shape(kind="bursts", every_s=60, duration_s=60, factor=2), "wanted duration_s < every_s, got 60 and 60"),
        (shape(kind="bursts", every_s=60, duration_s=6, factor=0.5), "greater than or equal to 1"),
        (shape(kind="ramp", times_s=[0, 5], factors=[1]), "one factor a time, got 2 times_s and 1 factors"),
        (shape(kind="ramp", times_s=[1, 5], factors=[1, 1]), "times_s: wanted 0 first, got 1"),
        (shape(kind="steps", times_s=[0, 5, 5], factors=[1, 1, 1]), "each later than the one before, got 5 after 5"),
        (shape(kind="steps", times_s=[0], factors=[-1]), "greater than or equal to 0"),
        (shape(kind="weekly", factors=[1] * 8), r"factors: wanted 7 \(days\) or 168 \(hours\), got 8"),
        (shape(kind="weekly", factors=[0] * 7), "factors: wanted one above 0"),
        (shape(kind="weekly", factors=[1] * 7, starts_at_s=604_800), "less than 604800"),
        (a_class(kind="visits"), "kind: wanted requests .if left out., sessions or jobs"),
        (a_class(kind=["requests"]), "kind: wanted requests .if left out., sessions or jobs"),
        (a_class(clients={"count": 0}), "greater than or equal to 1"),
        (
            a_class(shared_prefix={"tokens": {"kind": "fixed", "tokens": 0}}),
            "at least 1 token in a shared prefix, got 0",
        ),
        (a_class(shared_prefix={"tokens": {"kind": "fixed", "tokens": 5}, "zipf": -1}), "greater than or equal to 0"),
        (sessions(cv=2.0), "Poisson arrivals have cv 1, got 2"),
        (sessions(turns_mean=0.5), "greater than or equal to 1"),
        (sessions(message_tokens={"kind": "fixed", "tokens": 0}), "message_tokens: wanted at least 1 token"),
        (jobs(at_s=[60.0], every_s=60.0), "at_s: 60: wanted less than every_s, 60"),
        (jobs(at_s=[]), "at least 1 item"),
        (jobs(requests_mean=0), "greater than 0"),
        ({"kind": "mix", "parts": []}, "at least 1 item"),
        ({"kind": "mix", "parts": [{"kind": "mix", "parts": []}]}, "'generated', 'trace', 'servegen'"),
        (a_trace(scale={"kind": "thin", "factor": 2}), "factor: wanted at most 1 to thin, got 2"),
        (a_trace(scale={"kind": "superpose", "factor": 2.5}), "factor: wanted a whole number of copies, got 2.5"),
        (a_trace(scale={"kind": "double", "factor": 2}), "'compress', 'thin', 'superpose' or 'resample'"),
        (
            a_trace(assign=[{"class": "a", "hours": [3, 3]}, {"class": "b"}]),
            "hours: wanted two different hours, got 3 twice",
        ),
        (a_trace(assign=[{"class": "a", "where": {"model": "x"}}]), "wanted a last rule with only `class`"),
        ({"kind": "servegen", "path": "x_clients.parquet", "assign": []}, "at least 1 item"),
        (a_trace(assign=[]), "at least 1 item"),
        (a_trace(assign=[{"class": "chat", "share": 0.5}]), "wanted a last rule with only `class`"),
        (a_trace(assign=[{"class": "a"}, {"class": "b"}]), r"assign\[0\]: catches all, so later rules never apply"),
        (
            a_trace(assign=[{"class": "a", "min_prompt_tokens": 9, "max_prompt_tokens": 8}, {"class": "b"}]),
            "wanted min_prompt_tokens <= max_prompt_tokens, got 9 and 8",
        ),
        (a_trace(start_s=5, end_s=5), "wanted start_s < end_s, got 5 and 5"),
        (a_trace(rate_factor=0), "greater than 0"),
        (a_trace(format="jsonl"), "'azure', 'burstgpt', 'mooncake' or 'plain'"),
    ],
)
def test_what_is_wrong_is_said(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SPEC.validate_python(document)


@pytest.mark.parametrize("high", [131_072, 8000, 4000], ids=["free", "capped", "capped just above p95"])
def test_a_lognormal_has_the_mean_it_was_asked_for_after_its_bounds(high: int) -> None:
    fit = Lognormal(mean=1155, p95=3300, min=100, max=high)
    assert fit.mean_tokens == pytest.approx(1155.0, rel=1e-6)


def test_a_spec_survives_being_written_and_read() -> None:
    for example in documented_examples():
        before = SPEC.validate_python(example)
        assert SPEC.validate_json(SPEC.dump_json(before, by_alias=True)) == before


def test_bursts_keep_the_long_run_mean() -> None:
    bursts = Bursts(every_s=600, duration_s=60, factor=5)
    in_burst = bursts.duration_s / bursts.every_s
    assert bursts.quiet_level * (1.0 - in_burst) + bursts.quiet_level * bursts.factor * in_burst == pytest.approx(1.0)
