"""What a GPU draws: bounded, monotone, and labelled by what it rests on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.catalog.gpus import GPUS, gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.factors import FactorsError
from poolpilot.env.perf.power import (
    IDLE_TDP_FRAC,
    LIMIT_TDP_FRAC,
    UNKNOWN_TDP_W,
    draw_of,
    drawn_j,
    from_document,
    limited_frac,
    power_factors,
    read_power,
    shipped_power,
    steady_power_w,
    to_document,
)

CARDS = st.sampled_from(sorted(GPUS))
MODELS = st.sampled_from(["llama-3.1-8b", "Qwen/Qwen3-30B-A3B", "llama-3.1-70b"])
PRECISION = st.sampled_from(["fp16", "fp8", "int4"])
SHARE = st.floats(0.0, 1.0)
MORE = st.floats(0.0, 1e4)


@pytest.mark.parametrize("name", sorted(GPUS))
def test_every_card_of_the_catalogue_says_what_its_draw_rests_on(name: str) -> None:
    draw = draw_of(gpu(name), model("llama-3.1-8b"), "fp16", 4)
    measured = {"A100-SXM-40GB", "A100-SXM-80GB", "B200-SXM-180GB", "H100-SXM-80GB"}
    assert draw.basis == ("fitted" if name in measured else "tdp")
    assert draw.tdp_w == (gpu(name).tdp_w or UNKNOWN_TDP_W)
    assert 0 < draw.idle_w <= draw.floor_w < draw.limit_w <= draw.tdp_w


@given(CARDS, MODELS, PRECISION, SHARE, MORE, MORE, SHARE)
def test_draw_lies_between_idle_and_the_boards_limit(
    card: str, name: str, precision: str, busy: float, iterations: float, tokens: float, reading: float
) -> None:
    draw = draw_of(gpu(card), model(name), precision, 4)
    watts = drawn_j(draw, 1.0, busy, iterations, tokens, busy * reading)
    assert draw.idle_w * (1 - 1e-9) <= watts <= draw.limit_w * (1 + 1e-9)


@given(CARDS, MODELS, st.tuples(SHARE, MORE, MORE, SHARE), st.tuples(SHARE, MORE, MORE, SHARE))
def test_more_of_anything_never_draws_less(
    card: str, name: str, some: tuple[float, ...], more: tuple[float, ...]
) -> None:
    draw = draw_of(gpu(card), model(name), "fp8", 2)
    low = [min(a, b) for a, b in zip(some, more, strict=True)]
    high = [max(a, b) for a, b in zip(some, more, strict=True)]
    assert drawn_j(draw, 1.0, *low) <= drawn_j(draw, 1.0, *high) * (1 + 1e-12)


@given(CARDS, st.floats(0.01, 1.0), st.floats(1.0, 1e3), st.floats(1.0, 1e4), st.floats(0.1, 100.0))
def test_twice_the_span_with_twice_the_work_takes_twice_the_joules(
    card: str, busy: float, iterations: float, tokens: float, times: float
) -> None:
    draw = draw_of(gpu(card), model("Qwen/Qwen3-30B-A3B"), "fp16", 2)
    once = drawn_j(draw, 1.0, busy, iterations, tokens, 0.0)
    many = drawn_j(draw, times, busy * times, iterations * times, tokens * times, 0.0)
    assert many == pytest.approx(once * times, rel=1e-9)


@given(st.floats(0.15, 10.0))
def test_draw_levels_off_at_the_limit(wanted: float) -> None:
    drawn = limited_frac(wanted)
    assert drawn <= min(wanted, LIMIT_TDP_FRAC)
    if wanted < 0.7:
        assert drawn == pytest.approx(wanted, rel=0.01)
    if wanted > 1.3:
        assert drawn == pytest.approx(LIMIT_TDP_FRAC, rel=0.01)


@pytest.mark.parametrize(
    ("card", "gpus", "sequences", "tokens_per_s", "measured"),
    [("H100", 1, 63.9, 5147, 0.872), ("H100", 1, 8.0, 1070, 0.695), ("B200-SXM-180GB", 1, 8.0, 1637, 0.639)],
)
def test_a_measured_point_is_met(card: str, gpus: int, sequences: float, tokens_per_s: float, measured: float) -> None:
    # Llama-3.1-8B on the chat task of ML.ENERGY v3: answers of 390 tokens.
    watts = steady_power_w(gpu(card), model("llama-3.1-8b"), "bf16", gpus, sequences, 295.0, tokens_per_s, 1320.0)
    assert watts / gpu(card).tdp_w == pytest.approx(measured, rel=0.12)


def test_the_same_work_split_over_more_gpus_draws_less_of_each() -> None:
    alone, split = (
        steady_power_w(gpu("H100"), model("Qwen/Qwen3-32B"), "bf16", n, 32.0, 700.0, 1000.0) for n in (1, 2)
    )
    assert split < alone < 2 * split


def test_other_shares_can_be_handed_in() -> None:
    table = shipped_power()
    loud = replace(table, gpus={}, any_gpu=replace(table.any_gpu, floor_frac=0.9))
    assert power_factors(gpu("H100"), loud)[0] == "tdp"
    draw = draw_of(gpu("H100"), model("llama-3.1-8b"), "bf16", 1, loud)
    assert (draw.basis, draw.floor_w) == ("tdp", pytest.approx(0.9 * 700))
    assert draw.idle_w == pytest.approx(IDLE_TDP_FRAC * 700)


def test_the_shipped_shares_are_read_as_they_were_written() -> None:
    assert from_document(to_document(shipped_power())) == shipped_power()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": 2}, "schema 1"),
        ({"gpus": []}, "gpus: wanted an object"),
        ({"gpus": {"X9": {}}}, "gpus.X9: no such GPU"),
        ({"any_gpu": {}}, "any_gpu: wanted exactly floor_frac"),
    ],
)
def test_a_broken_file_is_refused_by_the_entry(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    path = tmp_path / "power.json"
    path.write_text(json.dumps({**to_document(shipped_power()), **change}))
    with pytest.raises(FactorsError, match=problem):
        read_power(path)


def test_a_share_that_is_no_number_is_refused_by_name() -> None:
    document = json.loads(json.dumps(to_document(shipped_power())))
    document["gpus"]["H100-SXM-80GB"]["memory_frac"] = -0.1
    with pytest.raises(FactorsError, match=r"H100-SXM-80GB\.memory_frac: -0.1, wanted a number of 0 or more"):
        from_document(document)
