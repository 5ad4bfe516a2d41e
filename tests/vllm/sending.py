"""A load sent to a real server at its arrival times."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
import numpy as np

from poolpilot.commands.demonstration.real_vllm.tiny_model import VOCABULARY

from ..env.sim.served import Load, Served
from .serving import MODEL_NAME


async def serve(url: str, load: Load) -> tuple[Served, float]:
    """Send each request when it is due, stream its answer, and note the times, and the monotonic time that they count from.

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
                "stream_options": {"include_usage": True},
            }
        ).encode()
        for prompt, output in zip(load.prompt_tokens, load.output_tokens, strict=True)
    ]
    timeout = aiohttp.ClientTimeout(total=600, sock_connect=10)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        await _one(session, url, 0.0, 0.0, bodies[0])  # opens what is opened lazily
        origin_s = time.perf_counter() + 0.5
        due = zip(load.arrival_s, bodies, strict=True)
        times = await asyncio.gather(*(_one(session, url, origin_s, float(at), body) for at, body in due))
    sent, first, last, counted = (np.array(column) for column in zip(*times, strict=True))
    if not (counted == load.output_tokens).all():
        raise AssertionError(f"answers of {counted.tolist()} tokens, wanted {load.output_tokens.tolist()}")
    return Served(sent, first, last, load.output_tokens), origin_s


async def _one(
    session: aiohttp.ClientSession, url: str, origin_s: float, at_s: float, body: bytes
) -> tuple[float, float, float, int]:
    await asyncio.sleep(origin_s + at_s - time.perf_counter())
    sent_s = time.perf_counter() - origin_s
    first_s = last_s = float("nan")
    counted = 0
    headers = {"Content-Type": "application/json"}
    async with session.post(f"{url}/v1/completions", data=body, headers=headers) as answer:
        if answer.status != 200:
            raise AssertionError(f"status {answer.status}: {await answer.text()}")
        async for line in answer.content:
            if line.startswith(b"data: {"):
                now_s = time.perf_counter() - origin_s
                event = json.loads(line[6:])
                if event["choices"]:
                    first_s, last_s = (now_s if np.isnan(first_s) else first_s), now_s
                else:
                    counted = event["usage"]["completion_tokens"]
    return sent_s, first_s, last_s, counted
