"""What is left of a model's quality: of its own evaluations, or of a relative's and then said so."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.catalog.models import MODELS, PRECISIONS, CatalogError
from poolpilot.env.catalog.quality import EVALUATIONS, quality_frac
from poolpilot.env.scenario.planning import Planning

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_sixteen_bits_keep_everything(precision: str) -> None:
    kept = quality_frac("llama-2-13b", precision)
    assert (kept.frac, kept.low, kept.borrowed) == (1.0, 1.0, False)


def test_a_model_s_own_evaluations_are_averaged_each_at_most_whole() -> None:
    kept = quality_frac("llama-3.1-8b", "int4")
    assert kept.frac == pytest.approx((0.989 + 0.961 + 0.930 + 0.997 + 0.974) / 5)
    assert kept.low == 0.930
    assert not kept.borrowed
    assert "Arena-Hard" in kept.source
    lossless = quality_frac("llama-3.1-8b", "int8")
    assert lossless.frac == pytest.approx((1 + 1 + 1 + 0.997 + 0.988 + 62.71 / 63.03) / 6)


def test_a_larger_model_loses_less_at_four_bits() -> None:
    assert quality_frac("llama-3.1-70b", "int4").frac > quality_frac("llama-3.1-8b", "int4").frac + 0.02


def test_a_model_without_evaluations_borrows_of_its_family_and_the_worst_of_its_size_or_larger() -> None:
    kept = quality_frac("llama-2-13b", "int4")
    assert kept.borrowed
    assert kept.source.startswith("borrowed from meta-llama/Llama-3.1-8B: W4A16")
    assert kept.frac == quality_frac("llama-3.1-8b", "int4").frac
    assert kept.low == pytest.approx(0.930)  # the 8B's on Arena-Hard, not the 1B's
    assert quality_frac("llama-3.3-70b", "int4").low == pytest.approx(0.974)


def test_without_a_kin_one_of_near_size_stands_in_else_the_next_smaller() -> None:
    assert quality_frac("mixtral-8x7b", "int4").source.startswith("borrowed from meta-llama/Llama-3.1-70B")
    assert quality_frac("bigscience/bloom", "int4").source.startswith("borrowed from meta-llama/Llama-3.1-70B")
    assert quality_frac("qwen3-32b", "int4").source.startswith("borrowed from meta-llama/Llama-3.1-8B")
    assert quality_frac("qwen2.5-3b", "int4").source.startswith("borrowed from meta-llama/Llama-3.2-1B")


def test_a_model_smaller_than_any_evaluated_is_credited_with_the_worst_figure() -> None:
    kept = quality_frac("qwen2.5-0.5b", "int4")
    assert kept.frac == kept.low == 0.88
    assert kept.source.startswith("none as small was evaluated; worst at this precision: meta-llama/Llama-3.2-1B")


def test_one_easy_benchmark_alone_earns_no_more_than_a_relative_keeps_on_harder_ones() -> None:
    kept = quality_frac("llama-2-7b", "int4")
    assert kept.frac == quality_frac("llama-3.1-8b", "int4").frac < 52.64 / 53.40
    assert kept.borrowed
    assert "held to meta-llama/Llama-3.1-8B" in kept.source
    assert "itself 0.986" in kept.source
    worse = quality_frac("meta-llama/Meta-Llama-3-70B", "int8")
    assert worse.frac == pytest.approx(77.90 / 79.18)
    assert not worse.borrowed


@given(st.sampled_from(sorted(MODELS)), st.sampled_from(PRECISIONS))
def test_every_model_has_a_figure_at_every_precision(name: str, precision: str) -> None:
    kept = quality_frac(name, precision)
    assert 0.85 <= kept.low <= kept.frac <= 1.0
    assert kept.source


@pytest.mark.parametrize("name", sorted(MODELS))
def test_eight_bits_are_never_said_to_keep_less_than_four(name: str) -> None:
    assert quality_frac(name, "fp8").frac >= quality_frac(name, "int4").frac
    assert quality_frac(name, "int8").frac >= quality_frac(name, "int4").frac - 0.01


def test_the_default_floor_lets_through_what_the_docs_say() -> None:
    floor = Planning().quality_floor
    for name, entry in MODELS.items():
        assert quality_frac(name, "fp8").frac >= floor
        assert (quality_frac(name, "int8").frac >= floor) == (entry.params > 3.7e9)
        assert (quality_frac(name, "int4").frac >= floor) == (entry.params > 4e10)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(CatalogError, match="unknown model 'llama-9'"):
        quality_frac("llama-9", "fp8")
    with pytest.raises(CatalogError, match="unknown precision 'fp4'; wanted one of"):
        quality_frac("llama-3.1-8b", "fp4")


def test_every_evaluation_is_of_the_catalogue_names_its_source_and_stands_in_the_docs() -> None:
    page = (DOCS / "prices.md").read_text()
    for row in EVALUATIONS:
        assert row.model in MODELS
        assert row.precision in PRECISIONS
        assert 0.85 < row.recovery_frac < 1.06
        if row.score is not None and row.baseline is not None:
            assert row.recovery_frac == pytest.approx(row.score / row.baseline)
        cells = (row.model.split("/")[1], f"{row.precision} ({row.scheme})", row.benchmark, f"{row.recovery_frac:.1%}")
        assert f"| {' | '.join(cells)} |" in page, row
