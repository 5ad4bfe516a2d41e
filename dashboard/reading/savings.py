"""What was saved against the fallback rule: over time, by layer and by pool, with an interval.

Both fleets, the policy's and the rule's, are charged by the same model from the same measurements (`env.counterfactual`),
so that what is wrong in it is wrong in both; how far it is off is told beside, by what it says of the fleet that really
ran. Intervals are of batch means: the span is cut into blocks longer than a start of a replica, whose savings are nearly
independent, and Student's t is taken of them (Law, "Simulation Modeling and Analysis", 9.5.3).

Symbols: `N` ticks, `B` blocks, `P` pools, `L` layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.stats import t as student

from ...env.contract import BILL_LAYERS, FloatArray, Mode
from ...env.ledger import SECONDS_PER_HOUR
from ..figures.bill import BillRow
from ..figures.savings import ALL, SavingRow
from .documents import UNKNOWN, Card, Cell, Table, Tone, card, cell, column, fixed, lasting, percent, table
from .history import MOST_DRAWN, Filter
from .ticks import SeenTick

BLOCK_S: Final = 300.0
"""The decider's seconds in a block: a usual cold start and a half."""
LEAST_BLOCKS: Final = 5
_NOTHING_USD: Final = 1e-6
CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Estimate:
    """A rate with its interval."""

    mean: float
    low: float | None
    high: float | None

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None and self.high is not None

    @property
    def interval(self) -> str:
        """In words."""
        if self.low is None or self.high is None:
            return "interval not known yet"
        return f"{fixed(self.low, signed=True)} to {fixed(self.high, signed=True)}"


@dataclass(frozen=True)
class Savings:
    """The ticks of a span that can be compared."""

    wall_s: FloatArray
    """`[N]`"""
    span_s: FloatArray
    """`[N]` the decider's seconds."""
    rule_usd: FloatArray
    """`[N, P, L]`"""
    policy_usd: FloatArray
    """`[N, P, L]`"""
    usd: FloatArray
    """`[N, P, L]` measured."""
    left_out: int
    """Ticks whose costs are not known."""
    advised: bool
    """Whether the newest is advice."""
    rule: str
    policy: str
    pools: tuple[str, ...]

    @property
    def hours(self) -> float:
        """The decider's."""
        return float(self.span_s.sum()) / SECONDS_PER_HOUR

    def blocks(self, values: FloatArray) -> FloatArray:
        """`[B, ...]` sums of `values` (`[N, ...]`) over whole blocks, each over its own hours."""
        ends = np.cumsum(self.span_s)
        block = np.minimum((ends - self.span_s / 2.0) // BLOCK_S, 1e9).astype(np.int64)
        rates = []
        for i in np.unique(block):
            own = block == i
            if self.span_s[own].sum() >= BLOCK_S / 2.0:
                rates.append(values[own].sum(axis=0) / (self.span_s[own].sum() / SECONDS_PER_HOUR))
        return np.array(rates)

    def known_rate(self, usd: FloatArray) -> float:
        """$/h of a series of dollars (`[N]`) over the ticks of which they are known; NaN where none is."""
        known = np.isfinite(usd)
        hours = float(self.span_s[known].sum()) / SECONDS_PER_HOUR
        return float(usd[known].sum()) / hours if hours > 0.0 else math.nan

    def rate(self, usd: FloatArray) -> Estimate:
        """$/h of a series of dollars (`[N]`), with its interval."""
        if self.hours <= 0.0:
            return Estimate(math.nan, None, None)
        mean = float(usd.sum()) / self.hours
        blocks = self.blocks(usd)
        if len(blocks) < LEAST_BLOCKS:
            return Estimate(mean, None, None)
        half = half_width(blocks)
        return Estimate(mean, mean - half, mean + half)


def half_width(blocks: FloatArray) -> float:
    """Of the 95 % interval of the mean of blocks (`[B]`)."""
    n = len(blocks)
    return float(student.ppf((1.0 + CONFIDENCE) / 2.0, n - 1) * blocks.std(ddof=1) / math.sqrt(n))


def savings_of(ticks: Sequence[SeenTick], wanted: Filter) -> Savings | None:
    """What can be compared of some ticks; None where nothing can."""
    able = [t for t in ticks if t.comparison is not None and math.isfinite(t.span_s)]
    if not able:
        return None
    pools = wanted.pool_mask(able[-1].cluster)
    blocks = {
        name: np.array([getattr(t.comparison, name)[pools] for t in able]) for name in ("rule_usd", "policy_usd", "usd")
    }
    known = np.isfinite(blocks["rule_usd"] + blocks["policy_usd"]).all(axis=(1, 2))
    if not known.any():
        return None
    return Savings(
        wall_s=np.array([t.wall_s for t in able])[known],
        span_s=np.array([t.span_s for t in able])[known],
        rule_usd=blocks["rule_usd"][known],
        policy_usd=blocks["policy_usd"][known],
        usd=blocks["usd"][known],
        left_out=len(ticks) - int(known.sum()),
        advised=able[-1].decision.mode is Mode.ADVISE,
        rule=able[-1].fallback,
        policy=able[-1].decision.policy_name,
        pools=tuple(name for name, own in zip(able[-1].cluster.pool_names, pools, strict=True) if own),
    )


def saving_points(savings: Savings) -> list[SavingRow]:
    """Dollars saved so far, tick by tick, in all with the interval that they have by then, and by layer."""
    saved = (savings.rule_usd - savings.policy_usd).sum(axis=(1, 2))
    total, hours = np.cumsum(saved), np.cumsum(savings.span_s) / SECONDS_PER_HOUR
    blocks = savings.blocks(saved)
    known = len(blocks) >= LEAST_BLOCKS
    # The spread between blocks is that of the whole span; a sum over k of them is uncertain by its square root.
    spread = half_width(blocks) * math.sqrt(len(blocks)) if known else math.nan
    half = spread * np.sqrt(hours * SECONDS_PER_HOUR / BLOCK_S) * BLOCK_S / SECONDS_PER_HOUR
    whole: list[SavingRow] = [
        {
            "series": ALL,
            "time_s": float(savings.wall_s[i]),
            "usd": float(total[i]),
            "low": float(total[i] - half[i]) if known else None,
            "high": float(total[i] + half[i]) if known else None,
        }
        for i in _shown(len(total))
    ]
    return [*whole, *_by_layer(savings)]


def _by_layer(savings: Savings) -> Iterator[SavingRow]:
    """Of those layers that differ."""
    for at, layer in enumerate(BILL_LAYERS):
        total = np.cumsum((savings.rule_usd - savings.policy_usd)[:, :, at].sum(axis=1))
        if np.abs(total).max() < _NOTHING_USD:
            continue
        for i in _shown(len(total)):
            yield {
                "series": layer,
                "time_s": float(savings.wall_s[i]),
                "usd": float(total[i]),
                "low": None,
                "high": None,
            }


def _shown(n: int) -> list[int]:
    """Places of no more points than a figure can show, the last among them."""
    stride = max(1, math.ceil(n / MOST_DRAWN))
    return [*range((n - 1) % stride, n, stride)]


def bars(savings: Savings) -> list[BillRow]:
    """$/h by layer of the rule's fleet, the policy's, and what was measured, as `figures.bill` takes them."""
    fleets = {
        f"{savings.rule} (fallback)": savings.rule_usd,
        f"{savings.policy}{', advised' if savings.advised else ''}": savings.policy_usd,
        "measured": savings.usd,
    }
    return [
        {"series": name, "layer": layer, "usd_per_hr": savings.known_rate(usd[:, :, at].sum(axis=1))}
        for name, usd in fleets.items()
        for at, layer in enumerate(BILL_LAYERS)
    ]


def saved(ticks: Sequence[SeenTick], wanted: Filter) -> dict[str, Any]:
    """Cards and tables of the savings; `empty` says what is missing where there are none."""
    savings = savings_of(ticks, wanted)
    if savings is None:
        return {"empty": _why_empty(ticks), "cards": [], "layers": None, "pools": None, "notes": []}
    return {
        "empty": "",
        "cards": _cards(savings),
        "layers": _layers(savings),
        "pools": _pools(savings),
        "notes": _notes(savings),
    }


def _why_empty(ticks: Sequence[SeenTick]) -> str:
    if not ticks:
        return "No ticks yet."
    if all(tick.comparison is None for tick in ticks):
        return "These ticks were recorded by a sidecar that did not keep what the fallback rule would have done. Restart it with this version."
    return "Nothing to compare yet: the first two ticks make the first span, and the engines have to tell how busy they are."


def _cards(savings: Savings) -> list[Card]:
    diff = (savings.rule_usd - savings.policy_usd).sum(axis=(1, 2))
    rate = savings.rate(diff)
    rule, policy = savings.rule_usd.sum() / savings.hours, savings.policy_usd.sum() / savings.hours
    clear = rate.low is not None and rate.high is not None and (rate.low > 0.0 or rate.high < 0.0)
    tone: Tone = "" if not clear else ("good" if rate.mean > 0 else "bad")
    verb = "Advice would save" if savings.advised else "Saved"
    return [
        card(verb, fixed(rate.mean, signed=True), "$/h", rate.interval, tone),
        card(
            "Of the rule's bill",
            percent(rate.mean / rule if rule > 0 else math.nan, signed=True),
            "%",
            f"against {savings.rule}",
            tone,
        ),
        card(f"{savings.policy}", fixed(policy), "$/h", "advised" if savings.advised else "applied"),
        card(f"{savings.rule}", fixed(rule), "$/h", "the fallback rule's fleet, modelled"),
        card(
            "Saved so far",
            fixed(float(diff.sum()), signed=True),
            "$",
            f"in {lasting(savings.hours * SECONDS_PER_HOUR)}",
        ),
    ]


def _layers(savings: Savings) -> Table:
    columns = [
        column("Layer", number=False),
        column(savings.rule, "$/h"),
        column(savings.policy, "$/h"),
        column("Saved", "$/h"),
        column("95 % interval", "$/h"),
        column("Measured", "$/h"),
    ]
    rows = []
    for at, layer in enumerate([*BILL_LAYERS, "all"]):
        own = slice(None) if layer == "all" else slice(at, at + 1)
        rule, policy, usd = (
            values[:, :, own].sum(axis=(1, 2)) for values in (savings.rule_usd, savings.policy_usd, savings.usd)
        )
        rows.append(_row(savings, layer, rule, policy, usd))
    return table("Layers of the bill; docs/power.md says what each is.", columns, rows)


def _pools(savings: Savings) -> Table:
    columns = [
        column("Pool", number=False),
        column(savings.rule, "$/h"),
        column(savings.policy, "$/h"),
        column("Saved", "$/h"),
        column("95 % interval", "$/h"),
        column("Measured", "$/h"),
    ]
    rows = [
        _row(
            savings, name, *(values[:, p].sum(axis=1) for values in (savings.rule_usd, savings.policy_usd, savings.usd))
        )
        for p, name in enumerate(savings.pools)
    ]
    return table(
        "All layers. A class has no fleet of its own, so the filter of classes changes nothing here.", columns, rows
    )


def _row(savings: Savings, name: str, rule: FloatArray, policy: FloatArray, usd: FloatArray) -> list[Cell]:
    rate = savings.rate(rule - policy)
    return [
        cell(name),
        cell(fixed(rule.sum() / savings.hours)),
        cell(fixed(policy.sum() / savings.hours)),
        cell(fixed(rate.mean, signed=True), tone="good" if rate.low is not None and rate.low > 0 else ""),
        cell(rate.interval if rate.known else UNKNOWN, tone="muted"),
        cell(fixed(savings.known_rate(usd))),
    ]


def _notes(savings: Savings) -> list[str]:
    notes = []
    whole = np.isfinite(savings.usd).all(axis=(1, 2))
    if not savings.advised and whole.any():
        measured, modelled = (
            savings.known_rate(np.where(whole, usd.sum(axis=(1, 2)), np.nan))
            for usd in (savings.usd, savings.policy_usd)
        )
        if measured > 0:
            off = modelled / measured - 1.0
            notes.append(
                f"How far the model is off: of the fleet that really ran it says {fixed(modelled)} $/h, measured were"
                f" {fixed(measured)} $/h ({percent(off, signed=True)} %)."
            )
    blocks = len(savings.blocks(savings.rule_usd.sum(axis=(1, 2))))
    if blocks < LEAST_BLOCKS:
        missing = LEAST_BLOCKS - blocks
        notes.append(
            f"Intervals need {LEAST_BLOCKS} blocks of {lasting(BLOCK_S)}; {missing} more {'is' if missing == 1 else 'are'} to come."
        )
    notes.append(
        "The interval tells how much savings vary from block to block. It does not tell that the rule might have met other"
        " queues, or lost other machines."
    )
    if savings.left_out:
        one = savings.left_out == 1
        notes.append(
            f"{savings.left_out} {'tick is' if one else 'ticks are'} left out: what {'it' if one else 'they'} cost is not known."
        )
    return notes
