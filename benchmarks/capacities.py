"""`python -m poolpilot.benchmarks.capacities`: how far the capacities that plans rest on agree with the simulator.

A true capacity is found by bisection in the engine kernel: the rate of Poisson arrivals up to which the wanted share of
requests meets all targets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from poolpilot.env.perf.capacity import capacity_per_s
from poolpilot.env.perf.mixes import most_per_s

from .planned import SEEDS, planned
from .replicas import SHAPES, Served, served

PAGE = Path(__file__).resolve().parents[1] / "docs" / "capacity.md"
ATTAINMENTS = (0.9, 0.95, 0.99)
REPLICAS: tuple[tuple[str, str, str, int, int], ...] = (
    ("H100-SXM-80GB", "llama-2-13b", "bf16", 1, 128),
    ("A100-SXM-80GB", "llama-2-7b", "bf16", 1, 128),
    ("L40S-48GB", "llama-2-13b", "fp8", 1, 64),
    ("L4-24GB", "llama-3.1-8b", "fp8", 1, 48),
    ("V100-SXM-32GB", "llama-2-7b", "fp16", 1, 48),
    ("T4-16GB", "llama-2-7b", "int8", 1, 32),
    ("H100-SXM-80GB", "llama-3.1-70b", "fp8", 4, 128),
    ("A100-SXM-80GB", "llama-3.1-70b", "bf16", 4, 128),
)
"""GPU, model, precision, tensor parallel, `max_num_seqs`."""
PLANS = ((1.0, 0.0), (0.9, 0.0), (0.85, 0.0), (0.8, 0.0), (1.0, 0.15), (0.9, 0.15), (1.1, 0.3), (1.0, 0.3))
"""Head-room, and by how much true speeds differ from the believed ones."""
PROBLEMS = 40
_NOTHING = 0.02
"""Of the rate that a search begins with: a replica that attains nothing there attains nothing at all."""
STEP = 1.015
"""To which factor a true capacity is found."""


@dataclass(frozen=True)
class Case:
    """One replica under one load."""

    replica: str
    shape: str
    attainment: float
    claimed_per_s: float
    quick_per_s: float
    """By `capacity.capacity_per_s`, of the mean request."""
    true_per_s: float
    attained: float | None
    """At the claimed rate; None where nothing is claimed."""

    @property
    def error(self) -> float:
        """Claimed over true, minus 1."""
        return self.claimed_per_s / self.true_per_s - 1.0 if self.true_per_s else 0.0

    @property
    def quick_error(self) -> float:
        """Likewise of the quick one."""
        return self.quick_per_s / self.true_per_s - 1.0 if self.true_per_s else 0.0


def measured(on_case: Callable[[str], None]) -> list[Case]:
    """Every replica under every load."""
    cases = []
    for gpu, model, precision, degree, seqs in REPLICAS:
        name = f"{gpu} x{degree} {model} {precision}"
        for shape in SHAPES:
            for wanted in ATTAINMENTS:
                on_case(f"{name}, {shape}, {wanted:g}")
                case = served(gpu, model, precision, (shape,), (wanted,), tensor_parallel=degree, max_num_seqs=seqs)
                claimed = most_per_s(case.replica, case.mix, case.promises, 0.0)
                attained = mean_met(case, claimed, (5, 6)) if claimed > 0.0 else None
                true = true_per_s(case, wanted, claimed or 0.1)
                cases.append(Case(name, shape, wanted, claimed, quick_of(case, wanted), true, attained))
    return cases


def mean_met(case: Served, rate_per_s: float, seeds: tuple[int, ...]) -> float:
    """Share that meets its targets, mean over the seeds."""
    return float(np.mean([case.met(rate_per_s, seed)[0] for seed in seeds]))


def true_per_s(case: Served, wanted: float, guess: float) -> float:
    """By bisection; 0 if not even a trickle attains what is wanted."""
    low, high, rate = 0.0, math.inf, guess
    while high > STEP * low:
        if mean_met(case, rate, (11, 12)) >= wanted:
            low = rate
        else:
            high = rate
        if rate < _NOTHING * guess:
            return 0.0
        rate = math.sqrt(low * high) if low and math.isfinite(high) else 1.25 * rate if low else rate / 1.25
    return low


def quick_of(case: Served, wanted: float) -> float:
    """What the mean request's capacity is."""
    promises = case.promises
    return capacity_per_s(
        case.law,
        case.replica.kv_tokens,
        int(case.replica.max_num_seqs),
        int(case.replica.token_budget),
        float(case.prompt.mean()),
        float(case.output.mean()),
        float(promises.ttft_s[0]),
        float(promises.tpot_s[0]),
        float(promises.e2e_s[0]),
        wanted,
    )


def replica_lines(cases: list[Case]) -> list[str]:
    """The table of errors, by shape."""
    lines = [
        "| requests | claimed over true, median | 10 % to 90 % | attained over wanted, worst | quick over true, median |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for shape in (*SHAPES, "all"):
        own = [case for case in cases if shape in (case.shape, "all") and case.true_per_s > 0.0]
        errors = 100.0 * np.array([case.error for case in own])
        points = 100.0 * np.array([case.attained - case.attainment for case in own if case.attained is not None])
        quick = 100.0 * np.array([case.quick_error for case in own])
        low, high = np.quantile(errors, [0.1, 0.9])
        lines.append(
            f"| {shape} | {np.median(errors):+.0f} % | {low:+.0f} % to {high:+.0f} % | {points.min():+.1f} points"
            f" | {np.median(quick):+.0f} % |"
        )
    return lines


def plan_lines(problems: int, on_plan: Callable[[str], None]) -> list[str]:
    """The table of plans held at their load."""
    lines = [
        "| head-room | true speeds differ by up to | plans with a class more than 2 points short | worst class | bill |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    base = 0.0
    for headroom, error in PLANS:
        on_plan(f"head-room {headroom:g}, speeds off by {error:g}")
        plans = [planned(seed, headroom, error) for seed in range(problems)]
        worst = np.array([plan.worst for plan in plans])
        rent = sum(plan.usd_per_hr for plan in plans)
        base = base or rent
        lines.append(
            f"| {headroom:g} | {100 * error:.0f} % | {(worst < -0.02).sum()} of {problems} | {100 * worst.min():+.1f} points"
            f" | {100 * rent / base:.0f} % |"
        )
    return lines


def rewritten(text: str, part: str, lines: list[str]) -> str:
    """The page with the part between its two marks replaced."""
    begin, end = f"<!-- {part} -->\n", f"<!-- end of {part} -->"
    before, rest = text.split(begin, 1)
    return before + begin + "\n".join(lines) + "\n" + end + rest.split(end, 1)[1]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--part", type=click.Choice(["replicas", "plans"]), multiple=True, help="Only this; may be repeated.")
@click.option("--problems", type=click.IntRange(min=1), default=PROBLEMS, show_default=True, help="How many plans.")
@click.option("--json", "as_json", is_flag=True, help="Every replica's figures as one JSON document on stdout.")
@click.option("--write", "rewrite", is_flag=True, help=f"Rewrite the tables in {PAGE.name}.")
def main(part: tuple[str, ...], problems: int, as_json: bool, rewrite: bool) -> None:
    """Compare claimed capacities with those that the simulator's engines have, and plans with what becomes of them."""
    progress = Console(stderr=True)
    tables: dict[str, list[str]] = {}
    if not part or "replicas" in part:
        cases = measured(lambda step: progress.print(f"[dim]{step}[/dim]"))
        tables["replicas"] = replica_lines(cases)
        if as_json:
            click.echo(json.dumps([asdict(case) for case in cases], indent=2))
    if not part or "plans" in part:
        tables["plans"] = plan_lines(problems, lambda step: progress.print(f"[dim]{step}, {SEEDS} runs each[/dim]"))
    for name, lines in tables.items():
        if not as_json:
            click.echo("\n".join(lines) + "\n")
        if rewrite:
            PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), name, lines), encoding="utf-8")


if __name__ == "__main__":
    main()
