"""An OpenAI-compatible endpoint, as a stranger sees it: its models, its metrics page, timed streams. Never anything else."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from ...env.one_line import one_line
from ...env.perf.timing import Stream
from ...telemetry.engine_page import EnginePage, PageError, parse_engine_page

MAX_PAGE_BYTES = 8 << 20
_FIRST_TOKEN_ID, _LAST_TOKEN_ID = 10, 400
"""Random prompts are drawn from ids that every vocabulary has and none uses for its special tokens."""

_LEAST_EVENTS_FRAC = 0.7
"""Of the tokens: a busy server puts some into one event, one that streams in larger pieces cannot be timed."""


class EndpointError(ValueError):
    """The endpoint cannot be profiled; the message is one line that says what was asked, seen and wanted."""


@dataclass(frozen=True, slots=True)
class Description:
    """What an endpoint says of itself."""

    url: str
    """Base, without `/v1`."""
    model: str
    max_model_len: int | None
    version: str | None
    kv_tokens: int | None
    has_metrics: bool


@dataclass(slots=True)
class Answer:
    """One stream: when it was sent, when its tokens came (monotonic seconds), and what the server counted."""

    sent_s: float
    times_s: list[float] = field(default_factory=list)
    tokens: list[int | None] = field(default_factory=list)
    """Of the answer so far at each event, where the server counts along."""
    output_tokens: int | None = None
    """In all, by the server's count."""

    @property
    def ttft_s(self) -> float:
        """Time to the first token."""
        return self.times_s[0] - self.sent_s

    def stream(self, output_tokens: int) -> Stream:
        """Its events; where the server does not count along, its tokens spread evenly over them."""
        times_s = np.array(self.times_s, dtype=np.float64)
        counts = [count for count in self.tokens if count is not None]
        if len(counts) == len(times_s):
            return Stream(times_s, np.array(counts, dtype=np.float64))
        even = np.arange(1, len(times_s) + 1, dtype=np.float64) * (output_tokens / len(times_s))
        return Stream(times_s, even)


class Endpoint:
    """One endpoint over one HTTP session; the session is the caller's to close."""

    def __init__(self, session: aiohttp.ClientSession, description: Description) -> None:
        self._session = session
        self.description = description

    async def page(self) -> EnginePage | None:
        """Its metrics page now, if it has one that can be read."""
        if not self.description.has_metrics:
            return None
        text = await _page_text(self._session, self.description.url)
        try:
            return None if text is None else parse_engine_page(text, f"{self.description.url}/metrics")
        except PageError:
            return None

    async def stream(self, prompt_tokens: int, output_tokens: int, rng: np.random.Generator) -> Answer:
        """Send a random prompt of token ids and time each token of the answer.

        Raises:
            EndpointError: refused, not streamed, or fewer tokens than asked for.
        """
        body = {
            "model": self.description.model,
            # Never the same prompt twice: a prefix cache would answer it sooner.
            "prompt": rng.integers(_FIRST_TOKEN_ID, _LAST_TOKEN_ID, prompt_tokens).tolist(),
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            # vLLM then counts along in each event, which tells two tokens in one from a slow one; others ignore it.
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        where = f"{self.description.url}/v1/completions"
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        answer = Answer(time.perf_counter())
        try:
            async with self._session.post(where, data=data, headers=headers) as reply:
                if reply.status != 200:
                    raise EndpointError(one_line(f"{where}: status {reply.status}: {_reason(await reply.text())}"))
                if reply.content_type != "text/event-stream":
                    raise EndpointError(
                        f"{where}: answers as {reply.content_type}, wanted a stream of events: profiling times each token"
                    )
                # Only the clock is read here: parsing while other streams wait would be timed as theirs.
                events = [(time.perf_counter(), line) async for line in reply.content if line.startswith(b"data: {")]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EndpointError(one_line(f"{where}: {error or type(error).__name__}")) from None
        for at_s, line in events:
            _read_event(at_s, line, answer, where)
        _check(answer, output_tokens, where)
        return answer


async def describe(session: aiohttp.ClientSession, url: str, served_name: str | None) -> Description:
    """Ask an endpoint what it serves.

    Raises:
        EndpointError: nobody listens, it is no OpenAI-compatible server, or it does not serve `served_name`.
    """
    base = url.rstrip("/").removesuffix("/v1").rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise EndpointError(f"--url {url!r}: wanted http://HOST:PORT or https://...")
    listed = await _models(session, base)
    model = _chosen(listed, served_name, base)
    version = await _json(session, f"{base}/version")
    text = await _page_text(session, base)
    length = model.get("max_model_len")
    return Description(
        url=base,
        model=str(model["id"]),
        max_model_len=length if isinstance(length, int) and length > 0 else None,
        version=str(version["version"]) if isinstance(version, dict) and "version" in version else None,
        kv_tokens=None if text is None else kv_tokens_of(text),
        has_metrics=text is not None,
    )


def kv_tokens_of(page: str) -> int | None:
    """Tokens of the KV cache, from the labels of vLLM's `cache_config_info`; None if the page does not tell."""
    total = 0
    for line in page.splitlines():
        if not line.startswith("vllm:cache_config_info{"):
            continue
        try:
            (sample,) = (s for family in text_string_to_metric_families(line + "\n") for s in family.samples)
            total += int(sample.labels["num_gpu_blocks"]) * int(sample.labels["block_size"])
        except (ValueError, KeyError, IndexError):
            return None
    return total or None


async def _models(session: aiohttp.ClientSession, base: str) -> list[dict[str, Any]]:
    where = f"{base}/v1/models"
    try:
        async with session.get(where, timeout=aiohttp.ClientTimeout(total=15)) as reply:
            text = await reply.text()
            status = reply.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise EndpointError(one_line(f"{where}: {error or type(error).__name__}: is the server up there?")) from None
    if status in (401, 403):
        raise EndpointError(f"{where}: status {status}: it wants a key; name a variable that holds it by --api-key-env")
    try:
        models = json.loads(text)["data"] if status == 200 else None
        if models and all(isinstance(m["id"], str) for m in models):
            return list(models)
    except (ValueError, KeyError, TypeError):
        pass
    raise EndpointError(f"{where}: status {status}, no list of models: wanted an OpenAI-compatible server's base URL")


def _chosen(models: list[dict[str, Any]], served_name: str | None, base: str) -> dict[str, Any]:
    names = [str(m["id"]) for m in models]
    if served_name is not None:
        if served_name not in names:
            raise EndpointError(
                one_line(f"--served-model-name {served_name}: not served by {base}; it has {', '.join(names)}")
            )
        return models[names.index(served_name)]
    if len({json.dumps(m.get("root")) for m in models}) > 1:
        raise EndpointError(one_line(f"{base} serves {', '.join(names)}: choose one by --served-model-name"))
    return models[0]


async def _page_text(session: aiohttp.ClientSession, base: str) -> str | None:
    try:
        async with session.get(f"{base}/metrics", timeout=aiohttp.ClientTimeout(total=15)) as reply:
            if reply.status != 200:
                return None
            content = await reply.content.read(MAX_PAGE_BYTES)
            while len(content) < MAX_PAGE_BYTES and (more := await reply.content.read(MAX_PAGE_BYTES)):
                content += more
            return content.decode(errors="replace")
    except (aiohttp.ClientError, TimeoutError):
        return None


async def _json(session: aiohttp.ClientSession, where: str) -> Any:
    try:
        async with session.get(where, timeout=aiohttp.ClientTimeout(total=15)) as reply:
            return json.loads(await reply.text()) if reply.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


def _read_event(at_s: float, line: bytes, answer: Answer, where: str) -> None:
    try:
        event = json.loads(line[6:])
    except ValueError:
        raise EndpointError(one_line(f"{where}: an event that is no JSON: {line[:80]!r}")) from None
    if "error" in event:
        raise EndpointError(one_line(f"{where}: {_reason(line[6:].decode(errors='replace'))}"))
    usage = event.get("usage")
    counted = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if isinstance(counted, int):
        answer.output_tokens = counted
    if event.get("choices"):
        answer.times_s.append(at_s)
        answer.tokens.append(counted if isinstance(counted, int) else None)


def _check(answer: Answer, output_tokens: int, where: str) -> None:
    came = len(answer.times_s)
    counted = came if answer.output_tokens is None else answer.output_tokens
    if counted != output_tokens:
        raise EndpointError(
            f"{where}: an answer of {counted} tokens, asked for {output_tokens}: does it know ignore_eos?"
        )
    if not came:
        raise EndpointError(f"{where}: a stream without a token")
    if came < _LEAST_EVENTS_FRAC * output_tokens:
        raise EndpointError(
            f"{where}: {output_tokens} tokens in {came} events, wanted about one each: is it streaming in larger pieces"
            " (--stream-interval), or does it speculate?"
        )


def _reason(text: str) -> str:
    """The message of an OpenAI error object, or the text itself."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:300]
