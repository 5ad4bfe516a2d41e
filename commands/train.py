"""`poolpilot train`: a policy learned in the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..agents.portfolio import BLENDED_RULES, portfolio_of
from ..env.scenario import load_scenario
from ..training.suites import load_suite
from .bad_input import one_line_errors, refuse
from .first_run import say_if_it_compiles
from .printing import log_console, print_json, progress

if TYPE_CHECKING:
    from ..training.best import BestCheckpoint
    from ..training.config import TrainConfig
    from ..training.learner import LearnerPolicy


@click.command()
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    default=("random",),
    show_default=True,
    help="`random` (clusters drawn at random), a shipped scenario's name, or a file; repeatable.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    default=500_000,
    show_default=True,
    help="Steps over all clusters, each of --hold ticks. 0: imitation alone.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="The run's folder. Default: runs/ and the scenarios' names with the seed.",
)
@click.option("--name", default=None, help="Name of the checkpoint. Default: the folder's.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of worlds, network and exploration.")
@click.option(
    "--imitate",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Random worlds to learn from in hindsight before the first step (4 or more).",
)
@click.option(
    "--rules",
    default=None,
    help="The rules that are blended, with commas, the neutral one first, at their shipped knobs. Default: as shipped.",
)
@click.option("--clusters", type=click.IntRange(1, 4096), default=64, show_default=True, help="Stepped side by side.")
@click.option(
    "--hold",
    type=click.IntRange(1, 60),
    default=6,
    show_default=True,
    help="Ticks of a step, over which outputs are held while the policy learns.",
)
@click.option("--steps-per-update", type=click.IntRange(2, 4096), default=60, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), default=960, show_default=True, help="Of a minibatch.")
@click.option("--epochs", type=click.IntRange(1, 100), default=6, show_default=True, help="Over each rollout.")
@click.option("--learning-rate", type=click.FloatRange(1e-6, 1.0), default=1e-3, show_default=True)
@click.option(
    "--gamma", type=click.FloatRange(0.5, 0.9999), default=0.9645, show_default=True, help="Discount of a step."
)
@click.option(
    "--average",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Updates over which the weights that are scored and shipped are averaged; 0: the latest ones.",
)
@click.option("--width", type=click.IntRange(4, 1024), default=32, show_default=True, help="Of the network.")
@click.option(
    "--bank", type=click.IntRange(min=8), default=1024, show_default=True, help="Different worlds that are met."
)
@click.option(
    "--curriculum-steps",
    type=click.IntRange(min=0),
    default=40_000,
    show_default=True,
    help="Steps until the hardest worlds are open.",
)
@click.option(
    "--critic-first",
    type=click.IntRange(min=0),
    default=None,
    help="Steps in which only the critic learns. Default: 8000 after --imitate, else 0.",
)
@click.option(
    "--acting",
    type=click.Choice(["blend", "residual", "free"]),
    default="blend",
    show_default=True,
    help="Blend and bend the rules; bend the first alone; or no rule at all.",
)
@click.option(
    "--network", "shape", type=click.Choice(["set", "flat"]), default="set", show_default=True, help="Its kind."
)
@click.option("--history", type=click.IntRange(1, 16), default=1, show_default=True, help="Ticks seen at once.")
@click.option(
    "--constraint",
    type=click.Choice(["price", "multipliers"]),
    default="price",
    show_default=True,
    help="Targets through a price of misses that is drawn and seen, or through multipliers that follow the misses.",
)
@click.option(
    "--baseline/--no-baseline",
    default=True,
    show_default=True,
    help="Measure rewards from what the first rule costs in the same world and minutes.",
)
@click.option("--evaluate-every", type=click.IntRange(min=1), default=50_000, show_default=True, help="Steps.")
@click.option(
    "--evaluate-suite",
    default="train",
    show_default=True,
    help="Its scenarios choose the checkpoint and its price of a miss; a name or a file.",
)
@click.option("--evaluate-on", multiple=True, help="Scenarios that do so instead of a suite; repeatable.")
@click.option("--evaluate-seeds", type=click.IntRange(1, 100), default=2, show_default=True, help="Days of each.")
@click.option(
    "--settle-seeds",
    type=click.IntRange(1, 100),
    default=10,
    show_default=True,
    help="Days of each on which the best checkpoint's head-room and price are settled at the end.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keeps what came before the first step, for other runs.",
)
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout at the end.")
@one_line_errors
def train(
    out: Path | None,
    name: str | None,
    rules: str | None,
    critic_first: int | None,
    evaluate_suite: str,
    evaluate_on: tuple[str, ...],
    evaluate_seeds: int,
    settle_seeds: int,
    cache: Path | None,
    resume: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a policy with PPO in the simulator.

    Worlds are clusters drawn at random, or named scenarios that are varied; they grow harder as training goes on. With
    --imitate the policy first learns from what would have been best in hindsight. The checkpoint that is best on other
    scenarios is kept in OUT/best, at the end with the price of a miss at which it holds its targets; TensorBoard logs
    are in OUT/tensorboard; --resume continues a run that was stopped. Needs the extra `train` (torch).
    """
    try:
        from ..training.best import BestCheckpoint
        from ..training.config import TrainConfig
        from ..training.days import CHOOSING_SEED
        from ..training.judging import Judge
        from ..training.run_folder import check
        from ..training.setting import training_sources
    except ModuleNotFoundError as error:
        refuse(f"training needs {error.name}: pip install 'poolpilot[train]'")
    if 0 < options["imitate"] < 4:
        refuse(f"--imitate {options['imitate']}: wanted 0, or 4 worlds or more: some are held out")
    if options["acting"] == "free" and options["imitate"]:
        refuse("--imitate: there is no rule to imitate with --acting free")
    if critic_first is None:
        critic_first = 8_000 if options["imitate"] else 0
    scenarios: tuple[str, ...] = options["scenarios"]
    out = out or Path("runs") / "-".join((*(Path(name).stem for name in scenarios), f"seed{options['seed']}"))
    config = TrainConfig(
        **{field.name: options[field.name] for field in fields(TrainConfig) if field.name in options},
        portfolio=portfolio_of([name.strip() for name in rules.split(",")] if rules else BLENDED_RULES),
        critic_first=critic_first,
    )
    # What is wrong is said before anything that takes its time.
    check(config, out, resume)
    training_sources(config)
    choosing = tuple(map(load_scenario, evaluate_on)) or load_suite(evaluate_suite).scenarios
    say_if_it_compiles()
    keeper = BestCheckpoint(out, name or out.name, Judge(choosing, CHOOSING_SEED, evaluate_seeds), config)
    policy = _run(config, out, resume, keeper, cache, quiet=as_json)
    log = log_console()
    settled = keeper.settle(policy, judge=Judge(choosing, CHOOSING_SEED, settle_seeds))
    chosen = settled.chosen
    if as_json:
        print_json(
            {
                "out": str(out),
                "best": str(keeper.checkpoint) if keeper.exports else None,
                "steps": keeper.best_steps,
                "miss_price": chosen.miss_price,
                "headroom": settled.headroom,
                "frontier": settled.table(),
                "monotone": settled.monotone,
                "history": keeper.history,
            }
        )
        return
    log.print(f"best after {keeper.best_steps} steps: loss {keeper.best_loss:.4f}")
    log.print(
        f"head-room times {settled.headroom:g}, price of a miss {chosen.miss_price:.3g}: bill {chosen.outcome.bill_ratio:.3f} of usual, "
        f"shortfall {chosen.outcome.shortfall * 100:.2f} %{'' if chosen.held else ', which is not held'}"
    )
    if keeper.exports:
        log.print(f"compare it: poolpilot evaluate --suite traces --policies threshold,{keeper.checkpoint} --out OUT")


def _run(
    config: TrainConfig, out: Path, resume: bool, keeper: BestCheckpoint, cache: Path | None, quiet: bool
) -> LearnerPolicy:
    """The whole run, behind a progress bar."""
    from ..training.ppo import train as run
    from ..training.warm_start import imitating

    with progress(quiet=quiet) as bar:
        looking = bar.add_task("looking back", total=config.imitate, visible=bool(config.imitate) and not resume)
        trying = bar.add_task("trying the first rule", total=config.bank, visible=config.baseline and config.steps > 0)
        task = bar.add_task("training", total=config.steps, visible=config.steps > 0)

        def show(done: int, figures: dict[str, float]) -> None:
            text = f"reward {figures['reward']:.3f}  bill {figures['bill_of_reference']:.2f} of usual"
            bar.update(task, completed=done, description=f"{text}  met {figures['attainment'] * 100:.1f} %")

        def keep(result: dict[str, Any]) -> None:
            keeper.imitated = result

        warm: Callable[[LearnerPolicy], None] | None = None
        if config.imitate:
            warm = imitating(config, out, keep, cache, lambda n: bar.update(looking, completed=n))
        return run(config, out, resume, show, keeper, warm, lambda n: bar.update(trying, completed=n))
