"""The engine again, slow and plain: every request of every iteration and every block of the KV cache is looked at.

Written from the rules of vLLM's V1 scheduler and block pool, not from the kernel; the two share no code and no data
layout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

PS_PER_S = 10**12


@dataclass(eq=False)
class Block:
    """One block of the KV cache."""

    holders: int = 0
    key: int | None = None
    """Stands for all tokens up to its end, once it is full."""


@dataclass
class Pool:
    """All blocks of an engine; those that nobody holds in the order in which they will be taken."""

    free: deque[Block]
    by_key: dict[int, list[Block]] = field(default_factory=dict)
    """Blocks with this content, the first cached first."""

    @classmethod
    def of(cls, blocks: int) -> Pool:
        """All free, nothing cached."""
        return cls(deque(Block() for _ in range(blocks)))

    def take(self, count: int) -> list[Block]:
        """New blocks; what was cached in them is lost."""
        taken = [self.free.popleft() for _ in range(count)]
        for block in taken:
            if block.key is not None:
                self.by_key[block.key].remove(block)
                block.key = None
            block.holders = 1
        return taken

    def hold(self, block: Block) -> None:
        """One more request reads a cached block."""
        if block.holders == 0:
            self.free.remove(block)
        block.holders += 1

    def give_back(self, blocks: Iterable[Block]) -> None:
        """Free blocks in this order, which is that of their eviction."""
        nameless, cached = [], []
        for block in blocks:
            block.holders -= 1
            if block.holders == 0:
                (nameless if block.key is None else cached).append(block)
        self.free.extendleft(reversed(nameless))
        self.free.extend(cached)

    def remember(self, block: Block, key: int) -> None:
        """A block has become full."""
        block.key = key
        self.by_key.setdefault(key, []).append(block)


@dataclass(eq=False)
class Request:
    """One request; times in ps."""

    name: int
    prompt: int
    output: int
    priority: int = 0
    shared: tuple[tuple[int, int], ...] = ()
    """What its prompt begins with: names of stretches that other prompts have too, and where each ends."""
    ticket: int = 0
    arrival: int | None = None
    generated: int = 0
    computed: int = 0
    blocks: list[Block] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    prefilled: bool = False
    was_preempted: bool = False
    ever_computed: int = 0
    preemptions: int = 0
    first_token: int | None = None
    finish: int | None = None

    def token(self, position: int) -> tuple[str, int, int]:
        """Stands for the token at this position."""
        for name, end in self.shared:
            if position < end:
                return ("shared", name, position)
        return ("own", self.name, position)

    @property
    def rank(self) -> tuple[int, int]:
        """Place among others where priorities count."""
        return self.priority, self.ticket

    @property
    def tokens(self) -> int:
        """Known tokens: the prompt and what has been generated."""
        return self.prompt + self.generated


@dataclass(frozen=True)
class Iteration:
    """What one iteration was."""

    start: int
    end: int
    useful: int
    tokens_out: dict[int, int]
    scheduled: tuple[int, ...]
    computed: tuple[int, ...]
    finished: tuple[Request, ...]
    preempted: tuple[int, ...]


@dataclass
class Law:
    """Iteration time from a row of seconds, in whole ps."""

    seq: int
    kv: int
    pair_fs: int
    best: int
    linear: list[int]
    grid: list[int]

    @classmethod
    def from_row(cls, row: Sequence[float], grid: Sequence[float]) -> Law:
        seq, kv, pair, best, *linear = row
        return cls(
            seq=round(seq * PS_PER_S),
            kv=round(kv * PS_PER_S),
            pair_fs=round(pair * PS_PER_S * 1000.0),
            best=round(best * PS_PER_S),
            linear=[round(x * PS_PER_S) for x in linear],
            grid=[int(x) for x in grid],
        )

    def linear_at(self, tokens: int) -> int:
        """Piecewise linear, rounded down, last slope beyond the end."""
        for (x0, y0), (x1, y1) in pairwise(zip(self.grid, self.linear, strict=True)):
            if tokens < x1 or x1 == self.grid[-1]:
                return y0 + (y1 - y0) * (tokens - x0) // (x1 - x0)
        raise AssertionError("a grid has at least two points")


@dataclass
class Oracle:
    """One replica."""

    law: Law
    total_blocks: int
    cap: int
    token_budget: int
    max_model_len: int
    block_tokens: int
    reserve_prompt: bool
    by_priority: bool = False
    prefix_caching: bool = False
    clock: int = 0
    tickets: int = 0
    running: list[Request] = field(default_factory=list)
    waiting: list[Request] = field(default_factory=list)
    log: list[Iteration] = field(default_factory=list)
    prompt_tokens: int = 0
    recomputed_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    finished: list[Request] = field(default_factory=list)
    keys: dict[object, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nothing is cached."""
        self.pool = Pool.of(self.total_blocks)

    def enqueue(self, request: Request, now: int) -> bool:
        """Accept a request, or say that it can never be served."""
        if request.arrival is None:
            request.arrival = now
        most_kept = request.prompt + request.output - (1 if request.output else 0)
        if request.prompt + request.output > self.max_model_len or self._blocks(most_kept) > self.total_blocks:
            return False
        request.generated = request.computed = request.ever_computed = 0
        request.prefilled = request.was_preempted = False
        request.first_token = request.finish = None
        if not self.running and not self.waiting:
            self.clock = max(self.clock, now)
        self.tickets += 1
        request.ticket = self.tickets
        self.waiting.append(request)
        self._sort()
        return True

    def _sort(self) -> None:
        if self.by_priority:
            self.waiting.sort(key=lambda request: request.rank)

    def run(self, until: int) -> None:
        """Every iteration that starts before `until`."""
        while self.clock < until and (self.running or self.waiting):
            self.iterate()

    def iterate(self) -> None:
        """One iteration."""
        preempted: list[Request] = []
        chunks: dict[Request, int] = {}
        index = 0
        while index < len(self.running) and sum(chunks.values()) < self.token_budget:
            request = self.running[index]
            chunk = min(request.tokens - request.computed, self.token_budget - sum(chunks.values()))
            while request not in preempted and not self._allocate(request, chunk):
                victim = max(self.running, key=lambda r: r.rank) if self.by_priority else self.running[-1]
                index -= self.running.index(victim) < index
                self.running.remove(victim)
                chunks.pop(victim, None)
                self._preempt(victim)
                preempted.append(victim)
            if request in preempted:
                break
            chunks[request] = chunk
            index += 1
        while not preempted and self.waiting and len(self.running) < self.cap:
            budget = self.token_budget - sum(chunks.values())
            request = self.waiting[0]
            hits = self._hits(request)
            computed = len(hits) * self.block_tokens
            chunk = min(request.tokens - computed, budget)
            if chunk == 0:
                break
            evictable = sum(block.holders == 0 for block in hits)
            if self.reserve_prompt and self._blocks(request.tokens) - len(hits) + evictable > len(self.pool.free):
                break
            if self._blocks(computed + chunk) - len(hits) + evictable > len(self.pool.free):
                break
            for block in hits:
                self.pool.hold(block)
            request.blocks, request.computed = list(hits), computed
            if self.prefix_caching and not request.was_preempted:
                self.prefix_queries += request.tokens
                self.prefix_hits += computed
            assert self._allocate(request, chunk)
            self.running.append(self.waiting.pop(0))
            chunks[request] = chunk
        self._execute(chunks, preempted)

    def _hits(self, request: Request) -> list[Block]:
        """Cached blocks of what a waiting request begins with, without its last token, which is to be computed."""
        hits: list[Block] = []
        if self.prefix_caching:
            for key in self._keys(request)[: (request.tokens - 1) // self.block_tokens]:
                if not self.pool.by_key.get(key):
                    break
                hits.append(self.pool.by_key[key][0])
        return hits

    def _keys(self, request: Request) -> list[int]:
        """Of all blocks that its known tokens fill."""
        while (len(request.keys) + 1) * self.block_tokens <= request.tokens:
            start = len(request.keys) * self.block_tokens
            own = tuple(request.token(position) for position in range(start, start + self.block_tokens))
            chained = (request.keys[-1] if request.keys else None, own)
            request.keys.append(self.keys.setdefault(chained, len(self.keys)))
        return request.keys

    def _execute(self, chunks: dict[Request, int], preempted: list[Request]) -> None:
        assert chunks or preempted, "an iteration without work would never end"
        linear = self.law.linear_at(sum(chunks.values())) if chunks else 0
        square = fresh = fresh_square = reading = 0
        for request, chunk in chunks.items():
            old, new = request.computed, request.computed + chunk
            if request.prefilled:
                reading += self.law.kv * new + self.law.seq
                fresh += 1
            else:
                square += new * new - old * old
                for position in range(old, new):
                    if position < request.ever_computed:
                        self.recomputed_tokens += 1
                        continue
                    fresh += 1
                    fresh_square += (position + 1) ** 2 - position**2
                    self.prompt_tokens += position < request.prompt
            request.computed = new
        start = self.clock
        self.clock += linear + reading + self.law.pair_fs * square // 2000
        useful = self.law.best * fresh + reading + self.law.pair_fs * fresh_square // 2000
        tokens_out: dict[int, int] = {}
        done = []
        for request in chunks:
            if request.computed < request.tokens:
                continue
            request.prefilled = True
            if request.output > 0:
                request.generated += 1
                tokens_out[request.name] = request.generated
                if request.first_token is None:
                    request.first_token = self.clock
            if request.generated == request.output:
                request.finish = self.clock
                self._free(request)
                done.append(request)
        self.running = [request for request in self.running if request not in done]
        self.finished += done
        names = tuple(request.name for request in chunks)
        thrown_out = tuple(request.name for request in preempted)
        self.log.append(
            Iteration(start, self.clock, useful, tokens_out, names, tuple(chunks.values()), tuple(done), thrown_out)
        )

    def abort(self, request: Request) -> bool:
        """The client hung up."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        else:
            return False
        self._free(request)
        return True

    def evict_all(self, now: int) -> list[Request]:
        """The machine is gone at `now`; what ends later did not happen."""
        lost = [*self.running, *self.waiting]
        if self.log and self.log[-1].end > now:
            last = self.log.pop()
            lost += last.finished
            self.finished = [request for request in self.finished if request not in last.finished]
            self.log.append(Iteration(last.start, now, 0, {}, last.scheduled, last.computed, (), last.preempted))
            self.clock = now
        self.running, self.waiting = [], []
        self.pool = Pool.of(self.total_blocks)
        for request in lost:
            request.blocks = []
            request.finish = None
            if request.first_token is not None and request.first_token > now:
                request.first_token = None
        return lost

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds."""
        return len(self.pool.free)

    @property
    def cached_blocks(self) -> int:
        """Of those, blocks that hold something."""
        return sum(block.key is not None for block in self.pool.free)

    def busy(self, now: int) -> int:
        """Time in iterations up to `now`."""
        return sum(max(min(one.end, now) - one.start, 0) for one in self.log)

    def tokens_generated(self, now: int) -> int:
        """Tokens out at `now`."""
        return sum(len(one.tokens_out) for one in self.log if one.end <= now)

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def _allocate(self, request: Request, chunk: int) -> bool:
        more = self._blocks(request.computed + chunk) - len(request.blocks)
        if more > len(self.pool.free):
            return False
        request.blocks += self.pool.take(more)
        if self.prefix_caching:
            full = (request.computed + chunk) // self.block_tokens
            for block, key in zip(request.blocks[:full], self._keys(request), strict=False):
                if block.key is None:
                    self.pool.remember(block, key)
        return True

    def _free(self, request: Request) -> None:
        self.pool.give_back(reversed(request.blocks))
        request.blocks = []

    def _preempt(self, request: Request) -> None:
        request.ever_computed = max(request.ever_computed, request.computed)
        self._free(request)
        request.computed = 0
        request.prefilled = False
        request.was_preempted = True
        request.preemptions += 1
        self.waiting.insert(0, request)
        self._sort()
