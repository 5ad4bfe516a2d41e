"""One engine's life as a server sees it: requests come and go, tokens appear. Pure: whoever calls hands in the time.

    session = Session(spec)
    ticket = session.submit(now_ps, prompt_tokens=300, output_tokens=100, streams=True)
    for event in session.advance(now_ps): ...      # call again at session.due_ps, or when anything happens

Times are picoseconds of the engine's clock, and must not fall from call to call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..sim.engine import abort, enqueue, evict_all, seen, set_limits
from ..sim.engine_state import (
    ACCEPTED,
    LONGER_THAN_MODEL,
    NEVER_PS,
    NONE,
    PS_PER_S,
    Engine,
    claim,
    grown,
    make_engine,
    release,
    set_request,
)
from .following import GAPS_PS, Ledger, catch_up, follow, grown_ledger, make_ledger, news, note_new
from .prompts import PromptTree, room_for_prompts
from .replica import ReplicaSpec
from .tally import Tally

FIRST_ROWS: Final = 1024
"""Requests that the table holds at first; it doubles when they do not suffice."""

AWAKE: Final = -1
"""The sleep level of an engine that does not sleep."""


class TooLong(ValueError):
    """A request that the engine could never finish."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A request under way."""

    prompt_tokens: int
    output_tokens: int
    """0: prefill only."""
    streams: bool
    arrival_ps: int
    priority: int = 0
    block_keys: Sequence[int] = ()
    """Of the blocks that its prompt fills (`prompts.Prompt`); left out: it shares none."""
    row: int = NONE
    """In the engine's table; NONE while it waits for the engine to wake up, and at the end."""
    tokens: int = 0
    """Told so far."""


@dataclass(frozen=True, slots=True)
class News:
    """Something to tell a client."""

    ticket: Ticket
    new_tokens: int
    reason: str | None
    """Why it ended ("length", "stop", "abort"); None if it goes on."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the engine shows at one moment; counters since the start."""

    running: int
    waiting: int
    """In the engine's queue."""
    held: int
    """Waiting for the engine to wake up."""
    kv_used_frac: float
    generated_tokens: int
    sequence_preemptions: int
    prefix_queries: int
    """Tokens of new requests that were looked up in the prefix cache."""
    prefix_hits: int
    """Of those, found there."""
    busy_s: float
    """With an iteration under way."""
    useful_s: float
    """What the same work takes at the hardware's best."""
    iterations: int
    fresh_tokens: int
    """Prompt and output tokens, each counted once."""
    recomputed_tokens: int
    batch_cap: int
    token_budget: int
    sleep_level: int
    gap_counts: tuple[int, ...]
    """Gaps between tokens by length: `GAP_BOUNDS_S`, and one place for longer ones."""
    gap_total_s: float


class Session:
    """One engine in the hands of a server."""

    def __init__(self, spec: ReplicaSpec, stream_interval: int = 1) -> None:
        """An idle engine at time 0.

        Args:
            spec: the replica.
            stream_interval: streams are told of new tokens every so many iterations, and of the first and the last
                token at once.
        """
        flags = spec.flags
        self._every = stream_interval
        self._batches = spec.batches_in_flight
        self._engine: Engine = make_engine(
            spec.law.as_row()[None],
            spec.kv_blocks,
            flags.max_num_seqs,
            flags.max_num_batched_tokens * spec.batches_in_flight,
            flags.max_model_len,
            max_seqs=flags.max_num_seqs,
            capacity=FIRST_ROWS,
            by_priority=flags.scheduling == "priority",
            prefix_caching=flags.prefix_caching,
            prefixes=room_for_prompts(spec.kv_blocks) if flags.prefix_caching else ((), ()),
        )
        self._tree = PromptTree(self._engine) if flags.prefix_caching else None
        self._ledger: Ledger = make_ledger(FIRST_ROWS, flags.max_num_seqs)
        self._rows = np.zeros(FIRST_ROWS, dtype=np.int64)
        self._tickets: dict[int, Ticket | None] = {}  # None: aborted while its last iteration was under way
        self._held: dict[Ticket, None] = {}
        self._news: list[News] = []
        self._now_ps = 0
        self.due_ps = NEVER_PS
        """When to call `advance` next."""
        self.sleep_level = AWAKE
        self.tally = Tally(flags.max_model_len)

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._tickets) + len(self._held)

    def submit(
        self,
        now_ps: int,
        prompt_tokens: int,
        output_tokens: int,
        streams: bool = False,
        priority: int = 0,
        block_keys: Sequence[int] = (),
    ) -> Ticket:
        """Put a request into the queue; `prompt_tokens` >= 1.

        Raises:
            TooLong: longer than the model or the KV cache takes.
        """
        self._catch_up(now_ps)
        ticket = Ticket(prompt_tokens, output_tokens, streams, self._now_ps, priority, block_keys)
        if self.sleep_level == AWAKE:
            self._enqueue(ticket)
        else:
            self._held[ticket] = None
        return ticket

    def advance(self, now_ps: int) -> list[News]:
        """What there is to tell at `now_ps` that was not told before; sets `due_ps`."""
        self._follow(now_ps)
        told, self._news = self._news, []
        return told

    def abort(self, now_ps: int, ticket: Ticket) -> None:
        """Drop a request, whose client is told nothing more; nothing happens if it has ended."""
        self._catch_up(now_ps)
        self._news = [event for event in self._news if event.ticket is not ticket]
        if ticket in self._held:
            del self._held[ticket]
        elif ticket.row == NONE:
            return
        elif abort(self._engine, 0, ticket.row):
            self._leave(ticket)
        else:
            self._tickets[ticket.row] = None
        self.tally.finished["abort"] += 1
        self._plan()

    def set_limits(self, now_ps: int, batch_cap: int, token_budget: int) -> None:
        """Change the batch cap and the token budget from the next iteration on; at most the start values."""
        self._catch_up(now_ps)
        set_limits(self._engine, 0, batch_cap, token_budget * self._batches)
        self._plan()

    def sleep(self, now_ps: int, level: int) -> None:
        """Stop at once. What is in flight is aborted; new requests wait until `wake_up`."""
        self._catch_up(now_ps)
        evicted = np.empty(len(self._rows), dtype=np.int64)
        for row in evicted[: evict_all(self._engine, 0, self._now_ps, evicted)].tolist():
            ticket = self._tickets[row]
            if ticket is None:
                del self._tickets[row]
                release(self._engine, row)
            else:
                made = int(self._ledger.visible[row])
                self._leave(ticket)
                self._end(ticket, made, "abort")
        self.sleep_level = level
        self._plan()

    def wake_up(self, now_ps: int) -> None:
        """Go on, with what came meanwhile."""
        self._catch_up(now_ps)
        self.sleep_level = AWAKE
        held, self._held = self._held, {}
        for ticket in held:
            self._enqueue(ticket)
        self._plan()

    def figures(self, now_ps: int) -> Figures:
        """What an outsider sees."""
        self._catch_up(now_ps)
        rep, marks = self._engine.replicas[0], self._ledger.marks
        view = seen(self._engine, 0, self._now_ps)
        return Figures(
            running=int(view.running),
            waiting=int(view.waiting),
            held=len(self._held),
            kv_used_frac=int(rep["blocks_used"]) / int(rep["blocks_total"]),
            generated_tokens=int(view.generated_tokens),
            sequence_preemptions=int(rep["sequence_preemptions"]),
            prefix_queries=int(rep["prefix_queries"]),
            prefix_hits=int(rep["prefix_hits"]),
            busy_s=int(view.busy_ps) / PS_PER_S,
            useful_s=int(view.useful_ps) / PS_PER_S,
            iterations=int(rep["iterations"]),
            fresh_tokens=int(rep["prompt_tokens"]) + int(view.generated_tokens),
            recomputed_tokens=int(rep["recomputed_tokens"]),
            batch_cap=int(rep["cap"]),
            token_budget=int(rep["token_budget"]) // self._batches,
            sleep_level=self.sleep_level,
            gap_counts=tuple(self._ledger.gaps.tolist()),
            gap_total_s=int(marks[GAPS_PS]) / PS_PER_S,
        )

    def _enqueue(self, ticket: Ticket) -> None:
        row = int(claim(self._engine))
        if row == NONE:
            self._grow()
            row = int(claim(self._engine))
        node = NONE
        if self._tree is not None:
            self._engine, node = self._tree.node_of(self._engine, ticket.block_keys, self._nodes_in_use)
        set_request(self._engine, row, ticket.prompt_tokens, ticket.output_tokens, 0, ticket.priority, node)
        note_new(self._ledger, row, ticket.streams)
        answer = int(enqueue(self._engine, 0, row, self._now_ps))
        if answer != ACCEPTED:
            release(self._engine, row)
            what = "the model's context" if answer == LONGER_THAN_MODEL else "the KV cache"
            raise TooLong(f"{ticket.prompt_tokens} + {ticket.output_tokens} tokens do not fit into {what}")
        ticket.row = row
        self._tickets[row] = ticket
        self._plan()

    def _nodes_in_use(self) -> list[int]:
        nodes: list[int] = self._engine.tags["prefix"][list(self._tickets)].tolist()
        return nodes

    def _grow(self) -> None:
        rows = 2 * len(self._rows)
        self._engine = grown(self._engine, rows)
        self._ledger = grown_ledger(self._ledger, rows)
        self._rows = np.zeros(rows, dtype=np.int64)

    def _catch_up(self, now_ps: int) -> None:
        """Bring the engine to `now_ps`; what is to be told until then is kept for `advance`."""
        self._follow(now_ps)
        catch_up(self._engine, self._ledger, self._now_ps)
        self._plan()

    def _plan(self) -> None:
        self.due_ps = self._now_ps if self._news else int(follow(self._engine, self._ledger, self._now_ps, self._every))

    def _follow(self, now_ps: int) -> None:
        self._now_ps = max(self._now_ps, now_ps)
        self.due_ps = int(follow(self._engine, self._ledger, self._now_ps, self._every))
        count, ends = news(self._engine, self._ledger, self._now_ps, self._every, self._rows)
        if ends:
            rows = self._rows[:ends].tolist()
            told = self._ledger.told[self._rows[:count]].tolist()
            for row, tokens in zip(rows[:count], told, strict=True):
                self._tell(row, tokens)
            self._tell_ends(rows[count:])

    def _tell(self, row: int, tokens: int) -> None:
        ticket = self._tickets[row]
        if ticket is None:
            return
        if ticket.tokens == 0:
            self._note_first(ticket, int(self._engine.requests[row]["first_token_ps"]))
        if ticket.streams:
            self._news.append(News(ticket, tokens - ticket.tokens, None))
        ticket.tokens = tokens

    def _tell_ends(self, rows: Iterable[int]) -> None:
        for row in rows:
            ticket = self._tickets[row]
            if ticket is None:
                del self._tickets[row]
                release(self._engine, row)
                continue
            record = self._engine.requests[row]
            first_ps, finish_ps = int(record["first_token_ps"]), int(record["finish_ps"])
            if ticket.tokens == 0:
                self._note_first(ticket, first_ps if ticket.output_tokens else finish_ps)
            self.tally.e2e.add((finish_ps - ticket.arrival_ps) / PS_PER_S)
            self.tally.queued.add((int(self._ledger.scheduled_ps[row]) - ticket.arrival_ps) / PS_PER_S)
            self.tally.prompts.add(ticket.prompt_tokens)
            self.tally.answers.add(ticket.output_tokens)
            if ticket.output_tokens > 1:
                self.tally.tpot.add((finish_ps - first_ps) / PS_PER_S / (ticket.output_tokens - 1))
            self._leave(ticket)
            self._end(ticket, ticket.output_tokens, "length" if ticket.output_tokens else "stop")

    def _note_first(self, ticket: Ticket, at_ps: int) -> None:
        self.tally.prompt_tokens += ticket.prompt_tokens
        if ticket.output_tokens:
            self.tally.ttft.add((at_ps - ticket.arrival_ps) / PS_PER_S)

    def _leave(self, ticket: Ticket) -> None:
        """Give its row back."""
        del self._tickets[ticket.row]
        release(self._engine, ticket.row)
        ticket.row = NONE

    def _end(self, ticket: Ticket, tokens: int, reason: str) -> None:
        """Tell the last of it: it has `tokens` in all."""
        # A plain answer comes whole: of what was counted before nothing was told.
        new = tokens - ticket.tokens if ticket.streams else tokens
        ticket.tokens = tokens
        self.tally.finished[reason] += 1
        self._news.append(News(ticket, new, reason))
