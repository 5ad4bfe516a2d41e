"""`poolpilot policies check`: the gates before the trial."""

from __future__ import annotations

from pathlib import Path

import click

from ...agents.registry import BEFORE_TRIAL, Evidence
from ..bad_input import one_line_errors
from ..first_run import say_if_it_compiles
from ..printing import console, log_console, print_json, table
from .asked import SUITES, opened, registry_option


@click.command()
@click.argument("version")
@registry_option()
@click.option(
    "--refit",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a refit, for `twin` and `ranges`: its report, and the held-out stretches in the refitted twin.",
)
@click.option(
    "--record",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="A decision log, or a folder of them, for `ranges` and `off-policy`; repeatable.",
)
@click.option("--suite", "suites", multiple=True, help="For `suites`; repeatable. Default: steady and stress.")
@click.option(
    "--gate",
    "gates",
    multiple=True,
    type=click.Choice(BEFORE_TRIAL),
    help="Only this one; repeatable. Default: all before the trial.",
)
@click.option(
    "--twin-seeds",
    type=click.IntRange(2, 1000),
    default=None,
    help="Worlds for each held-out stretch. Default: as many as come to a day in all, 4 to 32.",
)
@click.option(
    "--suite-seeds", type=click.IntRange(2, 1000), default=12, show_default=True, help="Worlds for each scenario."
)
@click.option("--workers", type=click.IntRange(1, 512), default=1, show_default=True, help="Processes, for `suites`.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the rows of the suites there; goes on with a run that was cut off.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def check(
    version: str,
    registry: Path,
    refit: Path | None,
    record: tuple[Path, ...],
    suites: tuple[str, ...],
    gates: tuple[str, ...],
    twin_seeds: int | None,
    suite_seeds: int,
    workers: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Run the gates on VERSION against the version that decides now, and keep what each finds beside it.

    Exit code 1 if one of them does not let it through. What a gate is not given anything to look at for, it cannot tell.
    """
    from ...training.finetuning.gates.checking import Asked
    from ...training.finetuning.gates.checking import check as run
    from ...training.suites.suite import load_suite

    own, full = opened(registry, version)
    chosen = gates or BEFORE_TRIAL
    asked = Asked(
        refit=refit,
        record=record,
        suites=tuple(load_suite(name) for name in suites or SUITES) if "suites" in chosen else (),
        gates=chosen,
        twin_seeds=twin_seeds,
        suite_seeds=suite_seeds,
        workers=workers,
        folder=out,
    )
    say_if_it_compiles()
    log = log_console()
    found: list[Evidence] = []
    with log.status("checking") as status:
        for evidence in run(own, full, asked, status.update):
            found.append(evidence)
            if not as_json:
                log.print(f"{evidence.gate}: {evidence.verdict}: {evidence.reason}", highlight=False, markup=False)
    if as_json:
        print_json({"version": full, "incumbent": own.incumbent(), "evidence": [e.document() for e in found]})
    else:
        rows = [(e.gate, e.verdict.value, e.reason) for e in found]
        console().print(table(f"{full} against {own.incumbent()}", ("gate", "verdict", "why"), rows))
    if any(not e.lets_through for e in found):
        raise SystemExit(1)
