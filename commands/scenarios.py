"""`poolpilot scenarios`: list the shipped scenarios, or check a file, or list what a suite holds."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from ..env.catalog.models import model
from ..env.catalog.quality import quality_frac
from ..env.market.load import machines, prices
from ..env.market.rentable import Rentable, rentable
from ..env.scenario import Scenario, load_scenario, shipped_scenarios
from ..env.scenario.reference import reference
from ..env.scenario.telemetry import Telemetry
from .bad_input import one_line_errors, refuse
from .printing import console, print_json, table


@click.command()
@click.argument("file", required=False)
@click.option("--reference", "as_reference", is_flag=True, help="Print the reference of all fields, in Markdown.")
@click.option(
    "--suite",
    help="List what a suite holds: train, traces, unseen, spot, stress, steady, or a file (docs/suites.md).",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of traces, prices and machines that a suite reads; left out: POOLPILOT_DATA.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def scenarios(file: str | None, as_reference: bool, suite: str | None, data: Path | None, as_json: bool) -> None:
    """List the shipped scenarios; with FILE (or a name), check it and show what it says.

    A scenario names the pools (GPU, model, precision, price, limits), the classes of requests with their targets, and
    the workload. Copy a shipped one to begin your own; every mistake is reported with its field and what would be
    right.
    """
    if as_reference:
        click.echo(reference(), nl=False)
        return
    if suite is not None:
        if file is not None:
            refuse(f"{file}: wanted a scenario or --suite, got both")
        _show_suite(suite, data, as_json)
        return
    if file is None:
        shipped = shipped_scenarios(to_plan=True)
        found = [(name, load_scenario(path, needs_pools=False), path) for name, path in shipped.items()]
        if as_json:
            print_json([{"name": name, "summary": s.summary, "path": str(path)} for name, s, path in found])
            return
        rows = [_row(name, s) for name, s, _ in found]
        console().print(table("Shipped scenarios", _COLUMNS, rows, "`--suite NAME` lists what a suite holds."))
        return
    scenario = load_scenario(file, needs_pools=False)
    market = None if scenario.planning is None else rentable(scenario.planning, scenario.base_dir)
    moving = _moves(scenario)  # reads what files it names, so that these are checked too
    if as_json:
        print_json(scenario.model_dump(mode="json", by_alias=True))
        return
    _show(scenario, moving, market)


_COLUMNS = ("name", "pools", "classes", "length", "what")


def _row(name: str, scenario: Scenario) -> tuple[str, ...]:
    return (
        name,
        f"{len(scenario.pools) or 'to plan'}",
        f"{len(scenario.classes)}",
        f"{scenario.duration_s / 60:.0f} min",
        escape(scenario.summary),
    )


def _show_suite(name: str, data: Path | None, as_json: bool) -> None:
    """What a suite holds, every scenario read and checked, and what it has to leave out here."""
    from ..training.suites import load_suite  # draws clusters, which takes a compiler that nobody else here needs

    suite = load_suite(name, data)
    if as_json:
        print_json(
            {
                "name": suite.name,
                "summary": suite.summary,
                "scenarios": [{"name": own.name, "summary": own.summary} for own in suite.scenarios],
                "skipped": [own._asdict() for own in suite.skipped],
            }
        )
        return
    rows = [_row(own.name, own) for own in suite.scenarios]
    rows += [(own.name, "", "", "", f"skipped: {escape(own.why)}") for own in suite.skipped]
    console().print(table(f"{suite.name}: {escape(suite.summary)}", _COLUMNS, rows))


def _show(scenario: Scenario, moving: list[tuple[str, ...]], market: Rentable | None) -> None:
    out = console()
    out.print(f"[bold]{scenario.name}[/bold]: {escape(scenario.summary)}")
    pools = [
        (
            name,
            pool.hardware,
            pool.model or scenario.model,
            pool.precision,
            f"{pool.price.usd_per_hr:.2f} $/h",
            pool.price.kind,
            f"{pool.replicas.min} - {pool.replicas.max}",
            f"{scenario.cold_start(name).mean_s:.0f} s",
        )
        for name, pool in scenario.pools.items()
    ]
    if pools:
        names = ("pool", "GPU", "model", "precision", "replica", "kind", "replicas", "cold start")
        out.print(table("Pools", names, pools))
    classes = []
    for name, requests in scenario.classes.items():
        target = requests.target
        wanted = [
            f"{label} {value:g} s"
            for label, value in (
                ("TTFT", target.ttft_s),
                ("TPOT", target.tpot_s),
                ("E2E", target.e2e_s),
                ("deadline", target.deadline_s),
            )
            if value is not None
        ]
        classes.append(
            (name, ", ".join(wanted), f"{target.attainment * 100:g} %", ", ".join(requests.pools or ("all",)))
        )
    if pools:
        out.print(_starts(scenario))
    if moving:
        columns = ("pool", "price", "machines", "taken")
        out.print(table("Prices and machines over the run", columns, moving, "Taken: per machine and hour, believed."))
    if market is not None:
        out.print(_offers(market))
        out.print(_kept(scenario))
    out.print(table("Classes", ("class", "targets", "wanted attainment", "pools"), classes))
    if scenario.telemetry is not None:
        out.print(f"Policies see less than there is: {escape(_veiled(scenario.telemetry))}.")


def _veiled(own: Telemetry) -> str:
    """What is hidden, in words."""
    parts = [
        own.delay_s and f"figures {own.delay_s:g} s old",
        own.noise_frac and f"off by {own.noise_frac:.0%}",
        own.drop_frac and f"{own.drop_frac:.0%} missing in a tick",
        own.lacks_frac and f"each source missing with a chance of {own.lacks_frac:.0%}",
        own.lacks and f"never {', '.join(own.lacks)}",
        own.gaps and f"{len(own.gaps)} gaps of {sum(gap.duration_s for gap in own.gaps):g} s together",
    ]
    return "; ".join(part for part in parts if part) or "nothing is hidden"


def _offers(market: Rentable) -> Table:
    """What may be rented, cheapest GPU first."""
    rows = [
        (
            offer.gpu,
            f"{offer.usd_per_gpu_hr:.3f}",
            offer.kind,
            f"{offer.gpus}",
            f"{offer.usd_per_hr:.2f}",
            escape(" ".join(filter(None, (offer.provider, offer.region, offer.instance)))),
            "any" if offer.stock is None else f"{offer.stock}",
            "" if offer.as_of is None else offer.as_of.isoformat(),
        )
        for offer in market.offers
    ]
    limits = f"Stock over all offers together: {', '.join(map(str, market.stock))} GPUs." if market.stock else ""
    columns = ("GPU", "$/h a GPU", "kind", "GPUs", "$/h", "where", "stock", "price of")
    return table("May be rented", columns, rows, "\n".join(map(escape, filter(None, (limits, *market.notes)))))


def _kept(scenario: Scenario) -> Table:
    """What each precision keeps of each model's quality, whom that is good enough for, and who says so."""
    assert scenario.planning is not None
    classes: dict[str, list[str]] = {}
    for name, requests in scenario.classes.items():
        classes.setdefault(model(requests.model or scenario.model).name, []).append(name)
    rows = []
    for served, names in classes.items():
        for precision in scenario.planning.precisions:
            kept = quality_frac(served, precision)
            good = [name for name in names if kept.frac >= scenario.quality_floor(name)]
            low = "" if kept.frac == 1.0 else f"{kept.low:.1%}"
            of = "itself" if kept.of == served else kept.of.rsplit("/", 1)[-1]
            rows.append((served, precision, f"{kept.frac:.1%}", low, of, ", ".join(good) or "nobody"))
    columns = ("model", "precision", "of its score", "lowest", "evaluated on", "enough for")
    caption = "Published evaluations, averaged, and the lowest of them; docs/prices.md has each with its source."
    return table("What precisions keep", columns, rows, caption)


def _starts(scenario: Scenario) -> Table:
    """How long starts take, and where each figure comes from."""
    rows = []
    for name, pool in scenario.pools.items():
        cold, (provision, load) = scenario.cold_start(name), pool.cold_start.sources()
        steps = [("provision", cold.provision, provision), ("load", cold.load, load)]
        if pool.sleep is not None:
            steps.append(("wake up", pool.sleep.delays(scenario.weight_bytes(name))[0], pool.sleep.source()))
        rows += [
            (name, step, f"{delay.mean_s:.1f} s", f"{delay.at(0.95):.1f} s", escape(source))
            for step, delay, source in steps
        ]
    return table("Starts, as believed", ("pool", "step", "mean", "p95", "source"), rows)


def _moves(scenario: Scenario) -> list[tuple[str, ...]]:
    """What moves, of pools with a price series or with machines that come and go."""
    rows: list[tuple[str, ...]] = []
    for name, pool in scenario.pools.items():
        if pool.price.series is None and pool.spot is None:
            continue
        usd = prices(name, pool.price, scenario.duration_s, scenario.base_dir).values
        price, count, rate = f"{usd.min():.2f} - {usd.max():.2f} $/h", "any", 0.0
        if pool.spot is not None:
            rate = pool.spot.preemptions_per_hr
            if pool.spot.availability is not None:
                series, own_rate = machines(name, pool.spot.availability, scenario.duration_s, scenario.base_dir)
                count, rate = f"{series.values.min():g} - {series.values.max():g}", rate or own_rate
        rows.append((name, price, count, f"{rate:.2f}"))
    return rows
