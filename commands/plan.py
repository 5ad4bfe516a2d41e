"""`poolpilot plan`: which GPUs to rent, how laid out, at which precision, and which class goes where."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import click
from rich.markup import escape
from rich.progress import Progress

from ..agents.planner.composition import Composition, Infeasible, Problem
from ..agents.planner.explaining.conflict import Conflict
from ..agents.planner.explaining.infeasible import conflict_of
from ..agents.planner.explaining.sensitivity import sensitivities
from ..agents.planner.solving.milp import compose
from ..agents.planner.written import PlanNotWritable, planned_scenario
from ..env.scenario import Scenario, load_scenario
from ..env.scenario.planning import Planning
from ..env.workload.requests import Workload
from .bad_input import one_line_errors, refuse
from .first_run import say_if_it_compiles
from .planning.asked import Asked, GpuPrice, Load, Number, changed, levers, posed, workload_of
from .planning.compared import Rival, rivals
from .planning.document import infeasible_document, plan_document
from .planning.files import keep_frontier, keep_plan, need_figures, write_scenario
from .planning.found import Found, found
from .planning.frontier import ATTAINMENTS, Point, frontier
from .planning.serving import commands_text, serve_commands
from .planning.simulated import USUAL_SEEDS, Simulated, simulate_plan
from .planning.tables import frontier_table, plan_tables, rivals_table, simulated_tables
from .printing import console, log_console, print_json, progress

NO_PLAN = 1
"""Exit code where nothing carries the load within all limits: the input was good, the answer is no."""
MOST_POSING_S = 20.0
"""Looser targets, attainments and floors pose the problem anew; they are left out where that would take longer."""


@click.command(
    epilog="""\b
Examples:
  poolpilot plan --scenario case-study                       # what to rent for it
  poolpilot plan --scenario case-study --price L40S=1.2      # what if an L40S cost 1.20 $/h
  poolpilot plan --scenario case-study --without L40S --attainment 0.95
  poolpilot plan --scenario case-study --budget 12 --goodput  # the most requests in time for 12 $/h
  poolpilot plan --scenario case-study --frontier --out plans  # cost against attainment, as table, HTML and JSON
  poolpilot plan --scenario case-study --compare --simulate  # beside other fleets, and checked in the simulator
  poolpilot plan --scenario case-study --write planned.yaml --commands
  poolpilot simulate --scenario planned.yaml --policy held-plan --policy plan-tracking

A plan exits with 0, bad input with 2, and with 1 where no fleet carries the load within all limits; what would
have to give is then said. The JSON document is described in docs/plan-command.md, how plans are made in
docs/planning.md."""
)
@click.option("--scenario", required=True, help="A shipped scenario's name, or a file.")
@click.option(
    "--load",
    type=click.Choice(["mean", "peak"]),
    default="peak",
    show_default=True,
    help="Plan for the mean load, or for the minute that only 5 % exceed.",
)
@click.option(
    "--headroom", type=Number(1.0, 5.0), help="The load is planned for times this. Default: the scenario's, else 1.1."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the generated workload.")
@click.option(
    "--buckets",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Buckets of length of each class. Capacities know how lengths differ within a bucket; more of them matter with --route-by-length.",
)
@click.option(
    "--route-by-length/--no-route-by-length",
    default=None,
    help="Let requests of one class go to different pools by their lengths, as a proxy that sees lengths can. Default: as the scenario says.",
)
@click.option(
    "--prices",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A price file (ours or a SkyPilot catalogue's) instead of the scenario's.",
)
@click.option("--price", "price", type=GpuPrice(), multiple=True, help="What if a GPU cost this per hour; repeatable.")
@click.option("--without", multiple=True, metavar="GPU", help="What if this GPU could not be had; repeatable.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["bf16", "fp16", "fp8", "int8", "int4"]),
    multiple=True,
    help="Only this precision of the weights; repeatable.",
)
@click.option("--budget", type=Number(min=0.0, min_open=True), help="No more rent than this, $/h.")
@click.option(
    "--goodput", is_flag=True, help="Serve as much as the budget allows, not everything as cheaply as can be."
)
@click.option(
    "--attainment",
    type=Number(0.0, 1.0, min_open=True, max_open=True),
    help="Wanted share of every class's requests within target, 0 to 1, instead of the scenario's.",
)
@click.option(
    "--max-price-age-days", type=click.IntRange(0, 36500), help="Warn of older prices. Default: as the scenario says."
)
@click.option(
    "--gap", type=Number(0.0, 0.5), default=0.005, show_default=True, help="How near the cheapest is near enough."
)
@click.option(
    "--time-limit", type=Number(0.1, 3600.0), default=30.0, show_default=True, help="Seconds to look for a plan."
)
@click.option(
    "--explain/--no-explain",
    default=True,
    show_default=True,
    help="Plan again with each limit looser, to tell what would change the plan.",
)
@click.option(
    "--frontier",
    "wants_frontier",
    is_flag=True,
    help="Plan for many attainments: a table, frontier.html and frontier.json.",
)
@click.option("--compare", "wants_compare", is_flag=True, help="Beside every fleet of one GPU type, and a greedy mix.")
@click.option(
    "--simulate", "wants_simulated", is_flag=True, help="Hold the plan in the simulator, on the scenario's own load."
)
@click.option(
    "--seeds", type=click.IntRange(1, 100), default=USUAL_SEEDS, show_default=True, help="Worlds of --simulate."
)
@click.option(
    "--write",
    "write_to",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A scenario whose pools are the plan's, for simulate, evaluate and control.",
)
@click.option("--commands", "wants_commands", is_flag=True, help="The vllm command of every pool.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep plan.json, planned.yaml, serve.sh and the frontier's files there.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def plan(
    scenario: str,
    load: Load,
    headroom: float | None,
    seed: int,
    buckets: int,
    route_by_length: bool | None,
    prices: Path | None,
    price: tuple[tuple[str, float], ...],
    without: tuple[str, ...],
    precisions: tuple[str, ...],
    budget: float | None,
    goodput: bool,
    attainment: float | None,
    max_price_age_days: int | None,
    gap: float,
    time_limit: float,
    explain: bool,
    wants_frontier: bool,
    wants_compare: bool,
    wants_simulated: bool,
    seeds: int,
    write_to: Path | None,
    wants_commands: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Which GPUs to rent, how many replicas of which layout, at which precision, and which class goes where.

    Exact: a mixed-integer program over whole replicas and shares of the load, with capacities from the performance
    model under each class's targets. What may be rented stands in the scenario's section `planning`; a scenario
    without one is planned over its own pools.
    """
    asked = Asked(
        load=load,
        headroom=headroom,
        seed=seed,
        buckets=buckets,
        prices=prices,
        budget_usd_per_hr=budget,
        without=without,
        price_usd_per_gpu_hr=dict(price),
        precisions=precisions,
        attainment=attainment,
        goodput=goodput,
        route_by_length=route_by_length,
        max_price_age_days=max_price_age_days,
    )
    if goodput and (wants_frontier or wants_compare):
        refuse("--goodput: not with --frontier or --compare, which tell what the whole load costs")
    if wants_frontier:
        need_figures()
    loaded = changed(load_scenario(scenario, needs_pools=False), asked)
    with progress(quiet=as_json) as bar:
        task = bar.add_task("what can be rented, and what it carries", total=None)
        requests = workload_of(loaded, asked)
        began_s = time.monotonic()
        problem = posed(loaded, requests, asked)
        posing_s = time.monotonic() - began_s
        if goodput and problem.wishes.budget_usd_per_hr is None:
            refuse("--goodput: wanted a budget to spend: --budget USD, or one in the scenario")
        bar.update(task, description="the cheapest of it")
        try:
            composition = compose(problem, goodput=goodput, gap=gap, time_limit_s=time_limit)
        except Infeasible as error:
            bar.update(task, description="no plan: looking for what clashes")
            conflict = conflict_of(problem, levers(loaded, requests, asked) if explain else ())
            bar.stop()
            _print_infeasible(loaded, asked, conflict, problem.notes, as_json)
            raise click.exceptions.Exit(NO_PLAN) from error
        sensitivity = None
        if explain:
            bar.update(task, description="what would change it")
            tried = levers(loaded, requests, asked, together=True)
            in_time = posing_s * len(tried) <= MOST_POSING_S
            sensitivity = sensitivities(problem, composition, levers=tried if in_time else ())
            if not in_time:
                left_out = (*sensitivity.left_out, *(f"{lever.kind} {lever.subject}".strip() for lever in tried))
                sensitivity = replace(sensitivity, left_out=left_out)
        answer = found(loaded, problem, composition, _today(), _age_limit(loaded, asked), sensitivity)
        bar.remove_task(task)
        compared = _compared(problem, composition, bar) if wants_compare else None
        points = _frontier(loaded, requests, asked, wants_compare, bar) if wants_frontier else None
        simulated, not_simulated = None, ""
        if wants_simulated:
            try:
                simulated = _simulated(answer, seeds, bar)
            except PlanNotWritable as error:
                not_simulated = str(error)
    commands = serve_commands(answer)
    document = plan_document(answer, asked, commands if wants_commands else None, compared, points, simulated)
    if as_json:
        print_json(document)
    else:
        _print(answer, asked, compared, points, simulated)
        if wants_commands:
            click.echo(commands_text(commands))
    if not_simulated:
        refuse(f"--simulate: {not_simulated}")
    kept: list[Path] = []
    if out is not None:
        kept += keep_plan(out, document, commands)
    if points is not None:
        kept += keep_frontier(out or Path(), points, loaded.name)
    for path in ([] if write_to is None else [write_to]) + ([] if out is None else [out / "planned.yaml"]):
        write_scenario(answer, asked, path, commands)
        kept.append(path)
    if kept:
        log_console().print(f"wrote {', '.join(str(path) for path in kept)}", highlight=False, soft_wrap=True)


def _today() -> date:
    return datetime.now(UTC).date()


def _age_limit(scenario: Scenario, asked: Asked) -> int:
    """Days after which a price is old."""
    if asked.max_price_age_days is not None:
        return asked.max_price_age_days
    return Planning().max_price_age_days if scenario.planning is None else scenario.planning.max_price_age_days


def _compared(problem: Problem, composition: Composition, bar: Progress) -> list[Rival]:
    task = bar.add_task("other fleets", total=len({offer.gpu for offer in problem.offers}))
    found_rivals = list(rivals(problem, composition, on_fleet=lambda: bar.advance(task)))
    bar.remove_task(task)
    return found_rivals


def _frontier(scenario: Scenario, requests: Workload, asked: Asked, others: bool, bar: Progress) -> list[Point]:
    """The sweep; every attainment is posed anew, for what a replica carries depends on it."""
    task = bar.add_task("attainment by attainment", total=len(ATTAINMENTS))

    def problem_at(attainment: float) -> Problem:
        # The other what-ifs stand in the scenario already.
        return posed(changed(scenario, Asked(attainment=attainment)), requests, asked)

    points: list[Point] = []
    for several in frontier(problem_at, others=others):
        points += several
        bar.advance(task)
    bar.remove_task(task)
    return points


def _simulated(answer: Found, seeds: int, bar: Progress) -> Simulated:
    say_if_it_compiles()
    task = bar.add_task("simulating the plan", total=seeds)
    held = planned_scenario(answer.scenario, answer.problem, answer.composition, held=True)
    simulated = simulate_plan(held, seeds, on_seed=lambda: bar.advance(task))
    bar.remove_task(task)
    return simulated


def _print(
    answer: Found,
    asked: Asked,
    compared: Sequence[Rival] | None,
    points: Sequence[Point] | None,
    simulated: Simulated | None,
) -> None:
    out = console()
    for part in plan_tables(answer, asked):
        out.print(part)
    if compared is not None:
        out.print(rivals_table(compared))
    if points is not None:
        out.print(frontier_table(points))
    if simulated is not None:
        for part in simulated_tables(answer, simulated):
            out.print(part)


def _print_infeasible(
    scenario: Scenario, asked: Asked, conflict: Conflict | None, notes: Sequence[str], as_json: bool
) -> None:
    if as_json:
        print_json(infeasible_document(scenario.name, asked, conflict, notes))
        return
    out = console()
    out.print(f"[bold]No plan for {scenario.name}[/bold] carries the load within all limits.")
    for line in (*(() if conflict is None else conflict.lines), *notes):
        out.print(f"  - {escape(line)}", highlight=False)
