"""`poolpilot tune`: the rules' knobs, searched on worlds that are never scored."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import click

from ..agents.portfolio import INTEGRAL, PLAN_TRACKING, RULE_SPECS, spec_of
from ..agents.tuned import SHIPPED, TunedRule, read_tuned, write_tuned
from ..env.scenario import Scenario, load_scenario
from .bad_input import one_line_errors, refuse
from .first_run import say_if_it_compiles
from .knobs import need_optuna
from .printing import console, log_console, percent, print_json, progress, table


@click.command()
@click.argument("rules", nargs=-1)
@click.option("--suite", default="train", show_default=True, help="A shipped suite's name, or a file.")
@click.option(
    "--scenario", "scenarios", multiple=True, help="Tune on these instead of a suite: names or files; repeatable."
)
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of the traces a suite names.")
@click.option("--trials", type=click.IntRange(1, 10_000), default=40, show_default=True, help="Settings tried a rule.")
@click.option("--seeds", type=click.IntRange(1, 100), default=2, show_default=True, help="Days of each scenario.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=os.cpu_count() or 1,
    show_default="one a core",
    help="Processes, each for a rule at a time. The result is the same.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=SHIPPED,
    show_default="the package's own file, which every command reads",
    help="Keep the knobs there; other rules in the file stay as they are.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def tune(
    rules: tuple[str, ...],
    suite: str,
    scenarios: tuple[str, ...],
    data: Path | None,
    trials: int,
    seeds: int,
    workers: int,
    out: Path,
    as_json: bool,
) -> None:
    """Search the knobs of RULES (all, and plan-tracking+integral, if none is named) for the least bill that holds the targets.

    Each rule is tried at its defaults first, then where Optuna expects most, on days of the scenarios that no
    evaluation scores (docs/tuning.md). The best knobs are kept in OUT. Needs the extra `tune` (optuna).
    """
    names = rules or (*RULE_SPECS, PLAN_TRACKING + INTEGRAL)
    for name in names:
        spec_of(name)
    others = read_tuned(out, spec_of, without=names)
    need_optuna("tuning")
    from ..training.tuning.together import tune_rules

    called, worlds = _worlds(suite, scenarios, data)
    found: dict[str, TunedRule] = {}
    say_if_it_compiles()
    with progress(quiet=as_json) as bar:
        task = bar.add_task(f"tuning {len(names)} rules on {len(worlds)} scenarios", total=len(names) * trials)
        on_trial = partial(bar.advance, task)
        for name, rule in tune_rules(names, called, worlds, trials, seeds, workers, on_trial):
            found[name] = rule
            write_tuned(out, {**others, **found})  # a run that is cut off keeps what it has found
    if as_json:
        print_json({"out": str(out), "rules": {name: rule.model_dump(mode="json") for name, rule in found.items()}})
        return
    _print(found)
    log_console().print(f"kept in {out}")


def _worlds(suite: str, scenarios: Sequence[str], data: Path | None) -> tuple[str, Sequence[Scenario]]:
    """What the scenarios are called together, and they."""
    if scenarios:
        return ", ".join(scenarios), [load_scenario(name) for name in scenarios]
    from ..training.suites import load_suite

    loaded = load_suite(suite, data)
    for name, reason in loaded.skipped:
        log_console().print(f"{name}: skipped: {reason}", style="yellow")
    if not loaded.scenarios:
        refuse(f"--suite {suite}: none of its scenarios can be run here")
    return loaded.name, loaded.scenarios


def _print(found: Mapping[str, TunedRule]) -> None:
    from ..training.criterion import HELD

    rows = []
    for name, rule in found.items():
        defaults = spec_of(name).defaults
        rows.append(
            (
                name,
                str(rule.trials),
                f"{rule.reached_by_defaults.bill_ratio:.3f}",
                f"{rule.reached.bill_ratio:.3f}",
                percent(rule.reached_by_defaults.shortfall, 2),
                percent(rule.reached.shortfall, 2),
                "\n".join(f"{knob} {defaults[knob]:g} → {value:g}" for knob, value in rule.knobs.items()),
            )
        )
    columns = ("rule", "trials", "bill, defaults", "tuned", "shortfall, defaults", "tuned", "knobs")
    caption = (
        "Bill in usual bills of each world, the geometric mean over scenarios; shortfall of the wanted attainment, the"
        f" mean over classes and scenarios. Up to {HELD * 100:g} % counts as held."
    )
    console().print(table("Tuned", columns, rows, caption))
