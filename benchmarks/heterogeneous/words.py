"""What the figures say, in sentences: the pages' bullets, so that no number in them is written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from . import case_study, melange, paper
from .fleets import GREEDY, PLAN
from .simulated import Attained

UNSPENT = 0.9
"""A fleet whose rent is below this share of the budget cannot spend it: its type is sold out, or comes in large steps."""


def of_paper(cells: Sequence[paper.Cell], checked: Sequence[paper.Checked]) -> Iterator[str]:
    """Bullets of the comparison on mixed GPUs."""
    for kind in paper.KINDS:
        own = [cell for cell in cells if cell.kind == kind]
        if not own:
            continue
        stock, alone = [cell.throughput.gain for cell in own], [cell.gain_unlimited for cell in own]
        yield (
            f"**{'A batch' if kind == 'batch' else 'Latency targets'}.** Within the same stock the plan carries "
            f"{_mean(stock)} more than the best fleet of one type on average, and up to {_most(stock)} more. Where nothing "
            f"is ever sold out it carries {_mean(alone)} more on average, up to {_most(alone)}. Published: 20 % on average, "
            "up to 41 %."
        )
    best = [(cell, cell.throughput.fleets[cell.throughput.best].composition) for cell in cells]
    short = [cell for cell, fleet in best if fleet and fleet.usd_per_hr < UNSPENT * cell.budget_usd_per_hr]
    most = max(cell.budget_usd_per_hr for cell in cells)
    at_most = [cell for cell in cells if cell.budget_usd_per_hr == most]
    yield (
        f"**Most of it is stock.** In {len(short)} of {len(cells)} cells the best fleet of one type leaves a tenth of the "
        f"budget or more unspent, for want of GPUs or because one more replica is too dear; at {most:g} $/h in "
        f"{sum(cell in short for cell in at_most)} of {len(at_most)}. What the published baselines could rent is not restated."
    )
    yield from _of_batch([row for row in checked if row.kind == "batch"])
    yield from _of_steady([row for row in checked if row.steady is not None])


def _of_batch(rows: Sequence[paper.Checked]) -> Iterator[str]:
    if not rows:
        return
    reached = {row: float(np.mean(row.reached_per_s)) for row in rows}
    pairs = [(row, _rival(row, rows)) for row in rows if row.fleet == PLAN]
    planned = [plan.planned_per_s / rival.planned_per_s - 1.0 for plan, rival in pairs]
    kept = [reached[plan] / reached[rival] - 1.0 for plan, rival in pairs]
    share = [reached[plan] / plan.planned_per_s for plan, _ in pairs]
    believed = [plan.believed_per_s / plan.planned_per_s for plan, _ in pairs]
    yield (
        f"**Simulated, as a batch,** the plan reaches {100 * float(np.mean(believed)):.0f} % of what was planned where pools are "
        "as fast as believed. In worlds whose pools are up to 15 % faster or slower it reaches "
        f"{100 * float(np.mean(share)):.0f} %, and of a planned gain of {_mean(planned)} over the best "
        f"fleet of one type {_mean(kept)} is left. Shares are fixed, so that the slowest pool decides when the batch is done; "
        "a fleet of one type is one pool here, as often faster as slower. Steering by what is seen is the agent's work."
    )


def _of_steady(rows: Sequence[paper.Checked]) -> Iterator[str]:
    gains, worst, met, believed = [], [], [], []
    for row in rows:
        rival = _rival(row, rows).steady
        if row.fleet != PLAN or row.steady is None or rival is None:
            continue
        gains.append(row.steady.goodput_per_s / rival.goodput_per_s - 1.0)
        worst.append(row.steady.worst)
        met.append(row.steady.attainment)
        believed.append(row.believed.worst if row.believed else 0.0)
    if gains:
        yield (
            f"**Simulated, under targets,** the plan's goodput is {_mean(gains)} above that of the best fleet of one type on "
            f"average; {100 * min(met):.1f} to {100 * max(met):.1f} % of the requests meet their targets where 95 % are "
            f"wanted. The class that fares worst is {100 * min(worst):+.1f} points from its wanted attainment in the worst "
            f"cell, and {100 * min(believed):+.1f} where pools are as fast as believed."
        )


def of_melange(rows: Sequence[melange.Row]) -> Iterator[str]:
    """Bullets of the small models."""
    least, most = ([row.savings[i] for row in rows if np.isfinite(row.savings[i])] for i in (0, 1))
    mixed = sum(saving > 0.005 for saving in least)
    yield (
        f"The mix is cheaper than the cheapest fleet of one type in {mixed} of {len(least)} cells, by {_mean(least)} on "
        f"average over all and up to {_most(least)}; than the dearest by up to {_most(most)}, where a type that can hardly "
        "keep the target needs a crowd of replicas. Published: up to 77 % against one type: the dearest, at a low rate."
    )
    tight = [row for row in rows if row.tpot_s == min(melange.TPOT_S)]
    out = sorted({name.split("-")[0] for row in tight for name, usd in row.usd_per_hr.items() if usd is None})
    if out:
        yield (
            f"At {1000 * min(melange.TPOT_S):g} ms a token no fleet of {' or '.join(out)} alone keeps the target for all "
            "requests: reading the weights takes most of that time, and room is left for the spread about the mean. In the "
            "paper all four types do, at small batches."
        )


def of_case_study(outcomes: Sequence[case_study.Outcome], runs: dict[str, Attained]) -> Iterator[str]:
    """Bullets of the case study."""
    shipped = outcomes[0]
    after = shipped.steps[case_study.AFTER]
    yield (
        f"**As shipped:** {_percent(shipped.saving(case_study.AFTER))} less rent for the same load (claimed: 42 %), or "
        f"{after.growth:.2f} times the load for 58 % of the rent (claimed: 1.18 times). Quantising alone saves "
        f"{_percent(shipped.saving(case_study.QUANTISING))}, L40S alone {_percent(shipped.saving(case_study.MIXING))}."
    )
    whole = [found for found in outcomes if {case_study.BEFORE, case_study.AFTER} <= set(found.steps)]
    nearest = max(whole, key=lambda found: found.saving(case_study.AFTER))
    yield (
        f'**Nearest to the claim** comes "{nearest.variant}": {_percent(nearest.saving(case_study.AFTER))} less rent, or '
        f"{nearest.steps[case_study.AFTER].growth:.2f} times the load for 58 % of it. Both figures of the claim together ask "
        f"for {_percent(case_study.CLAIMED_PER_REQUEST)} less for each request."
    )
    run = runs.get(case_study.AFTER)
    if run is not None:
        first = ", ".join(f"{1000 * value:.0f} ms ({name})" for name, value in run.ttft_p95_s.items())
        each = ", ".join(f"{1000 * value:.0f} ms ({name})" for name, value in run.tpot_p95_s.items())
        ends = ", ".join(f"{value:.1f} s ({name})" for name, value in run.e2e_mean_s.items())
        yield (
            f"**350 ms for 95 % of the requests**, simulated after: the first token within {first}; each further one within "
            f"{each}; a whole answer takes {ends} on average, so that no fleet can mean that."
        )


def _rival(row: paper.Checked, rows: Sequence[paper.Checked]) -> paper.Checked:
    return next(r for r in rows if (r.model, r.mix) == (row.model, row.mix) and r.fleet not in (GREEDY, PLAN))


def _mean(values: Sequence[float]) -> str:
    return _percent(float(np.mean([value for value in values if np.isfinite(value)])))


def _most(values: Sequence[float]) -> str:
    return _percent(max(value for value in values if np.isfinite(value)))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
