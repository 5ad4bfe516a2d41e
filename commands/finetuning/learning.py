"""`poolpilot finetune learn`: the learner, a process of its own."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...agents.registry import Registry, RegistryError
from ...env.scenario import Scenario, load_scenario
from ...env.scenario.fingerprint import fingerprint as fingerprint_of
from ...telemetry.learner_progress import PROGRESS_FILE, LearnerProgress, LearnerState, write_progress
from ...telemetry.record import read
from ..bad_input import one_line_errors, refuse
from ..printing import log_console, print_json, progress
from .asked import bounds_of_learning, registry_option

if TYPE_CHECKING:
    from ...agents.checkpoint import Checkpoint
    from ...training.finetuning.bounds import Bounds
    from ...training.finetuning.learner import Learned
    from ...training.finetuning.settings import FinetuneConfig

_LOG = logging.getLogger(__name__)


@click.command()
@click.argument("record", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--scenario", required=True, help="The refitted twin: a scenario file, or a shipped scenario's name.")
@registry_option
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The run's folder.")
@bounds_of_learning
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--clusters", type=click.IntRange(1, 4096), default=32, show_default=True, help="Stepped side by side.")
@click.option("--steps-per-update", type=click.IntRange(2, 4096), default=30, show_default=True)
@click.option("--bank", type=click.IntRange(min=4), default=192, show_default=True, help="Different worlds.")
@click.option(
    "--rehearsal",
    type=click.FloatRange(0.0, 0.9),
    default=0.5,
    show_default=True,
    help="Share of the worlds that are other clusters, so that what it knew is not forgotten; 0: the twin alone.",
)
@click.option("--days", type=click.IntRange(1, 64), default=4, show_default=True, help="To score on.")
@click.option("--evaluate-every", type=click.IntRange(min=1), default=10_000, show_default=True, help="Steps.")
@click.option("--learning-rate", type=click.FloatRange(1e-6, 1.0), default=3e-4, show_default=True)
@click.option(
    "--critic-first", type=click.IntRange(min=0), default=3_000, show_default=True, help="Steps at the start."
)
@click.option(
    "--kl-target", type=click.FloatRange(0.001, 1e3), default=2.0, show_default=True, help="Nats from the incumbent."
)
@click.option(
    "--kl-limit", type=click.FloatRange(0.001, 1e3), default=5.0, show_default=True, help="No candidate is further."
)
@click.option(
    "--live-weight",
    type=click.FloatRange(0.0, 10.0),
    default=0.5,
    show_default=True,
    help="Of recorded steps with exploration; 0: learn in the twin alone.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout at the end.")
@one_line_errors
def learn(
    record: tuple[Path, ...],
    scenario: str,
    registry_folder: Path,
    out: Path,
    cpu_seconds: float,
    memory_mb: float,
    live_weight: float,
    resume: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Learn from the incumbent's weights, near the incumbent.

    Worlds are those of the twin, varied around it. Of RECORD (decision logs, or folders that hold them) the steps are
    learned from that the incumbent made with exploration; without RECORD, or without such steps, the twin alone teaches.
    The process has the lowest priority and one thread, and stops by itself at --cpu-seconds, its state kept. What comes out
    is a candidate in OUT/candidate and in the registry, where it waits for its gates. Needs the extra `train` (torch).
    """
    try:
        from ...training.finetuning.bounds import Bounds, hold_to, one_thread, yield_to_others

        one_thread()
        yield_to_others()
        from ...training.finetuning.learned_from import LearnedFrom, fingerprint, learned_before
        from ...training.finetuning.settings import FinetuneConfig
    except ModuleNotFoundError as error:
        refuse(f"learning needs {error.name}: pip install 'poolpilot[train]'")
    registry = Registry(registry_folder)
    incumbent = registry.checkpoint(registry.incumbent())
    twin = load_scenario(scenario)
    if options["kl_limit"] < options["kl_target"]:
        refuse(f"--kl-limit {options['kl_limit']:g}: wanted at least --kl-target, {options['kl_target']:g}")
    bounds = Bounds(cpu_seconds, memory_mb)
    told = LearnedFrom(frozenset(fingerprint(path) for path in record) if live_weight > 0.0 else frozenset())
    if resume:  # what was learned from before stays learned
        told |= learned_before(out)
    config = FinetuneConfig(
        **options,
        scenarios=(scenario,),
        portfolio=incumbent.portfolio,
        width=int(incumbent.card.get("width", 0)),
        incumbent=incumbent.policy_hash,
        live_weight=live_weight,
        twin=fingerprint_of(twin),
        record=tuple(sorted(told.records)),
        recorded_until_unix_s=told.until_unix_s,
    )
    hold_to(bounds)
    learned, version = _run(config, incumbent, registry, twin, record, out, resume, bounds, quiet=as_json)
    if as_json:
        print_json(
            {
                **learned.figures,
                "out": str(out),
                "finished": learned.finished,
                "reason": learned.reason,
                "candidate": str(learned.candidate) if learned.candidate else None,
                "version": version or None,
            }
        )
        return
    log = log_console()
    log.print(learned.reason)
    if version:
        log.print(f"registered as {version}, for its gates: poolpilot policies --registry {registry_folder}")


def _run(
    config: FinetuneConfig,
    incumbent: Checkpoint,
    registry: Registry,
    twin: Scenario,
    record: tuple[Path, ...],
    out: Path,
    resume: bool,
    bounds: Bounds,
    quiet: bool,
) -> tuple[Learned, str]:
    """The whole run, told to whoever watches; and the version of its candidate, if there is one."""
    from ...training.finetuning.bounds import stopping_gently
    from ...training.finetuning.learned_from import until_unix_s
    from ...training.finetuning.learner import learn as run
    from ...training.finetuning.live import live_of
    from ...training.finetuning.trusting import trusted

    log = log_console()
    transitions = None
    if record and config.live_weight > 0.0:
        whole = trusted(read(record), twin)
        live = live_of(whole, incumbent, config.hold)
        transitions = live.transitions
        if transitions is not None:
            until = max(until_unix_s(whole), config.recorded_until_unix_s)
            config = replace(config, recorded_until_unix_s=until)
        if not quiet:
            log.print(live.said)
    with progress(quiet=quiet) as bar, stopping_gently(bounds):
        task = bar.add_task("learning", total=config.steps)
        last: list[LearnerProgress] = []

        def tell(now: LearnerProgress) -> None:
            last[:] = [now]
            bar.update(task, completed=now.steps, description=f"{now.kl:.2f} nats from the incumbent")
            _keep(now, out, registry)

        try:
            learned = run(config, incumbent, twin, transitions, out, resume, bounds, tell)
            if learned.candidate is None:
                return learned, ""
            version = _registered(registry, learned.candidate, config)
            tell(replace(last[0], candidate=version))
            return learned, version
        except BaseException as error:
            if last:
                detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                _keep(replace(last[0], state=LearnerState.FAILED, detail=detail), out, registry)
            if isinstance(error, MemoryError):
                refuse(f"--memory-mb {bounds.memory_mb:g}: more is needed; allow it, or ask for fewer --clusters")
            raise


def _keep(now: LearnerProgress, out: Path, registry: Registry) -> None:
    """Progress where people and the sidecar look for it; a disk that is full does not end the run for that."""
    for folder in (out, registry.folder):
        try:
            write_progress(folder / PROGRESS_FILE, now)
        except OSError as error:
            _LOG.warning("%s: progress is not told: %s", folder, error)


def _registered(registry: Registry, candidate: Path, config: FinetuneConfig) -> str:
    """The candidate's version; RegistryError if another version decides by now."""
    seen = registry.incumbent()
    if seen != config.incumbent:
        raise RegistryError(
            f"{registry.folder}: {seen} decides by now, the candidate started from {config.incumbent}: learn again"
        )
    return registry.add(candidate)
