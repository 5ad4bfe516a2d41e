"""The clients' side: sends a workload to an OpenAI-compatible address in (sped-up) real time and measures what comes.

All durations in the result are scenario seconds: wall-clock seconds times the speed-up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from ..workload.requests import Workload

CLIENT_TIMEOUT_S: Final = 300.0
"""Wall-clock patience of a client for one request."""
READ_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Addressee:
    """How one class's requests are sent."""

    class_name: str
    model: str
    by_header: bool
    """The class goes into the header `x-slo-class`; otherwise into the body's `metadata.slo_class`."""
    stream: bool
    give_up_after_s: float
    """A client that is turned away (429, or 503 with a Retry-After) tries again until this long after its first try,
    in scenario seconds."""


@dataclass
class ClientRecord:
    """What one client saw. Times are scenario seconds since the start of the replay."""

    class_index: int
    sent_s: float
    streamed: bool
    first_token_s: float | None = None
    """First body byte: of a plain answer that is all of it, and tells no time to first token."""
    end_s: float | None = None
    output_tokens: int = 0
    turned_away: int = 0
    """How many times it was told to come back."""
    outcome: str = "pending"
    """"served", "shed" (turned away until it gave up) or "lost" (an error or a cut stream)."""
    detail: str = ""


@dataclass
class Replay:
    """A replay under way: what was sent so far, for a display to look at."""

    records: list[ClientRecord] = field(default_factory=list)
    in_flight: int = 0


async def replay(
    workload: Workload,
    addressees: Sequence[Addressee],
    base_url: str,
    speed_up: float,
    progress: Replay,
    on_done: Callable[[], None] | None = None,
    until: asyncio.Event | None = None,
) -> list[ClientRecord]:
    """Send every request at its time; returns when the last answer is in. `progress` is filled meanwhile.

    Once `until` is set nothing more is sent; what was sent is still answered.
    """
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    timeout = aiohttp.ClientTimeout(total=CLIENT_TIMEOUT_S)
    start = time.perf_counter()
    tasks: set[asyncio.Task[None]] = set()
    async with aiohttp.ClientSession(base_url, connector=connector, timeout=timeout) as session:
        try:
            for i in range(len(workload)):
                due_s = float(workload.arrival_s[i]) / speed_up
                delay_s = start + due_s - time.perf_counter()
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
                if until is not None and until.is_set():
                    break
                to = addressees[int(workload.class_index[i])]
                sender = _Sender(session, to, speed_up, start)
                record = ClientRecord(int(workload.class_index[i]), sender.now_s(), to.stream)
                progress.records.append(record)
                task = asyncio.create_task(
                    _one(sender, record, int(workload.prompt_tokens[i]), int(workload.output_tokens[i]), progress)
                )
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                if on_done:
                    task.add_done_callback(lambda _: on_done())
            while tasks:
                await asyncio.wait(set(tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return progress.records


async def _one(sender: _Sender, record: ClientRecord, prompt: int, output: int, progress: Replay) -> None:
    progress.in_flight += 1
    try:
        while True:
            wait_s = await sender.send(record, prompt, output)
            if wait_s is None:
                return
            record.turned_away += 1
            if sender.now_s() + wait_s - record.sent_s > sender.to.give_up_after_s:
                record.outcome = "shed"
                return
            await asyncio.sleep(wait_s / sender.speed_up)
    finally:
        progress.in_flight -= 1


@dataclass(frozen=True)
class _Sender:
    session: aiohttp.ClientSession
    to: Addressee
    speed_up: float
    start: float

    def now_s(self) -> float:
        return (time.perf_counter() - self.start) * self.speed_up

    async def send(self, record: ClientRecord, prompt: int, output: int) -> float | None:
        """One try; the seconds to wait before the next one if it was turned away."""
        try:
            async with self.session.post(
                self._path(output), data=self._body(prompt, output), headers=self._headers()
            ) as got:
                if got.status == 429 or (got.status == 503 and "Retry-After" in got.headers):
                    return float(got.headers.get("Retry-After", "10"))
                if got.status != 200:
                    record.outcome, record.detail = "lost", f"HTTP {got.status}: {(await got.text())[:100]}"
                    return None
                tail = b""
                async for chunk in got.content.iter_any():
                    if record.first_token_s is None:
                        record.first_token_s = self.now_s()
                    tail = (tail + chunk)[-READ_BYTES:]
                record.end_s = self.now_s()
                self._finish(record, tail, output)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            record.outcome, record.detail = "lost", f"{type(error).__name__}: {error}"[:200]
        return None

    def _finish(self, record: ClientRecord, tail: bytes, output: int) -> None:
        whole = b"data: [DONE]" in tail if self.to.stream and output else tail.rstrip().endswith(b"}")
        record.outcome = "served" if whole else "lost"
        record.detail = "" if whole else "the stream ended before its last event"
        record.output_tokens = output

    def _path(self, output: int) -> str:
        return "/v1/completions" if output else "/v1/embeddings"

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        return {**headers, "x-slo-class": self.to.class_name} if self.to.by_header else headers

    def _body(self, prompt: int, output: int) -> bytes:
        tokens = "[" + "1," * (prompt - 1) + "1]"
        fields = [f'"model":"{self.to.model}"']
        if not self.to.by_header:
            fields.append(f'"metadata":{{"slo_class":"{self.to.class_name}"}}')
        if output:
            fields += [f'"prompt":{tokens}', f'"max_tokens":{output}', '"ignore_eos":true']
            if self.to.stream:
                fields += ['"stream":true', '"stream_options":{"include_usage":true}']
        else:
            fields.append(f'"input":{tokens}')
        return ("{" + ",".join(fields) + "}").encode()
