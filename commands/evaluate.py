"""`poolpilot evaluate`: policies side by side over scenarios and seeds."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq

from ..agents.checkpoint import add_to_card
from ..agents.portfolio import HELD_PLAN, RULES, USUAL
from ..env.scenario import load_scenario
from ..training.clairvoyant_plan import CLAIRVOYANT
from ..training.contenders import contender
from ..training.evaluate import compare, summary
from .bad_input import one_line_errors
from .first_run import say_if_it_compiles
from .printing import console, percent, print_json, progress, table


@click.command()
@click.option(
    "--scenario", "scenarios", multiple=True, required=True, help="A shipped scenario's name, or a file; repeatable."
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    help=f"One of {', '.join(RULES)}, {HELD_PLAN}, {CLAIRVOYANT} (no policy but a mark: each world's own plan, known"
    " ahead), or a checkpoint's name or folder; repeatable. Default: {', '.join(USUAL)}.",
)
@click.option("--seeds", type=click.IntRange(2, 1000), default=5, show_default=True, help="Worlds for each scenario.")
@click.option("--reference", help="The policy that bills are compared with. Default: the first.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Keep rows.parquet and summary.json there."
)
@click.option(
    "--onto-card",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A checkpoint's folder: keep the summary on its card.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def evaluate(
    scenarios: tuple[str, ...],
    policies: tuple[str, ...],
    seeds: int,
    reference: str | None,
    out: Path | None,
    onto_card: Path | None,
    as_json: bool,
) -> None:
    """Compare policies over scenarios and seeds, with 95 % bootstrap intervals.

    Every policy meets the same worlds (paired by seed). Rules have the knobs that are shipped (docs/tuning.md); fixed
    counts are searched on other days of the scenario.
    """
    names = policies or USUAL
    base = reference or names[0]
    if base not in names:
        raise click.UsageError(f"--reference {base}: not among the policies compared ({', '.join(names)})")
    rows: list[dict[str, Any]] = []
    wanted: dict[str, dict[str, float]] = {}
    shown: dict[str, str] = {}
    settings: dict[str, dict[str, dict[str, float]]] = {}
    say_if_it_compiles()
    with progress(quiet=as_json) as bar:
        for given in scenarios:
            scenario = load_scenario(given)
            wanted[scenario.name] = {name: c.target.attainment for name, c in scenario.classes.items()}
            contenders = []
            for name in names:
                task = bar.add_task(f"{scenario.name}: tuning {name}", total=None)
                contenders.append(contender(name, scenario, on_trial=partial(bar.advance, task)))
                bar.remove_task(task)
            shown = {given_name: c.name for given_name, c in zip(names, contenders, strict=True)}
            _check_names(shown)
            settings[scenario.name] = {c.name: dict(c.knobs) for c in contenders if c.knobs}
            task = bar.add_task(f"{scenario.name}: running", total=len(names))
            rows += compare(scenario, contenders, seeds, on_run=partial(bar.advance, task))
    base = shown[base]
    records = summary(rows, base)
    if out is not None:
        _keep(out, rows, records)
    if onto_card is not None:
        add_to_card(onto_card, {"seeds": seeds, "reference": base, "summary": records, "knobs": settings})
    if as_json:
        document = {"reference": base, "seeds": seeds, "wanted": wanted, "knobs": settings}
        print_json({**document, "summary": records, "rows": rows})
        return
    _print(records, base, seeds, wanted)


def _check_names(shown: dict[str, str]) -> None:
    """Refuse policies that tables could not tell apart."""
    given_by: dict[str, str] = {}
    for given, name in shown.items():
        if name in given_by:
            raise click.UsageError(
                f"--policy {given}: calls itself {name}, as --policy {given_by[name]} does; wanted names of their own"
                " (the name in card.json, or `poolpilot train --name`)"
            )
        given_by[name] = given


def _keep(folder: Path, rows: list[dict[str, Any]], records: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    flat = [{**row, "vetoes": json.dumps(row["vetoes"])} for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    pq.write_table(pa.table({key: [row.get(key) for row in flat] for key in columns}), folder / "rows.parquet")
    (folder / "summary.json").write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


def _print(records: list[dict[str, Any]], reference: str, seeds: int, wanted: dict[str, dict[str, float]]) -> None:
    for scenario in dict.fromkeys(r["scenario"] for r in records):
        mine = [r for r in records if r["scenario"] == scenario]
        classes = list(mine[0]["attainment"])
        rows = []
        for r in mine:
            against = r.get("bill_against_reference")
            difference = "-"
            if against:
                difference = (
                    f"{against['mean'] * 100:+.1f} % [{against['low'] * 100:+.1f}, {against['high'] * 100:+.1f}]"
                )
            usd = r["usd_per_hr"]
            rows.append(
                (
                    r["policy"],
                    f"{usd['mean']:.2f} [{usd['low']:.2f}, {usd['high']:.2f}]",
                    difference,
                    f"{r['above_bound_frac']['mean'] * 100:+.0f} %" if r["above_bound_frac"] else "-",
                    f"{r['usd_per_1000_met']['mean']:.3f}" if r["usd_per_1000_met"] else "-",
                    *(percent(r["attainment"].get(c), 2) for c in classes),
                    str(r["lost"]),
                    f"{r['replica_changes']:.0f}",
                    percent(r["covered_frac"]["mean"] if r["covered_frac"] else None),
                )
            )
        columns = (
            "policy",
            "$/h",
            f"against {reference}",
            "above bound",
            "$ per 1,000 met",
            *(f"{c} met ({wanted[scenario][c] * 100:g} %)" for c in classes),
        )
        caption = f"{seeds} seeds, paired; mean [95 % interval]. Knobs frozen after tuning."
        caption += (
            " Calibrated: share of the tokens served inside the range that the performance model was measured over."
        )
        caption += " Above bound: how much dearer than any policy must be that meets as many requests (docs/bound.md)."
        console().print(table(scenario, (*columns, "lost", "scalings", "calibrated"), rows, caption))
