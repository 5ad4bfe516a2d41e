"""The figures as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from poolpilot.benchmarks.report import Row as Cells
from poolpilot.benchmarks.report import Section

from . import case_study, melange, paper
from .fleets import ALIKE, GREEDY, PLAN
from .simulated import Attained

NOTHING = "-"


def paper_summary(cells: Sequence[paper.Cell], others: Sequence[paper.Cell]) -> Section:
    """Gains by model, objective and budget: average and most over mixes and stocks. `others`: with types reversed."""
    rows: list[Cells] = []
    for kind in paper.KINDS:
        for model in paper.MODELS:
            for budget in paper.BUDGETS_USD_PER_HR:
                own = [c for c in cells if (c.kind, c.model, c.budget_usd_per_hr) == (kind, model, budget)]
                if own:
                    rows.append((f"{kind}, {_model(model)}, {budget:g} $/h", *_gains(own)))
        own = [c for c in cells if c.kind == kind]
        if own:
            rows.append((f"**{kind}, all**", *_gains(own)))
        own = [c for c in others if c.kind == kind]
        if own:
            rows.append((f"{kind}, all, types in the other order", *_gains(own)))
    return Section(
        "Gains of the plan",
        "Average and most over three mixes and four snapshots of stock. *In stock*: against the best fleet of one type that "
        "the stock allows, in any layouts. *One layout*: against the best fleet of replicas that are all alike, in stock. *Headliners, no limit*: the plan, within stock, against the best of H100, A6000 and RTX 4090 "
        "of which as many can be had as the budget buys. *Any, no limit*: likewise against the best of all six. *Mixing "
        "alone*: nothing is ever sold out, for the plan neither. *Cheaper*: rent saved at the load that the best fleet of "
        "one type in stock carries for the budget.",
        (
            "",
            "in stock",
            "one layout",
            "headliners, no limit",
            "any, no limit",
            "mixing alone",
            "over greedy",
            "cheaper",
        ),
        tuple(rows),
    )


def _gains(cells: Sequence[paper.Cell]) -> Cells:
    def best_unlimited(cell: paper.Cell) -> float:
        return cell.throughput.per_s(PLAN) / cell.unlimited.per_s(cell.unlimited.best) - 1.0

    readings: tuple[Callable[[paper.Cell], float], ...] = (
        lambda cell: cell.throughput.gain,
        lambda cell: cell.throughput.gain_over(ALIKE),
        lambda cell: cell.gain_over_headliners,
        best_unlimited,
        lambda cell: cell.gain_unlimited,
        lambda cell: cell.throughput.gain_over(GREEDY),
        lambda cell: cell.saving,
    )
    return tuple(_average_and_most([read(cell) for cell in cells]) for read in readings)


def _average_and_most(values: Sequence[float]) -> str:
    finite = [value for value in values if np.isfinite(value)]
    return f"{_signed(float(np.mean(finite)))} / {_signed(max(finite))}" if finite else NOTHING


def paper_throughput(cells: Sequence[paper.Cell]) -> Iterator[Section]:
    """Every cell: requests per second within the budget."""
    columns = [*paper.GPUS, GREEDY, PLAN]
    for kind, model in _groups(cells):
        own = [c for c in cells if (c.kind, c.model) == (kind, model)]
        rows = [
            (
                _cell(c),
                *(_number(c.throughput.per_s(name)) for name in columns),
                _signed(c.throughput.gain) if np.isfinite(c.throughput.gain) else NOTHING,
            )
            for c in own
        ]
        yield Section(
            f"Throughput at equal budget: {_model(model)}, {_kind(kind)}",
            "Requests per second of the mix, as planned. The last column is the plan over the best fleet of one type in "
            "stock.",
            ("mix, stock, $/h", *(_gpu(name) for name in paper.GPUS), GREEDY, PLAN, "gain"),
            tuple(rows),
        )


def paper_cost(cells: Sequence[paper.Cell]) -> Iterator[Section]:
    """Every cell: dollars per hour at the load that the best homogeneous fleet carries."""
    columns = [*paper.GPUS, GREEDY, PLAN]
    for kind, model in _groups(cells):
        own = [c for c in cells if (c.kind, c.model) == (kind, model) and c.usd_per_hr]
        rows = [
            (
                _cell(c),
                _number(c.load_per_s),
                *(_usd(c.usd_per_hr[name]) for name in columns),
                _percent(c.saving),
            )
            for c in own
        ]
        yield Section(
            f"Cost at equal load: {_model(model)}, {_kind(kind)}",
            "Dollars per hour. The load is what the best fleet of one type carries for the budget; a fleet without a "
            "figure cannot carry it with what is in stock.",
            ("mix, stock, $/h", "requests/s", *(_gpu(name) for name in paper.GPUS), GREEDY, PLAN, "saved"),
            tuple(rows),
        )


def paper_checked(rows: Sequence[paper.Checked]) -> Iterator[Section]:
    """Fleets in the simulator."""
    batch = [row for row in rows if row.kind == "batch"]
    if batch:
        yield Section(
            "Simulated: a batch",
            "A job of as many requests as the fleet is planned to carry in a quarter of an hour, all there at the "
            "beginning, until 99 % of them have ended: requests per second, mean and range over "
            f"{len(batch[0].reached_per_s)} worlds. Each pool is up to 15 % faster or slower than planned, and nobody moves "
            "a request from a slow pool to a fast one. *As believed*: in a world in which every pool is just as fast as planned. "
            "*Gain*: of the mean over the best fleet of one type.",
            ("model, mix", "fleet", "planned", "as believed", "reached", "worst to best", "reached / planned", "gain"),
            tuple(_batch_row(row, batch) for row in batch),
        )
    steady = [row for row in rows if row.steady is not None]
    if steady:
        yield Section(
            "Simulated: steady load under targets",
            "The planned load, Poisson, held counts and shares, over the same worlds. *Goodput*: requests per second that "
            "met their targets. *Worst class*: attainment over what is wanted, in points; *as believed*: the same in a world "
            "in which every pool is just as fast as planned.",
            ("model, mix", "fleet", "planned", "goodput", "attainment", "worst class", "as believed", "$/h", "gain"),
            tuple(_steady_row(row, steady) for row in steady),
        )


def _batch_row(row: paper.Checked, rows: Sequence[paper.Checked]) -> Cells:
    mean = float(np.mean(row.reached_per_s))
    rival = _rival(row, rows)
    return (
        f"{_model(row.model)}, {row.mix}",
        _gpu(row.fleet),
        _number(row.planned_per_s),
        _number(row.believed_per_s),
        _number(mean),
        f"{_number(min(row.reached_per_s))} to {_number(max(row.reached_per_s))}",
        f"{mean / row.planned_per_s:.2f}",
        NOTHING if rival is row else _signed(mean / float(np.mean(rival.reached_per_s)) - 1.0),
    )


def _steady_row(row: paper.Checked, rows: Sequence[paper.Checked]) -> Cells:
    rival, own = _rival(row, rows), row.steady
    assert own is not None
    assert rival.steady is not None
    return (
        f"{_model(row.model)}, {row.mix}",
        _gpu(row.fleet),
        _number(row.planned_per_s),
        _number(own.goodput_per_s),
        f"{100 * own.attainment:.1f} %",
        f"{100 * own.worst:+.1f}",
        f"{100 * row.believed.worst:+.1f}" if row.believed else NOTHING,
        f"{own.usd_per_hr:.2f}",
        NOTHING if rival is row else _signed(own.goodput_per_s / rival.steady.goodput_per_s - 1.0),
    )


def _rival(row: paper.Checked, rows: Sequence[paper.Checked]) -> paper.Checked:
    """The homogeneous fleet of the same cell."""
    return next(r for r in rows if (r.model, r.mix) == (row.model, row.mix) and r.fleet not in (GREEDY, PLAN))


def melange_summary(rows: Sequence[melange.Row], whole: Sequence[melange.Row]) -> Section:
    """Savings by data set and target, beside the published ones."""
    shown: list[Cells] = []
    for (lengths, tpot_s), published in melange.PUBLISHED.items():
        own = [row for row in rows if (row.lengths, row.tpot_s) == (lengths, tpot_s)]
        if not own:
            continue
        least, most = (np.array([row.savings[i] for row in own]) for i in (0, 1))
        kept = [row.savings[0] for row in whole if (row.lengths, row.tpot_s) == (lengths, tpot_s)]
        shown.append(
            (
                f"{lengths}, {1000 * tpot_s:g} ms",
                f"{_percent(float(np.nanmin(least)))} to {_percent(float(np.nanmax(least)))}",
                _percent(float(np.nanmean(least))),
                _percent(float(np.nanmax(most))),
                _percent(float(np.nanmean(kept))) if kept else NOTHING,
                published,
            )
        )
    return Section(
        "Rent saved by the mix",
        "Against the cheapest fleet of one type (least to most over six rates, and mean) and against the dearest. *Routed "
        "whole*: the mean against the cheapest if requests are not routed by length. The published range spans from the "
        "best to the worst single type.",
        ("requests, per token", "cheapest type", "mean", "dearest type, most", "routed whole, mean", "published"),
        tuple(shown),
    )


def melange_costs(rows: Sequence[melange.Row]) -> Section:
    """Dollars per hour of every fleet."""
    gpus = tuple(melange.PRICES_USD_PER_HR)
    return Section(
        "Every fleet, $/h",
        "Head-room is left out, as in the paper. A fleet without a figure cannot keep the target at any load, or holds no "
        "request of this length.",
        ("requests, per token, requests/s", *(_gpu(name) for name in gpus), GREEDY, PLAN),
        tuple(
            (
                f"{row.lengths}, {1000 * row.tpot_s:g} ms, {row.rate_per_s:g}",
                *(_usd(row.usd_per_hr.get(name)) for name in (*gpus, GREEDY, PLAN)),
            )
            for row in rows
        ),
    )


def case_fleets(found: case_study.Outcome, runs: dict[str, Attained]) -> Iterator[Section]:
    """The case study as shipped."""
    names = {
        case_study.BEFORE: "before: A100, 16 bits",
        case_study.MIXING: "mixing alone: A100 and L40S, 16 bits",
        case_study.QUANTISING: "quantising alone: A100",
        case_study.AFTER: "after: A100 and L40S, quantised",
    }
    yield Section(
        "The fleets",
        "For the same load. *At 42 % less*: how many times that load each would carry within its targets for 58 % of the "
        "rent before; the claim is 1.18.",
        ("", "replicas", "$/h", "saved", "at 42 % less"),
        tuple(
            (
                names[name],
                ", ".join(f"{count} x {option}" for option, count in step.replicas.items()),
                f"{step.usd_per_hr:.2f}",
                NOTHING if name == case_study.BEFORE else _percent(found.saving(name)),
                f"{step.growth:.2f}",
            )
            for name, step in found.steps.items()
        ),
    )
    yield Section(
        "The fleets, simulated",
        "The load that they were planned for, half an hour, in worlds whose pools are up to 15 % faster or slower than "
        "planned. Latencies are 95th percentiles of all worlds together, of chat / of summarisation.",
        ("", "met", "goodput/s", "tokens/s", "$ per 1,000 met", "first token, ms", "each token, ms", "whole, mean s"),
        tuple(
            (
                names[name],
                f"{100 * run.attainment:.1f} %",
                _number(run.goodput_per_s),
                f"{run.tokens_per_s:,.0f}",
                f"{run.usd_per_hr / 3.6 / run.goodput_per_s:.3f}",
                *_latencies(run),
                " / ".join(f"{value:.1f}" for value in run.e2e_mean_s.values()),
            )
            for name, run in runs.items()
        ),
    )


def case_headroom(rows: Sequence[tuple[float, case_study.Step, Attained]]) -> Section:
    """What head-room buys in worlds that differ."""
    return Section(
        "Head-room",
        "The fleet after, planned with other head-rooms, in the same worlds. Worst class: attainment over the wanted 95 %, "
        "in points.",
        ("head-room", "$/h", "met", "worst class", "first token, ms", "each token, ms"),
        tuple(
            (
                f"{headroom:g}",
                f"{step.usd_per_hr:.2f}",
                f"{100 * run.attainment:.1f} %",
                f"{100 * run.worst:+.1f}",
                *_latencies(run),
            )
            for headroom, step, run in rows
        ),
    )


def _latencies(run: Attained) -> Cells:
    """95th percentiles of the first and of each further token, class by class, in ms."""
    both = (run.ttft_p95_s, run.tpot_p95_s)
    return tuple(" / ".join(f"{1000 * value:.0f}" for value in values.values()) for values in both)


def case_variants(outcomes: Sequence[case_study.Outcome]) -> Section:
    """What the saving hangs on."""
    return Section(
        "What the figures hang on",
        "Rent saved against A100 in 16 bits for the same load, and how many times that load 58 % of the rent carries after. "
        f"The claim: 42 % and 1.18, which together are {100 * case_study.CLAIMED_PER_REQUEST:.0f} % less for each request.",
        ("", "before, $/h", "mixing alone", "quantising alone", "both", "at 42 % less"),
        tuple(
            (
                found.variant,
                f"{found.steps[case_study.BEFORE].usd_per_hr:.2f}",
                *(
                    _percent(found.saving(name)) if name in found.steps else NOTHING
                    for name in (case_study.MIXING, case_study.QUANTISING, case_study.AFTER)
                ),
                f"{found.steps[case_study.AFTER].growth:.2f}" if case_study.AFTER in found.steps else NOTHING,
            )
            for found in outcomes
            if case_study.BEFORE in found.steps
        ),
    )


def _groups(cells: Sequence[paper.Cell]) -> list[tuple[paper.Kind, str]]:
    return list(dict.fromkeys((cell.kind, cell.model) for cell in cells))


def _cell(cell: paper.Cell) -> str:
    return f"{cell.mix}, {cell.stock}, {cell.budget_usd_per_hr:g}"


def _kind(kind: paper.Kind) -> str:
    return "a batch" if kind == "batch" else "latency targets"


def _model(name: str) -> str:
    return name.removeprefix("llama-3-").upper()


def _gpu(name: str) -> str:
    """Short: without form factor and memory."""
    return name.split("-")[0] if name not in (GREEDY, PLAN) else name


def _number(value: float) -> str:
    return NOTHING if value <= 0 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _usd(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _percent(share: float) -> str:
    return NOTHING if not np.isfinite(share) else f"{100 * share:.0f} %"


def _signed(share: float) -> str:
    return f"{100 * share:+.0f} %"
