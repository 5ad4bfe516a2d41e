"""What `poolpilot profile` asks of an endpoint: a short list of probes that tells the law's terms apart.

Decoding at several batch sizes and contexts gives the linear part at few tokens, the KV reads and the cost of a sequence;
prompts of several lengths, one at a time, give the linear part at many tokens and the attended pairs. Every fourth shape
or so is held out from the fit, to judge it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

STEADY_ITERATIONS = 32
"""Iterations a decode probe is timed over."""
_FIRST_TOKENS = 8
"""Further tokens of each answer, so that the first sequence has not finished when the last one has begun."""
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_BATCHES_HELD_OUT = (3, 12, 24, 48, 96, 192)
_CONTEXTS = (64, 1024, 4096)
_CONTEXT_HELD_OUT = 512
_LONG_CONTEXT_BATCH = 8
"""Largest batch at the longest context: the KV reads show, and the prompts stay affordable."""
_PROMPTS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
"""Close together where products turn from memory-bound to compute-bound, and take steps as their tiles fill the GPU."""
_PROMPTS_OVER_BUDGET = (528, 1040, 2064, 4112)
"""A little more than each likely token budget: such a prompt takes an iteration more, which shows whose budget it is."""
_PROMPTS_HELD_OUT = (48, 160, 320, 640, 1536, 3072, 6144)
_PREFILL_REPEATS, _LONG_PREFILL_REPEATS = 5, 3
"""A prompt's time is a single measurement, not a mean over iterations: the least of several, fewer of dear ones."""
_SHORT_PROMPT = 512
_ROUND, _LONGER = 32, 1.3
_ASSUMED_BUDGET = 2048
"""vLLM's smallest default of `max_num_batched_tokens` for an online server; only decides how long answers must be."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Requests sent together, all of one shape."""

    kind: Literal["decode", "prefill"]
    sequences: int
    prompt_tokens: int
    output_tokens: int
    held_out: bool
    repeats: int = 1

    @property
    def requests(self) -> int:
        """What it costs."""
        return self.repeats * self.sequences

    @property
    def tokens(self) -> int:
        """What it costs, prompts and answers together."""
        return self.requests * (self.prompt_tokens + self.output_tokens)


@dataclass(frozen=True, slots=True)
class SweepLimits:
    """What a sweep may cost, and what the endpoint can take."""

    max_requests: int
    max_tokens: int
    """Prompts and answers together."""
    max_concurrency: int
    max_prompt_tokens: int
    kv_tokens: int | None = None
    """Tokens of the endpoint's KV cache, where it tells them."""
    token_budget: int | None = None
    """Its `max_num_batched_tokens`, where known."""


def plan_sweep(limits: SweepLimits) -> list[Probe]:
    """The probes, in the order in which they are worth their cost: whatever does not fit is left out from the end.

    The first ones are few and cheap and already make a law, so that a sweep that is cut short still ends with one.
    """
    chosen, requests, tokens = [], 0, 0
    for probe in _by_worth(limits):
        if requests + probe.requests > limits.max_requests or tokens + probe.tokens > limits.max_tokens:
            continue
        chosen.append(probe)
        requests += probe.requests
        tokens += probe.tokens
    return chosen


def decode_probe(sequences: int, prompt_tokens: int, held_out: bool, token_budget: int | None) -> Probe:
    """Answers long enough that all sequences decode together for `STEADY_ITERATIONS`, the last one's prefill included."""
    prefilling = math.ceil(sequences * prompt_tokens / max((token_budget or _ASSUMED_BUDGET) - sequences, 1))
    return Probe("decode", sequences, prompt_tokens, prefilling + _FIRST_TOKENS + STEADY_ITERATIONS, held_out)


def _by_worth(limits: SweepLimits) -> Iterator[Probe]:
    short, middle, long = _CONTEXTS
    largest = limits.max_concurrency
    batches = [n for n in _BATCHES if n < largest] + [largest]
    held_out = [n for n in _BATCHES_HELD_OUT if n < largest]
    yield from _decodes(batches, short, False, limits)
    middle_first = _ends(batches)
    yield from _decodes(middle_first[:1], middle, False, limits)
    yield from _prefills([*_PROMPTS, *_longest(limits)], False, limits)
    if limits.token_budget is None:
        yield from _prefills(_PROMPTS_OVER_BUDGET, False, limits)
    yield from _decodes(middle_first[1:], middle, False, limits)
    yield from _decodes(held_out, short, True, limits)
    yield from _prefills(_PROMPTS_HELD_OUT, True, limits)
    yield from _decodes([n for n in batches if n <= _LONG_CONTEXT_BATCH][-2:], long, False, limits)
    yield from _decodes(_ends(held_out), _CONTEXT_HELD_OUT, True, limits)
    yield from _decodes([n for n in batches if n not in middle_first], middle, False, limits)


def _ends(batches: Sequence[int]) -> list[int]:
    """The middle one, the smallest and the largest, which is the dearest."""
    return list(dict.fromkeys((batches[len(batches) // 2], batches[0], batches[-1]))) if batches else []


def _decodes(batches: Sequence[int], prompt: int, held_out: bool, limits: SweepLimits) -> Iterator[Probe]:
    for n in batches:
        probe = decode_probe(n, prompt, held_out, limits.token_budget)
        fits = limits.kv_tokens is None or probe.tokens <= limits.kv_tokens
        if fits and prompt + probe.output_tokens <= limits.max_prompt_tokens:
            yield probe


def _prefills(prompts: Sequence[int], held_out: bool, limits: SweepLimits) -> Iterator[Probe]:
    for prompt in prompts:
        if prompt < _room(limits):
            repeats = _PREFILL_REPEATS if prompt <= _SHORT_PROMPT else _LONG_PREFILL_REPEATS
            yield Probe("prefill", 1, prompt, 1, held_out, repeats)


def _room(limits: SweepLimits) -> int:
    """Tokens of the longest request."""
    return min(limits.max_prompt_tokens, limits.kv_tokens or limits.max_prompt_tokens)


def _longest(limits: SweepLimits) -> list[int]:
    """A prompt about as long as can be, if none of the others is: only iterations late in a long prompt show attention."""
    longest = (_room(limits) - _ROUND) // _ROUND * _ROUND
    below = [prompt for prompt in _PROMPTS if prompt < _room(limits)]
    return [longest] if below and below[-1] * _LONGER < longest < _PROMPTS[-1] else []
