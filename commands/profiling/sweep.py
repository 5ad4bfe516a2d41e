"""Run the probes of a sweep one after the other, within what it may cost, and tell which were disturbed."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...env.perf.profiling import Observation
from ...env.perf.sweep import Probe
from ...env.perf.timing import NotSteady, steady_iteration_s
from ...telemetry.engine_page import EnginePage
from .endpoint import Answer, Endpoint

_FOREIGN_FRAC = 0.02
_FOREIGN_TOKENS = 32
"""Tokens beyond ours, as a share and in all, from which on other traffic is said to have run."""
_SETTLE_S = 2.0
"""How long the engine may take to empty itself after a probe, and its page to say so."""
WARM_UP = Probe("decode", 1, 16, 4, held_out=False)
"""Opens what client and server open lazily; not timed."""


@dataclass
class Swept:
    """What a sweep found."""

    observations: list[Observation] = field(default_factory=list)
    disturbed: list[Observation] = field(default_factory=list)
    """Timed while somebody else's requests ran."""
    notes: list[str] = field(default_factory=list)
    requests: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Allowance:
    """What the whole sweep may cost, repeated probes included."""

    max_requests: int
    max_tokens: int
    budget_s: float


async def run_sweep(
    endpoint: Endpoint,
    probes: Sequence[Probe],
    allowance: Allowance,
    rng: np.random.Generator,
    advanced: Callable[[], None],
) -> Swept:
    """Time the probes; ends early, with what it has, when the time is over.

    Raises:
        EndpointError: the endpoint refuses or does not stream.
    """
    swept = Swept()
    start_s = time.monotonic()
    try:
        async with asyncio.timeout(allowance.budget_s):
            await _send(endpoint, WARM_UP, swept, rng)
            await _run_all(endpoint, probes, allowance, swept, rng, advanced)
    except TimeoutError:
        done = len(swept.observations) + len(swept.disturbed)
        swept.notes.append(f"out of time after {allowance.budget_s:g} s: {done} of {len(probes)} probes were timed")
    swept.seconds = time.monotonic() - start_s
    return swept


async def _run_all(
    endpoint: Endpoint,
    probes: Sequence[Probe],
    allowance: Allowance,
    swept: Swept,
    rng: np.random.Generator,
    advanced: Callable[[], None],
) -> None:
    too_many = math.inf
    for probe in probes:
        advanced()
        if probe.sequences >= too_many:
            continue
        before = await _idle_page(endpoint)
        tokens_before = swept.tokens
        try:
            observation = await _timed(endpoint, probe, allowance, swept, rng)
        except NotSteady as error:
            too_many = min(too_many, probe.sequences)
            swept.notes.append(f"{error}; it may not run so many at once (max_num_seqs): no more than that were tried")
            continue
        after = await endpoint.page()
        if before and after and after.preemptions_total > before.preemptions_total:
            swept.notes.append(
                f"{probe.sequences} x {probe.prompt_tokens} tokens: sequences were preempted, its KV cache was full; left out"
            )
        elif _disturbed(before, after, swept.tokens - tokens_before):
            swept.disturbed.append(observation)
        else:
            swept.observations.append(observation)


async def _timed(
    endpoint: Endpoint, probe: Probe, allowance: Allowance, swept: Swept, rng: np.random.Generator
) -> Observation:
    if probe.kind == "prefill":
        ttfts = [(await _send(endpoint, probe, swept, rng))[0].ttft_s for _ in range(probe.repeats)]
        # What disturbs a lone prompt (the network, either machine) only ever makes it later.
        return _observation(probe, min(ttfts), 0.0)
    answers = await _send(endpoint, probe, swept, rng)
    try:
        seconds, context = _steady(answers, probe)
    except NotSteady:
        # The prompts took more iterations than thought: its token budget is smaller.
        longer = replace(probe, output_tokens=3 * probe.output_tokens)
        room = allowance.max_tokens - swept.tokens, allowance.max_requests - swept.requests
        if longer.tokens > room[0] or longer.requests > room[1]:
            raise
        answers = await _send(endpoint, longer, swept, rng)
        seconds, context = _steady(answers, longer)
    return _observation(probe, seconds, context)


def _steady(answers: Sequence[Answer], probe: Probe) -> tuple[float, float]:
    return steady_iteration_s([answer.stream(probe.output_tokens) for answer in answers], probe.prompt_tokens)


def _observation(probe: Probe, seconds: float, context_tokens: float) -> Observation:
    return Observation(probe.kind, probe.sequences, probe.prompt_tokens, context_tokens, seconds, probe.held_out)


async def _send(endpoint: Endpoint, probe: Probe, swept: Swept, rng: np.random.Generator) -> list[Answer]:
    """The probe's requests, all at once."""
    swept.requests += probe.sequences
    swept.tokens += probe.sequences * (probe.prompt_tokens + probe.output_tokens)
    try:
        async with asyncio.TaskGroup() as group:
            streams = [
                group.create_task(endpoint.stream(probe.prompt_tokens, probe.output_tokens, rng))
                for _ in range(probe.sequences)
            ]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [stream.result() for stream in streams]


async def _idle_page(endpoint: Endpoint) -> EnginePage | None:
    """The page once our own last probe has left the engine, or as it is after a while."""
    deadline_s = time.monotonic() + _SETTLE_S
    page = await endpoint.page()
    while page and page.running + page.waiting > 0 and time.monotonic() < deadline_s:
        await asyncio.sleep(0.1)
        page = await endpoint.page()
    return page


def _disturbed(before: EnginePage | None, after: EnginePage | None, own_tokens: int) -> bool:
    """Whether others' requests ran meanwhile, as far as the pages tell."""
    if before is None or after is None:
        return False
    if before.running + before.waiting > 0:
        return True
    total = sum(
        getattr(after, name) - getattr(before, name) for name in ("prompt_tokens_total", "generation_tokens_total")
    )
    return bool(total - own_tokens > _FOREIGN_FRAC * own_tokens + _FOREIGN_TOKENS)
