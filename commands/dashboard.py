"""`poolpilot dashboard`: what a sidecar sees and does, live, in a browser."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from ..telemetry.access import LOOPBACK, Access, is_loopback, read_token, serving
from ..telemetry.store import Store, StoreError
from .bad_input import one_line_errors, refuse

TOKEN_VARIABLE: Final = "POOLPILOT_DASHBOARD_TOKEN"
_STORE_PATIENCE_S: Final = 5.0


@click.command(
    epilog="""\b
Examples:
  poolpilot dashboard --store redis://127.0.0.1:6379
  poolpilot dashboard --log run/decisions.jsonl --runs runs
  poolpilot dashboard --runs runs/unseen --runs runs/mine

It only ever reads. docs/dashboard.md says what each tab shows, and how its figures are made."""
)
@click.option("--store", help="redis://host:port of the Redis or Valkey of a sidecar.")
@click.option("--store-prefix", default="poolpilot", show_default=True, help="As the sidecar was given it.")
@click.option(
    "--log",
    type=click.Path(exists=True, path_type=Path),
    help="A decision log instead of a store: decisions.jsonl, or the sidecar's working folder.",
)
@click.option(
    "--runs",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of an evaluation or a training run, or one that holds some; repeatable.",
)
@click.option(
    "--history",
    type=click.FloatRange(1.0, 24 * 60.0),
    default=60.0,
    show_default=True,
    help="Minutes of ticks that are kept and shown.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8799, show_default=True, help="0 takes a free one.")
@click.option(
    "--host",
    default=LOOPBACK,
    show_default=True,
    help="Address to listen at; any but loopback needs a token. There is no TLS: leave that to a proxy.",
)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"File with the token that whoever looks must show. Or in ${TOKEN_VARIABLE}.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@one_line_errors
def dashboard(
    store: str | None,
    store_prefix: str,
    log: Path | None,
    runs: tuple[Path, ...],
    history: float,
    port: int,
    host: str,
    token_file: Path | None,
    verbose: bool,
) -> None:
    """Show a sidecar live: fleet, decisions explained, policies compared, savings.

    Reads a sidecar's store or its decision log, and the folders of evaluations and training runs. Stop it with Ctrl-C.
    """
    if find_spec("plotly") is None:  # an extra
        refuse("dashboard draws with Plotly, which is not installed: pip install 'poolpilot[figures]'")
    if store is not None and log is not None:
        refuse("--store, --log: wanted one of them, not both")
    if store is None and log is None and not runs:
        refuse("nothing to show: wanted --store URL or --log FILE of a sidecar, or --runs DIR")
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    token = os.environ.get(TOKEN_VARIABLE) if token_file is None else read_token(token_file)
    access = Access(token, is_loopback(host))  # refused before anything is started
    try:
        asyncio.run(_serve(store, store_prefix, log, runs, history * 60.0, port, host, access))
    except StoreError as error:
        refuse(str(error))


async def _serve(
    store: str | None,
    prefix: str,
    log: Path | None,
    runs: tuple[Path, ...],
    history_s: float,
    port: int,
    host: str,
    access: Access,
) -> None:
    from ..dashboard.app.following import Following
    from ..dashboard.app.server import dashboard as application
    from ..dashboard.reading.logs import LogSource
    from ..dashboard.reading.runs import RunReader
    from ..dashboard.reading.sources import NoSource, Source, StoreSource

    source: Source
    if store is not None:
        source = StoreSource(
            Store(store, prefix=prefix, timeout_s=_STORE_PATIENCE_S), f"{_without_password(store)} {prefix}"
        )
    elif log is not None:
        source = LogSource(log / "decisions.jsonl" if log.is_dir() else log)
    else:
        source = NoSource()
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with serving(application(Following(source, history_s), RunReader(runs), access), port, host) as address:
        click.echo(f"dashboard at {address}")
        await stopping.wait()


def _without_password(url: str) -> str:
    scheme, _, rest = url.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
