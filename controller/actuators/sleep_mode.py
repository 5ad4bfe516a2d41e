"""vLLM's sleep mode, by its dev endpoints: `/sleep`, `/wake_up`, `/is_sleeping`.

They are there only with `VLLM_SERVER_DEV_MODE=1` and ask for no password, so they are used on loopback only. An engine
that sleeps still says that it is well and lets requests hang: it must be out of routing before.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from dataclasses import dataclass
from typing import Final

import aiohttp

from .envoy_config import Endpoint

DEV_MODE: Final = {"VLLM_SERVER_DEV_MODE": "1"}
"""What a vLLM server must find in its environment."""
_WITHIN_S: Final = 300.0
"""Weights of hundreds of gigabytes go to host memory and back in less."""
_POLL_S: Final = 0.1


class SleepFailed(RuntimeError):
    """An engine did not do as it was told; the message says what it answered."""


@dataclass(frozen=True, slots=True)
class Sleeping:
    """How replicas of a pool are put to sleep instead of being stopped.

    Raises:
        ValueError: a number that cannot be.
    """

    level: int = 1
    """1 keeps the weights in host memory, 2 reads them again."""
    most: int = 1
    """Replicas of the pool that may sleep at a time; others are stopped."""
    keep_s: float = math.inf
    """One that slept so long is stopped, in scenario seconds."""

    def __post_init__(self) -> None:
        """Refuse what no engine would do."""
        if self.level not in (1, 2) or self.most < 1 or not self.keep_s > 0:
            raise ValueError(f"{self}: wanted level 1 or 2, most of at least 1 and keep_s above 0")


def is_loopback(host: str) -> bool:
    """Whether nobody else can reach what listens there."""
    return ipaddress.ip_address(host).is_loopback


async def put_to_sleep(session: aiohttp.ClientSession, at: Endpoint, level: int) -> None:
    """Return when the engine sleeps; requests that it still has are finished first. SleepFailed if it does not."""
    # By default whatever still runs would be aborted.
    await _post(session, at, f"/sleep?level={level}&mode=wait")
    if not await is_asleep(session, at):
        raise SleepFailed(f"http://{at.host}:{at.port}/sleep: answered that all is well, and is awake")


async def wake_up(session: aiohttp.ClientSession, at: Endpoint) -> None:
    """Return when the engine is awake and well. SleepFailed if it does not wake up."""
    await _post(session, at, "/wake_up")
    deadline_s = asyncio.get_running_loop().time() + _WITHIN_S
    while await is_asleep(session, at):
        if asyncio.get_running_loop().time() > deadline_s:
            raise SleepFailed(f"http://{at.host}:{at.port}/wake_up: still asleep after {_WITHIN_S:g} s")
        await asyncio.sleep(_POLL_S)


async def is_asleep(session: aiohttp.ClientSession, at: Endpoint) -> bool:
    """Whether it says that it sleeps; one without dev endpoints never does."""
    try:
        async with session.get(_url(at, "/is_sleeping"), timeout=_patience(10.0), allow_redirects=False) as answer:
            if answer.status != 200:
                return False
            said = await answer.json()
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return False
    return isinstance(said, dict) and said.get("is_sleeping") is True


async def _post(session: aiohttp.ClientSession, at: Endpoint, path: str) -> None:
    url = _url(at, path)
    try:
        async with session.post(url, timeout=_patience(_WITHIN_S), allow_redirects=False) as answer:
            if answer.status != 200:
                raise SleepFailed(f"{url}: answered {answer.status}; was it started with VLLM_SERVER_DEV_MODE=1?")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise SleepFailed(f"{url}: {error or type(error).__name__}") from None


def _url(at: Endpoint, path: str) -> str:
    return f"http://{at.host}:{at.port}{path}"


def _patience(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds)
