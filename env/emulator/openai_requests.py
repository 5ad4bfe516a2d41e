"""Requests to the OpenAI API, read and checked: bytes in, an `Ask` or an `ApiError` out. Pure.

How long a prompt is: a list of token ids has that many tokens; text has one token for every four characters, rounded up;
a chat adds four for each message (its role and delimiters). How long the answer is: always `max_tokens`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from .prompts import Prompt, Role

COMPLETION_MAX_TOKENS: Final = 16
"""vLLM's and OpenAI's default for completions. For a chat it is what the context leaves, as in vLLM."""
MOST_ANSWERS: Final = 256
"""Prompts times `n` of one request."""
EMBEDDING_DIMENSIONS: Final = 16
"""Of the filler vectors, unless `dimensions` asks otherwise."""


class ApiError(Exception):
    """What the client did wrong, as OpenAI's error object says it."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        """`status` is the HTTP status, `kind` the error's type, `param` the field at fault."""
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param

    def body(self) -> bytes:
        """As vLLM sends it."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}
        return json.dumps({"error": error}).encode()


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request wants done."""

    model: str
    prompts: tuple[int, ...]
    """Tokens of each prompt."""
    answers: int = 1
    """For each prompt."""
    output_tokens: int = 0
    """Of each answer; 0 for embeddings."""
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    """Each event of the stream tells the usage so far."""
    dimensions: int = EMBEDDING_DIMENSIONS
    base64: bool = False
    """Vectors as base64 of float32 rather than as lists."""
    priority: int = 0
    """The lower, the sooner, where the engine schedules by priority."""
    block_keys: tuple[tuple[int, ...], ...] = ()
    """Of each prompt (`Prompt.block_keys`); empty where the engine caches no prefixes."""


@dataclass(frozen=True, slots=True)
class Served:
    """What requests are checked against."""

    names: tuple[str, ...]
    """Names of the model, the first is its own."""
    max_model_len: int
    prefix_caching: bool = False


_NUMBERS: Final[dict[str, tuple[float, float]]] = {
    "temperature": (0.0, math.inf),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.0, math.inf),
}
_WHOLE: Final[dict[str, int]] = {"top_k": -1, "min_tokens": 0, "seed": -(2**63)}
_FLAGS: Final = ("ignore_eos", "stream", "skip_special_tokens", "add_special_tokens")
_NOT_EMULATED: Final = ("echo", "suffix", "logprobs", "top_logprobs", "prompt_logprobs", "use_beam_search")


def completion(body: bytes, served: Served) -> Ask:
    """Read the body of POST /v1/completions. Raises ApiError."""
    document = _document(body)
    model = _model(document, served)
    _check_sampling(document)
    prompts = _prompts(document, "prompt")
    wanted = _whole(document, "max_tokens", 1)
    output = COMPLETION_MAX_TOKENS if wanted is None else wanted
    return _generation(document, served, model, prompts, output)


def chat(body: bytes, served: Served) -> Ask:
    """Read the body of POST /v1/chat/completions. Raises ApiError."""
    document = _document(body)
    model = _model(document, served)
    _check_sampling(document)
    prompt = _chat_prompt(document)
    wanted = _whole(document, "max_completion_tokens", 1)
    if wanted is None:
        wanted = _whole(document, "max_tokens", 1)
    output = max(served.max_model_len - len(prompt), 1) if wanted is None else wanted
    return _generation(document, served, model, (prompt,), output)


def embedding(body: bytes, served: Served) -> Ask:
    """Read the body of POST /v1/embeddings. Raises ApiError."""
    document = _document(body)
    model = _model(document, served)
    prompts = _prompts(document, "input")
    encoding = document.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise ApiError(400, f"encoding_format: {_shown(encoding)}, wanted float or base64", param="encoding_format")
    dimensions = _whole(document, "dimensions", 1, 8192)
    ask = Ask(model, _lengths(prompts), dimensions=dimensions or EMBEDDING_DIMENSIONS, base64=encoding == "base64")
    return _fitting(ask, served, document, prompts)


def _generation(
    document: dict[str, Any], served: Served, model: str, prompts: tuple[Prompt, ...], output_tokens: int
) -> Ask:
    stream = bool(document.get("stream"))
    answers = _whole(document, "n", 1, MOST_ANSWERS)
    usage = _usage_options(document, stream)
    ask = Ask(model, _lengths(prompts), answers or 1, output_tokens, stream, *usage)
    return _fitting(ask, served, document, prompts)


def _lengths(prompts: tuple[Prompt, ...]) -> tuple[int, ...]:
    return tuple(map(len, prompts))


def _fitting(ask: Ask, served: Served, document: dict[str, Any], prompts: tuple[Prompt, ...]) -> Ask:
    """The request with what the engine wants to know of it besides, if it can be served."""
    if len(ask.prompts) * ask.answers > MOST_ANSWERS:
        raise ApiError(400, f"{len(ask.prompts)} prompts times n={ask.answers}, wanted at most {MOST_ANSWERS} answers")
    longest = max(ask.prompts)
    if longest + ask.output_tokens > served.max_model_len:
        raise ApiError(
            400,
            f"This model's maximum context length is {served.max_model_len} tokens. However, you requested"
            f" {longest + ask.output_tokens} tokens ({longest} in the prompt, {ask.output_tokens} in the completion)."
            " Please reduce the length of the prompt or of the completion.",
            param="max_tokens" if ask.output_tokens else "input",
        )
    priority = _whole(document, "priority", -(2**31), 2**31 - 1) or 0
    keys = tuple(prompt.block_keys() for prompt in prompts) if served.prefix_caching else ()
    return replace(ask, priority=priority, block_keys=keys)


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ApiError(400, f"the body is {_shown(document)}, wanted a JSON object")
    return document


def _model(document: dict[str, Any], served: Served) -> str:
    name = document.get("model")
    if name is None:
        return served.names[0]
    if not isinstance(name, str):
        raise ApiError(400, f"model: {_shown(name)}, wanted a string", param="model")
    if name not in served.names:
        raise ApiError(404, f"The model `{_cut(name)}` does not exist.", "NotFoundError", "model")
    return name


def _check_sampling(document: dict[str, Any]) -> None:
    """The types and ranges of what changes nothing here but would be refused by vLLM."""
    for name, (low, high) in _NUMBERS.items():
        value = document.get(name)
        if value is not None and not (_is_number(value) and low <= value <= high):
            raise ApiError(400, f"{name}: {_shown(value)}, wanted a number from {low:g} to {high:g}", param=name)
    for name, least in _WHOLE.items():
        _whole(document, name, least)
    for name in _FLAGS:
        if not isinstance(document.get(name, False), bool | None):
            raise ApiError(400, f"{name}: {_shown(document[name])}, wanted true or false", param=name)
    for name in _NOT_EMULATED:
        if document.get(name):
            raise ApiError(400, f"{name}: the emulator does not do this; leave it out", param=name)
    stop = document.get("stop")
    if not (stop is None or isinstance(stop, str) or _is_list_of(stop, lambda s: isinstance(s, str))):
        raise ApiError(400, f"stop: {_shown(stop)}, wanted a string or a list of strings", param="stop")


def _usage_options(document: dict[str, Any], stream: bool) -> tuple[bool, bool]:
    """Whether a stream ends with its usage, and whether each event carries it: vLLM wants the first for the second."""
    options = document.get("stream_options")
    if options is None:
        return False, False
    if not stream:
        raise ApiError(400, "Stream options can only be defined when `stream=True`.", param="stream_options")
    if not isinstance(options, dict):
        raise ApiError(
            400, f"stream_options: {_shown(options)}, wanted an object with include_usage", param="stream_options"
        )
    wanted = [options.get(name, False) for name in ("include_usage", "continuous_usage_stats")]
    for name, value in zip(("include_usage", "continuous_usage_stats"), wanted, strict=True):
        if not isinstance(value, bool | None):
            raise ApiError(400, f"stream_options.{name}: {_shown(value)}, wanted true or false", param="stream_options")
    include, continuous = map(bool, wanted)
    return include, include and continuous


def _prompts(document: dict[str, Any], name: str) -> tuple[Prompt, ...]:
    """Text, token ids, or a list of one of them."""
    given: Any = document.get(name)
    if isinstance(given, str) or _is_token_ids(given):
        prompts: tuple[Prompt, ...] = (Prompt((given,)),)
    elif _is_list_of(given, lambda p: isinstance(p, str)) or _is_list_of(given, _is_token_ids):
        prompts = tuple(Prompt((one,)) for one in given)
    else:
        wanted = "text, a list of token ids, or a list of such"
        raise ApiError(400, f"{name}: {_shown(given)}, wanted {wanted}, none of them empty", param=name)
    if min(map(len, prompts)) < 1:
        raise ApiError(400, f"{name}: empty, wanted at least one token", param=name)
    return prompts


def _chat_prompt(document: dict[str, Any]) -> Prompt:
    messages: Any = document.get("messages")
    if not _is_list_of(messages, lambda m: isinstance(m, dict) and isinstance(m.get("role"), str)):
        raise ApiError(400, f"messages: {_shown(messages)}, wanted a list of objects with a role", param="messages")
    pieces: list[str | Role] = []
    for message in messages:
        pieces += [Role(message["role"]), *_content_texts(message.get("content"))]
    return Prompt(tuple(pieces))


def _content_texts(content: Any) -> list[str]:
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if _is_list_of(
        content, lambda p: isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str)
    ):
        return [part["text"] for part in content]
    raise ApiError(400, f"messages.content: {_shown(content)}, wanted text or parts of type text", param="messages")


def _whole(document: dict[str, Any], name: str, least: int, most: int = 2**63) -> int | None:
    value = document.get(name)
    if value is None or (type(value) is int and least <= value <= most):
        return value
    wanted = f"a whole number of at least {least}" + (f", at most {most}" if most < 2**63 else "")
    raise ApiError(400, f"{name}: {_shown(value)}, wanted {wanted}", param=name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list_of(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(holds, value))


def _is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and set(map(type, value)) == {int} and min(value) >= 0


def _shown(value: Any) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
