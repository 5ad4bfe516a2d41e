"""`poolpilot calibrate`: refit the performance model to measurements, or hold it against a table of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..env.accuracy.checking import Checked, GroupError, check_table
from ..env.accuracy.few_shot import MOST_GIVEN
from ..env.accuracy.page import IMAGES, page
from ..env.accuracy.plots import draw
from ..env.accuracy.report import build
from ..env.perf.calibration import fit_steps, read_measurements, refit
from ..env.perf.factors import FACTORS_FILE, Factors, FitError, shipped_factors, to_document, to_text
from ..env.perf.power import POWER_FILE, PowerFactors
from ..env.perf.power import to_document as power_document
from ..env.perf.power_fit import POWER_TABLE, PowerFit, refit_power
from .bad_input import one_line_errors
from .printing import console, log_console, percent, print_json, progress, table

_REASONS_SHOWN = 8


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder with measured_serving.csv, energy_measured.csv and kernels/: refit.",
)
@click.option("--write", is_flag=True, help="With --data: store the refitted factors in the package.")
@click.option(
    "--check", type=click.Path(path_type=Path), help="CSV or Parquet with the columns of measured_serving.csv."
)
@click.option(
    "--few-shot",
    type=click.IntRange(1, 1000),
    help=f"With --check: also the error after a correction from so many rows of each GPU and model, {MOST_GIVEN} say.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --data: write the accuracy page there, and its plots beside it. Takes minutes; fits nothing that it scores.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def calibrate(
    data: Path | None, write: bool, check: Path | None, few_shot: int | None, report: Path | None, as_json: bool
) -> None:
    """Refit the performance model (--data), or print its error on a table of measured serving (--check).

    \b
    poolpilot calibrate --check mine.csv                 # how far off the model is on your own measurements
    poolpilot calibrate --check mine.csv --few-shot 20   # and after a correction from 20 of them
    poolpilot calibrate --data DIR --write               # refit to tables of your own, keep the factors
    """
    if data is None and check is None:
        raise click.UsageError("wanted --data DIR to refit, or --check FILE to hold the model against a table")
    if write and data is None:
        raise click.UsageError("--write stores refitted factors: it needs --data DIR")
    if report is not None and data is None:
        raise click.UsageError("--report scores the model on a folder of tables: it needs --data DIR")
    if few_shot is not None and check is None:
        raise click.UsageError("--few-shot corrects the model on a table: it needs --check FILE")
    notes = log_console()
    if data is not None and report is not None:
        _write_report(data, report, notes)
        if not (write or check or as_json):
            return
    power: PowerFit | None = None
    if data is None:
        factors = shipped_factors()
    else:
        measured = read_measurements(data)
        notes.print("fitting power", style="dim")
        power = refit_power(data)
        with progress(as_json) as bar:
            task = bar.add_task("fitting", total=fit_steps(measured) + 1)

            def tell(what: str) -> None:
                bar.console.print(f"fitting {what}", style="dim")
                bar.advance(task)

            factors = refit(measured, tell)
    checked = None if check is None else check_table(check, factors, few_shot)
    if write:
        FACTORS_FILE.write_text(to_text(factors), encoding="utf-8")
        notes.print(f"wrote {FACTORS_FILE}")
        if power is not None:
            POWER_FILE.write_text(json.dumps(power_document(power.table), indent=2) + "\n", encoding="utf-8")
            notes.print(f"wrote {POWER_FILE}")
    if as_json:
        document = {
            "factors": None if data is None else to_document(factors),
            "power": power and {**power_document(power.table), "judged": [asdict(j) for j in power.judged]},
            "check": None if checked is None else _checked_json(checked),
        }
        print_json({name: part for name, part in document.items() if part is not None})
        return
    if data is not None:
        _print_factors(factors)
    if power is not None:
        _print_power(power)
    if checked is not None:
        _print_check(checked)


def _write_report(data: Path, path: Path, notes: Console) -> None:
    made = build(data, lambda what: notes.print(what, style="dim"))
    for plot in draw(made, path.parent / IMAGES):
        notes.print(f"wrote {plot}")
    path.write_text(page(made), encoding="utf-8")
    notes.print(f"wrote {path}")


def _print_factors(factors: Factors) -> None:
    columns = ("GPU", "of", "factors", "fitted", "held out", "median", "p90", "bias", "from")
    console().print(table("Refitted factors (error on rows held out from the fit)", columns, _factor_rows(factors)))


def _factor_rows(factors: Factors) -> Iterator[tuple[object, ...]]:
    for name, kinds in factors.gemm.items():
        for kind, gemm in kinds.items():
            shares = f"flops {gemm.flop_eff:.2f}, bytes {gemm.mem_eff:.2f}, {gemm.launch_s * 1e6:.1f} us"
            yield name, f"products {kind}", shares, *_error_cells(gemm.error)
    for name, attention in factors.attention.items():
        shares = f"prefill {attention.prefill_flop_eff:.2f}, decode {attention.decode_mem_eff:.2f}"
        yield name, "attention", shares, *_error_cells(attention.error)
    for name, degrees in factors.comm.items():
        for degree, comm in degrees.items():
            speed = f"{comm.latency_s * 1e6:.1f} us + bytes / {comm.bytes_per_s / 1e9:.1f} GB/s"
            yield name, f"all-reduce x{degree}", speed, *_error_cells(comm.error)
    for link, transfer in factors.transfer.items():
        speed = f"{transfer.latency_s * 1e6:.1f} us + bytes / {percent(transfer.link_eff)} of the link"
        yield link, "transfer", speed, *_error_cells(transfer.error)
    for name, serving in factors.serving.items():
        shares = f"flops x {serving.flop_share:.2f}, bytes x {serving.mem_share:.2f} of its stand-in"
        yield name, "end to end", shares, *_error_cells(serving.error)
    for name, judged in factors.iterations.items():
        for kind, whole in judged.items():
            yield name, f"unseen layers {kind}", "decode iterations", *_error_cells(whole.decode)
            yield name, f"unseen layers {kind}", "prompts of 256 tokens or more", *_error_cells(whole.prefill)
    engine = factors.engine
    parts = f"{engine.iteration_s * 1e3:.2f} ms + {engine.seq_s * 1e6:.0f} us a sequence"
    yield "all", "engine", parts, *_error_cells(engine.error)


def _print_power(fit: PowerFit) -> None:
    rows = [
        *(_power_row(name, factors) for name, factors in fit.table.gpus.items()),
        _power_row("others, from TDP", fit.table.any_gpu),
    ]
    columns = ("GPU", "floor", "memory", "compute", "experts", "8-bit", "rows", "median", "p90", "new model", "new GPU")
    out = console()
    out.print(
        table(f"Draw as shares of TDP, fitted to {POWER_TABLE} (errors: medians, share of the draw)", columns, rows)
    )
    for judged in fit.judged:
        error = judged.error
        median, bias = percent(error.median), percent(error.bias)
        out.print(f"not fitted: {judged.source} on {judged.gpu}, {error.rows} rows: median {median}, bias {bias}")
    out.print(f"left out: {sum(fit.left_out.values())} rows (prompts or models unknown, other engines, queueing)")


def _power_row(name: str, factors: PowerFactors) -> tuple[object, ...]:
    f = factors
    shares = (f.floor_frac, f.memory_frac, f.compute_frac, f.experts_frac, f.narrow_experts_frac)
    errors = (f.fitted.median, f.fitted.p90, f.new_model.median, f.new_gpu.median)
    return name, *(f"{share:.2f}" for share in shares), f.fitted.rows, *(percent(error) for error in errors)


def _error_cells(error: FitError) -> tuple[object, ...]:
    shares = (percent(error.median), percent(error.p90), percent(error.bias))
    return error.fitted_rows, error.held_out_rows, *shares, ", ".join(error.sources)


def _print_check(checked: Checked) -> None:
    rows = [
        (
            *(g.gpu, g.engine, g.model, g.quantity, g.error.count),
            *(percent(share) for share in (g.error.median, g.error.p90, g.error.bias, g.inside)),
        )
        for g in checked.groups
    ]
    columns = ("GPU", "engine", "model", "of", "rows", "median", "p90", "bias", "inside")
    caption = "Median and p90 of the absolute error; bias above 0: predicted too much. Inside: of the calibrated range."
    out = console()
    out.print(table("Predicted against measured", columns, rows, caption))
    if any(group.few_shot for group in checked.groups):
        few = [(g.gpu, g.engine, g.model, g.quantity, *_few_shot_cells(g)) for g in checked.groups]
        columns = ("GPU", "engine", "model", "of", "given", "scored", "median", "p90", "bias")
        caption = (
            "Given: rows that the correction of a GPU and model saw. Scored: the others, to which the error belongs."
        )
        out.print(table("After a correction from a few rows", columns, few, caption))
    left_out = sorted(checked.left_out.items(), key=lambda item: -item[1])
    if left_out:
        out.print(f"left out: {sum(count for _, count in left_out)} rows")
    for reason, count in left_out[:_REASONS_SHOWN]:
        out.print(f"  {count:5d}  {reason}")
    if len(left_out) > _REASONS_SHOWN:
        rest = sum(count for _, count in left_out[_REASONS_SHOWN:])
        out.print(f"  {rest:5d}  for {len(left_out) - _REASONS_SHOWN} more reasons (--json lists all)")


def _few_shot_cells(group: GroupError) -> tuple[object, ...]:
    after = group.few_shot
    if after is None:
        return 0, 0, *("-",) * 3
    return group.given, after.count, *(percent(share) for share in (after.median, after.p90, after.bias))


def _checked_json(checked: Checked) -> dict[str, Any]:
    """Flat groups; the few-shot part only where it was asked for and could be scored."""
    groups = []
    for g in checked.groups:
        record: dict[str, Any] = {"gpu": g.gpu, "engine": g.engine, "model": g.model, "quantity": g.quantity}
        record |= {"rows": g.error.count, "median": g.error.median, "p90": g.error.p90, "bias": g.error.bias}
        record["inside"] = g.inside
        if g.few_shot is not None:
            after = asdict(g.few_shot)
            record["few_shot"] = {"given": g.given, "rows": after.pop("count"), **after}
        groups.append(record)
    return {"file": checked.file, "groups": groups, "left_out": dict(checked.left_out)}
