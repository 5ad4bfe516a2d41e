"""A candidate's trial beside the incumbent: who decides when, what that came to, and when enough is known. Pure.

Two policies cannot decide on one fleet at once: replicas, caps and queues are shared, and a request's fate hangs on what
was scaled minutes ago. So they take turns (a switchback experiment: I. Bojinov, D. Simchi-Levi, J. Zhao, Management Science
69 (2023)). Time is cut into windows, a block of `1/share` windows has one of the candidate's, and which one is drawn by a
hash that neither policy can choose. A window begins with a time in which the other one's decisions still work; what comes
after is measured: attainment of each class and of all requests together, and the logarithm of the bill over what the
fallback rule's fleet would have cost. Each block gives one difference of each: the candidate's window less the mean of the
incumbent's. Load and world are nearly the same within a block, so that what the day does drops out.

After every block the means are looked at by a confidence sequence (`sequential`), so looking that often is paid for. The
trial passes when every measure is known to be no worse than its slack, fails when one is known to be worse, and ends
without a verdict after the last block. It fails at once when the candidate gives no usable answer, or when what it does is
a breach as of any policy (`ladder.breach`).

Symbols: `C` classes, `M` measures: the `C` classes' attainment, that of all requests, and the bill; `B` blocks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from ..agents.registry import Verdict
from ..env.contract import FloatArray, Mode
from ..env.scenario.control import Gates
from ..env.scenario.control import Trial as Asked
from .ladder import Evidence, breach, standing_on
from .sequential import Bounds, confidence_sequence

LEAST_BLOCKS: Final = 6
"""With fewer, how unevenly differences are spread is anybody's guess."""
KNOWN_SHARE: Final = 0.5
"""A class without requests in more of the blocks than this is not judged on its own; all requests together always are."""
LEAST_DEVIATIONS: Final = (0.005, 0.01)
"""Of attainment and of the bill: from block to block they differ by so much whoever decides."""
ALL, BILL = "all requests", "bill"


@dataclass(frozen=True)
class Rules:
    """How a trial is run; fixed before it begins."""

    classes: tuple[str, ...]
    windows: int
    """In a block."""
    settle_s: float
    measure_s: float
    asked: Asked
    gates: Gates

    @property
    def window_s(self) -> float:
        """Of one turn."""
        return self.settle_s + self.measure_s

    @property
    def measures(self) -> tuple[str, ...]:
        """`M` names."""
        return (*self.classes, ALL, BILL)


def rules_of(asked: Asked, gates: Gates, classes: tuple[str, ...], cold_start_s: FloatArray) -> Rules:
    """What a scenario asks for, for a cluster whose pools are believed to start within `cold_start_s` `[P]`."""
    longest_s = float(np.nanmax(np.where(np.isfinite(cold_start_s), cold_start_s, 0.0), initial=0.0))
    settle_s = longest_s if asked.settle_s is None else asked.settle_s
    return Rules(classes, round(1.0 / asked.share), settle_s, asked.measure_s, asked, gates)


@dataclass(frozen=True)
class Outcome:
    """What came of one tick: since the decision before."""

    judged: FloatArray
    """`[C]` requests that ended."""
    met: FloatArray
    """`[C]` of these, within their targets."""
    usd: float
    """Measured; NaN if it is not known."""
    rule_usd: float
    """What the fallback rule's fleet would have cost; NaN if it is not known."""


@dataclass(frozen=True)
class Sums:
    """Outcomes of some ticks."""

    judged: FloatArray
    met: FloatArray
    usd: float = 0.0
    rule_usd: float = 0.0

    def plus(self, tick: Outcome) -> Sums:
        """With one more."""
        known = math.isfinite(tick.usd) and math.isfinite(tick.rule_usd)
        return Sums(
            self.judged + tick.judged,
            self.met + tick.met,
            self.usd + (tick.usd if known else 0.0),
            self.rule_usd + (tick.rule_usd if known else 0.0),
        )

    def measured(self) -> FloatArray:
        """`[M]` attainment of each class and of all, and the logarithm of the bill; NaN where nothing is known."""
        judged, met = np.append(self.judged, self.judged.sum()), np.append(self.met, self.met.sum())
        shares = np.divide(met, judged, out=np.full(judged.shape, np.nan), where=judged > 0)
        bill = math.log(self.usd / self.rule_usd) if self.usd > 0 and self.rule_usd > 0 else math.nan
        return np.append(shares, bill)


@dataclass(frozen=True)
class Trial:
    """How far a trial has come."""

    rules: Rules
    candidate: str
    incumbent: str
    since_s: float = math.nan
    """When the block under way began; NaN: none has yet."""
    window: int = 0
    """Of the block under way: that in which the last decision was made."""
    sums: tuple[Sums, ...] = ()
    """Of the block under way, window by window: what was measured."""
    blocks: tuple[FloatArray, ...] = ()
    """`[M]` each: the candidate less the incumbent."""
    served: tuple[Sums, ...] = ()
    """All that the incumbent and the candidate decided on, the times of settling included."""
    recent: tuple[Evidence, ...] = ()
    """Of the candidate's ticks in its present window."""
    decided_at_s: float = math.nan
    """When the last decision was made; NaN: outcomes are of before the trial."""
    verdict: Verdict = Verdict.RUNNING
    reason: str = ""


def begun(rules: Rules, candidate: str, incumbent: str) -> Trial:
    """A trial before its first block."""
    return replace(_emptied(Trial(rules, candidate, incumbent)), served=_nothing(rules, 2))


def resumed(trial: Trial, earlier: Mapping[str, Any]) -> Trial:
    """A trial that goes on from the figures (`figures`) that it was cut off with; the block that was under way begins anew.

    Figures of a trial by other rules are none of it.
    """
    if earlier.get("rules") != figures(trial)["rules"]:
        return trial
    try:
        blocks = tuple(_row(block, len(trial.rules.measures)) for block in earlier["blocks"])
        n = len(trial.rules.classes)
        served = tuple(
            Sums(_row(own["judged"], n), _row(own["met"], n)) for own in (earlier["incumbent"], earlier["candidate"])
        )
    except (KeyError, TypeError, ValueError):
        return trial
    return replace(trial, blocks=blocks, served=served)


def candidates_window(trial: Trial, block: int) -> int:
    """Which window of a block is the candidate's: drawn by a hash over both versions and the block's number."""
    told = f"{trial.candidate} {trial.incumbent} {block}"
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:8], "big") % trial.rules.windows


def at(trial: Trial, now_s: float) -> Trial:
    """The trial when a decision is due: the block begins, if none is under way."""
    if math.isnan(trial.since_s):
        trial = replace(trial, since_s=now_s)
    window = min(int((now_s - trial.since_s) / trial.rules.window_s), trial.rules.windows - 1)
    recent = trial.recent if window == trial.window else ()
    return replace(trial, window=window, recent=recent)


def is_candidates_at(trial: Trial, now_s: float) -> bool:
    """Whose turn a decision at `now_s` is, before what came of the last one is told."""
    block, window = len(trial.blocks), 0
    if not math.isnan(trial.since_s):
        window = int((now_s - trial.since_s) / trial.rules.window_s)
        if window >= trial.rules.windows:  # the block is over as soon as its last outcome is told
            block, window = block + 1, 0
    return trial.verdict is Verdict.RUNNING and window == candidates_window(trial, block)


def is_candidates(trial: Trial) -> bool:
    """Whether the present window is the candidate's."""
    return trial.verdict is Verdict.RUNNING and trial.window == candidates_window(trial, len(trial.blocks))


def progress(trial: Trial) -> str:
    """How far it has come, in words."""
    return f"{len(trial.blocks)} of at most {trial.rules.asked.blocks} blocks"


def settled(trial: Trial, now_s: float) -> bool:
    """Whether the window under way is past the time in which the other one's decisions still work."""
    if math.isnan(trial.since_s):
        return True
    return now_s - trial.since_s - trial.window * trial.rules.window_s >= trial.rules.settle_s


def paused(trial: Trial) -> Trial:
    """The block under way is given up: for a time, the policies did not take turns."""
    return _emptied(trial)


def decided(trial: Trial, now_s: float, found: Evidence, trouble: str = "") -> Trial:
    """After a decision.

    Args:
        trial: as `at` gave it.
        now_s: of the decision.
        found: of this tick, if the candidate decided.
        trouble: the candidate's answer cannot be used: why. That ends the trial.
    """
    trial = replace(trial, decided_at_s=now_s)
    if not is_candidates(trial):
        return trial
    if trouble:
        return replace(trial, verdict=Verdict.FAIL, reason=f"the candidate gave no usable answer: {trouble}")
    recent = (*trial.recent, found)[-trial.rules.gates.breach_ticks :]
    why = breach(replace(standing_on(Mode.CANARY, trial.rules.classes), recent=recent), trial.rules.gates)
    if why:
        return replace(trial, recent=recent, verdict=Verdict.FAIL, reason=f"breach in its turn: {why}")
    return replace(trial, recent=recent)


def told(trial: Trial, now_s: float, outcome: Outcome) -> Trial:
    """With what came of the last decision, before the one that is due at `now_s`."""
    if math.isnan(trial.since_s) or math.isnan(trial.decided_at_s):
        return trial
    side = int(is_candidates(trial))
    served = tuple(own.plus(outcome) if n == side else own for n, own in enumerate(trial.served))
    trial = replace(trial, served=served)
    if settled(trial, trial.decided_at_s):
        sums = [own.plus(outcome) if n == trial.window else own for n, own in enumerate(trial.sums)]
        trial = replace(trial, sums=tuple(sums))
    if now_s - trial.since_s < trial.rules.windows * trial.rules.window_s:
        return trial
    return _judged(_closed(trial, now_s))


def _closed(trial: Trial, now_s: float) -> Trial:
    """With the block that is over among those that are done; the next one begins now."""
    own = candidates_window(trial, len(trial.blocks))
    measured = np.stack([window.measured() for window in trial.sums])
    others = np.delete(measured, own, axis=0)
    known = ~np.isnan(others)
    mean = np.divide(
        np.where(known, others, 0.0).sum(axis=0),
        known.sum(axis=0),
        out=np.full(others.shape[1], np.nan),
        where=known.any(axis=0),
    )
    block: FloatArray = measured[own] - mean
    return replace(_emptied(trial), blocks=(*trial.blocks, block), since_s=now_s)


def _judged(trial: Trial) -> Trial:
    verdict, reason = verdict_of(trial.rules, trial.blocks)
    return replace(trial, verdict=verdict, reason=reason)


def verdict_of(rules: Rules, blocks: Sequence[FloatArray]) -> tuple[Verdict, str]:
    """What so many blocks tell, and why.

    A trial may fail by any of its measures, which share the error between them; it passes by all of them, each of which
    may take all of it (an intersection-union test).
    """
    n, names = len(blocks), rules.measures
    judged = [m for m in range(len(names)) if _values(blocks, m).size >= max(LEAST_BLOCKS, KNOWN_SHARE * n)]
    alpha = rules.asked.alpha
    for m in judged:
        worst = _bounds(rules, blocks, m, 2.0 * alpha / len(names))
        if worst.high < -_slack(rules, m):
            return Verdict.FAIL, f"{_said(rules, m, worst)} after {n} blocks, wanted at least {-_slack(rules, m):.3g}"
    both = {len(names) - 2, len(names) - 1}
    waiting = [m for m in judged if _bounds(rules, blocks, m, 2.0 * alpha).low <= -_slack(rules, m)]
    if both <= set(judged) and not waiting:
        known = "; ".join(_said(rules, m, _bounds(rules, blocks, m, 2.0 * alpha)) for m in sorted(both))
        return Verdict.PASS, f"no worse in any measure after {n} blocks: {known}"
    if n >= rules.asked.blocks:
        first = _said(rules, waiting[0], _bounds(rules, blocks, waiting[0], 2.0 * alpha)) if waiting else "no requests"
        return Verdict.UNKNOWN, f"not known after {n} blocks: {first}"
    return Verdict.RUNNING, f"{n} of at most {rules.asked.blocks} blocks"


def figures(trial: Trial) -> dict[str, Any]:
    """What is known, for the evidence; `resumed` goes on from it."""
    rules = trial.rules
    sides = [(float(own.judged.sum()), float((own.judged - own.met).sum())) for own in trial.served]
    (requests, missed), (tried, missed_tried) = sides
    usual = missed / requests if requests else 0.0
    suffered = max(missed_tried - usual * tried, 0.0)
    return {
        "measures": {
            name: {**_bounds(rules, trial.blocks, m, 2.0 * rules.asked.alpha).as_json(), "slack": _slack(rules, m)}
            for m, name in enumerate(rules.measures)
            if _values(trial.blocks, m).size
        },
        "requests": requests + tried,
        "tried_frac": tried / (requests + tried) if requests + tried else 0.0,
        "suffered_frac": suffered / (requests + tried) if requests + tried else 0.0,
        "blocks": [[None if math.isnan(v) else float(v) for v in block] for block in trial.blocks],
        **{
            who: {"judged": own.judged.tolist(), "met": own.met.tolist()}
            for who, own in zip(("incumbent", "candidate"), trial.served, strict=True)
        },
        "rules": {
            "classes": list(rules.classes),
            "windows": rules.windows,
            "settle_s": rules.settle_s,
            "measure_s": rules.measure_s,
            **rules.asked.model_dump(
                mode="json", include={"pools", "attainment_slack", "cost_slack", "alpha", "blocks"}
            ),
        },
    }


def _bounds(rules: Rules, blocks: Sequence[FloatArray], m: int, alpha: float) -> Bounds:
    """Of a measure, told so that more is better: the share by which the bill is lower, the attainment that is higher."""
    values = _values(blocks, m)
    is_bill = m == len(rules.measures) - 1
    return confidence_sequence(-values if is_bill else values, alpha, LEAST_DEVIATIONS[is_bill])


def _values(blocks: Sequence[FloatArray], m: int) -> FloatArray:
    values = np.array([block[m] for block in blocks], dtype=np.float64)
    return values[~np.isnan(values)]


def _slack(rules: Rules, m: int) -> float:
    return rules.asked.cost_slack if m == len(rules.measures) - 1 else rules.asked.attainment_slack


def _said(rules: Rules, m: int, bounds: Bounds) -> str:
    name = rules.measures[m]
    what = "saving of the bill" if name == BILL else f"attainment of {name}"
    return f"{what} {bounds.mean:+.3g} (between {bounds.low:+.3g} and {bounds.high:+.3g})"


def _emptied(trial: Trial) -> Trial:
    """With no block under way."""
    empty = _nothing(trial.rules, trial.rules.windows)
    return replace(trial, since_s=math.nan, window=0, sums=empty, recent=(), decided_at_s=math.nan)


def _nothing(rules: Rules, parts: int) -> tuple[Sums, ...]:
    none = np.zeros(len(rules.classes))
    return tuple(Sums(none, none) for _ in range(parts))


def _row(values: Sequence[float | None], wanted: int) -> FloatArray:
    """`[wanted]` numbers, None for NaN; ValueError for another count."""
    row = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    if row.shape != (wanted,):
        raise ValueError(f"{len(values)} values, wanted {wanted}")
    return row
