"""`poolpilot evaluate`: policies side by side over suites of scenarios and seeds."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from ..agents.portfolio import HELD_PLAN, INTEGRAL, RULES, USUAL
from ..training.contenders import MARKS
from ..training.evaluation.entrants import listed_all
from ..training.evaluation.jobs import Job, Plan, jobs_of
from ..training.evaluation.manifest import manifest_of
from ..training.evaluation.rows import Row
from ..training.evaluation.run_folder import RunFolder
from ..training.evaluation.running import run_evaluation
from ..training.evaluation.summary import summary_of
from ..training.static_peak import STATIC_PEAK
from .bad_input import one_line_errors, refuse
from .evaluating.asked import command_line, headrooms_asked, options_given, policies_asked, suites_asked
from .evaluating.kept import NO_REPORT, can_draw, keep_on_card, keep_report, keep_summary, report_again
from .evaluating.tables import evaluation_tables
from .evaluating.timelines import Shown, keep_timelines, timelines_asked
from .first_run import say_if_it_compiles
from .knobs import KnobsOf, knobs_option, need_optuna
from .printing import console, log_console, print_json, progress


@click.command(
    epilog="""\b
Examples:
  poolpilot evaluate --suite unseen --policies plan-tracking,steady-hand --seeds 5 --out runs/unseen
  poolpilot evaluate --suite traces --data DIR --policies saturation,steady-hand,perfect-forecast --workers 8
  poolpilot evaluate --scenario two-models --policy threshold --policy plan-tracking --headroom 0.8,1,1.2

  poolpilot evaluate --out runs/unseen --report

A run that is cut off goes on when it is started again with the same --out. docs/evaluation.md says how to read what
is printed and kept."""
)
@click.option("--suite", "suites", multiple=True, help="A shipped suite's name, or a file; repeatable.")
@click.option("--scenario", "scenarios", multiple=True, help="A shipped scenario's name, or a file; repeatable.")
@click.option("--policies", "lists", multiple=True, help="Policies, with commas between them.")
@click.option(
    "--policy",
    "single",
    multiple=True,
    help=f"One of {', '.join(RULES)} (all but the first also with {INTEGRAL} behind them), {STATIC_PEAK}, {HELD_PLAN}, {', '.join(MARKS)} (no policies but marks: they know what comes), or"
    f" a checkpoint's name or folder; repeatable. Default: {', '.join(USUAL)}.",
)
@click.option("--seeds", type=click.IntRange(2, 1000), default=5, show_default=True, help="Worlds for each scenario.")
@click.option(
    "--headroom",
    help="Factors on every policy's one head-room knob to sweep, with commas between them. Default: 0.7, 0.85, 1, 1.2,"
    " 1.5 with --suite, else 1.",
)
@click.option(
    "--refine",
    type=click.IntRange(0, 20),
    default=2,
    show_default=True,
    help="More head-rooms to try for each level of attainment where the sweep does not reach it, or could come closer.",
)
@click.option("--reference", help="The policy that bills are compared with. Default: the first.")
@click.option(
    "--tune",
    is_flag=True,
    help="Tune rules for each scenario first, on other days of it, instead of keeping their shipped knobs (slow).",
)
@click.option(
    "--bound/--no-bound", default=True, show_default=True, help="Tell how far bills are above the clairvoyant bound."
)
@knobs_option
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the public traces that suites ask for. Default: what POOLPILOT_DATA says.",
)
@click.option("--workers", type=click.IntRange(1, 512), help="Processes. Default: as many as there are cores.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep rows.parquet, summary.json and report.html there; goes on with a run that was cut off.",
)
@click.option(
    "--timeline",
    "timelines",
    multiple=True,
    metavar="SCENARIO[:SEED]",
    help="With --out: keep every policy's run there tick by tick, for the report; repeatable, or none. Default: the"
    " median scenario of the first suite, seed 0.",
)
@click.option("--report", "report_only", is_flag=True, help="Only make report.html again from what --out holds.")
@click.option(
    "--onto-card",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A checkpoint's folder: keep the summary on its card.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_context
@one_line_errors
def evaluate(
    context: click.Context,
    suites: tuple[str, ...],
    scenarios: tuple[str, ...],
    lists: tuple[str, ...],
    single: tuple[str, ...],
    seeds: int,
    headroom: str | None,
    refine: int,
    reference: str | None,
    tune: bool,
    bound: bool,
    knobs: Path | None,
    data: Path | None,
    workers: int | None,
    out: Path | None,
    timelines: tuple[str, ...],
    report_only: bool,
    onto_card: Path | None,
    as_json: bool,
) -> None:
    """Compare policies over suites of scenarios and seeds, with 95 % bootstrap intervals.

    Every policy meets the same worlds (paired by seed), with its shipped knobs. Two readings: as shipped, and at
    equal attainment, for which each policy's one head-room knob is swept.
    """
    if report_only:
        _report_only(context, out)
        return
    if timelines and out is None:
        raise click.UsageError("--timeline: wanted --out too, a folder to keep it in")
    if tune and find_spec("optuna") is None:  # an extra
        refuse("--tune searches with Optuna, which is not installed: pip install 'poolpilot[tune]'")
    if tune:
        need_optuna("--tune")
    names = policies_asked(lists, single, USUAL)
    if reference is not None and reference not in names:
        raise click.UsageError(f"--reference {reference}: not among the policies compared ({', '.join(names)})")
    asked = suites_asked(suites, scenarios, data)
    policies = listed_all(names, KnobsOf(knobs).by_rule)
    shown = {own.given: own.name for own in policies}
    headrooms = headrooms_asked(headroom, swept=bool(suites))
    plan = Plan(asked.scenarios, {own.name: own for own in policies}, seeds, tune, bound)
    manifest = manifest_of(
        asked.scenarios, asked.skipped, policies, headrooms, refine, seeds, tune, bound, command_line(context)
    )
    shown_runs = timelines_asked(timelines, plan)
    folder = RunFolder(out, manifest) if out is not None else None
    rows = _run(plan, jobs_of(plan, headrooms), refine, workers or os.cpu_count() or 1, folder, as_json)
    document = summary_of(rows, shown[reference or names[0]], asked.skipped)
    if folder is not None:
        keep_summary(folder, document)
        _keep_for_people(folder, plan, shown_runs, manifest, document, rows, as_json)
    if onto_card is not None:
        keep_on_card(onto_card, document, manifest)
    if as_json:
        print_json({"manifest": manifest, **document, "rows": rows})
        return
    out_console = console()
    for shown_table in evaluation_tables(document):
        out_console.print(shown_table)


def _report_only(context: click.Context, out: Path | None) -> None:
    """Of what is there; whatever else is asked would change what is there."""
    if out is None:
        raise click.UsageError("--report: wanted --out too, the folder of a run that is done")
    given = [option for option in options_given(context) if option not in ("--out", "--report")]
    if given:
        raise click.UsageError(
            f"--report with {', '.join(given)}: it runs nothing, wanted --out alone; the run's own command makes the report"
            " too, and does not run again what is done"
        )
    if not can_draw():
        refuse(NO_REPORT)
    log_console().print(f"{report_again(out)}", highlight=False, soft_wrap=True)


def _keep_for_people(
    folder: RunFolder,
    plan: Plan,
    asked: list[Shown] | None,
    manifest: dict[str, Any],
    document: dict[str, Any],
    rows: list[Row],
    quiet: bool,
) -> None:
    """Timelines, and the report."""
    if not can_draw() and asked is None:
        log_console().print(NO_REPORT, highlight=False, soft_wrap=True)
        return
    with progress(quiet=quiet) as bar:
        task = bar.add_task("recording", total=None)

        def on_run(done: int, of: int, what: str) -> None:
            bar.update(task, completed=done, total=of, description=what)

        kept = keep_timelines(folder.folder, plan, asked, document, on_run)
    if not can_draw():
        log_console().print(NO_REPORT, highlight=False, soft_wrap=True)
        return
    path = keep_report(folder.folder, manifest, document, rows, kept)
    if not quiet:
        log_console().print(f"report: {path}", highlight=False, soft_wrap=True)


def _run(plan: Plan, jobs: list[Job], refine: int, workers: int, folder: RunFolder | None, quiet: bool) -> list[Row]:
    say_if_it_compiles()
    with progress(quiet=quiet) as bar:
        task = bar.add_task("evaluating", total=len(jobs))

        def on_progress(done: int, known: int, last: Job | None) -> None:
            bar.update(
                task, completed=done, total=known, description=f"{last.suite}: {last.scenario}" if last else None
            )

        return run_evaluation(plan, jobs, refine, workers, folder, on_progress)
