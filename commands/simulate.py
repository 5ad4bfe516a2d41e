"""`poolpilot simulate`: run policies over one scenario in the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click
from rich.progress import Progress, TaskID

from ..agents.portfolio import HELD_PLAN, INTEGRAL, PLAN_TRACKING, RULES, USUAL
from ..controller.choosing import PolicyChoice
from ..env.contract import BILL_LAYERS, IDLE_PARTS
from ..env.scenario import Scenario, load_scenario
from ..env.window import TPOT, TTFT
from ..training.contenders import contender, rule_of
from ..training.rollout import RunResult
from ..training.static_peak import STATIC_PEAK
from ..training.worlds import episode_of
from .bad_input import one_line_errors, refuse
from .first_run import say_if_it_compiles
from .knobs import KnobsOf, knobs_option
from .printing import console, percent, print_json, progress, seconds, table
from .simulating.recorded import recorded_run, write_run

_DECISIONS_SHOWN = 5
_PARTS = ("start", "waiting", "drain", "asleep")
"""`IDLE_PARTS` in a narrow column."""
_EVENTS = {
    "started": "started",
    "woken": "woken",
    "given_up": "stuck",
    "preempted": "taken",
    "crashed": "crashed",
    "refused": "sold out",
}
"""What is shown of `RunResult.fleet`, and under which heading."""


@click.command()
@click.option("--scenario", required=True, help="A shipped scenario's name, or a file.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    help=f"One of {', '.join(RULES)} (all but the first also with {INTEGRAL} behind them), {STATIC_PEAK}, {HELD_PLAN}, or a checkpoint's name or folder; repeat for several. Default: {', '.join(USUAL)}.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the world: requests, true speeds, preemptions."
)
@click.option("--duration", type=click.FloatRange(min=10), help="Seconds to simulate instead of the scenario's own.")
@click.option("--tune", is_flag=True, help="Search each rule's knobs for this scenario first. Needs the extra `tune`.")
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the run of one policy down as a sidecar would have: a decision log, for `control --replay` and `finetune`.",
)
@click.option(
    "--world",
    help="With --record: another scenario of the same pools and classes that is true, while policy and planner believe --scenario.",
)
@knobs_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def simulate(
    scenario: str,
    policies: tuple[str, ...],
    seed: int,
    duration: float | None,
    tune: bool,
    record: Path | None,
    world: str | None,
    knobs: Path | None,
    as_json: bool,
) -> None:
    """Run policies over a scenario in the simulator and print what they cost and reach.

    Rules have the knobs that are shipped (docs/tuning.md); fixed counts, and with `--tune` knobs, are searched first, on
    days of the same scenario that are not the one shown.
    """
    loaded = load_scenario(scenario)
    if duration is not None:
        loaded = loaded.model_copy(update={"duration_s": duration})
    if record is not None:
        _record_run(loaded, policies, seed, world, record)
        return
    if world is not None:
        refuse("--world: only with --record")
    names = policies or USUAL
    ticks = int(loaded.duration_s / loaded.tick_s)
    own_knobs = KnobsOf(knobs, tune)
    results: dict[str, RunResult] = {}
    say_if_it_compiles()
    with progress(quiet=as_json) as bar:
        for name in names:
            task = bar.add_task(f"tuning {name}", total=None)
            on_trial = partial(bar.advance, task)
            entry = contender(name, loaded, knobs=own_knobs(rule_of(name) or name, loaded, on_trial), on_trial=on_trial)
            bar.update(task, description=f"running {name}", total=ticks, completed=0)
            episode = episode_of(loaded, seed, miss_price=1.0)
            (results[name],) = entry.run([episode], loaded.tick_s, on_tick=partial(_completed, bar, task))
    if as_json:
        print_json(
            {
                "scenario": loaded.name,
                "seed": seed,
                "duration_s": loaded.duration_s,
                "starts": {name: _starts(loaded, name) for name in loaded.pools},
                "policies": [_record(n, r) for n, r in results.items()],
            }
        )
        return
    _print(loaded.name, seed, results)


def _record_run(scenario: Scenario, policies: tuple[str, ...], seed: int, world: str | None, path: Path) -> None:
    if len(policies) > 1:
        refuse(f"--record: a log is of one policy, got {', '.join(policies)}")
    true = scenario
    if world is not None:
        true = load_scenario(world).model_copy(update={"duration_s": scenario.duration_s, "tick_s": scenario.tick_s})
    chosen = PolicyChoice(policies[0] if policies else PLAN_TRACKING)
    say_if_it_compiles()
    ticks = write_run(path, recorded_run(scenario, chosen, seed, true))
    console().print(f"{ticks} ticks of {scenario.name} under {chosen.name}, seed {seed}, recorded in {path}")


def _starts(scenario: Scenario, pool: str) -> dict[str, object]:
    """How long starts are believed to take, and where the figures come from."""
    cold, (provision, load) = scenario.cold_start(pool), scenario.pools[pool].cold_start.sources()
    return {
        "provision_s": cold.provision.mean_s,
        "provision_source": provision,
        "load_s": cold.load.mean_s,
        "load_source": load,
    }


def _completed(bar: Progress, task: TaskID, ticks: int) -> None:
    bar.update(task, completed=ticks)


def _record(name: str, result: RunResult) -> dict[str, object]:
    row = result.row()
    requests = {key: row.pop(key) for key in ("finished", "met", "lost", "shed")}
    return {
        "policy": name,
        "requests": requests,
        **row,
        "power_basis": result.power_basis,
        "scaling": [asdict(cost) for cost in result.scaling],
        "dearest_decisions": result.dearest_decisions(_DECISIONS_SHOWN),
    }


def _print(name: str, seed: int, results: dict[str, RunResult]) -> None:
    out = console()
    classes = next(iter(results.values())).class_names
    rows = [
        (
            policy,
            f"{r.usd_per_hr:.2f}",
            f"{r.usd_per_1000_met:.3f}" if r.row()["met"] else "-",
            *(percent(r.attainment[c], 2) for c in range(len(classes))),
            str(r.row()["lost"]),
            str(r.replica_changes),
            percent(r.covered_frac),
        )
        for policy, r in results.items()
    ]
    columns = ("policy", "$/h", "$ per 1,000 met", *(f"{c} met" for c in classes), "lost", "scalings", "calibrated")
    wanted = ", ".join(
        f"{c} {w * 100:g} %" for c, w in zip(classes, next(iter(results.values())).attainment_wanted, strict=True)
    )
    out.print(
        table(
            f"{name}, seed {seed}",
            columns,
            rows,
            f"Wanted: {wanted}. Simulated; `poolpilot evaluate` gives intervals. Calibrated: share of the tokens served "
            "inside the range that the performance model was measured over.",
        )
    )
    _print_bill(results)
    latencies = [
        (
            policy,
            cls,
            *(seconds(float(r.latency_s(first, share)[c])) for first in (TTFT, TPOT) for share in (0.5, 0.95)),
        )
        for policy, r in results.items()
        for c, cls in enumerate(classes)
    ]
    out.print(table("Latency", ("policy", "class", "TTFT p50", "TTFT p95", "TPOT p50", "TPOT p95"), latencies))
    machines = [
        (policy, pool, *(str(events[name]) for name in _EVENTS), f"{events['asleep_hr']:.2f}")
        for policy, r in results.items()
        for pool, events in r.fleet.items()
    ]
    out.print(
        table(
            "Machines",
            ("policy", "pool", *_EVENTS.values(), "asleep h"),
            machines,
            "Stuck: starts given up. Taken: machine preemptions. Sold out: ticks in which one that was wanted could not "
            "be had.",
        )
    )


def _print_bill(results: dict[str, RunResult]) -> None:
    """Where the dollars went, and which decisions to scale cost most."""
    per_hr = {policy: 3600.0 / r.duration_s for policy, r in results.items()}
    layers = [
        (
            policy,
            *(f"{float(r.bill.layer_usd(layer)) * per_hr[policy]:.2f}" for layer in BILL_LAYERS[:3]),
            *(f"{float(r.bill.idle_part_usd(part)) * per_hr[policy]:.2f}" for part in IDLE_PARTS),
            f"{float(r.bill.layer_usd('energy')) * per_hr[policy]:.2f}",
            f"{r.cooling_usd * per_hr[policy]:.2f}",
            f"{float(r.bill.layer_usd('network')) * per_hr[policy]:.2f}",
            f"{float(r.energy_j.sum()) / r.duration_s / 1000.0:.2f}",
        )
        for policy, r in results.items()
    ]
    columns = ("policy", *BILL_LAYERS[:3], *_PARTS, "energy", "cooling", "net", "kW")
    basis = next(iter(results.values())).power_basis
    note = (
        "Idle is the next four together; cooling (with losses, by PUE) is part of energy. Draw fitted to measurements"
        f" of the GPU: {_names(basis, 'fitted')}; assumed from its TDP: {_names(basis, 'tdp')}."
    )
    out = console()
    out.print(table("The bill, $/h", columns, layers, note))
    decisions = [
        (policy, d["tick"], f"{float(d['time_s']):g}", d["pool"], f"{float(d['usd']):.3f}", _parts(d))
        for policy, r in results.items()
        for d in r.dearest_decisions(_DECISIONS_SHOWN)
    ]
    if decisions:
        out.print(table("Dearest decisions to scale", ("policy", "tick", "at s", "pool", "$", "for"), decisions))


def _names(basis: Mapping[str, str], kind: str) -> str:
    return ", ".join(pool for pool, on in basis.items() if on == kind) or "none"


def _parts(decision: Mapping[str, float | int | str]) -> str:
    shown = {part: float(decision.get(f"usd_{part}", 0.0)) for part in IDLE_PARTS}
    return ", ".join(f"{label} {usd:.3f}" for label, usd in zip(_PARTS, shown.values(), strict=True) if usd > 0)
