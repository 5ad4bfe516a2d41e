"""`python -m poolpilot.benchmarks.agent_study`: which parts of the agent matter, variant beside variant.

Every variant is trained from several seeds for the same number of steps, its checkpoint and price of a miss chosen on
a suite as for any run, and is then scored on other days of that suite and on random clusters that no run has met. A run that is finished is not run again, so the study can be stopped and taken up at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from rich.console import Console

from poolpilot.agents.blend import rules_of
from poolpilot.agents.portfolio import make_rule, portfolio_of
from poolpilot.env.scenario import Scenario
from poolpilot.training.best import CHOOSING_PRICES, BestCheckpoint
from poolpilot.training.clusters import random_scenario
from poolpilot.training.config import TrainConfig
from poolpilot.training.criterion import Outcome, loss, mean_outcome
from poolpilot.training.curriculum import LevelledWorlds
from poolpilot.training.days import CHOOSING_SEED
from poolpilot.training.evaluation.bootstrap import bootstrap
from poolpilot.training.judging import Judge
from poolpilot.training.learner import LearnerPolicy
from poolpilot.training.ppo import train
from poolpilot.training.run_files import ARGUMENTS, STATE_COUNTERS
from poolpilot.training.setting import training_sources
from poolpilot.training.suites import load_suite
from poolpilot.training.warm_start import imitating

from .report import Section, markdown, print_sections, put
from .timing import machine

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "agents.md"
PART: Final = "study"
RESULT: Final = "result.json"
CHOOSING_DAYS: Final = 2
"""Of each scenario that chooses a checkpoint."""
HEADROOMS: Final = (0.9, 1.0)
"""Tried of each run at its end: a search as thorough as of a checkpoint that ships would take longer than the run."""
BANK: Final = 192
"""Worlds that a run meets: fewer than usual, since runs are shorter."""
IMITATED: Final = 96
"""Worlds that are looked back on."""
HELD_OUT_SEED: Final = 5_000_000
"""Random clusters from here on are scored on; training draws its own from far larger seeds."""

VARIANTS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "blend": ("as shipped: blend of rules, bent, from the first rule", {}),
    "imitation": ("after imitation", {"imitate": IMITATED, "critic_first": 8_000}),
    "imitation alone": ("no step of PPO", {"imitate": IMITATED, "steps": 0}),
    "residual": ("bends the first rule, trusts no other", {"acting": "residual"}),
    "residual, imitation": (
        "the same after imitation",
        {"acting": "residual", "imitate": IMITATED, "critic_first": 8_000},
    ),
    "free": ("counts and routes without rules", {"acting": "free"}),
    "flat": ("two plain layers over everything", {"shape": "flat"}),
    "history": ("the last 4 observations", {"history": 4}),
    "multipliers": ("misses priced by damped multipliers", {"constraint": "multipliers"}),
    "no baseline": ("rewards from the usual bill, not from what the first rule costs then", {"baseline": False}),
    "explored every tick": ("outputs held for 1 tick instead of 6 while learning", {"hold": 1, "gamma": 0.994}),
    "horizon 5 min": ("discount 0.82 a step", {"gamma": 0.82}),
}
"""What each is, and how its arguments differ from the first one's."""


def config_of(variant: str, seed: int, steps: int) -> TrainConfig:
    """The arguments of a run of the study."""
    base = TrainConfig(
        steps=steps,
        seed=seed,
        bank=BANK,
        curriculum_steps=steps // 10,
        evaluate_every=max(steps // 4, 1),
    )
    config = replace(base, **VARIANTS[variant][1])
    # As many ticks, however many are a step.
    held = base.hold // config.hold
    return replace(
        config,
        steps=held * config.steps,
        critic_first=held * config.critic_first,
        curriculum_steps=held * config.curriculum_steps,
        evaluate_every=held * config.evaluate_every,
    )


class Scores:
    """The worlds that variants are scored on, and what the rules of the portfolio come to on them."""

    def __init__(self, random_worlds: int, suite: Sequence[Scenario], days: int) -> None:
        """So many random clusters, a day each, and so many days of each scenario of a suite."""
        self.judges = {"suite": Judge(suite, 0, days)}
        if random_worlds:
            drawn = [random_scenario(HELD_OUT_SEED + i) for i in range(random_worlds)]
            self.judges["random"] = Judge(drawn, 0, 1)

    def of(self, outcomes: Callable[[Judge], list[Outcome]]) -> dict[str, list[dict[str, float]]]:
        """Scenario by scenario, for each set of worlds."""
        return {
            where: [_as_json(name, outcome) for name, outcome in zip(judge.names, outcomes(judge), strict=True)]
            for where, judge in self.judges.items()
        }

    def of_rules(self) -> dict[str, dict[str, list[dict[str, float]]]]:
        """Each rule of the portfolio on its own, by name."""
        rules = rules_of(portfolio_of(), make_rule)
        return {
            f"rule {k}: {member.rule}": self.of(lambda judge, k=k: judge.of_rule_by_scenario(lambda c: rules(c)[k]))  # type: ignore[misc]
            for k, member in enumerate(portfolio_of())
        }


def run_variant(
    variant: str,
    seed: int,
    steps: int,
    folder: Path,
    choosing: Judge,
    scores: Scores,
    say: Callable[[str], None],
    worlds: LevelledWorlds | None = None,
) -> dict[str, Any]:
    """One training run and its scores; a run that was cut off goes on where it was.

    `worlds` are those of another variant of the same seed, which meets the same.
    """
    config = config_of(variant, seed, steps)
    began_s = time.process_time()
    resume = (folder / STATE_COUNTERS).is_file()
    if not resume and (folder / ARGUMENTS).is_file():
        (folder / ARGUMENTS).unlink()  # it was cut off before there was anything to go on from
    keeper = BestCheckpoint(folder, f"{variant} {seed}", choosing, config)
    warm = imitating(config, folder, lambda result: None, folder.parent / "cache") if config.imitate else None

    def show(done: int, figures: dict[str, float]) -> None:
        if "loss" in figures:
            say(f"{variant}, seed {seed}: {done} steps, loss {figures['loss']:.4f}")

    policy: LearnerPolicy = train(config, folder, resume, show, keeper, warm, worlds=worlds)
    settled = keeper.settle(policy, CHOOSING_PRICES, halvings=0, headrooms=HEADROOMS)
    trained_s = time.process_time() - began_s
    price, headroom = settled.chosen.miss_price, settled.headroom
    return {
        "variant": variant,
        "seed": seed,
        "steps": steps,
        "best_steps": keeper.best_steps,
        "resumed": resume,
        "cpu_min": trained_s / 60.0,
        "miss_price": price,
        "headroom": headroom,
        "held_when_chosen": settled.chosen.held,
        "scores": scores.of(lambda judge: judge.by_scenario(keeper.making(policy, headroom), [price])[0]),
    }


def sections(study: dict[str, Any]) -> Iterator[Section]:
    """One table for each set of worlds."""
    for where, title, note in (
        ("random", "Variants on random clusters", "Clusters that no run has met, a day each."),
        ("suite", "Variants on the suite", "Other days than those that tuned the rules and chose the checkpoints."),
    ):
        if where not in next(iter(study["rules"].values())):
            continue
        rows = [
            _row(name, "", [scores[where]], study["rules"], where, ["-", "-"])
            for name, scores in study["rules"].items()
        ]
        for variant, (summary, _) in VARIANTS.items():
            runs = [run for run in study["runs"] if run["variant"] == variant]
            if runs:
                minutes = f"{np.mean([run['cpu_min'] for run in runs]):.0f}"
                scores = [run["scores"][where] for run in runs]
                rows.append(_row(variant, summary, scores, study["rules"], where, [str(len(runs)), minutes]))
        yield Section(
            title,
            f"{note} Loss is the criterion that tunes the rules; the last column is the loss minus that of the first "
            "rule, which a policy that answers zeros is, paired by scenario, with a 95 % bootstrap interval over "
            "scenarios and seeds.",
            (
                "variant",
                "what it is",
                "seeds",
                "CPU minutes",
                "bill, of usual",
                "shortfall",
                "loss",
                "worst seed's loss",
                "loss against the first rule",
            ),
            tuple(rows),
        )


def _row(
    name: str,
    summary: str,
    runs: Sequence[Sequence[Mapping[str, float]]],
    rules: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]],
    where: str,
    effort: list[str],
) -> tuple[str, ...]:
    outcomes = [[Outcome(one["bill_ratio"], one["shortfall"]) for one in run] for run in runs]
    means = [mean_outcome(run) for run in outcomes]
    base = [Outcome(one["bill_ratio"], one["shortfall"]) for one in next(iter(rules.values()))[where]]
    paired = np.array([loss(own) - loss(other) for run in outcomes for own, other in zip(run, base, strict=True)])
    difference = bootstrap(paired)
    return (
        name,
        summary,
        *effort,
        f"{np.mean([m.bill_ratio for m in means]):.3f}",
        f"{np.mean([m.shortfall for m in means]):.2%}",
        f"{np.mean([loss(m) for m in means]):.3f}",
        f"{max(loss(m) for m in means):.3f}",
        f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]",
    )


def _as_json(name: str, outcome: Outcome) -> dict[str, Any]:
    return {"scenario": name, "bill_ratio": outcome.bill_ratio, "shortfall": outcome.shortfall}


def gathered(folder: Path) -> dict[str, Any]:
    """What is finished so far."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{RESULT}"))]
    rules = json.loads((folder / "rules.json").read_text())
    return {"machine": machine(), "rules": rules, "runs": runs}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    default=100_000,
    show_default=True,
    help="Of each run, a minute of a cluster each.",
)
@click.option("--seeds", type=click.IntRange(1, 20), default=3, show_default=True, help="Runs of each variant.")
@click.option("--only", multiple=True, type=click.Choice(list(VARIANTS)), help="These variants; repeatable.")
@click.option("--random-worlds", type=click.IntRange(min=0), default=24, show_default=True, help="To score on.")
@click.option("--suite", default="train", show_default=True, help="Chooses checkpoints, and scores them on other days.")
@click.option(
    "--days", type=click.IntRange(min=1), default=2, show_default=True, help="Scored of each of its scenarios."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/study"),
    show_default=True,
    help="Folder of the runs; finished ones are not run again.",
)
@click.option("--write", is_flag=True, help=f"Put what is finished into {PAGE.relative_to(ROOT)}; run nothing.")
def main(out: Path, only: tuple[str, ...], write: bool, **asked: Any) -> None:
    """Train variants of the agent and compare them."""
    console = Console(stderr=True)
    out.mkdir(parents=True, exist_ok=True)
    if not write:
        _study(only or tuple(VARIANTS), out, console, **asked)
    study = gathered(out)
    (out / "study.json").write_text(json.dumps(study, indent=2) + "\n")
    print_sections(sections(study), Console())
    if write:
        put(PAGE, PART, f"Made by `python -m poolpilot.benchmarks.agent_study`.\n\n{markdown(sections(study))}")
        console.print(f"wrote {PAGE.relative_to(ROOT)}")


def _study(
    variants: Sequence[str],
    out: Path,
    console: Console,
    steps: int,
    seeds: int,
    random_worlds: int,
    suite: str,
    days: int,
) -> None:
    """Run what is not finished yet, seed by seed, so that a table of one seed is there early."""
    asked = {"steps": steps, "random_worlds": random_worlds, "suite": suite, "days": days}
    kept = out / "asked.json"
    if kept.is_file() and json.loads(kept.read_text()) != asked:
        raise click.UsageError(f"{out} holds a study with {kept.read_text().strip()}; name another --out for {asked}")
    kept.write_text(json.dumps(asked) + "\n")
    scenarios = load_suite(suite).scenarios
    choosing, scores = Judge(scenarios, CHOOSING_SEED, CHOOSING_DAYS), Scores(random_worlds, scenarios, days)
    if not (out / "rules.json").is_file():
        (out / "rules.json").write_text(json.dumps(scores.of_rules(), indent=2) + "\n")
    for seed in range(seeds):
        worlds: dict[bool, LevelledWorlds | None] = {True: None, False: None}
        for variant in variants:
            folder = out / f"{variant.replace(', ', '-').replace(' ', '-')}-seed{seed}"
            if (folder / RESULT).is_file():
                continue
            console.print(f"[dim]{variant}, seed {seed}[/dim]")
            config = config_of(variant, seed, steps)
            # What the first rule costs is kept with the worlds: those who are not to know it have their own.
            own = worlds[config.baseline] = worlds[config.baseline] or training_sources(config)
            say = partial(console.print, style="dim")
            result = run_variant(variant, seed, steps, folder, choosing, scores, say, own)
            (folder / RESULT).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
