"""What to do first: where the bill went that the best policy would not have paid, largest first. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ..training.matching import NO_LATENCY, Match, Verdict
from .as_it_was import Replay
from .instead import Compared, Option
from .measured import Measured, Spent

WORTH_FRAC: Final = 0.02
"""A finding below this share of the bill is not worth a line."""
GAIN_FRAC: Final = 0.01
"""The least saving, at the far end of its interval, that is called one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to do."""

    words: str
    usd: float
    """What of the stretch's bill is at stake; 0 where it is not about dollars."""


def saves(option: Option) -> bool:
    """Whether an option is cheaper beyond the interval's doubt."""
    return option.ratio.high < 1.0 - GAIN_FRAC


def findings(measured: Measured, spent: Spent, compared: Compared, match: Match) -> tuple[Finding, ...]:
    """In the order in which they are worth doing; `compared` was made on a simulation that matches well enough."""
    best, own = compared.best, compared.own
    better = best.holds and (saves(best) or not own.holds)
    found = _moves(measured, spent, compared) if better else []
    for name, reached in own.attainment.items():
        wanted = float(best.results[0].attainment_wanted[best.results[0].class_names.index(name)])
        if best.attainment[name].mean - reached.mean > 0.0025 and reached.mean < wanted:
            words = f"{name} missed its target: {100 * reached.mean:.1f} % of {100 * wanted:g} %; {best.name} reaches"
            found.append(Finding(f"{words} {100 * best.attainment[name].mean:.1f} %", 0.0))
    if own.holds and not better:
        why = (
            "is cheaper beyond doubt at these targets" if best.holds else "holds every target on this load, and it does"
        )
        found.append(Finding(f"leave the fleet as it is: no policy tried {why}", 0.0))
    elif not best.holds:
        found.append(
            Finding(
                "give policies more to rent (`max`) or faster pools: none of them holds every target with these", 0.0
            )
        )
    elif saves(best) and best.kind == "plan":
        found.append(Finding("fixed counts already bring most of it: set them, then let a policy take over", 0.0))
    unseen = any(line.startswith(NO_LATENCY) for line in match.reasons)
    if unseen:
        words = "log each request's time to first token and its end: without them nobody knows how fast the fleet was"
        found.append(Finding(words, 0.0))
    if match.verdict is Verdict.ROUGH and (not unseen or len(match.reasons) > 1):
        words = "measure your own hardware (`poolpilot profile`) and name the law in the description: it matches only roughly"
        found.append(Finding(words, 0.0))
    found.append(
        Finding("see what it would do beside your fleet, without touching it: `poolpilot control --mode advise`", 0.0)
    )
    return tuple(found)


def _moves(measured: Measured, spent: Spent, compared: Compared) -> list[Finding]:
    """Pools of which the best keeps less or more; what it gives up comes first, the largest on top."""
    best, own, total = compared.best, compared.own, spent.total_usd
    found: list[Finding] = []
    pools = dict(zip(measured.pool_names, spent.bill.usd.sum(axis=(1, 2)).tolist(), strict=True))
    idle = dict(zip(measured.pool_names, spent.bill.idle_usd.sum(axis=(1, 2)).tolist(), strict=True))
    for name, usd in pools.items():
        less = usd - best.usd_by_pool[name]
        if less < WORTH_FRAC * total:
            continue
        before, after = own.mean_replicas[name], best.mean_replicas[name]
        share = f"; {100 * idle[name] / usd:.0f} % of its rent was idle" if usd > 0 and idle[name] > 0 else ""
        how = "give up" if after < 0.05 else "let shrink"
        found.append(
            Finding(f"{how} {name}: {before:.1f} replicas on the mean, {best.name} keeps {after:.1f}{share}", less)
        )
    found.sort(key=lambda one: -one.usd)
    grows = [
        (name, best.usd_by_pool[name] - usd)
        for name, usd in pools.items()
        if best.usd_by_pool[name] - usd > WORTH_FRAC * total
    ]
    for name, more in grows:
        before, after = own.mean_replicas[name], best.mean_replicas[name]
        found.append(
            Finding(
                f"use {name} more: {after:.1f} replicas on the mean instead of {before:.1f}; it carries what others give up",
                -more,
            )
        )
    return found


def when_it_does_not_match(match: Match, replay: Replay) -> tuple[Finding, ...]:
    """What to look at where nothing can be promised."""
    found = []
    named = {own.figure for own in match.figures if own.verdict is Verdict.BAD}
    if "bill_usd" in named:
        found.append(
            Finding("check each pool's count and price, and that `select` names all of its replicas and no others", 0.0)
        )
    if "requests" in named:
        found.append(
            Finding("check the time range: requests that end outside of it, or none that end at all, are no load", 0.0)
        )
    if named & {"tpot_mean_s", "tpot_p50_s", "tpot_p95_s", "tpot_met", "e2e_mean_s"}:
        found.append(
            Finding(
                "check gpu, precision, tensor_parallel, model and the engine's flags in the description; then measure the"
                " hardware itself: `poolpilot profile --url ... --out law.json`, and `law: law.json` under its pool",
                0.0,
            )
        )
    if named & {"ttft_mean_s", "ttft_p50_s", "ttft_p95_s", "ttft_met", "queue", "attainment"}:
        found.append(
            Finding(
                "requests wait longer or shorter than simulated: check max_num_seqs and max_num_batched_tokens, and whether"
                " replicas outside the description, or a proxy's own queue, take part",
                0.0,
            )
        )
    covered = float(np.nanmean([result.covered_frac for result in replay.results]))
    if covered < 0.5:
        found.append(
            Finding(
                f"only {100 * covered:.0f} % of the tokens lie in the performance model's calibrated range: `poolpilot profile`",
                0.0,
            )
        )
    return tuple(found)
