"""What a law rests on, and which loads lie inside what was measured."""

import numpy as np
import pytest

from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.coverage import coverage


@pytest.mark.parametrize(
    ("name", "precision", "tp", "borrowed"),
    [
        ("H100-SXM-80GB", "bf16", 8, ()),
        ("A100-SXM-80GB", "fp16", 1, ()),
        ("L4-24GB", "fp16", 1, ("attention from L40S-48GB",)),
        ("A100-SXM-80GB", "int4", 1, ("int4 products from those of 16 bits",)),
        ("H200-SXM-141GB", "bf16", 1, ("matrix products from H100-SXM-80GB", "attention from H100-SXM-80GB")),
        ("MI300X-192GB", "bf16", 1, ("matrix products from H100-SXM-80GB", "attention from H100-SXM-80GB")),
    ],
)
def test_coverage_says_what_was_measured_on_another_card(
    name: str, precision: str, tp: int, borrowed: tuple[str, ...]
) -> None:
    covered = coverage(gpu(name), model("llama-3.1-70b"), precision, tp)
    assert covered.borrowed == borrowed
    assert covered.calibrated == (not borrowed)
    assert [group for group, _ in covered.errors][-1] == "engine"
    assert all(error.held_out_rows > 0 for _, error in covered.errors)


def test_int8_products_are_taken_from_fp8() -> None:
    covered = coverage(gpu("H100"), model("llama-3.1-8b"), "int8")
    assert covered.borrowed == ("int8 products from those of fp8",)


def test_loads_lie_inside_up_to_the_largest_measured_and_not_beyond() -> None:
    covered = coverage(gpu("H100"), model("llama-3.1-8b"), "bf16")
    most_tokens, most_context = covered.tokens[1], covered.context_tokens[1]
    inside = covered.inside(
        tokens=np.array([1.0, most_tokens, most_tokens + 1.0, 8.0, 8.0]),
        sequences=np.array([1.0, 0.0, 0.0, 8.0, 8.0]),
        context_tokens=np.array([2048.0, 0.0, 0.0, most_context, most_context + 1.0]),
    )
    assert inside.tolist() == [True, True, False, True, False]


@pytest.mark.parametrize(("name", "precision"), [("H200", "bf16"), ("H100", "int4"), ("V100", "fp16")])
def test_nothing_lies_inside_on_what_was_never_measured(name: str, precision: str) -> None:
    covered = coverage(gpu(name), model("llama-3.1-8b"), precision)
    assert not covered.inside(64.0, 64.0, 1024.0)


def test_a_split_replica_is_covered_up_to_the_largest_message_measured() -> None:
    wide, narrow = (coverage(gpu("H100"), model(name), "bf16", 8) for name in ("llama-3.1-405b", "llama-3.1-70b"))
    assert wide.tokens[1] <= narrow.tokens[1]


def test_a_round_of_a_pipeline_is_covered_over_as_many_batches_as_stages() -> None:
    one, four = (coverage(gpu("H100"), model("llama-3.1-70b"), "fp8", 2, pipeline_parallel=pp) for pp in (1, 4))
    assert four.tokens == (one.tokens[0], 4 * one.tokens[1])
    assert four.sequences == (one.sequences[0], 4 * one.sequences[1])
    assert four.context_tokens == one.context_tokens
