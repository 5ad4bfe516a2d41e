"""`poolpilot finetune refit`: fit the simulated twin of a cluster to its record, and say how far it can be trusted."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import click
from rich.progress import Progress, SpinnerColumn, TextColumn

from ...env.scenario import load_scenario
from ...telemetry.envoy_log import LogTail, RequestRecord
from ...telemetry.record import Defect, Record, read, read_stream
from ...telemetry.twin_report import TwinReport, write_twin_report
from ...training.finetuning.estimates import Estimate
from ...training.finetuning.refit import Judged, Refit, twin_error
from ...training.finetuning.refit import refit as fit
from ...training.finetuning.writing import SCENARIO, document_of, write_refit
from ...training.matching import Compared, Verdict, in_words
from ..bad_input import one_line_errors, refuse
from ..first_run import say_if_it_compiles
from ..printing import console, log_console, print_json, table
from ..replayed import is_store, streamed

DOES_NOT_REPRODUCE: Final = 3
"""Exit code where the refitted twin does not do the recorded days again."""
_DEFECTS_SHOWN: Final = 10


@click.command()
@click.argument("logs", nargs=-1, required=True, metavar="LOG...")
@click.option(
    "--scenario", required=True, help="What was believed of the cluster: a shipped scenario's name, or a file."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for the refitted scenario, the recorded days and refit.json.",
)
@click.option(
    "--access-log",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Envoy's access log over the same time: then the twin serves the very requests that came.",
)
@click.option(
    "--tell",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Working folder of a sidecar: it is told how far the twin that --scenario describes is off, and trusts its policy less if that grows.",
)
@click.option(
    "--store-prefix", default="poolpilot", show_default=True, help="Of the store's keys, where LOG is its URL."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws what the record does not tell.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def refit(
    logs: tuple[str, ...],
    scenario: str,
    out: Path,
    access_log: Path | None,
    tell: Path | None,
    store_prefix: str,
    seed: int,
    as_json: bool,
) -> None:
    """Fit the simulated twin of a cluster to its record.

    LOG is a decision log, with its closed segments, a folder that holds one, or a store's URL. Each third day (of a record of
    less than two days each third sixth) is held out; the twin must do it again, or nothing but refit.json is written and
    the exit code is 3.
    """
    believed = load_scenario(scenario)
    record = _record(logs, store_prefix)
    if not record.ticks:
        refuse(f"{logs[0]}: no ticks that can be read{_first(record.defects)}")
    say_if_it_compiles()
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=log_console(), transient=True) as bar:
        task = bar.add_task("reading")
        found = fit(record, believed, _requests(access_log), seed, lambda what: bar.update(task, description=what))
    write_refit(found, out, logs)
    if tell is not None:
        write_twin_report(tell, TwinReport(twin_error(found.held_out.before), found.error, time.time()))
    if as_json:
        print_json(document_of(found, logs))
    else:
        _print(found, out)
    if not found.reproduces:
        raise SystemExit(DOES_NOT_REPRODUCE)


def _record(logs: Sequence[str], prefix: str) -> Record:
    stores = [log for log in logs if is_store(log)]
    if stores and len(logs) > 1:
        refuse(f"{stores[0]}: a store's stream is read alone, wanted it as the only LOG")
    if stores:
        return read_stream(streamed(stores[0], prefix), memories=False)
    return read([Path(log) for log in logs], memories=False)


def _first(defects: Sequence[Defect]) -> str:
    return f"; {defects[0]}" if defects else ""


def _requests(access_log: Path | None) -> list[RequestRecord]:
    if access_log is None:
        return []
    return [record for record in LogTail(access_log, from_start=True).read() if isinstance(record, RequestRecord)]


# Printing


def _print(found: Refit, folder: Path) -> None:
    out = console()
    if found.defects:
        rows = [(d.kind.value, d.subject or "-", d.ticks, d.detail) for d in found.defects[:_DEFECTS_SHOWN]]
        more = len(found.defects) - len(rows)
        caption = f"and {more} more; refit.json lists them all" if more > 0 else None
        out.print(table("Missing, late or broken in the record", ("what", "of", "ticks", "how"), rows, caption))
    columns = ("what", "of", "believed", "found", "95 % interval", "by")
    caption = "* what was believed lies outside the interval."
    out.print(table("What the record says", columns, list(_estimates(found)), caption))
    for name, why in found.speeds.unknown.items():
        out.print(f"times of {name} stay as believed: {why}")
    for title, own in (("that were fitted", found.fitted), ("that were held out", found.held_out)):
        out.print(_matched(title, own))
    if found.verdict is Verdict.BAD:
        out.print("The refitted twin does not do again what was held out, so nothing is to be learned in it:")
        for reason in found.held_out.after.reasons:
            out.print(f"  {reason}")
        out.print(f"{folder}/refit.json says more.")
        return
    trust = "good" if found.verdict is Verdict.GOOD else "rough: trust comparisons more than figures"
    out.print(f"The refitted twin does again what was held out ({trust}). It is in {folder / SCENARIO}.")


def _estimates(found: Refit) -> Iterator[tuple[str, str, str, str, str, str]]:
    yield from _rows("times x", found.speeds.factors, 1.0)
    yield from _rows("cold start s", found.cold_starts, 1.0)
    yield from _rows("losses per h", found.losses, 1.0)
    prices = {name: own.mean_usd_per_hr if own else None for name, own in found.prices.items()}
    yield from _rows("price $/h", prices, 1.0)
    traffic = found.traffic
    for label, name in (
        ("requests/s", "rate_per_s"),
        ("gaps' cv", "cv"),
        ("prompt tokens", "prompt_tokens"),
        ("output tokens", "output_tokens"),
    ):
        yield from _rows(label, {c: getattr(own, name) if own else None for c, own in traffic.items()}, 1.0)
    if found.returning is not None:
        yield from _rows("come back %", {"clients": found.returning}, 100.0)


def _rows(
    what: str, estimates: Mapping[str, Estimate | None], scale: float
) -> Iterable[tuple[str, str, str, str, str, str]]:
    for name, own in estimates.items():
        if own is None:
            yield what, name, "-", "not told", "-", "-"
            continue
        believed = "-" if own.believed != own.believed else f"{own.believed * scale:.4g}"
        mark = " *" if own.differs else ""
        interval = f"{own.low * scale:.4g} to {own.high * scale:.4g}"
        yield what, name, believed, f"{own.value * scale:.4g}{mark}", interval, own.by


def _matched(title: str, own: Judged) -> object:
    before = {(f.figure, f.of): f for f in own.before.figures}
    rows = [
        (_name(after), *_values(after, before[after.figure, after.of]), after.verdict.value)
        for after in own.after.figures
        if (after.figure, after.of) in before
    ]
    columns = ("figure", "measured", "twin before", "twin after", "now")
    names = ", ".join(s.name for s in own.stretches)
    return table(f"Stretches {title}: {own.before.verdict} before, {own.after.verdict} after", columns, rows, names)


def _name(own: Compared) -> str:
    return in_words(own).partition(":")[0]


def _values(after: Compared, before: Compared) -> tuple[str, str, str]:
    return f"{after.measured:.4g}", f"{before.simulated:.4g}", f"{after.simulated:.4g}"
