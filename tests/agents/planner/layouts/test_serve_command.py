"""Commands for vLLM: the right flags for the layout, its precision and its GPUs' generation."""

import shlex

import pytest

from poolpilot.agents.planner.layouts.layout import Layout, LayoutError, LayoutStage
from poolpilot.agents.planner.layouts.serve_command import CAPABILITY, CHECKPOINTS, ServeCommand, serve_command
from poolpilot.env.catalog.gpus import GPUS
from poolpilot.env.catalog.models import PRECISIONS

LIMITS = {"max_model_len": 4096, "max_num_seqs": 64, "max_num_batched_tokens": 1024}


def on(card: str, precision: str, degree: int = 1) -> Layout:
    return Layout("llama-2-13b", precision, (LayoutStage(card, 40, degree),))


def staged(precision: str, *stages: LayoutStage) -> Layout:
    return Layout("llama-2-13b", precision, stages)


def flag(command: ServeCommand, name: str, node: int = 0) -> str | None:
    """The value of a flag; None where it is not given."""
    args = command.nodes[node].args
    return args[args.index(name) + 1] if name in args else None


def notes(command: ServeCommand) -> str:
    return " | ".join(command.notes)


def test_one_gpu_needs_nothing_of_parallelism() -> None:
    command = serve_command(on("H100", "bf16"), **LIMITS, gpu_memory_utilization=0.85)
    assert command.args == (
        *("vllm", "serve", "meta-llama/Llama-2-13b-hf", "--served-model-name", "meta-llama/Llama-2-13b-hf"),
        *("--dtype", "bfloat16", "--max-model-len", "4096", "--max-num-seqs", "64"),
        *("--max-num-batched-tokens", "1024", "--gpu-memory-utilization", "0.85"),
        *("--scheduling-policy", "fcfs", "--no-enable-prefix-caching", "--port", "8000"),
    )
    assert command.env == {}
    assert command.notes == ()


@pytest.mark.parametrize(
    ("card", "precision", "kind", "dtype", "method", "said"),
    [
        ("V100", "fp16", None, "float16", None, "no bf16 and no fp8, and no FlashAttention 2"),
        ("V100", "int4", None, "float16", "gptq", "4-bit weights in groups of 128 (GPTQ)"),
        ("V100", "int8", None, "float16", "gptq", "8-bit weights in groups of 128 (GPTQ)"),
        ("T4", "fp16", None, "float16", None, "no bf16 and no FlashAttention 2"),
        ("T4", "int8", None, "float16", "compressed-tensors", "W8A8"),
        ("T4", "int4", None, "float16", "awq", "AWQ"),
        ("A100", "fp8", None, "auto", "fp8_per_tensor", "multiplies in 16 bits"),
        ("A10G", "int4", "gptq", "auto", "gptq", "GPTQ"),
        ("L4", "fp8", None, "auto", "fp8_per_tensor", "quantised while it is loaded"),
        ("H100", "fp8", "fp8", "auto", "fp8", ""),
        ("H100", "fp8", "compressed-tensors", "auto", "compressed-tensors", ""),
        ("H100", "int4", "compressed-tensors", "auto", "compressed-tensors", "W4A16"),
        ("MI300X", "int4", None, "auto", "gptq", "ROCm"),
        ("MI300X", "bf16", None, "bfloat16", None, "ROCm"),
    ],
)
def test_flags_are_those_of_the_gpus_generation(
    card: str, precision: str, kind: str | None, dtype: str, method: str | None, said: str
) -> None:
    command = serve_command(on(card, precision), **LIMITS, checkpoint_kind=kind)  # type: ignore[arg-type]
    assert flag(command, "--dtype") == dtype
    assert flag(command, "--quantization") == method
    assert said in notes(command)


def test_native_fp8_is_not_said_to_be_emulated() -> None:
    assert "multiplies in 16 bits" not in notes(serve_command(on("L40S", "fp8"), **LIMITS))


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_what_cannot_be_quantised_while_loading_is_a_placeholder_until_named(precision: str) -> None:
    asked = serve_command(on("H100", precision), **LIMITS)
    assert asked.args[2].startswith("YOUR-")
    assert "cannot make it from a 16-bit checkpoint" in notes(asked)
    named = serve_command(on("H100", precision), **LIMITS, checkpoint="mine/quantised")
    assert named.args[2] == "mine/quantised"
    assert flag(named, "--served-model-name") == "meta-llama/Llama-2-13b-hf"
    assert "placeholder" not in notes(named)


@pytest.mark.parametrize(
    ("layout", "kind", "message"),
    [
        (on("V100", "bf16"), None, "V100-SXM-16GB has no bf16; use fp16"),
        (on("V100", "fp8"), None, "V100-SXM-16GB has no fp8"),
        (on("V100", "int4"), "awq", "awq needs compute capability 7.5, V100-SXM-16GB has 7.0; use gptq"),
        (on("V100", "int8"), "compressed-tensors", "needs compute capability 7.5.*use gptq"),
        (on("H100", "int8"), "awq", "weights in int8 come from compressed-tensors or gptq"),
        (on("H100", "bf16", 3), None, "tensor_parallel 3 does not divide"),
        (staged("bf16", LayoutStage("H100", 30), LayoutStage("H100", 9)), None, "sum to 39, wanted the 40 layers"),
        (
            staged("fp16", LayoutStage("A100", 20, 2), LayoutStage("L4", 20, 1)),
            None,
            r"tensor_parallel \[2, 1\]: vLLM splits every stage over the same number of GPUs",
        ),
    ],
)
def test_what_no_engine_runs_is_refused(layout: Layout, kind: str | None, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        serve_command(layout, **LIMITS, checkpoint_kind=kind)  # type: ignore[arg-type]


def test_budgets_that_vllm_refuses_are_refused() -> None:
    with pytest.raises(LayoutError, match="max_num_batched_tokens 32: wanted at least max_num_seqs 64"):
        serve_command(on("H100", "bf16"), max_model_len=4096, max_num_seqs=64, max_num_batched_tokens=32)


def test_an_even_pipeline_leaves_the_split_to_vllm_and_an_uneven_one_says_it() -> None:
    even = serve_command(staged("bf16", LayoutStage("L4", 20), LayoutStage("L4", 20)), **LIMITS)
    assert (flag(even, "--pipeline-parallel-size"), dict(even.env)) == ("2", {})
    uneven = serve_command(staged("bf16", LayoutStage("L4", 22), LayoutStage("L4", 18)), **LIMITS)
    assert uneven.env == {"VLLM_PP_LAYER_PARTITION": "22,18"}
    assert len(uneven.nodes) == 1


def test_machines_of_equal_size_are_a_node_each_in_the_order_of_the_stages() -> None:
    layout = staged("bf16", LayoutStage("H100", 28, 2), LayoutStage("L40S", 12, 2))
    command = serve_command(layout, **LIMITS, head_address="10.0.0.1")
    assert [node.gpus for node in command.nodes] == [("H100-SXM-80GB",) * 2, ("L40S-48GB",) * 2]
    for rank, node in enumerate(command.nodes):
        assert flag(command, "--node-rank", rank) == str(rank)
        assert flag(command, "--nnodes", rank) == "2"
        assert flag(command, "--master-addr", rank) == "10.0.0.1"
        assert flag(command, "--tensor-parallel-size", rank) == "2"
        assert node.env == {"VLLM_PP_LAYER_PARTITION": "28,12"}
    assert "--headless" not in command.nodes[0].args
    assert "--headless" in command.nodes[1].args
    assert "--port" not in command.nodes[1].args
    assert "vLLM does not test pipelines over unlike GPUs" in notes(command)


def test_machines_of_unequal_size_are_a_node_for_each_stage() -> None:
    """vLLM divides all GPUs evenly over nodes."""
    layout = staged("fp16", LayoutStage("A100", 24), LayoutStage("L4", 8), LayoutStage("L4", 8))
    command = serve_command(layout, **LIMITS)
    assert [(node.machine, node.gpus) for node in command.nodes] == [
        (0, ("A100-SXM-80GB",)),
        (1, ("L4-24GB",)),
        (1, ("L4-24GB",)),
    ]
    assert [node.env.get("CUDA_VISIBLE_DEVICES") for node in command.nodes] == [None, "0", "1"]
    assert flag(command, "--nnodes") == "3"


def test_unlike_gpus_of_one_machine_are_one_command_that_says_their_order() -> None:
    layout = staged("bf16", LayoutStage("RTX4090", 15, 1, "PCIe4"), LayoutStage("A6000", 25))
    command = serve_command(layout, **LIMITS)
    assert len(command.nodes) == 1
    assert "in this order: 1 x RTX4090-24GB, 1 x A6000-48GB" in notes(command)


def test_the_shell_text_says_the_same() -> None:
    layout = staged("int4", LayoutStage("A100", 24), LayoutStage("L4", 16))
    command = serve_command(layout, **LIMITS, checkpoint="a folder/with spaces")
    text = command.shell
    for node in command.nodes:
        words = shlex.split(node.shell.replace("\\\n", ""))  # as a shell joins lines
        env = dict(word.split("=", 1) for word in words[: len(node.env)])
        assert env == dict(node.env)
        assert tuple(words[len(node.env) :]) == node.args
        assert node.shell in text
    assert all(f"# {note}" in text for note in command.notes)


def test_every_gpu_runs_each_precision_that_the_performance_model_gives_it_or_says_why_not() -> None:
    for card in GPUS.values():
        assert card.architecture in CAPABILITY or card.name.startswith("MI")
        for precision in PRECISIONS:
            lacking = (precision == "bf16" and not card.supports_bf16) or (
                precision == "fp8" and card.architecture in ("Volta", "Turing", "CDNA2")
            )
            if lacking:
                with pytest.raises(LayoutError, match=card.name):
                    serve_command(on(card.name, precision), **LIMITS)
                continue
            method = flag(serve_command(on(card.name, precision), **LIMITS), "--quantization")
            assert (method is None) == (precision in ("fp32", "fp16", "bf16"))
    assert set(CHECKPOINTS) == set(PRECISIONS)
