"""Shows a run while it goes on: a live panel on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from io import StringIO
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from ...env.contract import Decision, Snapshot
from ...env.emulator.replay import Replay
from ...telemetry.store import Store, StoreError
from ..printing import REPORT_WIDTH
from .display import render
from .stack import Entrant, Stage

REFRESH_S = 0.5
PLAIN_EVERY_S = 5.0
"""Where there is no terminal, a line of progress this often."""
BUSY_SHARE = 0.6
"""A picture is taken after this share of the run: the demo's rush is at its height then."""


async def watch(stage: Stage, entrant: Entrant, progress: Replay, out: Console, picture: Path | None) -> None:
    """Show the run until cancelled; with `picture`, save the panel of a busy moment there as SVG."""
    started, pending = time.monotonic(), picture
    async with Store(stage.store_url, prefix=entrant.name) as store:
        with Live(console=out, auto_refresh=False) as live:
            while True:
                time_s = (time.monotonic() - started) * stage.speed_up
                with suppress(StoreError):
                    seen, decided = await store.latest_snapshot(), await store.latest_decision()
                    if out.is_terminal:
                        live.update(_panel(stage, entrant, progress, time_s, seen, decided), refresh=True)
                    elif decided is not None:
                        out.print(_line(stage, progress, time_s, decided), highlight=False)
                    if pending and time_s > BUSY_SHARE * stage.scenario.duration_s:
                        _save(_panel(stage, entrant, progress, time_s, seen, decided), pending)
                        pending = None
                await asyncio.sleep(REFRESH_S if out.is_terminal else PLAIN_EVERY_S)


def _panel(
    stage: Stage,
    entrant: Entrant,
    progress: Replay,
    time_s: float,
    seen: Snapshot | None,
    decided: Decision | None,
) -> RenderableType:
    return render(stage.scenario, entrant.name, time_s, progress.records, progress.in_flight, seen, decided)


def _line(stage: Stage, progress: Replay, time_s: float, decided: Decision) -> str:
    names = stage.scenario.pool_names
    counts = " ".join(f"{name} {count:.0f}" for name, count in zip(names, decided.applied.replicas, strict=True))
    return (
        f"  minute {time_s / 60:4.1f}: sent {len(progress.records)}, in flight {progress.in_flight},"
        f" replicas {counts}, {decided.expected_usd_per_hr:.2f} $/h"
    )


def _save(panel: RenderableType, path: Path) -> None:
    canvas = Console(record=True, width=REPORT_WIDTH, file=StringIO())
    canvas.print(panel)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save_svg(str(path), title="poolpilot demo")
