"""All comparisons in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from poolpilot.benchmarks.report import Section

from . import case_study, melange, paper, tables, words
from .simulated import Attained

PAPER, MELANGE, CASE = "paper", "melange", "case-study"
PARTS = (PAPER, MELANGE, CASE)
CHECKED_STOCK, CHECKED_BUDGET_USD_PER_HR = "1", 30.0
"""Of the cells that are simulated."""


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    models: tuple[str, ...] = paper.MODELS
    mixes: tuple[str, ...] = tuple(paper.MIXES)
    stocks: tuple[str, ...] = tuple(paper.STOCK)
    budgets_usd_per_hr: tuple[float, ...] = paper.BUDGETS_USD_PER_HR
    lengths: tuple[str, ...] = (melange.CHAT, melange.DOCUMENTS, melange.BLEND)
    rates_per_s: tuple[float, ...] = melange.RATES_PER_S
    variants: tuple[str, ...] = tuple(case_study.variants())
    seeds: tuple[int, ...] = paper.SEEDS
    reversed: bool = True
    """The mixes again, with their types in the other order."""


SCALES = {
    "full": Scale(),
    "tiny": Scale(
        models=("llama-3-8b",),
        mixes=("Azure",),
        stocks=("1",),
        budgets_usd_per_hr=(15.0,),
        lengths=(melange.CHAT,),
        rates_per_s=(4.0,),
        variants=("as shipped",),
        seeds=(0,),
        reversed=False,
    ),
}


@dataclass
class Study:
    """What came out."""

    parts: Sequence[str]
    cells: list[paper.Cell] = field(default_factory=list)
    reversed_cells: list[paper.Cell] = field(default_factory=list)
    checked: list[paper.Checked] = field(default_factory=list)
    small: list[melange.Row] = field(default_factory=list)
    small_whole: list[melange.Row] = field(default_factory=list)
    outcomes: list[case_study.Outcome] = field(default_factory=list)
    case_runs: dict[str, Attained] = field(default_factory=dict)
    headrooms: list[tuple[float, case_study.Step, Attained]] = field(default_factory=list)
    prices: dict[str, list[float]] = field(default_factory=dict)

    def summary(self, part: str | None = None) -> Iterator[Section]:
        """The tables of the page."""
        if self.cells and part in (None, PAPER):
            yield tables.paper_summary(self.cells, self.reversed_cells)
            yield from tables.paper_checked(self.checked)
        if self.small and part in (None, MELANGE):
            yield tables.melange_summary(self.small, self.small_whole)
        if self.outcomes and part in (None, CASE):
            yield from tables.case_fleets(self.outcomes[0], self.case_runs)
            yield tables.case_headroom(self.headrooms)
            yield tables.case_variants(self.outcomes)

    def words(self, part: str | None = None) -> Iterator[str]:
        """What the tables say."""
        if self.cells and part in (None, PAPER):
            yield from words.of_paper(self.cells, self.checked)
        if self.small and part in (None, MELANGE):
            yield from words.of_melange(self.small)
        if self.outcomes and part in (None, CASE):
            yield from words.of_case_study(self.outcomes, self.case_runs)

    def details(self, part: str | None = None) -> Iterator[Section]:
        """The long tables."""
        if self.cells and part in (None, PAPER):
            yield from tables.paper_throughput(self.cells)
            yield from tables.paper_cost(self.cells)
        if self.small and part in (None, MELANGE):
            yield tables.melange_costs(self.small)

    def record(self) -> dict[str, Any]:
        """All figures, JSON-ready."""
        return {
            "paper": [
                {
                    "model": cell.model,
                    "kind": cell.kind,
                    "mix": cell.mix,
                    "stock": cell.stock,
                    "budget_usd_per_hr": cell.budget_usd_per_hr,
                    "per_s": {name: growth.factor for name, growth in cell.throughput.fleets.items()},
                    "unlimited_per_s": {name: growth.factor for name, growth in cell.unlimited.fleets.items()},
                    "load_per_s": cell.load_per_s,
                    "usd_per_hr": cell.usd_per_hr,
                }
                for cell in (*self.cells, *self.reversed_cells)
            ],
            "paper_simulated": [asdict(row) for row in self.checked],
            "melange": [asdict(row) for row in self.small],
            "melange_routed_whole": [asdict(row) for row in self.small_whole],
            "case_study": [
                {
                    "variant": found.variant,
                    **{
                        name: {"usd_per_hr": step.usd_per_hr, "replicas": step.replicas, "growth": step.growth}
                        for name, step in found.steps.items()
                    },
                }
                for found in self.outcomes
            ],
            "case_study_simulated": {name: asdict(run) for name, run in self.case_runs.items()},
            "case_study_headrooms": [
                {"headroom": headroom, "usd_per_hr": step.usd_per_hr, **asdict(run)}
                for headroom, step, run in self.headrooms
            ],
            "case_study_prices": {"a100_over_l40s": list(case_study.RATIOS), "saved": self.prices},
        }


def study(scale: Scale, parts: Sequence[str], on_step: Callable[[str], None]) -> Study:
    """Run the parts."""
    done = Study(parts)
    if PAPER in parts:
        _paper(done, scale, on_step)
    if MELANGE in parts:
        on_step("the setting of Mélange")
        done.small = list(melange.rows(scale.lengths, rates_per_s=scale.rates_per_s))
        done.small_whole = list(melange.rows(scale.lengths, rates_per_s=scale.rates_per_s, by_length=False))
    if CASE in parts:
        for variant in scale.variants:
            on_step(f"the case study, {variant}")
            done.outcomes.append(case_study.outcome(variant))
        on_step("the case study, simulated")
        done.case_runs = dict(case_study.simulated(done.outcomes[0], scale.seeds))
        done.headrooms = list(case_study.by_headroom(scale.seeds))
        done.prices = case_study.price_sweep(done.outcomes[0])
    return done


def _paper(done: Study, scale: Scale, on_step: Callable[[str], None]) -> None:
    for cell in paper.cells(scale.models, paper.KINDS, scale.mixes, scale.stocks, scale.budgets_usd_per_hr):
        on_step(f"{cell.model}, {cell.kind}, {cell.mix}, stock {cell.stock}, {cell.budget_usd_per_hr:g} $/h")
        done.cells.append(cell)
    others = [mix + paper.REVERSED for mix in scale.mixes if scale.reversed]
    if others:
        on_step("a batch again, with the types of each mix in the other order")
    done.reversed_cells = list(paper.cells(scale.models, ("batch",), others, scale.stocks, scale.budgets_usd_per_hr))
    budget = min(scale.budgets_usd_per_hr, key=lambda usd: abs(usd - CHECKED_BUDGET_USD_PER_HR))
    for kind in paper.KINDS:
        for model in scale.models:
            for mix in scale.mixes:
                on_step(f"simulating {model}, {kind}, {mix}")
                done.checked += paper.checked(model, kind, mix, CHECKED_STOCK, budget, scale.seeds)
