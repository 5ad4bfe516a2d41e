"""Answers of the OpenAI API, as bytes. Pure. The text of an answer is filler: `FILLER` once for each token."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from .openai_requests import Ask

FILLER: Final = "tok "
"""The text of each token, as long as a prompt's token is taken to be."""
DONE: Final = b"data: [DONE]\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """What a request is charged for."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def _asked_usage(ask: Ask, completion_tokens: int) -> dict[str, int]:
    # A prompt counts once, however many answers it gets.
    return usage(sum(ask.prompts), completion_tokens)


@dataclass(frozen=True, slots=True)
class Answer:
    """How the answers to one generating request are written."""

    reply_id: str
    created_s: int
    """Unix time."""
    ask: Ask
    is_chat: bool

    def whole(self, ends: Sequence[tuple[int, str]]) -> bytes:
        """A plain answer: tokens and reason of each choice."""
        choices = [self._choice(i, tokens, reason) for i, (tokens, reason) in enumerate(ends)]
        completed = sum(tokens for tokens, _ in ends)
        return json.dumps(
            self._head(plain=True) | {"choices": choices, "usage": _asked_usage(self.ask, completed)}
        ).encode()

    def stream_parts(self) -> StreamParts:
        """What a stream's events are put together from."""
        head = json.dumps(self._head(plain=False))[:-1]
        usage_null = ', "usage": null' if self.ask.include_usage else ""
        each = tuple(prompt for prompt in self.ask.prompts for _ in range(self.ask.answers))
        prompts = each if self.ask.continuous_usage else None
        return StreamParts(head, usage_null, self.is_chat, prompts)

    def stream_usage(self, completion_tokens: int) -> bytes:
        """The event with the usage, after the last choice has ended."""
        document = self._head(plain=False) | {"choices": [], "usage": _asked_usage(self.ask, completion_tokens)}
        return b"data: " + json.dumps(document).encode() + b"\n\n"

    def _head(self, *, plain: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self.is_chat:
            kind = "chat.completion" if plain else "chat.completion.chunk"
        return {"id": self.reply_id, "object": kind, "created": self.created_s, "model": self.ask.model}

    def _choice(self, index: int, tokens: int, reason: str) -> dict[str, Any]:
        text = FILLER * tokens
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        return {"index": index, **said, "logprobs": None, "finish_reason": reason}


@dataclass(frozen=True, slots=True)
class StreamParts:
    """Writes a stream's events. They differ in few places, and there are thousands a second."""

    head: str
    usage_null: str
    is_chat: bool
    prompt_tokens: tuple[int, ...] | None = None
    """Of each choice, given where each event tells the usage so far."""

    def first(self, index: int) -> str:
        """What goes before a choice's first token."""
        if not self.is_chat:
            return ""
        return self._event(index, '"delta": {"role": "assistant", "content": ""}', "null", 0)

    def tokens(self, index: int, count: int, reason: str | None, so_far: int) -> str:
        """`count` tokens more of a choice, which make `so_far`; `reason` at its end."""
        text = FILLER * count
        said = f'"delta": {{"content": "{text}"}}' if self.is_chat else f'"text": "{text}"'
        return self._event(index, said, "null" if reason is None else f'"{reason}"', so_far)

    def _event(self, index: int, said: str, reason: str, so_far: int) -> str:
        usage_part = self.usage_null
        if self.prompt_tokens is not None:
            usage_part = f', "usage": {json.dumps(usage(self.prompt_tokens[index], so_far))}'
        return (
            f'data: {self.head}, "choices": [{{"index": {index}, {said}, "logprobs": null, "finish_reason": {reason}}}]'
            f"{usage_part}}}\n\n"
        )


def embeddings(ask: Ask) -> bytes:
    """The answer to an embedding request: the same unit vector for every prompt."""
    value = ask.dimensions**-0.5
    vector: list[float] | str = [value] * ask.dimensions
    if ask.base64:
        vector = b64encode(struct.pack(f"<{ask.dimensions}f", *vector)).decode()
    data = [{"object": "embedding", "index": i, "embedding": vector} for i in range(len(ask.prompts))]
    total = sum(ask.prompts)
    document = {"object": "list", "data": data, "model": ask.model}
    return json.dumps(document | {"usage": {"prompt_tokens": total, "total_tokens": total}}).encode()
