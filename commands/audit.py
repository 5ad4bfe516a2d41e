"""`poolpilot audit`: what a fleet cost and held, and what other policies would have cost, from what was measured anyway."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from ..agents.portfolio import RULE_SPECS
from ..audit.as_it_was import tick_of
from ..audit.auditing import Audit, ticks_of
from ..audit.auditing import audit as run_audit
from ..audit.description import EXAMPLE, Description, read_description
from ..audit.document import document_of
from ..audit.instead import Asked
from ..audit.measured import Measured
from ..audit.prometheus.client import Client, Server
from ..audit.prometheus.measuring import measured_of
from ..audit.prometheus.reading import Past, Wanted, query_count, read_past
from ..audit.request_log import read_request_log
from ..audit.request_rows import AskedLog
from ..training.matching import Verdict
from .auditing.asked import TOKEN_VARIABLE, Moment, Span, headers_of, pairs_of, units_of, window_of
from .auditing.kept import keep
from .auditing.tables import print_audit
from .bad_input import one_line_errors
from .first_run import say_if_it_compiles
from .printing import console, print_json, progress

NOT_MATCHED: Final = 3
"""Exit code where the simulation does not match the measurement: the bill stands, nothing is promised."""


@click.command(
    epilog="""\b
Examples:
  poolpilot audit --write-example > pools.yaml
  poolpilot audit --prometheus http://prometheus:9090 --pools pools.yaml --range 24h --out audit
  poolpilot audit --requests log.parquet --pools pools.yaml --column prompt_tokens=n_in --column output_tokens=n_out

Exit code 0: audited; 2: bad input; 3: the simulation does not match what was measured, so nothing is promised beyond the
bill. docs/audit.md says what is read, assumed and how far to trust it."""
)
@click.option("--write-example", is_flag=True, help="Print a description of pools to start from, and stop.")
@click.option("--pools", "pools", type=click.Path(path_type=Path), help="The short description of the fleet (YAML).")
@click.option("--prometheus", "url", help="Address of a Prometheus, Thanos or Mimir that scrapes vLLM or SGLang.")
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Sent with each query; repeatable.")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"File with a bearer token for it. Default: what {TOKEN_VARIABLE} says.",
)
@click.option("--range", "span_s", type=Span(), default="24h", show_default=True, help="How far to look back.")
@click.option(
    "--until", "until_s", type=Moment(), help="Its end: an ISO time or Unix seconds. Default: now, or the log's end."
)
@click.option("--from", "from_s", type=Moment(), help="Its beginning, instead of --range.")
@click.option(
    "--step",
    "step_s",
    type=Span(),
    help="Between two moments that are asked for. Default: 15 s, or a 1,440th of the range.",
)
@click.option(
    "--replica-label", default="instance", show_default=True, help="Label that tells replicas apart, such as pod."
)
@click.option("--timeout", "timeout_s", type=Span(), default="60s", show_default=True, help="Of one query.")
@click.option(
    "--requests",
    "log",
    type=click.Path(path_type=Path),
    help="Instead of --prometheus: a log of requests, CSV (packed or not) or Parquet.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="FIELD=NAME",
    help="Which of its columns holds a field: arrival, prompt_tokens, output_tokens, class, pool, ttft, first_token, end, duration, status. Left out: guessed from the names.",
)
@click.option(
    "--unit",
    "units",
    multiple=True,
    metavar="FIELD=s|ms|us|ns",
    help="Of a column of times. Left out: by its name, or by its size.",
)
@click.option(
    "--seeds",
    type=click.IntRange(2, 100),
    default=5,
    show_default=True,
    help="Draws of what the measurement does not tell.",
)
@click.option("--rules", help="Rules to choose the best of, with commas between. Default: all that are tuned.")
@click.option("--policy", default="steady-hand", show_default=True, help="The checkpoint: its name or folder.")
@click.option(
    "--speed-up",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Of emulated replicas (`poolpilot emulate`): their seconds in one of the clock's.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep audit.json, audit.html, scenario.yaml and requests.parquet there.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def audit(**given: Any) -> None:
    """Find out what a fleet spent and held, and what the plan, the best rule and the shipped policy would have spent.

    Read-only, no GPU, minutes. Give a Prometheus server that scrapes the engines, or a log of requests, and a short
    description of the pools. The load is reconstructed and replayed in the simulator as it was run; only where that matches
    what was measured is anything said of what others would have done.
    """
    if given["write_example"]:
        click.echo(EXAMPLE.read_text(encoding="utf-8"), nl=False)
        return
    if given["pools"] is None:
        raise click.UsageError("--pools is missing: a description of the fleet; --write-example prints one")
    if (given["url"] is None) == (given["log"] is None):
        raise click.UsageError("wanted one source: --prometheus URL, or --requests FILE")
    description = read_description(given["pools"])
    asked = Asked(_rules(given["rules"]), given["policy"], given["seeds"])
    quiet = bool(given["as_json"])
    measured = _from_log(given, description) if given["url"] is None else _from_prometheus(given, description, quiet)
    found = _run(description, measured, asked, quiet)
    document = document_of(found)
    out: Path | None = given["out"]
    kept = () if out is None else keep(out, found, document)
    if quiet:
        print_json(document)
    else:
        print_audit(document)
        if out is not None:
            hint = "" if "audit.html" in kept else "; audit.html needs pip install 'poolpilot[figures]'"
            console().print(f"\nKept in {out}: {', '.join(kept)}{hint}", markup=False, highlight=False)
    if found.match.verdict is Verdict.BAD:
        sys.exit(NOT_MATCHED)


def _rules(given: str | None) -> tuple[str, ...]:
    names = tuple(RULE_SPECS) if given is None else tuple(name.strip() for name in given.split(",") if name.strip())
    unknown = [name for name in names if name not in RULE_SPECS]
    if unknown or not names:
        raise click.UsageError(f"--rules {given}: wanted some of {', '.join(RULE_SPECS)}, with commas between")
    return names


def _from_log(given: dict[str, Any], description: Description) -> Measured:
    asked = AskedLog(
        given["log"],
        pairs_of(given["columns"], "--column"),
        units_of(given["units"]),
        given["from_s"],
        given["until_s"],
        given["speed_up"],
    )
    return read_request_log(asked, description)


def _from_prometheus(given: dict[str, Any], description: Description, quiet: bool) -> Measured:
    url: str = given["url"]
    if not url.startswith(("http://", "https://")):
        raise click.UsageError("--prometheus: wanted an address that begins with http:// or https://")
    headers = headers_of(given["headers"], given["token_file"], os.environ.get(TOKEN_VARIABLE))
    until_s = time.time() if given["until_s"] is None else given["until_s"]
    span_s = given["span_s"] if given["from_s"] is None else until_s - given["from_s"]
    if span_s <= 0:
        raise click.UsageError("--from: wanted a moment before --until")
    window, stretch = window_of(span_s, until_s, given["step_s"])
    server = Server(url, headers, given["timeout_s"])
    wanted = Wanted(window, stretch, given["replica_label"], given["speed_up"])
    with progress(quiet) as bar:
        task = bar.add_task("asking Prometheus", total=query_count(description))

        async def read() -> Past:
            async with Client(server) as client:
                return await read_past(client, description, wanted, lambda: bar.advance(task))

        past = asyncio.run(read())
    # What a machine takes does not hang on the model's bytes.
    provision_s = {name: pool.cold_start.delays(1.0).provision.mean_s for name, pool in description.pools.items()}
    return measured_of(past, description, server.shown, provision_s)


def _run(description: Description, measured: Measured, asked: Asked, quiet: bool) -> Audit:
    say_if_it_compiles()
    ticks = max(round(measured.duration_s / tick_of(measured.duration_s)), 1)
    with progress(quiet) as bar:
        task = bar.add_task("simulating", total=ticks_of(ticks, asked))
        before = now = 0

        def on_tick(name: str, ticks: int) -> None:
            nonlocal before, now
            if ticks <= now:  # another run has begun
                before += now
            now = ticks
            bar.update(task, description=f"simulating: {name}", completed=before + now)

        return run_audit(description, measured, asked, on_tick)
