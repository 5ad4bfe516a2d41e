"""`poolpilot train`: a policy learned in the simulator."""

from __future__ import annotations

from pathlib import Path

import click

from .bad_input import one_line_errors, refuse
from .first_run import say_if_it_compiles
from .printing import log_console, print_json, progress


@click.command()
@click.option(
    "--scenario", "scenarios", multiple=True, required=True, help="A shipped scenario's name, or a file; repeatable."
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=400_000,
    show_default=True,
    help="Environment steps over all clusters.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="The run's folder. Default: runs/ and the scenarios' names with the seed.",
)
@click.option("--name", default=None, help="Name of the checkpoint. Default: the folder's.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of worlds, network and exploration.")
@click.option("--clusters", type=click.IntRange(1, 4096), default=32, show_default=True, help="Stepped side by side.")
@click.option("--ticks-per-update", type=click.IntRange(2, 4096), default=64, show_default=True)
@click.option("--evaluate-every", type=click.IntRange(min=1), default=50_000, show_default=True, help="Steps.")
@click.option("--evaluate-on", multiple=True, help="Scenarios to evaluate on. Default: those trained on, unvaried.")
@click.option("--evaluate-seeds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option(
    "--miss-price",
    type=click.FloatRange(min=0.01),
    default=1.0,
    show_default=True,
    help="To evaluate at, and to ship: what missing a whole allowance costs, in usual bills.",
)
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout at the end.")
@one_line_errors
def train(
    scenarios: tuple[str, ...],
    steps: int,
    out: Path | None,
    name: str | None,
    seed: int,
    clusters: int,
    ticks_per_update: int,
    evaluate_every: int,
    evaluate_on: tuple[str, ...],
    evaluate_seeds: int,
    miss_price: float,
    resume: bool,
    as_json: bool,
) -> None:
    """Train a policy with PPO in the simulator.

    Worlds are drawn from the scenarios and varied: loads, prices, cold starts, targets, true speeds, a pool that
    cannot grow. The best checkpoint so far is kept in OUT/best, TensorBoard logs in OUT/tensorboard; `--resume`
    continues a run that was stopped. Needs the extra `train` (torch).
    """
    try:
        from ..training.best import BestCheckpoint
        from ..training.ppo import TrainConfig
        from ..training.ppo import train as run
    except ModuleNotFoundError as error:
        refuse(f"training needs {error.name}: pip install 'poolpilot[train]'")
    out = out or Path("runs") / "-".join((*(Path(name).stem for name in scenarios), f"seed{seed}"))
    config = TrainConfig(
        scenarios=scenarios,
        steps=steps,
        seed=seed,
        clusters=clusters,
        ticks_per_update=ticks_per_update,
        evaluate_every=evaluate_every,
    )
    keeper = BestCheckpoint(
        folder=out / "best",
        name=name or out.name,
        scenarios=evaluate_on or scenarios,
        seeds=evaluate_seeds,
        miss_price=miss_price,
        config=config,
    )
    say_if_it_compiles()
    with progress(quiet=as_json) as bar:
        task = bar.add_task("training", total=steps)

        def show(done: int, figures: dict[str, float]) -> None:
            text = f"reward {figures['reward']:.3f}  bill {figures['bill_of_reference']:.2f} of usual"
            bar.update(task, completed=done, description=f"{text}  met {figures['attainment'] * 100:.1f} %")

        run(config, out, resume, show, keeper)
    if as_json:
        print_json({"out": str(out), "best": str(keeper.folder), "history": keeper.history})
        return
    log_console().print(
        f"best checkpoint: {keeper.folder} (score {keeper.best_score:.4f} at {keeper.best_steps} steps)"
    )
    log_console().print(
        f"compare it: poolpilot evaluate --scenario {scenarios[0]} --policy threshold --policy {keeper.folder}"
    )
