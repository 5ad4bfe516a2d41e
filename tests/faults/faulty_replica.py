"""`poolpilot emulate`, with a metrics page that goes wrong on demand; all else is served as ever.

    python faulty_replica.py FAULT_FILE emulate --scenario ... --port ...

While FAULT_FILE holds one of the words below, that is what becomes of the page; without the file it is the real one.
"""

import asyncio
import random
import sys
from pathlib import Path

from aiohttp import web

from poolpilot.cli import main
from poolpilot.env.emulator.server import Server

HUGE_BYTES = 50 * 2**20
_CHUNK = b"# HELP filler is what a page of fifty megabytes is made of\n" * 2000
_real_page = Server._metrics
_fault_file = Path(sys.argv.pop(1))


async def _page(self: Server, request: web.Request) -> web.StreamResponse:
    fault = _fault_file.read_text() if _fault_file.exists() else ""
    if fault == "slow":
        await asyncio.sleep(30.0)
    if fault == "garbage":
        return web.Response(body=random.Random(0).randbytes(40_000), headers={"Content-Type": "text/plain"})
    if fault == "huge":
        response = web.StreamResponse(headers={"Content-Type": "text/plain", "Content-Length": str(HUGE_BYTES)})
        await response.prepare(request)
        sent = 0
        while sent < HUGE_BYTES:
            part = _CHUNK[: HUGE_BYTES - sent]
            await response.write(part)
            sent += len(part)
        return response
    page = await _real_page(self, request)
    if fault == "truncated":
        assert isinstance(page, web.Response)
        assert isinstance(page.body, bytes)
        return web.Response(body=page.body[: len(page.body) // 2], headers={"Content-Type": "text/plain"})
    return page


Server._metrics = _page  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
