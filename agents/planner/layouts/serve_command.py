"""Ready `vllm serve` commands for a layout, one for each node, with what each GPU generation needs and lacks.

Flags, and what they accept, are those of vLLM 0.32 (its argument parser judges them in tests/vllm). What its source says
of quantised weights there: `fp8` takes checkpoints in fp8 only, a 16-bit one is quantised while loading by
`fp8_per_tensor`; int8 and int4 need a checkpoint of their own. Each scheme names the least compute capability it runs on
(model_executor/layers/quantization): GPTQ 6.0, AWQ, compressed-tensors and fp8 7.5, of which fp8 multiplies natively from
8.9 on and below unpacks weights (Marlin).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ....env.catalog.gpus import Gpu, gpu
from ....env.catalog.models import model
from ....env.perf.kernels import LayoutError
from ....env.perf.roofline import link_between
from ....env.perf.stage import check_layout, check_split
from .layout import Layout

__all__ = ["CHECKPOINTS", "NodeCommand", "ServeCommand", "serve_command"]

Checkpoint = Literal["16-bit", "fp8", "compressed-tensors", "awq", "gptq"]
CHECKPOINTS: Mapping[str, tuple[Checkpoint, ...]] = {
    "fp32": ("16-bit",),
    "bf16": ("16-bit",),
    "fp16": ("16-bit",),
    "fp8": ("16-bit", "fp8", "compressed-tensors"),
    "int8": ("compressed-tensors", "gptq"),
    "int4": ("awq", "gptq", "compressed-tensors"),
}
"""Which kinds of checkpoint give weights of a precision, the usual one first."""

CAPABILITY = {
    "Volta": 70,
    "Turing": 75,
    "GA100": 80,
    "GA102": 86,
    "Ada": 89,
    "Hopper": 90,
    "Blackwell": 100,
    "GB202": 120,
}
"""Ten times NVIDIA's compute capability, by architecture of the catalogue; AMD's have none."""
_LEAST_CAPABILITY: Mapping[Checkpoint, int] = {"awq": 75, "compressed-tensors": 75, "fp8": 75, "gptq": 60}
_DTYPE = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_METHOD: Mapping[Checkpoint, str] = {
    "fp8": "fp8",
    "compressed-tensors": "compressed-tensors",
    "awq": "awq",
    "gptq": "gptq",
}
_BITS = {"int8": "8", "int4": "4"}


@dataclass(frozen=True, slots=True)
class NodeCommand:
    """What is started on one node."""

    machine: int
    """Counted from 0 along the pipeline; nodes of one machine are processes beside each other."""
    gpus: tuple[str, ...]
    """Types of its GPUs, in the order in which the engine must see them."""
    env: Mapping[str, str]
    args: tuple[str, ...]
    """Beginning with `vllm serve`."""

    @property
    def shell(self) -> str:
        """For a shell, one flag a line."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        head, flags = self.args[:3], self.args[3:]
        lines = [" ".join([*words, *map(shlex.quote, head)])]
        for flag in flags:
            if flag.startswith("--"):
                lines.append(f"  {shlex.quote(flag)}")
            else:
                lines[-1] += f" {shlex.quote(flag)}"
        return " \\\n".join(lines)


@dataclass(frozen=True, slots=True)
class ServeCommand:
    """How one replica is started."""

    nodes: tuple[NodeCommand, ...]
    """The first serves the API; the others, if any, only compute."""
    notes: tuple[str, ...]
    """What the user must bring or know, a sentence each."""

    @property
    def env(self) -> Mapping[str, str]:
        """Of the node that serves."""
        return self.nodes[0].env

    @property
    def args(self) -> tuple[str, ...]:
        """Of the node that serves."""
        return self.nodes[0].args

    @property
    def shell(self) -> str:
        """For a shell: notes and each node's command."""
        lines = [f"# {note}" for note in self.notes]
        for rank, node in enumerate(self.nodes):
            if len(self.nodes) > 1:
                lines.append(f"# node {rank}, on machine {node.machine + 1}: {_counted(node.gpus)}")
            lines.append(node.shell)
        return "\n".join(lines)


def serve_command(
    layout: Layout,
    *,
    max_model_len: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    gpu_memory_utilization: float = 0.9,
    scheduling: str = "fcfs",
    prefix_caching: bool = False,
    checkpoint: str | None = None,
    checkpoint_kind: Checkpoint | None = None,
    head_address: str = "HEAD_NODE_ADDRESS",
    port: int = 8000,
) -> ServeCommand:
    """The commands that start one replica of a layout.

    A replica of one machine is one command. One over several machines is one for each, with vLLM's multi-node launch
    (`--nnodes`, no Ray), which alone puts the stages in a known order: Ray sorts workers by node, so that the engine's
    own comes first and then those with fewest GPUs. vLLM wants equal nodes; where machines have unequal numbers of
    stages, each stage is a node of its own.

    Args:
        checkpoint: a folder or a name on the hub; left out: the model's own where 16 bits will do, a placeholder that
            says what is needed elsewhere.
        checkpoint_kind: what it holds; left out: the usual kind that the GPUs can run.
        head_address: of the first node, as the others reach it.

    Raises:
        LayoutError: no engine runs the layout so; the message says what would do.
    """
    shape = model(layout.model)
    check_split(shape, layout.layers)
    cards = [gpu(stage.gpu) for stage in layout.stages]
    for stage, card in zip(layout.stages, cards, strict=True):
        check_layout(card, shape, layout.precision, stage.tensor_parallel)
    degrees = [stage.tensor_parallel for stage in layout.stages]
    if len(set(degrees)) > 1:
        raise LayoutError(
            f"tensor_parallel {degrees}: vLLM splits every stage over the same number of GPUs; use one for all"
        )
    if max_num_batched_tokens < max_num_seqs:
        raise LayoutError(
            f"max_num_batched_tokens {max_num_batched_tokens}: wanted at least max_num_seqs {max_num_seqs}"
        )
    kind = _kind(cards, layout.precision, checkpoint_kind)
    named = checkpoint or (
        shape.name if kind == "16-bit" else f"YOUR-{_kind_words(kind, layout.precision)}-OF-{shape.name}"
    )
    args = ["vllm", "serve", named, "--served-model-name", shape.name]
    if degrees[0] > 1:
        args += ["--tensor-parallel-size", str(degrees[0])]
    if layout.pipeline_parallel > 1:
        args += ["--pipeline-parallel-size", str(layout.pipeline_parallel)]
    args += ["--dtype", _dtype(cards, layout.precision)]
    method = _method(layout.precision, kind)
    if method is not None:
        args += ["--quantization", method]
    args += ["--max-model-len", str(max_model_len), "--max-num-seqs", str(max_num_seqs)]
    args += ["--max-num-batched-tokens", str(max_num_batched_tokens)]
    args += ["--gpu-memory-utilization", f"{gpu_memory_utilization:g}", "--scheduling-policy", scheduling]
    args.append("--enable-prefix-caching" if prefix_caching else "--no-enable-prefix-caching")
    env = {} if layout.even else {"VLLM_PP_LAYER_PARTITION": ",".join(map(str, layout.layers))}
    machines = _machines(layout)
    nodes = _nodes(layout, machines, env, tuple(args), head_address, port)
    notes = (
        *_checkpoint_notes(layout, kind, checkpoint, cards),
        *_gpu_notes(cards),
        *_node_notes(layout, nodes, head_address),
    )
    return ServeCommand(nodes, notes)


def _kind(cards: Sequence[Gpu], precision: str, asked: Checkpoint | None) -> Checkpoint:
    """The kind of checkpoint: what was asked for, or the usual one that all GPUs can run."""
    kinds = CHECKPOINTS[precision]
    if asked is not None and asked not in kinds:
        raise LayoutError(f"checkpoint_kind {asked}: weights in {precision} come from {' or '.join(kinds)}")
    missing: list[str] = []
    for kind in kinds if asked is None else (asked,):
        lacking = _cannot(cards, kind)
        if lacking is None:
            return kind
        missing.append(lacking)
    raise LayoutError(
        f"{'; '.join(missing)}; use {' or '.join(k for k in kinds if _cannot(cards, k) is None) or 'fp16'}"
    )


def _cannot(cards: Sequence[Gpu], kind: Checkpoint) -> str | None:
    """Why these GPUs cannot run such a checkpoint."""
    least = _LEAST_CAPABILITY.get(kind, 0)
    for card in cards:
        capability = CAPABILITY.get(card.architecture)
        if capability is not None and capability < least:
            return f"{kind} needs compute capability {least / 10:.1f}, {card.name} has {capability / 10:.1f}"
        # vLLM's AWQ kernels are CUDA's; its ROCm build runs GPTQ.
        if capability is None and kind == "awq":
            return f"vLLM has no AWQ kernels for {card.name}"
    return None


def _dtype(cards: Sequence[Gpu], precision: str) -> str:
    """Of activations, and of weights in 16 bits."""
    if precision in _DTYPE:
        return _DTYPE[precision]
    return "auto" if all(card.supports_bf16 for card in cards) else "float16"


def _method(precision: str, kind: Checkpoint) -> str | None:
    """`--quantization`. vLLM 0.32 quantises 16-bit weights to fp8 while loading under a name of its own."""
    if kind == "16-bit":
        return "fp8_per_tensor" if precision == "fp8" else None
    return _METHOD[kind]


def _machines(layout: Layout) -> list[list[int]]:
    """Stages by machine: a network's link ends one."""
    stages = layout.perf_stages()
    machines = [[0]]
    for index, (stage, following) in enumerate(pairwise(stages)):
        if (stage.link_to_next or link_between(stage, following, stages)).kind == "network":
            machines.append([])
        machines[-1].append(index + 1)
    return machines


def _nodes(
    layout: Layout,
    machines: Sequence[Sequence[int]],
    env: Mapping[str, str],
    args: tuple[str, ...],
    head_address: str,
    port: int,
) -> tuple[NodeCommand, ...]:
    serving = ("--port", str(port))
    degree = layout.stages[0].tensor_parallel
    if len(machines) == 1:
        cards = tuple(gpu(stage.gpu).name for stage in layout.stages for _ in range(degree))
        return (NodeCommand(0, cards, env, (*args, *serving)),)
    equal = len({len(stages) for stages in machines}) == 1
    groups = [(m, list(stages)) for m, stages in enumerate(machines)]
    if not equal:
        groups = [(m, [stage]) for m, stages in enumerate(machines) for stage in stages]
    nodes = []
    for rank, (machine, stages) in enumerate(groups):
        own = dict(env)
        if len(machines[machine]) > len(stages):
            first = machines[machine].index(stages[0]) * degree
            own["CUDA_VISIBLE_DEVICES"] = ",".join(str(first + i) for i in range(degree))
        where = ("--nnodes", str(len(groups)), "--node-rank", str(rank), "--master-addr", head_address)
        cards = tuple(gpu(layout.stages[stage].gpu).name for stage in stages for _ in range(degree))
        nodes.append(NodeCommand(machine, cards, own, (*args, *where, *(("--headless",) if rank else serving))))
    return tuple(nodes)


def _kind_words(kind: Checkpoint, precision: str) -> str:
    """`AWQ-4-BIT-CHECKPOINT`."""
    bits = f"-{_BITS[precision]}-BIT" if precision in _BITS else ""
    return f"{kind.upper()}{bits}-CHECKPOINT"


def _checkpoint_notes(layout: Layout, kind: Checkpoint, checkpoint: str | None, cards: Sequence[Gpu]) -> list[str]:
    notes = []
    if layout.precision == "fp8":
        if kind == "16-bit":
            notes.append(
                "fp8: the 16-bit checkpoint is quantised while it is loaded; one in fp8 is half the bytes to read"
            )
        emulating = sorted({card.name for card in cards if not card.multiplies("fp8")})
        if emulating:
            notes.append(
                f"{', '.join(emulating)} multiplies in 16 bits: fp8 saves memory and its reading, no operations"
            )
    elif layout.precision in _BITS and checkpoint is None:
        bits = _BITS[layout.precision]
        weights = {
            "compressed-tensors": "8-bit weights and activations (W8A8), as llm-compressor writes them",
            "awq": "4-bit weights in groups of 128 (AWQ)",
            "gptq": f"{bits}-bit weights in groups of 128 (GPTQ)",
        }
        if layout.precision == "int4":
            weights["compressed-tensors"] = "4-bit weights (W4A16), as llm-compressor writes them"
        notes.append(
            f"{layout.precision}: vLLM cannot make it from a 16-bit checkpoint; put the name of one with {weights[kind]} in"
            f" the placeholder's place"
        )
    return notes


def _gpu_notes(cards: Sequence[Gpu]) -> list[str]:
    notes = []
    by_architecture = {card.architecture: card.name for card in cards}
    if "Volta" in by_architecture:
        notes.append(
            f"{by_architecture['Volta']} (compute capability 7.0) has no bf16 and no fp8, and no FlashAttention 2: vLLM runs"
            " Triton attention. Published wheels (CUDA 12.9 and 13) leave Volta out: build vLLM from source, with CUDA 12.6"
            " and PyTorch's wheels for it"
        )
    if "Turing" in by_architecture:
        notes.append(
            f"{by_architecture['Turing']} (compute capability 7.5) has no bf16 and no FlashAttention 2: vLLM runs Triton"
            " attention, in fp16"
        )
    amd = sorted({card.name for card in cards if card.architecture not in CAPABILITY})
    if amd:
        notes.append(f"{', '.join(amd)}: needs vLLM's build for ROCm")
    return notes


def _node_notes(layout: Layout, nodes: Sequence[NodeCommand], head_address: str) -> list[str]:
    notes = []
    if len(nodes) > 1:
        notes.append(
            f"start all nodes with the same vLLM and the same checkpoint; node 0 serves, and {head_address} is its address"
        )
    beside = [node for node in nodes if "CUDA_VISIBLE_DEVICES" in node.env]
    if beside:
        notes.append("nodes of one machine are processes beside each other, each with GPUs of its own")
    if len(nodes) == 1 and layout.mixed:
        notes.append(
            f"the engine must see the GPUs in this order: {_counted(nodes[0].gpus)}; set CUDA_DEVICE_ORDER=PCI_BUS_ID and"
            " CUDA_VISIBLE_DEVICES so"
        )
    if layout.mixed:
        notes.append(
            "vLLM does not test pipelines over unlike GPUs: each worker picks its own kernels, and"
            " VLLM_PP_LAYER_PARTITION must be set on every node"
        )
    return notes


def _counted(names: Sequence[str]) -> str:
    counts: list[tuple[str, int]] = []
    for name in names:
        if counts and counts[-1][0] == name:
            counts[-1] = name, counts[-1][1] + 1
        else:
            counts.append((name, 1))
    return ", ".join(f"{count} x {name}" for name, count in counts)
