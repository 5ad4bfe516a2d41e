"""How many requests a replica still has, by its own metrics page."""

from __future__ import annotations

import aiohttp

from ...telemetry.engine_collector import MAX_PAGE_BYTES
from ...telemetry.engine_page import PageError, parse_engine_page
from .envoy_config import Endpoint


async def requests_at(session: aiohttp.ClientSession, endpoint: Endpoint, timeout_s: float = 1.0) -> int | None:
    """Requests running and queued at a replica; None if it does not say."""
    url = f"http://{endpoint.host}:{endpoint.port}/metrics"
    limit = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with session.get(url, timeout=limit, allow_redirects=False) as response:
            if response.status != 200:
                return None
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_PAGE_BYTES:
                    return None
        page = parse_engine_page(body.decode(errors="replace"), url)
    except (aiohttp.ClientError, OSError, TimeoutError, PageError):
        return None
    return round(page.running + page.waiting)
