"""`poolpilot calibrate`: refit the performance model to measurements, or hold it against a table of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ..env.perf.calibration import read_measurements, refit
from ..env.perf.check import GroupError, compare_all, group_errors
from ..env.perf.factors import FACTORS_FILE, Factors, FitError, shipped_factors, to_document
from ..env.perf.tables import TableError, read_serving

_LEFT_OUT_SHOWN = 8


class BadInput(click.ClickException):
    """Input that cannot be used; one line on stderr, exit code 2."""

    exit_code = 2


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Folder with measured_serving.csv and kernels/: refit.")
@click.option("--write", is_flag=True, help="With --data: store the refitted factors in the package.")
@click.option(
    "--check", type=click.Path(path_type=Path), help="CSV or Parquet with the columns of measured_serving.csv."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def calibrate(data: Path | None, write: bool, check: Path | None, as_json: bool) -> None:
    """Refit the performance model (--data), or print its error on a table of measured serving (--check)."""
    if data is None and check is None:
        raise click.UsageError("wanted --data DIR to refit, or --check FILE to hold the model against a table")
    if write and data is None:
        raise click.UsageError("--write stores refitted factors: it needs --data DIR")
    notes = Console(stderr=True)
    document: dict[str, Any] = {}
    factors = shipped_factors()
    try:
        if data is not None:
            factors = refit(read_measurements(data), lambda what: notes.print(f"fitting {what}", style="dim"))
            document["factors"] = to_document(factors)
        if check is not None:
            document["check"] = _check(check, factors)
    except TableError as error:
        raise BadInput(str(error)) from None
    if write:
        FACTORS_FILE.write_text(json.dumps(to_document(factors), indent=2) + "\n", encoding="utf-8")
        notes.print(f"wrote {FACTORS_FILE}")
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    out = Console()
    if data is not None:
        out.print(_factors_table(factors))
    if check is not None:
        out.print(_check_table(document["check"]["groups"]))
        _print_left_out(out, document["check"]["left_out"])


def _check(path: Path, factors: Factors) -> dict[str, Any]:
    """The model's error on a table: groups, and how many rows were left out for each reason."""
    rows, others = read_serving(path)
    compared, incomparable = compare_all(rows, factors)
    if not compared:
        reasons = {**others, **incomparable}
        raise TableError(f"{path}: no row can be compared; first reason: {next(iter(reasons), 'none given')}")
    groups: Sequence[GroupError] = group_errors(compared)
    return {"file": str(path), "groups": [asdict(g) for g in groups], "left_out": {**others, **incomparable}}


def _factors_table(factors: Factors) -> Table:
    table = Table(title="Refitted factors (error on rows held out from the fit)")
    for name in ("GPU", "of", "factors", "fitted", "held out", "median", "p90", "bias", "from"):
        table.add_column(name, justify="left" if name in ("GPU", "of", "factors", "from") else "right")
    for name, kinds in factors.gemm.items():
        for kind, gemm in kinds.items():
            shares = f"flops {gemm.flop_eff:.2f}, bytes {gemm.mem_eff:.2f}, launch {gemm.launch_s * 1e6:.1f} us"
            table.add_row(name, f"products, {kind}", shares, *_error_cells(gemm.error))
    for name, attention in factors.attention.items():
        shares = f"prefill {attention.prefill_flop_eff:.2f}, decode {attention.decode_mem_eff:.2f}"
        table.add_row(name, "attention", shares, *_error_cells(attention.error))
    for name, degrees in factors.comm.items():
        for degree, comm in degrees.items():
            speed = f"{comm.latency_s * 1e6:.1f} us + {comm.bytes_per_s / 1e9:.1f} GB/s"
            table.add_row(name, f"all-reduce, {degree} GPUs", speed, *_error_cells(comm.error))
    engine = factors.engine
    parts = f"{engine.iteration_s * 1e3:.2f} ms an iteration, {engine.seq_s * 1e6:.0f} us a sequence"
    table.add_row("all", "engine", parts, *_error_cells(engine.error))
    return table


def _error_cells(error: FitError) -> tuple[str, ...]:
    shares = (f"{error.median:.1%}", f"{error.p90:.1%}", f"{error.bias:+.1%}")
    return str(error.fitted_rows), str(error.held_out_rows), *shares, ", ".join(error.sources)


def _check_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Error of predicted against measured time")
    for name in ("GPU", "model", "rows", "median", "p90", "bias"):
        table.add_column(name, justify="left" if name in ("GPU", "model") else "right")
    for group in groups:
        shares = (f"{group['median']:.1%}", f"{group['p90']:.1%}", f"{group['bias']:+.1%}")
        style = "bold" if group["model"] == "all" else None
        table.add_row(group["gpu"], group["model"], str(group["rows"]), *shares, style=style)
    return table


def _print_left_out(out: Console, left_out: Mapping[str, int]) -> None:
    if not left_out:
        return
    out.print(f"left out: {sum(left_out.values())} rows")
    most = sorted(left_out.items(), key=lambda item: -item[1])
    for reason, count in most[:_LEFT_OUT_SHOWN]:
        out.print(f"  {count:5d}  {reason}")
    if len(most) > _LEFT_OUT_SHOWN:
        rest = sum(count for _, count in most[_LEFT_OUT_SHOWN:])
        out.print(f"  {rest:5d}  for {len(most) - _LEFT_OUT_SHOWN} more reasons (--json lists all)")
