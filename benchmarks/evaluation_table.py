"""`python -m poolpilot.benchmarks.evaluation_table`: the table of docs/agents.md from what `poolpilot evaluate --out` kept.

A row a policy, a column a suite: the bill as shipped against the reference's, and by how much targets are missed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from ..commands.bad_input import one_line_errors
from .report import put

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "agents.md"
PART: Final = "measured"


class TableError(ValueError):
    """There is no such table to make; the message is one line."""


def table(summary: Mapping[str, Any]) -> str:
    """The table as Markdown; checkpoints in bold, marks, which are no policies, in italics.

    Raises:
        TableError: not a summary of suites, or its suites do not have the same policies.
    """
    try:
        reference, suites = str(summary["reference"]), dict(summary["suites"])
        policies = {
            name: {own["policy"]: own for own in suite["as_shipped"]["policies"]} for name, suite in suites.items()
        }
        names = list(next(iter(policies.values())))
        if any(list(own) != names for own in policies.values()):
            raise TableError("suites have other policies each; wanted one evaluation of all of them")
        lines = [f"| policy | {' | '.join(suites)} |", "|---" * (1 + len(suites)) + "|"]
        for name in names:
            cells = [_cell(own[name], is_reference=name == reference) for own in policies.values()]
            lines.append(f"| {_shown(next(iter(policies.values()))[name])} | {' | '.join(cells)} |")
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise TableError(
            f"no summary of suites ({error!r}); wanted summary.json of `poolpilot evaluate --out`"
        ) from None
    return "\n".join(lines)


def _shown(own: Mapping[str, Any]) -> str:
    around = {"checkpoint": "**", "mark": "*"}.get(str(own["kind"]), "")
    return f"{around}{own['policy']}{around}"


def _cell(own: Mapping[str, Any], *, is_reference: bool) -> str:
    short = f"{100.0 * own['shortfall']['mean']:.2f}"
    if is_reference:
        return f"{own['usd_per_hr']['mean']:.1f} $/h; {short}"
    ratio = own["bill_ratio"]
    mean, low, high = (100.0 * (ratio[key] - 1.0) for key in ("mean", "low", "high"))
    return f"{mean:+.1f} % [{low:+.0f}, {high:+.0f}]; {short}"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("summary", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--write", is_flag=True, help=f"Put it into {PAGE.relative_to(ROOT)}.")
@one_line_errors
def main(summary: Path, write: bool) -> None:
    """Print the table of SUMMARY (summary.json of `poolpilot evaluate --out`)."""
    try:
        document = json.loads(summary.read_text(encoding="utf-8"))
    except ValueError:
        raise TableError(f"{summary}: no JSON; wanted summary.json of `poolpilot evaluate --out`") from None
    made = table(document)
    click.echo(made)
    if write:
        put(PAGE, PART, made)


if __name__ == "__main__":
    main()
