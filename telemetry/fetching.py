"""One metrics page over HTTP, as text, within bounds."""

from __future__ import annotations

from typing import Final

import aiohttp

from .metrics_page import PageError

MAX_PAGE_BYTES: Final = 8 * 2**20
"""A larger page is refused; vLLM's is about 50 to 100 kB."""


async def fetch_page(session: aiohttp.ClientSession, url: str) -> str:
    """The page at `url`; the caller says how long it may take.

    Raises:
        PageError: another status than 200, more than `MAX_PAGE_BYTES`, or no UTF-8.
        aiohttp.ClientError, OSError: no answer.
    """
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise PageError(f"{url}: HTTP status {response.status}, wanted 200 and a metrics page")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_PAGE_BYTES:
                raise PageError(f"{url}: more than {MAX_PAGE_BYTES} bytes, wanted a metrics page below that")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PageError(f"{url}: not UTF-8 text ({error.reason} at byte {error.start})") from None


async def page_or_why(session: aiohttp.ClientSession, url: str) -> str:
    """As `fetch_page`, every failure but running out of time as a PageError that names the address."""
    try:
        return await fetch_page(session, url)
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise PageError(f"{url}: {type(error).__name__}: {error}") from None
