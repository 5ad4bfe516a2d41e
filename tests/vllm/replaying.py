"""A load sent to a server at its arrival times, and the same requests through the kernel."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray

from poolpilot.env.perf.law import IterationLaw
from poolpilot.env.sim import engine as kernel
from poolpilot.env.sim.engine_state import ACCEPTED, NEVER_PS, PS_PER_S, load_requests, make_engine

from .serving import BLOCK_TOKENS, MODEL_NAME, Flags
from .tiny_model import VOCABULARY

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ORIGIN = []


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


async def serve(url: str, load: Load) -> Served:
    """Send each request when it is due, stream its answer, and note the times.

    Prompts are token ids, all different, so that nothing is tokenised and no prefix is shared.
    """
    rng = np.random.default_rng(7)
    bodies = [
        json.dumps(
            {
                "model": MODEL_NAME,
                "prompt": rng.integers(3, VOCABULARY, prompt).tolist(),
                "max_tokens": int(output),
                "ignore_eos": True,
                "temperature": 0.0,
                "stream": True,
            }
        ).encode()
        for prompt, output in zip(load.prompt_tokens, load.output_tokens, strict=True)
    ]
    timeout = aiohttp.ClientTimeout(total=600, sock_connect=10)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        await _one(session, url, 0.0, 0.0, bodies[0])  # opens what is opened lazily
        origin_s = time.perf_counter() + 0.5
        ORIGIN.append(origin_s)
        due = zip(load.arrival_s, bodies, strict=True)
        times = await asyncio.gather(*(_one(session, url, origin_s, float(at), body) for at, body in due))
    sent, first, last, pieces = (np.array(column) for column in zip(*times, strict=True))
    if not (pieces == load.output_tokens).all():
        raise AssertionError(f"answers of {pieces.tolist()} pieces, wanted {load.output_tokens.tolist()}")
    return Served(sent, first, last, load.output_tokens)


async def _one(
    session: aiohttp.ClientSession, url: str, origin_s: float, at_s: float, body: bytes
) -> tuple[float, float, float, int]:
    await asyncio.sleep(origin_s + at_s - time.perf_counter())
    sent_s = time.perf_counter() - origin_s
    first_s = last_s = float("nan")
    pieces = 0
    headers = {"Content-Type": "application/json"}
    async with session.post(f"{url}/v1/completions", data=body, headers=headers) as answer:
        if answer.status != 200:
            raise AssertionError(f"status {answer.status}: {await answer.text()}")
        async for line in answer.content:
            if line.startswith(b"data: {"):
                last_s = time.perf_counter() - origin_s
                pieces += 1
                if pieces == 1:
                    first_s = last_s
    return sent_s, first_s, last_s, pieces


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


def recording(name: str, load: Load, served: Served, law: IterationLaw, flags: Flags, version: str) -> dict[str, Any]:
    """A run as a JSON document, from which `replay_of` makes it again."""
    times = {
        field: np.round(getattr(served, field), 5).tolist() for field in ("sent_s", "first_token_s", "last_token_s")
    }
    lengths = {field: getattr(load, field).tolist() for field in ("prompt_tokens", "output_tokens")}
    return {"name": name, "vllm": version, "flags": asdict(flags), "law_row": law.as_row().tolist(), **lengths, **times}
