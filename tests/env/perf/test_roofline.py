"""Laws, KV space and coverage of GPUs and models."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from poolpilot.env.catalog.gpus import GPUS, gpu
from poolpilot.env.catalog.models import MODELS, model
from poolpilot.env.perf.factors import shipped_factors
from poolpilot.env.perf.fit import NO_ENGINE
from poolpilot.env.perf.kernels import comm_factors
from poolpilot.env.perf.law import TOKENS_GRID, IterationLaw
from poolpilot.env.perf.roofline import DoesNotFit, LayoutError, iteration_law, kv_capacity_tokens

DENSE = sorted(name for name, shape in MODELS.items() if shape.experts == 1)


def nowhere_slower(fast: IterationLaw, slow: IterationLaw) -> bool:
    return bool(
        (fast.linear_s <= slow.linear_s).all()
        and fast.kv_read_s_per_token <= slow.kv_read_s_per_token
        and fast.attend_s_per_pair <= slow.attend_s_per_pair
        and fast.seq_s <= slow.seq_s
    )


@pytest.mark.parametrize("name", GPUS)
def test_every_card_has_a_law_for_every_dense_model(name: str) -> None:
    for shape in DENSE:
        law = iteration_law(gpu(name), model(shape), "fp16")
        assert (np.diff(law.linear_s) >= 0).all()
        assert 0 < law.best_token_s <= law.linear_s[0]


@pytest.mark.parametrize("shape", ["llama-3.1-8b", "llama-2-13b", "qwen2.5-32b", "mixtral-8x7b"])
@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        ("A100-SXM-80GB", "V100-SXM-32GB"),
        ("A100-SXM-80GB", "A100-SXM-40GB"),
        ("H100-SXM-80GB", "A100-SXM-80GB"),
        ("H100-SXM-80GB", "L40S-48GB"),
        ("H200-SXM-141GB", "H100-SXM-80GB"),
        ("H100-SXM-80GB", "H100-PCIe-80GB"),
        ("L40S-48GB", "L4-24GB"),
        ("V100-SXM-32GB", "T4-16GB"),
        ("B200-SXM-180GB", "H200-SXM-141GB"),
    ],
)
def test_a_better_card_is_nowhere_slower(fast: str, slow: str, shape: str) -> None:
    laws = [iteration_law(gpu(name), model(shape), "fp16") for name in (fast, slow)]
    # Launch times of a few microseconds are as the two machines had them, hence the hair's breadth.
    assert nowhere_slower(laws[0], laws[1].scaled(1.05))


@settings(deadline=None)
@given(
    st.sampled_from(sorted(GPUS)),
    st.sampled_from(DENSE),
    st.floats(1.0, 4.0),
    st.floats(1.0, 4.0),
    st.sampled_from(["fp16", "fp8", "int4"]),
)
def test_more_bandwidth_and_rate_never_slow_a_card_down(
    name: str, shape: str, bandwidth: float, rate: float, precision: str
) -> None:
    card = gpu(name)
    assume(precision != "fp8" or card.architecture not in ("Volta", "Turing", "CDNA2"))
    faster = replace(
        card,
        bandwidth_gb_per_s=card.bandwidth_gb_per_s * bandwidth,
        fp16_tflops=card.fp16_tflops * rate,
        fp8_tflops=card.fp8_tflops * rate,
    )
    assert nowhere_slower(
        iteration_law(faster, model(shape), precision), iteration_law(card, model(shape), precision).scaled(1 + 1e-12)
    )


@settings(deadline=None)
@given(
    st.sampled_from(["A100-SXM-80GB", "H100-SXM-80GB", "L4-24GB"]),
    st.sampled_from(DENSE),
    st.sampled_from(["layers", "hidden", "ffn", "vocab", "heads"]),
    st.integers(2, 3),
)
def test_a_larger_model_is_nowhere_faster(name: str, shape: str, side: str, times: int) -> None:
    small = model(shape)
    large = replace(small, **{side: getattr(small, side) * times})
    assert nowhere_slower(iteration_law(gpu(name), small, "fp16"), iteration_law(gpu(name), large, "fp16"))


@pytest.mark.parametrize("name", ["A100-SXM-80GB", "H100-SXM-80GB"])
def test_splitting_over_nvlink_helps_a_large_model(name: str) -> None:
    laws = [iteration_law(gpu(name), model("llama-3.1-70b"), "bf16", tp) for tp in (1, 2, 4, 8)]
    for wide, narrow in zip(laws[1:], laws[:-1], strict=True):
        assert wide.linear_s[0] < narrow.linear_s[0]
        assert wide.best_token_s < narrow.best_token_s


def test_fewer_bits_read_faster_and_fp8_units_multiply_faster() -> None:
    card, shape = gpu("H100"), model("llama-3.1-70b")
    wide, fp8, int4 = (iteration_law(card, shape, p, 4) for p in ("bf16", "fp8", "int4"))
    assert int4.linear_s[0] < fp8.linear_s[0] < wide.linear_s[0]
    assert fp8.best_token_s < wide.best_token_s
    assert int4.best_token_s == pytest.approx(wide.best_token_s, rel=0.1)


def test_few_tokens_touch_few_experts() -> None:
    law = iteration_law(gpu("H100"), model("mixtral-8x7b"), "fp8")
    dense = replace(model("mixtral-8x7b"), experts_per_token=8)
    all_touched = iteration_law(gpu("H100"), dense, "fp8")
    assert law.linear_s[0] < 0.5 * all_touched.linear_s[0]
    assert law.linear_s[TOKENS_GRID.searchsorted(64)] > 0.9 * all_touched.linear_s[TOKENS_GRID.searchsorted(64)]


def test_kernels_of_llama_2_7b_on_a100_add_up_as_measured() -> None:
    """Summed kernels of vidur's profile: 9.58 ms + 38 us a sequence + 0.286 us a KV token (A800 attention)."""
    kernels = replace(shipped_factors(), engine=NO_ENGINE)
    law = iteration_law(gpu("A100-SXM-80GB"), model("llama-2-7b"), "fp16", factors=kernels)
    for n, context in ((1, 500), (16, 1000), (64, 1000), (128, 500)):
        measured = 9.58e-3 + 38e-6 * n + 0.286e-6 * n * context
        assert float(law.iteration_s(0, 0, n, n * context)) == pytest.approx(measured, rel=0.25), (n, context)


@pytest.mark.parametrize(
    ("name", "precision", "tp", "pp", "message"),
    [
        ("V100-SXM-32GB", "bf16", 1, 1, "V100-SXM-32GB has no bf16; use fp16"),
        (
            "H100",
            "bf16",
            3,
            1,
            r"tensor_parallel 3 does not divide the 40 heads, .* of Qwen/Qwen2.5-32B; use one of \[1, 2, 4, 8\]",
        ),
        ("H100", "bf16", 0, 1, "tensor_parallel 0"),
        ("H100", "bf16", 5, 1, "tensor_parallel 5 does not divide the 40 heads, 8 KV heads"),
        ("T4", "fp8", 1, 1, "T4-16GB has no fp8, and no engine unpacks it there; use fp16, int8 or int4"),
        ("V100-SXM-32GB", "fp8", 1, 1, "V100-SXM-32GB has no fp8"),
    ],
)
def test_layouts_that_cannot_run_are_refused(name: str, precision: str, tp: int, pp: int, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        iteration_law(gpu(name), model("qwen2.5-32b"), precision, tp, pp)


def test_a_degree_between_measured_ones_lies_between_them() -> None:
    """24 heads split in 6: llama-3.2-3b with a feed-forward block that 6 divides."""
    shape = replace(model("llama-3.2-3b"), ffn=9216, kv_heads=24)
    firsts = [iteration_law(gpu("L40S"), shape, "bf16", tp).linear_s[-1] for tp in (4, 6, 8)]
    comm = [comm_factors(gpu("L40S"), tp, shipped_factors())[1] for tp in (4, 6, 8)]
    assert comm[0].latency_s < comm[1].latency_s < comm[2].latency_s
    assert comm[0].bytes_per_s > comm[1].bytes_per_s > comm[2].bytes_per_s
    assert min(firsts[0], firsts[2]) <= firsts[1] <= max(firsts[0], firsts[2])


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(GPUS)),
    st.sampled_from(sorted(MODELS)),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["fp16", "int8", "int4"]),
    st.lists(st.floats(0.0, 9000.0), min_size=4, max_size=4),
    st.lists(st.floats(1.0, 2.0), min_size=4, max_size=4),
)
def test_no_iteration_takes_less_time_for_more_work(
    name: str, shape: str, tp: int, precision: str, work: list[float], more: list[float]
) -> None:
    """More prompt tokens, pairs, sequences or context; each alone and all together."""
    try:
        law = iteration_law(gpu(name), model(shape), precision, tp)
    except LayoutError:
        assume(False)
    base = np.array([work[0], work[1] * 1000, 1 + work[2] / 20, work[3] * 100])
    grown = base * np.array(more)
    first = float(law.iteration_s(*base))
    assert first > 0
    for i in range(4):
        assert float(law.iteration_s(*np.where(np.arange(4) == i, grown, base))) >= first
    assert float(law.iteration_s(*grown)) >= first


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(GPUS)), st.sampled_from(sorted(MODELS)), st.sampled_from([1, 2, 4, 8]))
def test_fewer_bits_never_need_more_memory(name: str, shape: str, tp: int) -> None:
    def tokens(precision: str) -> int:
        try:
            return kv_capacity_tokens(gpu(name), model(shape), precision, tp)
        except DoesNotFit:
            return 0
        except LayoutError:
            return -1

    found = [tokens(precision) for precision in ("fp16", "int8", "int4")]
    assume(min(found) >= 0)
    assert found == sorted(found)


def test_unpacked_weights_save_bytes_but_no_operations() -> None:
    """A100 has no fp8 units: reading is as fast as int8's, multiplying no faster than 16 bits."""
    card, shape = gpu("A100"), model("llama-3.1-8b")
    wide, fp8, int4 = (iteration_law(card, shape, p) for p in ("bf16", "fp8", "int4"))
    assert int4.linear_s[0] < fp8.linear_s[0] < 0.75 * wide.linear_s[0]
    for law in (fp8, int4):
        assert wide.linear_s[-1] <= law.linear_s[-1] < 1.2 * wide.linear_s[-1]


def test_kv_space_is_what_vllm_leaves() -> None:
    """2,588 blocks of 16 in a real run of Llama-3.1-8B on an RTX 4090 (LLMServingSim, vLLM 0.19)."""
    tokens = kv_capacity_tokens(gpu("RTX4090"), model("llama-3.1-8b"), "bf16")
    assert tokens % 16 == 0
    assert tokens == pytest.approx(2588 * 16, rel=0.05)


def test_kv_space_grows_with_gpus_and_with_fewer_bits() -> None:
    card, shape = gpu("H100"), model("llama-3.1-70b")
    spaces = [kv_capacity_tokens(card, shape, "bf16", tp) for tp in (4, 8)]
    assert spaces[0] < spaces[1]
    assert kv_capacity_tokens(card, shape, "fp8", 4) > spaces[0]
    assert kv_capacity_tokens(card, shape, "bf16", 4, 0.8) < spaces[0]


def test_weights_that_do_not_fit_are_refused_with_what_is_missing() -> None:
    with pytest.raises(DoesNotFit, match=r"Qwen2.5-32B in bf16 does not fit on 1 x L4-24GB: 4\d\.\d GB are missing"):
        kv_capacity_tokens(gpu("L4"), model("qwen2.5-32b"), "bf16")
