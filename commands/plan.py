"""`poolpilot plan`: the cheapest counts and routing for a scenario's load."""

from __future__ import annotations

import math

import click
import numpy as np

from ..agents.planner.milp import cheapest_plan
from ..env.beliefs import believed_capacity, mean_load, peak_load
from ..env.scenario import load_scenario
from ..env.wire import to_json
from ..env.workload.load import load_workload
from .bad_input import one_line_errors, refuse
from .printing import console, percent, print_json, table


@click.command()
@click.option("--scenario", required=True, help="A shipped scenario's name, or a file.")
@click.option(
    "--load",
    type=click.Choice(["mean", "peak"]),
    default="peak",
    show_default=True,
    help="Plan for the mean load, or for the minute that only 5 % exceed.",
)
@click.option(
    "--headroom",
    type=click.FloatRange(1.0, 5.0),
    default=1.1,
    show_default=True,
    help="The load is planned for times this.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the generated workload.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def plan(scenario: str, load: str, headroom: float, seed: int, as_json: bool) -> None:
    """The cheapest replica counts and routing that carry a scenario's load within its targets.

    Exact: a mixed-integer program over whole replicas and routing shares, with capacities from the performance
    model under each class's targets.
    """
    if math.isnan(headroom):  # a range lets it through: NaN is neither below nor above
        refuse("--headroom nan: wanted a number from 1 to 5")
    loaded = load_scenario(scenario)
    cluster = loaded.cluster()
    requests = load_workload(loaded.workload, loaded.class_names, loaded.duration_s, seed, loaded.base_dir)
    mean, prompt, output = mean_load(requests, loaded.duration_s)
    wanted = (mean if load == "mean" else peak_load(requests, loaded.duration_s)) * headroom
    capacity = believed_capacity(loaded)(prompt, output)
    answer = cheapest_plan(cluster, wanted, capacity, cluster.usd_per_hr)
    if as_json:
        print_json(
            {
                "scenario": loaded.name,
                "pools": cluster.pool_names,
                "classes": cluster.class_names,
                "plan": to_json(answer),
            }
        )
        return
    out = console()
    pools = [
        (
            name,
            f"{answer.replicas[p]:.0f}",
            f"{cluster.usd_per_hr[p]:.2f}",
            f"{answer.replicas[p] * cluster.usd_per_hr[p]:.2f}",
        )
        for p, name in enumerate(cluster.pool_names)
    ]
    caption = f"{float(answer.usd_per_hr):.2f} $/h in all, for the {load} load times {headroom:g}"
    out.print(table(f"Plan for {loaded.name}", ("pool", "replicas", "$/h each", "$/h"), pools, caption))
    classes = [
        (
            name,
            f"{wanted[c]:.2f}",
            *(f"{percent(answer.route[c, p], 0)} of {capacity[c, p]:.1f}/s" for p in range(len(cluster.pool_names))),
        )
        for c, name in enumerate(cluster.class_names)
    ]
    out.print(
        table(
            "Routing: share of the class, of what one replica carries within target",
            ("class", "requests/s", *cluster.pool_names),
            classes,
        )
    )
    short = np.flatnonzero(answer.attainment < cluster.targets.attainment - 1e-6)
    for c in short:
        out.print(
            f"[yellow]{cluster.class_names[c]}: the load does not fit; only {percent(answer.attainment[c])} would meet"
            " the target. Raise a pool's replicas.max, loosen the target, or add a pool.[/yellow]"
        )
