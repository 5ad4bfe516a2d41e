"""The engine again, slow and plain: every request of every iteration is looked at, nothing is leapt over or remembered.

Written from the rules of vLLM's V1 scheduler, not from the kernel; the two share no code and no data layout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

PS_PER_S = 10**12


@dataclass(eq=False)
class Request:
    """One request; times in ps."""

    name: int
    prompt: int
    output: int
    arrival: int | None = None
    generated: int = 0
    computed: int = 0
    blocks: int = 0
    prefilled: bool = False
    ever_computed: int = 0
    preemptions: int = 0
    first_token: int | None = None
    finish: int | None = None

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
    clock: int = 0
    running: list[Request] = field(default_factory=list)
    waiting: deque[Request] = field(default_factory=deque)
    log: list[Iteration] = field(default_factory=list)
    prompt_tokens: int = 0
    recomputed_tokens: int = 0
    finished: list[Request] = field(default_factory=list)

    def enqueue(self, request: Request, now: int) -> bool:
        """Accept a request, or say that it can never be served."""
        if request.arrival is None:
            request.arrival = now
        most_kept = request.prompt + request.output - (1 if request.output else 0)
        if request.prompt + request.output > self.max_model_len or self._blocks(most_kept) > self.total_blocks:
            return False
        request.generated = request.computed = request.ever_computed = 0
        request.prefilled = False
        request.first_token = request.finish = None
        if not self.running and not self.waiting:
            self.clock = max(self.clock, now)
        self.waiting.append(request)
        return True

    def run(self, until: int) -> None:
        """Every iteration that starts before `until`."""
        while self.clock < until and (self.running or self.waiting):
            self.iterate()

    def iterate(self) -> None:
        """One iteration."""
        preempted: list[Request] = []
        chunks: dict[Request, int] = {}
        budget = self.token_budget
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            chunk = min(request.tokens - request.computed, budget)
            while not self._allocate(request, chunk):
                victim = self.running.pop()
                self._preempt(victim)
                preempted.append(victim)
                if victim is request:
                    break
            if request in preempted:
                break
            chunks[request] = chunk
            budget -= chunk
            index += 1
        while not preempted and self.waiting and budget > 0 and len(self.running) < self.cap:
            request = self.waiting[0]
            chunk = min(request.tokens, budget)
            if self.reserve_prompt and self._blocks(request.tokens) > self.free_blocks:
                break
            if not self._allocate(request, chunk):
                break
            self.running.append(self.waiting.popleft())
            chunks[request] = chunk
            budget -= chunk
        self._execute(chunks, preempted)

    def _execute(self, chunks: dict[Request, int], preempted: list[Request]) -> None:
        assert chunks, "an iteration without work would never end"
        linear = self.law.linear_at(sum(chunks.values()))
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
                request.blocks = 0
                done.append(request)
        self.running = [request for request in self.running if request not in done]
        self.finished += done
        names = tuple(request.name for request in chunks)
        waiting_first = tuple(request.name for request in reversed(preempted))
        self.log.append(Iteration(start, self.clock, useful, tokens_out, names, tuple(done), waiting_first))

    def abort(self, request: Request) -> bool:
        """The client hung up."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        else:
            return False
        request.blocks = 0
        return True

    def evict_all(self, now: int) -> list[Request]:
        """The machine is gone at `now`; what ends later did not happen."""
        lost = [*self.running, *self.waiting]
        if self.log and self.log[-1].end > now:
            last = self.log.pop()
            lost += last.finished
            self.finished = [request for request in self.finished if request not in last.finished]
            self.log.append(Iteration(last.start, now, 0, {}, last.scheduled, (), last.preempted))
            self.clock = now
        self.running, self.waiting = [], deque()
        for request in lost:
            request.blocks = 0
            request.finish = None
            if request.first_token is not None and request.first_token > now:
                request.first_token = None
        return lost

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds."""
        return self.total_blocks - sum(request.blocks for request in self.running)

    def busy(self, now: int) -> int:
        """Time in iterations up to `now`."""
        return sum(max(min(one.end, now) - one.start, 0) for one in self.log)

    def tokens_generated(self, now: int) -> int:
        """Tokens out at `now`."""
        return sum(len(one.tokens_out) for one in self.log if one.end <= now)

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def _allocate(self, request: Request, chunk: int) -> bool:
        more = self._blocks(request.computed + chunk) - request.blocks
        if more > self.free_blocks:
            return False
        request.blocks += more
        return True

    def _preempt(self, request: Request) -> None:
        request.ever_computed = max(request.ever_computed, request.computed)
        request.computed = request.blocks = 0
        request.prefilled = False
        request.preemptions += 1
        self.waiting.appendleft(request)
