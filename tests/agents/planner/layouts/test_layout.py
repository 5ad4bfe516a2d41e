"""Which layouts run and fit, what they are called, and why others are left out."""

import re
from typing import Any

import numpy as np
import pytest

from poolpilot.agents.planner.layouts.layout import (
    DoesNotFit,
    Layout,
    LayoutError,
    LayoutStage,
    Survey,
    gpu_short_name,
    precision_on,
    survey_layouts,
)
from poolpilot.agents.planner.layouts.partition import Load
from poolpilot.env.catalog.gpus import GPUS, gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.catalog.names import CatalogError
from poolpilot.env.perf.roofline import iteration_law, kv_capacity_tokens
from poolpilot.env.scenario.fields import Name

A100, L4 = "A100-SXM-80GB", "L4-24GB"


def offered(*asked: Any, **limits: Any) -> tuple[Layout, ...]:
    return survey_layouts(*asked, **limits).layouts


def why(survey: Survey, what: str) -> str:
    return next(rejected.why for rejected in survey.rejected if rejected.what == what)


def test_a_layout_has_the_law_and_the_cache_of_its_gpus() -> None:
    layout = Layout("llama-2-13b", "bf16", (LayoutStage(A100, 40, 2),))
    law = iteration_law(gpu(A100), model("llama-2-13b"), "bf16", 2)
    assert np.array_equal(layout.law().as_row(), law.as_row())
    assert layout.kv_tokens() == kv_capacity_tokens(gpu(A100), model("llama-2-13b"), "bf16", 2)
    assert layout.kv_tokens(0.8) < layout.kv_tokens()
    assert (layout.gpu_count, layout.pipeline_parallel, layout.gpus) == (2, 1, {A100: 2})


def test_a_pipelines_law_knows_its_token_budget_and_its_links() -> None:
    stages = LayoutStage(A100, 30, 1, "InfiniBand-HDR200"), LayoutStage(L4, 10)
    layout = Layout("llama-2-13b", "bf16", stages)
    assert layout.mixed
    assert layout.gpus == {A100: 1, L4: 1}
    assert (layout.law(512).linear_s != layout.law(4096).linear_s).any()
    slower = Layout("llama-2-13b", "bf16", (LayoutStage(A100, 30, 1, "Ethernet-100G"), stages[1]))
    assert (slower.law().linear_s >= layout.law().linear_s).all()


@pytest.mark.parametrize(
    ("precision", "stages", "name"),
    [
        ("fp8", [(A100, 40, 2)], "a100-80-tp2-fp8"),
        ("int4", [("L40S", 30, 1), (L4, 10, 1)], "l40s-l4-pp2-int4"),
        ("int8", [(L4, 15, 1), (L4, 15, 1), ("T4", 10, 1)], "2xl4-t4-pp3-int8"),
        ("bf16", [("H100", 20, 4), ("H100", 20, 4)], "h100-tp4-pp2-bf16"),
        ("fp16", [("V100-32gb", 40, 1)], "v100-32-fp16"),
        ("fp16", [("A100-40gb", 30, 2), ("T4", 10, 4)], "a100-40-tp2-t4-tp4-pp2-fp16"),
    ],
)
def test_names_are_short_and_readable(precision: str, stages: list[tuple[str, int, int]], name: str) -> None:
    assert Layout("llama-2-13b", precision, tuple(LayoutStage(*stage) for stage in stages)).name == name


def test_every_gpu_has_a_short_name_of_its_own_that_may_name_a_pool() -> None:
    names = [gpu_short_name(name) for name in GPUS]
    assert len(set(names)) == len(names)
    pattern = Name.__metadata__[0].metadata[0].pattern  # type: ignore[attr-defined]
    assert all(re.fullmatch(pattern, name) for name in names)
    assert gpu_short_name("A100") == "a100-80"
    assert gpu_short_name("l40s") == "l40s"


@pytest.mark.parametrize(
    ("gpus", "asked", "named"),
    [
        (["A100"], "bf16", "bf16"),
        (["V100"], "bf16", "fp16"),
        (["T4"], "16-bit", "fp16"),
        (["A100", "V100"], "16-bit", "fp16"),
        (["H100"], "16-bit", "bf16"),
        (["A100"], "fp16", "fp16"),
        (["V100"], "int4", "int4"),
    ],
)
def test_sixteen_bits_are_what_all_gpus_have(gpus: list[str], asked: str, named: str) -> None:
    assert precision_on([gpu(name) for name in gpus], asked) == named


def test_a_v100_gets_fp16_with_a_note_and_no_fp8_with_a_reason() -> None:
    survey = survey_layouts("llama-3.2-3b", ["V100"], ["bf16", "fp8", "int4"])
    assert {layout.precision for layout in survey.layouts} == {"fp16", "int4"}
    assert survey.notes == ("V100-SXM-16GB has no bf16: its 16-bit layouts are fp16",)
    assert "has no fp8" in why(survey, "v100-16-fp8")


def test_only_what_fits_is_offered_and_the_rest_says_what_it_holds() -> None:
    survey = survey_layouts("llama-2-13b", [L4], ["bf16", "int4"])
    assert "l4-int4" in {layout.name for layout in survey.layouts}
    assert "the stages hold at most 27 of its 40 layers (1 x L4-24GB: 27)" in why(survey, "l4-bf16")
    for layout in survey.layouts:
        assert layout.kv_tokens() >= 4096
    with pytest.raises(DoesNotFit):
        Layout("llama-2-13b", "bf16", (LayoutStage(L4, 40),)).kv_tokens()


def test_tensor_parallel_stays_in_a_machine_and_divides_the_model() -> None:
    layouts = offered("llama-2-13b", [L4, "H100"], ["fp8"], machine_gpus={"l4": 2}, max_tensor_parallel=4)
    widest = {
        name: max(s.tensor_parallel for la in layouts for s in la.stages if s.gpu == name)
        for name in (L4, "H100-SXM-80GB")
    }
    assert widest == {L4: 2, "H100-SXM-80GB": 4}
    survey = survey_layouts("qwen2.5-7b", ["H100"], ["bf16"])  # 28 heads
    assert "tensor_parallel 8 does not divide the 28 heads" in why(survey, "h100-tp8-bf16")


def test_stages_beyond_a_machine_are_joined_by_the_network() -> None:
    layouts = offered(
        "llama-2-13b",
        [L4],
        ["bf16"],
        max_stages=3,
        max_tensor_parallel=1,
        machine_gpus={L4: 2},
        between_machines="Ethernet-100G",
    )
    three = next(layout for layout in layouts if layout.pipeline_parallel == 3)
    assert [stage.link_to_next for stage in three.stages] == ["PCIe4", "Ethernet-100G", None]


def test_more_stages_than_the_cache_has_use_for_are_left_out() -> None:
    survey = survey_layouts("llama-2-13b", [A100], ["int8"], max_stages=4, load=Load(64), max_tensor_parallel=1)
    assert [layout.name for layout in survey.layouts] == ["a100-80-int8"]
    assert "a100-80-int8 has the KV cache that 64 sequences need" in why(survey, "a100-80-pp2-int8")


def test_of_the_same_gpus_only_what_nothing_beats_at_every_load_is_kept() -> None:
    survey = survey_layouts("llama-2-13b", ["H100"], ["bf16"], max_stages=2, max_tensor_parallel=2, load=Load(256))
    for layout in survey.layouts:
        same = [o for o in survey.layouts if o.gpus == layout.gpus and o is not layout]
        for other in same:
            rows = other.law().as_row(), layout.law().as_row()
            assert (rows[0] > rows[1]).any() or other.kv_tokens() < layout.kv_tokens()


def test_unlike_gpus_are_joined_only_on_request_and_where_each_alone_lacks_room() -> None:
    cards = ["L40S", L4]
    assert not any(la.mixed for la in offered("llama-2-13b", cards, ["bf16"], max_stages=3))
    mixed = [la for la in offered("llama-2-13b", cards, ["bf16"], max_stages=3, mixed=True) if la.mixed]
    assert mixed
    for layout in mixed:
        assert layout.pipeline_parallel <= 3
        assert len({stage.tensor_parallel for stage in layout.stages}) == 1  # vLLM has one degree for all stages
        assert sum(layout.layers) == 40
        assert not layout.even
        assert layout.kv_tokens() >= 4096
    # Eight bits of 13B and their cache for 16 sequences fit on the L40S alone: an L4 would only slow it down.
    roomy = offered("llama-2-13b", cards, ["int8"], max_stages=2, mixed=True, load=Load(16))
    assert not any(la.mixed for la in roomy)


def test_a_gpu_that_adds_next_to_nothing_is_left_out() -> None:
    cards = ["A100-40gb", L4]
    survey = survey_layouts("llama-2-13b", cards, ["bf16"], max_stages=2, mixed=True, max_tensor_parallel=1)
    said = re.fullmatch(
        r"a100-40-bf16, of fewer of these GPUs, serves ([\d.]+) requests/s, this one ([\d.]+)",
        next(r.why for r in survey.rejected if set(r.what.split("-")) >= {"a100", "l4", "pp2"}),
    )
    assert said is not None
    assert float(said[2]) < 1.1 * float(said[1])
    assert not any(la.mixed for la in survey.layouts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("llama-9", [L4], ["bf16"]), "unknown model 'llama-9'"),
        (("llama-2-13b", ["L5"], ["bf16"]), "unknown GPU 'L5'"),
        (("llama-2-13b", [L4], ["fp4"]), "unknown precision 'fp4'; wanted one of 16-bit"),
    ],
)
def test_names_that_the_catalogue_lacks_are_refused(arguments: tuple[str, list[str], list[str]], message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        survey_layouts(*arguments)


def test_layers_that_do_not_sum_up_are_refused() -> None:
    with pytest.raises(LayoutError, match="sum to 39"):
        Layout("llama-2-13b", "bf16", (LayoutStage(A100, 39),)).law()
