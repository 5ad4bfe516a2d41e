"""A load served by a real server, and the same requests through the kernel: what both say of TTFT and TPOT."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poolpilot.env.perf.law import IterationLaw, law_from_row
from poolpilot.env.sim import engine as kernel
from poolpilot.env.sim.engine_state import ACCEPTED, NEVER_PS, PS_PER_S, load_requests, make_engine

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
FOLDER = Path(__file__).parents[2] / "fixtures" / "vllm_server"
"""Where recordings are kept."""
BLOCK_TOKENS = 128
"""vLLM's KV block on CPUs."""


@dataclass(frozen=True)
class Flags:
    """Start flags that decide how a server batches."""

    max_num_seqs: int = 32
    max_num_batched_tokens: int = 1024
    max_model_len: int = 2048
    kv_blocks: int = 512
    """As given by `--num-gpu-blocks-override`: vLLM keeps one of them for itself."""

    @property
    def usable_blocks(self) -> int:
        """What requests can have."""
        return self.kv_blocks - 1


@dataclass(frozen=True)
class Load:
    """Requests to be sent. Symbol: `N` requests, in the order of arrival."""

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray


@dataclass(frozen=True)
class Served:
    """When requests were sent and answered, seconds since the first one's due time. Symbol: `N` requests."""

    sent_s: FloatArray
    first_token_s: FloatArray
    last_token_s: FloatArray
    output_tokens: IntArray

    @property
    def ttft_s(self) -> FloatArray:
        """`[N]` time to first token."""
        return self.first_token_s - self.sent_s

    @property
    def tpot_s(self) -> FloatArray:
        """`[M]` time per further token, of the requests that had one."""
        further = self.output_tokens > 1
        return (self.last_token_s - self.first_token_s)[further] / (self.output_tokens[further] - 1)


def simulate(load: Load, sent_s: FloatArray, law: IterationLaw, flags: Flags) -> tuple[Served, int]:
    """The same requests through the kernel, arriving when they were sent; and how often a sequence was preempted."""
    engine = make_engine(
        law.as_row()[None],
        kv_blocks=flags.usable_blocks,
        caps=flags.max_num_seqs,
        token_budgets=flags.max_num_batched_tokens,
        max_model_len=flags.max_model_len,
        max_seqs=flags.max_num_seqs,
        capacity=len(sent_s),
        block_tokens=BLOCK_TOKENS,
    )
    load_requests(engine, load.prompt_tokens, load.output_tokens, np.zeros(len(sent_s), dtype=np.int64))
    for request in np.argsort(sent_s, kind="stable"):
        now_ps = int(sent_s[request] * PS_PER_S)
        kernel.run(engine, 0, now_ps)
        if kernel.enqueue(engine, 0, int(request), now_ps) != ACCEPTED:
            raise AssertionError(f"request {request} was refused by the kernel")
    kernel.run(engine, 0, NEVER_PS)
    rows = engine.requests
    served = Served(sent_s, rows["first_token_ps"] / PS_PER_S, rows["finish_ps"] / PS_PER_S, load.output_tokens)
    return served, int(engine.replicas[0]["sequence_preemptions"])


@dataclass(frozen=True)
class Figure:
    """One figure of both sides."""

    name: str
    vllm_s: float
    simulator_s: float

    @property
    def off_frac(self) -> float:
        """Simulated over served, minus 1."""
        return self.simulator_s / self.vllm_s - 1.0


def figures(served: Served, simulated: Served) -> list[Figure]:
    """Mean and p95 of TTFT and TPOT, both sides."""
    found = []
    for name in ("ttft", "tpot"):
        ours, theirs = (getattr(side, f"{name}_s") for side in (simulated, served))
        found.append(Figure(f"{name.upper()} mean", float(theirs.mean()), float(ours.mean())))
        found.append(Figure(f"{name.upper()} p95", float(np.quantile(theirs, 0.95)), float(np.quantile(ours, 0.95))))
    return found


@dataclass(frozen=True)
class Recording:
    """A run of a real server, kept: the load, what became of it, and all that the kernel needs to run it again."""

    name: str
    vllm: str
    """Version."""
    flags: Flags
    law: IterationLaw
    load: Load
    served: Served
    preemptions: int
    """Sequences that vLLM threw out of its KV cache."""

    def write(self, path: Path) -> None:
        """As JSON, a line a column."""
        columns = {name: getattr(self.load, name).tolist() for name in ("prompt_tokens", "output_tokens")}
        for name in ("sent_s", "first_token_s", "last_token_s"):
            columns[name] = np.round(getattr(self.served, name), 5).tolist()
        document: dict[str, Any] = {
            "name": self.name,
            "vllm": self.vllm,
            "preemptions": self.preemptions,
            "flags": asdict(self.flags),
            "law_row": self.law.as_row().tolist(),
            **columns,
        }
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items())
        path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def read_recording(path: Path) -> Recording:
    """What `Recording.write` wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    sent_s, first_s, last_s = (np.array(document[name]) for name in ("sent_s", "first_token_s", "last_token_s"))
    prompts, outputs = (np.array(document[name]) for name in ("prompt_tokens", "output_tokens"))
    return Recording(
        document["name"],
        document["vllm"],
        Flags(**document["flags"]),
        law_from_row(np.array(document["law_row"])),
        Load(sent_s, prompts, outputs),
        Served(sent_s, first_s, last_s, outputs),
        document["preemptions"],
    )
