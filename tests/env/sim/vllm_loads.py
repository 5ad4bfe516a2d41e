"""Unlike loads on which the kernel is held to vLLM's own scheduler; what that did lies in `tests/fixtures/vllm`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poolpilot.tests.env.sim.test_engine_against_oracle import tree_of

RECORDINGS = Path(__file__).parents[2] / "fixtures" / "vllm"
MS = 10**9  # ps
Rng = np.random.Generator


@dataclass(frozen=True)
class Load:
    """An engine, its requests, and what happens when. Loads are drawn by fixed seeds: they are the same anywhere."""

    requests: tuple[tuple[int, int, int, int], ...]
    """Prompt tokens, output tokens, priority, node of `tree` (-1 for none)."""
    events: tuple[tuple[int, str, int, int], ...]
    """Time in ps; `enqueue` or `abort` and the request, or `limit`, batch cap and token budget."""
    kv_blocks: int = 4000
    cap: int = 64
    token_budget: int = 2048
    max_model_len: int = 4096
    block_tokens: int = 16
    by_priority: bool = False
    prefix_caching: bool = False
    prefill_only: bool = False
    reserve_prompt: bool = True
    tree: tuple[tuple[int, int], ...] = ()
    """Parent and end of each node, in tokens."""
    iteration_ps: int = 10 * MS
    token_ps: int = MS // 20


def arriving(rng: Rng, count: int, mean_gap_ms: float, burst: int = 1) -> list[tuple[int, str, int, int]]:
    """Requests 0 to `count` - 1 one after the other, `burst` of them almost together; no two at the same time."""
    gaps = rng.exponential(mean_gap_ms * burst, count) * (np.arange(count) % burst == 0)
    times = (np.cumsum(gaps) * MS).astype(np.int64) + np.arange(count)
    return [(int(at), "enqueue", i, 0) for i, at in enumerate(times)]


def sizes(rng: Rng, count: int, prompt: tuple[int, int], output: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Requests of these ranges that share nothing, all of priority 0."""
    pairs = zip(rng.integers(*prompt, count).tolist(), rng.integers(*output, count).tolist(), strict=True)
    return [(p, o, 0, -1) for p, o in pairs]


def load_of(requests: list[tuple[int, int, int, int]], events: list[tuple[int, str, int, int]], **engine: Any) -> Load:
    """In the order of time."""
    return Load(tuple(requests), tuple(sorted(events)), **engine)


def light(rng: Rng) -> Load:
    """Seldom more than one at a time."""
    return load_of(sizes(rng, 60, (10, 400), (1, 60)), arriving(rng, 60, 700))


def saturated(rng: Rng) -> Load:
    """Many more come than run at a time."""
    return load_of(sizes(rng, 160, (20, 300), (5, 80)), arriving(rng, 160, 20), cap=16, token_budget=512)


def kv_pressure(rng: Rng) -> Load:
    """Answers outgrow the KV cache."""
    return load_of(sizes(rng, 120, (50, 250), (50, 300)), arriving(rng, 120, 60), kv_blocks=110, cap=32)


def long_prompts(rng: Rng) -> Load:
    """Prompts of many chunks beside short ones that decode."""
    requests = sizes(rng, 60, (10, 80), (40, 120))
    requests[::4] = sizes(rng, 15, (1500, 4000), (1, 40))
    return load_of(requests, arriving(rng, 60, 250), token_budget=512)


def prompts_over_the_budget(rng: Rng) -> Load:
    """Hardly any prompt fits into an iteration, and blocks are short."""
    return load_of(sizes(rng, 80, (40, 500), (2, 60)), arriving(rng, 80, 150), kv_blocks=64, cap=12, token_budget=48)


def first_chunk_suffices(rng: Rng) -> Load:
    """Admission that looks at the first chunk only, as before 2026, and so throws out requests in mid-prompt."""
    return load_of(
        sizes(rng, 80, (40, 700), (2, 90)),
        arriving(rng, 80, 120, burst=4),
        kv_blocks=64,
        cap=12,
        token_budget=96,
        reserve_prompt=False,
    )


def system_prompts(rng: Rng) -> Load:
    """Three long beginnings, the same for all requests of a class."""
    tree = tree_of([(0, 1000), (0, 400), (0, 1552)])
    requests = [
        (tree[node][1] + int(rng.integers(1, 200)), int(rng.integers(5, 80)), 0, node)
        for node in rng.integers(0, 3, 120).tolist()
    ]
    return load_of(requests, arriving(rng, 120, 60), kv_blocks=800, prefix_caching=True, tree=tree)


def conversations(rng: Rng) -> Load:
    """Each turn repeats all turns before it, in a cache too small for all of them."""
    tree: list[tuple[int, int]] = [(-1, 200)]
    requests, last = [], [0] * 10
    for turn in rng.integers(0, 10, 140).tolist():
        parent = last[turn] if tree[last[turn]][1] < 1500 else 0
        tree.append((parent, tree[parent][1] + int(rng.choice([16, 48, 75, 130]))))
        last[turn] = len(tree) - 1
        requests.append((tree[-1][1] + int(rng.integers(0, 2) * 5), int(rng.integers(5, 60)), 0, last[turn]))
    return load_of(
        requests,
        arriving(rng, 140, 45),
        kv_blocks=260,
        cap=16,
        token_budget=512,
        prefix_caching=True,
        tree=tuple(tree),
    )


def equal_prompts(rng: Rng) -> Load:
    """The same few prompts over and over, some of whole blocks, which are computed again though they are cached."""
    tree = tree_of([(0, 64), (1, 64), (2, 50), (0, 160)])
    requests = [
        (tree[node][1] + int(rng.choice([0, 0, 0, 40])), int(rng.integers(1, 90)), 0, node)
        for node in rng.integers(0, 4, 160).tolist()
    ]
    return load_of(requests, arriving(rng, 160, 30), kv_blocks=70, cap=16, prefix_caching=True, tree=tree)


def with_priorities(rng: Rng, requests: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """The same requests in three classes of service."""
    return [(p, o, int(rng.integers(-1, 2)), node) for p, o, _, node in requests]


def priorities(rng: Rng) -> Load:
    """Three classes wait for few places."""
    requests = with_priorities(rng, sizes(rng, 140, (20, 300), (5, 80)))
    return load_of(requests, arriving(rng, 140, 25, burst=3), cap=12, token_budget=512, by_priority=True)


def priorities_under_kv_pressure(rng: Rng) -> Load:
    """The least important are thrown out, wherever they stand in the batch."""
    requests = with_priorities(rng, sizes(rng, 140, (30, 250), (50, 260)))
    return load_of(requests, arriving(rng, 140, 60, burst=3), kv_blocks=100, cap=24, token_budget=256, by_priority=True)


def limits(rng: Rng, cap: int, token_budget: int) -> list[tuple[int, str, int, int]]:
    """New limits every second or so, never above the first ones."""
    times = np.cumsum(rng.exponential(900, 14)) * MS
    return [
        (int(at) + 500_000, "limit", int(rng.integers(1, cap + 1)), int(rng.integers(2, token_budget + 1)))
        for at in times
    ]


def live_caps(rng: Rng) -> Load:
    """The batch cap goes up and down under load."""
    changes = [(at, what, cap, 512) for at, what, cap, _ in limits(rng, 24, 512)]
    events = [*arriving(rng, 150, 60), *changes]
    return load_of(sizes(rng, 150, (20, 250), (10, 90)), events, cap=24, token_budget=512)


def live_token_budgets(rng: Rng) -> Load:
    """The token budget goes up and down, also below the number of sequences that run; blocks are short."""
    changes = [(at, what, 24, int(rng.choice([4, 20, 100, 512]))) for at, what, _, _ in limits(rng, 24, 512)]
    events = [*arriving(rng, 150, 60), *changes]
    return load_of(sizes(rng, 150, (20, 250), (10, 90)), events, kv_blocks=140, cap=24, token_budget=512)


def prefill_only(rng: Rng) -> Load:
    """Embeddings: prompts alone, some of them repeated."""
    tree = tree_of([(0, 96), (0, 128), (2, 300)])
    requests = []
    for node in rng.integers(-1, 3, 160).tolist():
        requests.append(((tree[node][1] if node >= 0 else 1) + int(rng.choice([0, 3, 200])), 0, 0, node))
    return load_of(
        requests,
        arriving(rng, 160, 15),
        kv_blocks=150,
        cap=32,
        token_budget=512,
        prefill_only=True,
        prefix_caching=True,
        tree=tree,
    )


def aborts(rng: Rng) -> Load:
    """A third of the clients hang up, waiting, in mid-prompt or while tokens come."""
    come = arriving(rng, 140, 50)
    gone = [(at + int(rng.exponential(1200) * MS), "abort", i, 0) for at, _, i, _ in come if rng.random() < 0.35]
    requests = sizes(rng, 140, (30, 400), (20, 200))
    return load_of(requests, [*come, *gone], kv_blocks=140, cap=16, token_budget=256)


def everything(rng: Rng) -> Load:
    """Priorities, conversations in a small cache, equal prompts, clients that hang up, and limits that move."""
    plain = conversations(rng)
    come = arriving(rng, 140, 60, burst=2)
    gone = [(at + int(rng.exponential(1500) * MS), "abort", i, 0) for at, _, i, _ in come if rng.random() < 0.2]
    requests = [(p, int(rng.integers(20, 300)), int(rng.integers(-1, 2)), node) for p, _, _, node in plain.requests]
    return load_of(
        requests,
        [*come, *gone, *limits(rng, 16, 512)],
        kv_blocks=150,
        cap=16,
        token_budget=512,
        prefix_caching=True,
        by_priority=True,
        tree=plain.tree,
    )


_DRAWN: tuple[Callable[[Rng], Load], ...] = (
    *(light, saturated, kv_pressure, long_prompts, prompts_over_the_budget, first_chunk_suffices),
    *(system_prompts, conversations, equal_prompts, priorities, priorities_under_kv_pressure),
    *(live_caps, live_token_budgets, prefill_only, aborts, everything),
)
LOADS: dict[str, Load] = {draw.__name__: draw(np.random.default_rng(i)) for i, draw in enumerate(_DRAWN)}


def as_document(load: Load) -> dict[str, Any]:
    """For the recorder, which imports nothing of ours."""
    return asdict(load)


def recording_of(name: str) -> tuple[str, list[list[Any]]]:
    """The version of vLLM, and what its scheduler did with a load.

    Raises:
        ValueError: the load is not the one that was recorded.
    """
    document = json.loads(gzip.decompress((RECORDINGS / f"{name}.json.gz").read_bytes()))
    if document["load"] != json.loads(json.dumps(as_document(LOADS[name]))):
        raise ValueError(f"{name}: the load has changed since it was recorded; record it again (make test-vllm)")
    return document["vllm"], document["iterations"]


def keep_recording(name: str, version: str, iterations: list[list[Any]]) -> None:
    """Write a recording, always the same bytes for the same content."""
    document = {"vllm": version, "load": as_document(LOADS[name]), "iterations": iterations}
    RECORDINGS.mkdir(parents=True, exist_ok=True)
    packed = gzip.compress(json.dumps(document, separators=(",", ":")).encode(), mtime=0)
    (RECORDINGS / f"{name}.json.gz").write_bytes(packed)
