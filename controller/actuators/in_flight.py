"""How many requests a replica still has, by its own metrics page."""

from __future__ import annotations

import asyncio

import aiohttp

from ...telemetry.engine_page import PageError, parse_engine_page
from ...telemetry.fetching import page_or_why
from .envoy_config import Endpoint


async def requests_at(session: aiohttp.ClientSession, endpoint: Endpoint, timeout_s: float = 1.0) -> int | None:
    """Requests running and queued at a replica; None if it does not say."""
    url = f"http://{endpoint.host}:{endpoint.port}/metrics"
    try:
        async with asyncio.timeout(timeout_s):
            page = parse_engine_page(await page_or_why(session, url), url)
    except (TimeoutError, PageError):
        return None
    return round(page.running + page.waiting)
